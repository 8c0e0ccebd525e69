"""Checkpoints within an epoch: a resumed training equals one that was never interrupted."""

import json
import os
import signal

import pytest
import torch
from support import ranks
from support.configs import TINY, configure
from support.trainings import equal, weights

from segpipe.data.samplers import TrainBatches
from segpipe.engine import shutdown
from segpipe.errors import UserError
from segpipe.runs import checkpoints
from segpipe.runs.checkpoints import WITHIN_EPOCH
from segpipe.runs.run import Run
from segpipe.train import train
from segpipe.training.task import SegmentationTask

DROPOUT = ["neck=fc", "neck.width=8", "neck.dropout=0.5"]
SMALL = [*TINY, *DROPOUT, "data.batch_size=2", "data.workers=0"]  # 8 steps an epoch
STOP = 11  # the step, counted from 0, in which the training ends: in the second epoch


class Killed(Exception):
    """Stands for the end of a process without a signal that it could obey."""


def stop_in(step, monkeypatch, end):
    """Call ``end`` within a step of the optimizer."""
    original = SegmentationTask.training_step

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == step:
            monkeypatch.setattr(SegmentationTask, "training_step", original)
            end()
        original(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationTask, "training_step", training_step)


def kill():
    raise Killed


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def signals():
    """Our handlers, as the command installs them; afterwards those of before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    shutdown.raise_on_signals()
    yield
    shutdown.forget_signals()
    for number, handler in before.items():
        signal.signal(number, handler)


def assert_equal_runs(first, second):
    """Weights, history and metrics are equal bit for bit; the times are not compared."""
    for name in ("last", "best"):
        assert equal(weights(first, name), weights(second, name)), f"{name}.ckpt differs"
    assert (first / "history.csv").read_bytes() == (second / "history.csv").read_bytes()
    scores = [json.loads((folder / "metrics.json").read_text()) for folder in (first, second)]
    assert scores[0]["val"] == scores[1]["val"]
    assert scores[0]["test"] == scores[1]["test"]
    assert [each["training"]["steps"] for each in scores] == [16, 16]
    assert (first / "confusion" / "test.npz").read_bytes() == (second / "confusion" / "test.npz").read_bytes()


PLAIN: list[str] = []
ACCUMULATION = ["task.accumulate=2", "task.clip=0.1"]
EMA = ["callbacks=ema"]
WORKERS = ["data.workers=2", "optimizer=sgd"]
STRONG = ["augment=strong", "callbacks=early_stopping"]


@pytest.mark.parametrize(
    ("end", "choices"),
    [
        ("killed", EMA),
        ("signal", ACCUMULATION),
        *(pytest.param("killed", each, marks=pytest.mark.slow) for each in (PLAIN, ACCUMULATION, WORKERS, STRONG)),
        *(pytest.param("signal", each, marks=pytest.mark.slow) for each in (PLAIN, EMA, WORKERS, STRONG)),
    ],
)
def test_a_training_that_ends_within_an_epoch_is_resumed_bit_for_bit(choices, end, tmp_path, monkeypatch, signals):
    """Killed: from the checkpoint after step 10. Signal: from one after the step that was under way, the twelfth."""
    given = [*SMALL, *choices]
    train(configure(*given, f"run_dir={tmp_path / 'whole'}"))
    folder = tmp_path / "stopped"
    steps = ["callbacks.last.every_n_train_steps=5"] if end == "killed" else []
    stop_in(STOP, monkeypatch, kill if end == "killed" else terminate)
    with pytest.raises((Killed, KeyboardInterrupt)):
        train(configure(*given, *steps, f"run_dir={folder}"))
    shutdown.forget_signals()
    assert Run(folder).record["status"] == ("failed" if end == "killed" else "interrupted")
    stored = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored[WITHIN_EPOCH]["batches"] == (2 if end == "killed" else 4)
    assert stored["global_step"] == (10 if end == "killed" else 12)
    assert checkpoints.epochs_done(Run(folder)) == 1
    train(configure(f"resume={folder}"))
    assert_equal_runs(tmp_path / "whole", folder)


@pytest.mark.slow
def test_a_training_is_resumed_twice_within_one_epoch(tmp_path, monkeypatch, signals):
    """In the first epoch, before there is any other checkpoint."""
    train(configure(*SMALL, f"run_dir={tmp_path / 'whole'}"))
    folder = tmp_path / "stopped"
    for step in (2, 5):
        stop_in(step, monkeypatch, terminate)
        with pytest.raises(KeyboardInterrupt):
            train(configure(*SMALL, "resume=auto", f"run_dir={folder}"))
        shutdown.forget_signals()
        assert not (folder / "checkpoints" / "best.ckpt").exists()
    train(configure(*SMALL, "resume=auto", f"run_dir={folder}"))
    assert_equal_runs(tmp_path / "whole", folder)


@pytest.mark.slow
def test_steps_do_not_change_a_training_that_is_not_interrupted(tmp_path):
    train(configure(*SMALL, f"run_dir={tmp_path / 'plain'}"))
    train(configure(*SMALL, "+callbacks.last.every_n_train_steps=3", f"run_dir={tmp_path / 'steps'}"))
    assert_equal_runs(tmp_path / "plain", tmp_path / "steps")
    names = [Run(tmp_path / name).record["identity"] for name in ("plain", "steps")]
    assert names[0] == names[1]


def test_a_damaged_state_within_an_epoch_is_named(tmp_path, monkeypatch, signals):
    stop_in(2, monkeypatch, terminate)
    with pytest.raises(KeyboardInterrupt):
        train(configure(*SMALL, f"run_dir={tmp_path / 'run'}"))
    shutdown.forget_signals()
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content[WITHIN_EPOCH]["ranks"] = [{"losses": content[WITHIN_EPOCH]["ranks"][0]["losses"], "random": {"torch": 1}}]
    checkpoints.write(path, content)
    with pytest.raises(UserError, match=r"last\.ckpt is damaged"):
        train(configure(f"resume={tmp_path / 'run'}"))


def test_a_sampler_leaves_out_what_is_trained_in_one_epoch_only():
    whole, rest = (TrainBatches(11, batch_size=2, seed=0, start=start) for start in ((0, 0), (3, 2)))
    for epoch, left_out in ((2, 0), (3, 2), (4, 0)):
        whole.set_epoch(epoch)
        rest.set_epoch(epoch)
        assert list(rest) == list(whole)[left_out:]
        assert len(rest) == 5


def test_a_signal_waits_for_the_end_of_a_step_but_not_for_ever(signals, monkeypatch):
    shutdown.hold()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        shutdown.release()
    shutdown.forget_signals()
    monkeypatch.setattr(shutdown, "HOLD_SECONDS", 0.05)
    shutdown.hold()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.pause()


KILL_RANK_1 = f"""
import os, signal
from segpipe.training.task import SegmentationTask
original = SegmentationTask.training_step
def training_step(self, batch, index):
    if self.trainer.global_step == {STOP} and self.trainer.global_rank == 1 and not os.path.exists("was killed"):
        open("was killed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, batch, index)
SegmentationTask.training_step = training_step
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, ranks are new interpreters, which have no changes")
@pytest.mark.parametrize("choices", [PLAIN, ACCUMULATION, EMA])
def test_two_ranks_are_resumed_within_an_epoch_bit_for_bit(choices, tmp_path):
    """Rank 1 is killed in the twelfth step; both resume from the checkpoint after the tenth, with dropout."""
    given = [*ranks.SMALL, *DROPOUT, *choices, "trainer=ddp_cpu", "logger=none", "data.batch_size=4", "data.workers=0"]
    given += ["data.dataset.train=32"]
    stopped = ("stopped", [*given, "callbacks.last.every_n_train_steps=5"])
    again = ("stopped", [*given, "callbacks.last.every_n_train_steps=5", "resume=auto"])
    process = ranks.driver(tmp_path, [[stopped]], before=KILL_RANK_1)
    assert process.wait(timeout=300) == 0
    assert ranks.status(tmp_path / "stopped") == 1
    stored = torch.load(tmp_path / "stopped" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (stored["global_step"], len(stored[WITHIN_EPOCH]["ranks"])) == (10, 2)
    process = ranks.driver(tmp_path, [[again], [("whole", given)]])
    assert process.wait(timeout=300) == 0
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")
