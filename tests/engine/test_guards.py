"""What would end a training wrongly: options of Lightning's, signals that a library swallows, a folder that is gone."""

import json
import shutil
import signal
import time

import pytest
from omegaconf import OmegaConf
from support.configs import TINY, configure
from support.trainings import equal, weights

from segpipe.config.messages import explain
from segpipe.config.plan import Plan
from segpipe.data import module
from segpipe.data.datasets.shapes import Shapes
from segpipe.engine import shutdown
from segpipe.errors import UserError
from segpipe.runs.run import Run
from segpipe.runs.storage import read_history
from segpipe.train import train
from segpipe.training.task import SegmentationTask


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("+trainer.max_steps=3", "set trainer.max_epochs"),
        ("+trainer.min_steps=3", "set trainer.min_epochs"),
        ("+trainer.fast_dev_run=true", "give debug=fast"),
        ("+trainer.fast_dev_run=2", "give debug=fast"),
        ("+trainer.overfit_batches=2", "give debug=overfit"),
        ("+trainer.overfit_batches=0.5", "give debug=overfit"),
        ("+trainer.val_check_interval=0.5", "trainer.check_val_every_n_epoch"),
        ("+trainer.barebones=true", "history"),
        ("+trainer.limit_train_batches=0", "at least one batch"),
        ("+trainer.limit_val_batches=0", "at least one batch"),
        ("+trainer.limit_test_batches=0.0", "at least one batch"),
        ("trainer.check_val_every_n_epoch=null", "a whole number"),
        ("callbacks.last.every_n_train_steps=0", "of 1 or more"),
        ("+callbacks.best.every_n_train_steps=5", "allowed is null"),
        ("+callbacks.last.train_time_interval=5", "callbacks.last.train_time_interval=5: allowed is"),
        ("callbacks.last.save_on_train_epoch_end=false", "allowed is true"),
        ("callbacks.best.save_top_k=0", "allowed is 1"),
        ("callbacks.best.filename=good", "allowed is best"),
        ("callbacks.best.enable_version_counter=true", "allowed is false"),
        ("+callbacks.last.save_weights_only=true", "allowed is false"),
        ("callbacks.best.dirpath=elsewhere", "hydra.run.dir=FOLDER"),
    ],
)
def test_options_with_which_a_run_would_not_be_complete_are_refused(option, says):
    with pytest.raises(UserError, match=says):
        Plan.of(configure("run_dir=run", option))


@pytest.mark.parametrize("option", ["+trainer.max_steps=-1", "+trainer.fast_dev_run=false", "+trainer.min_epochs=1"])
def test_options_without_an_effect_are_allowed(option):
    Plan.of(configure("run_dir=run", option))


def test_a_monitor_that_is_not_logged_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"callbacks\.best\.monitor=val/mou: this value is not logged.*'val/miou'"):
        train(configure(*TINY, "callbacks.best.monitor=val/mou", f"run_dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run" / "run.json").exists()


NOW = "'00:00:00:00'"  # the time is over in the first step
TIMER = f"{{_target_: pytorch_lightning.callbacks.Timer, duration: {NOW}, verbose: false}}"


@pytest.mark.parametrize("option", [f"+trainer.max_time={NOW}", f"+callbacks.timer={TIMER}"])
def test_a_training_that_is_stopped_within_an_epoch_ends_after_it(option, tmp_path, monkeypatch):
    """A complete first epoch: the same weights as without, a line of history with validation, both checkpoints."""
    monkeypatch.setattr("pytorch_lightning.callbacks.Timer.on_fit_start", lambda *given: None)  # else it stops there
    train(configure(*TINY, option, f"run_dir={tmp_path / 'run'}"))
    whole = [*TINY, "trainer.max_epochs=1", "scheduler=constant", f"run_dir={tmp_path / 'whole'}"]
    (row,) = read_history(tmp_path / "run" / "history.csv")
    assert row["step"] == 2
    assert {"train/loss", "val/miou"} <= row.keys()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["training"]["epochs"] == 1
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    if option.startswith("+trainer"):
        train(configure(*TINY, option, "scheduler=constant", f"run_dir={tmp_path / 'constant'}"))
        train(configure(*whole))
        assert equal(weights(tmp_path / "constant"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("limit", ["limit_train_batches=1", "limit_val_batches=1", "limit_test_batches=1"])
def test_limited_batches_give_a_complete_run(limit, tmp_path):
    train(configure(*TINY, f"+trainer.{limit}", f"run_dir={tmp_path / 'run'}"))
    rows = read_history(tmp_path / "run" / "history.csv")
    assert [row["epoch"] for row in rows] == [0, 1]
    assert all({"train/loss", "val/miou"} <= row.keys() for row in rows)
    assert Run(tmp_path / "run").record["status"] == "finished"


def test_a_signal_that_a_library_swallows_ends_the_training(tmp_path, monkeypatch):
    step = SegmentationTask.training_step

    def swallow(self, *given):
        if self.current_epoch == 1:
            shutdown.signals.setdefault(signal.SIGINT, time.monotonic())  # as the handler does; its error is swallowed
        return step(self, *given)

    monkeypatch.setattr(SegmentationTask, "training_step", swallow)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(KeyboardInterrupt):
            train(configure(*TINY, "trainer.max_epochs=5", f"run_dir={tmp_path}"))
    finally:
        shutdown.signals.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert Run(tmp_path).record["status"] == "interrupted"
    assert len(read_history(tmp_path / "history.csv")) == 1


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_folder_that_is_removed_during_the_training_is_an_error(epoch, tmp_path, monkeypatch):
    """In the first epoch, and in the last one: nothing is written to a folder without a configuration."""
    begin = SegmentationTask.on_train_epoch_start

    def remove(self):
        if self.current_epoch == epoch:
            shutil.rmtree(tmp_path / "run")
        begin(self)

    monkeypatch.setattr(SegmentationTask, "on_train_epoch_start", remove)
    with pytest.raises(UserError, match="folder was removed or renamed while it was trained"):
        train(configure(*TINY, f"run_dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_removed_during_the_test_is_an_error(tmp_path, monkeypatch):
    ended = SegmentationTask.on_test_epoch_end
    monkeypatch.setattr(
        SegmentationTask, "on_test_epoch_end", lambda self: (ended(self), shutil.rmtree(tmp_path / "run"))[0]
    )
    with pytest.raises(UserError, match="folder was removed or renamed"):
        train(configure(*TINY, f"run_dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()


def test_a_best_checkpoint_that_was_not_written_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr("pytorch_lightning.callbacks.ModelCheckpoint.check_monitor_top_k", lambda *given: False)
    with pytest.raises(UserError, match=r"best\.ckpt was not written"):
        train(configure(*TINY, f"run_dir={tmp_path / 'run'}"))


def test_a_loader_that_stands_still_ends_the_run(tmp_path, monkeypatch):
    read = Shapes.read

    def slow(self, index):
        time.sleep(5)
        return read(self, index)

    monkeypatch.setattr(Shapes, "read", slow)
    monkeypatch.setattr(module, "LOADER_TIMEOUT", 1)
    cfg = configure(*TINY, "data.workers=1", "data.cache=off", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(RuntimeError, match="timed out") as caught:
        train(cfg)
    assert "Set data.workers=0" in explain(caught.value)
    assert "\n" not in explain(caught.value)
    assert "data.workers=0" in OmegaConf.load(tmp_path / "run" / "run.json").error


def test_a_training_that_was_suspended_continues():
    """Its time was over once, not twice."""
    answers = iter([RuntimeError("DataLoader timed out after 1 seconds"), "batch", RuntimeError("another")])

    class Batches:
        def __next__(self):
            if isinstance(answer := next(answers), Exception):
                raise answer
            return answer

    assert module.next_batch(Batches()) == "batch"
    with pytest.raises(RuntimeError, match="another"):
        module.next_batch(Batches())


@pytest.mark.parametrize(
    "message",
    [
        "DataLoader timed out after 900 seconds",
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        "shared memory. Please try to raise your shared memory limit.",
    ],
)
def test_loaders_without_shared_memory_are_explained(message):
    assert "Set data.workers=0" in explain(RuntimeError(message))


@pytest.mark.parametrize(("passed", "ends"), [(0.0, False), (1.0, False), (5.0, True)])
def test_a_second_signal_ends_the_process_only_after_a_while(passed, ends, monkeypatch):
    """Two at once are one request, of a terminal and a launcher, say; the clean-up is not disturbed."""
    clock, ended = [100.0], []
    monkeypatch.setattr(shutdown.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(shutdown, "exit_at_once", lambda *given: ended.append(1))
    try:
        with pytest.raises(KeyboardInterrupt):
            shutdown.raise_keyboard_interrupt(signal.SIGINT, None)
        clock[0] += passed
        shutdown.raise_keyboard_interrupt(signal.SIGTERM, None)
    finally:
        shutdown.signals.clear()
    assert bool(ended) == ends
