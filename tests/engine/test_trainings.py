"""Trainings of every kind: losses, accumulation, warm starts, failures."""

import json
import math
import shutil
import signal

import pytest
import pytorch_lightning as pl
import torch
from support.configs import TINY, configure
from support.grid import slow
from support.trainings import interrupted_in, weights

from segpipe.config import build
from segpipe.engine.shutdown import raise_on_signals, signals
from segpipe.errors import UserError
from segpipe.evaluate import evaluate
from segpipe.runs.storage import read_history
from segpipe.train import train
from segpipe.training.task import parameter_groups


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_best_is_validated_once(tmp_path, monkeypatch, mode):
    """Right after the epoch, or again with its checkpoint: the pictures counted are those of the best network."""
    calls = []
    validate = pl.Trainer.validate
    monkeypatch.setattr(pl.Trainer, "validate", lambda *given, **named: calls.append(1) or validate(*given, **named))
    found = train(
        configure(
            *TINY, "trainer.max_epochs=2", "optimizer.lr=0.01", f"callbacks.best.mode={mode}", f"run_dir={tmp_path}"
        )
    )
    best_is_last = found["best_epoch"] == 1
    assert len(calls) == (0 if best_is_last else 1)
    rows = read_history(tmp_path / "history.csv")
    assert found["val"]["miou"] == pytest.approx(rows[found["best_epoch"]]["val/miou"], abs=1e-6)
    again = evaluate(tmp_path, overrides=[], split="val", out=tmp_path / "again")
    assert again["miou"] == found["val"]["miou"]
    choose = max if mode == "max" else min
    assert found["val"]["miou"] == pytest.approx(choose(row["val/miou"] for row in rows), abs=1e-6)


def test_accumulation_gives_the_step_of_the_whole_batch(tmp_path):
    """Without batch normalisation, whose statistics are of a part; masks with unequal numbers of valid pixels."""
    ends = []
    for parts in (1, 3):
        choices = [*TINY, "+encoder.norm=false", "optimizer=sgd", "optimizer.lr=0.01", "data.batch_size=6"]
        cfg = configure(*choices, "trainer.max_epochs=1", f"task.accumulate={parts}")
        cfg.run_dir = str(tmp_path / str(parts))
        train(cfg)
        ends.append(weights(tmp_path / str(parts)))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], atol=1e-5, rtol=1e-4)


def test_decay_spares_norms_and_biases():
    network = build.network(configure(*TINY), 3)
    decayed, spared = parameter_groups(network)
    assert all(parameter.ndim == 4 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in spared["params"])
    assert spared["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(spared["params"]) == len(list(network.parameters()))


@pytest.mark.parametrize(
    "choices",
    [
        ["loss=dice", "optimizer=sgd", "scheduler=cosine", "task.clip=1.0", "augment=strong", "data.crop=[64,64]"],
        ["loss=cross_entropy_dice", "loss.terms.0.weight=median_frequency", "callbacks=early_stopping"],
        ["loss=focal", "loss.weight=median_frequency", "scheduler=cosine", "task.accumulate=2"],
        *(
            slow(choices, several=False)
            for choices in (
                ["loss=cross_entropy_lovasz", "loss.terms.0.weight=median_frequency"],
                ["loss=ohem", "callbacks=ema", "optimizer=sgd", "data.crop=[64,64]"],
                ["loss=lovasz", "task.clip=1.0"],
                [
                    "loss.weight=median_frequency",
                    "loss.label_smoothing=0.1",
                    "model=ladder",
                    "decoder=unpool",
                    "augment=none",
                ],
            )
        ),
    ],
)
def test_every_loss_optimizer_and_schedule_trains(choices, tmp_path):
    without_neck = [choice for choice in TINY if not ("model=ladder" in choices and choice.startswith("neck."))]
    metrics = train(configure(*without_neck, "trainer.max_epochs=1", *choices, f"run_dir={tmp_path / 'run'}"))
    assert 0 <= metrics["test"]["miou"] <= 1
    assert math.isfinite(read_history(tmp_path / "run" / "history.csv")[0]["train/loss"])


def test_warm_start_copies_what_fits_and_names_the_rest(finished_run, tmp_path, capsys):
    finer = [
        *TINY,
        "trainer.max_epochs=1",
        "model=fcn4s",
        f"warm_start={finished_run}",
        f"run_dir={tmp_path / 'finer'}",
    ]
    train(configure(*finer, "optimizer.lr=1e-12"))
    said = capsys.readouterr().out
    assert "Warm start:" in said
    assert "decoder.steps.4" in said
    source, end = weights(finished_run, "best"), weights(tmp_path / "finer")
    name = "network.decoder.steps.16.upsample.weight"
    torch.testing.assert_close(end[name], source[name], atol=1e-6, rtol=0)
    other = configure("model=segnet_basic", "encoder.widths=[4,4,4,4]", "logger=none", f"warm_start={finished_run}")
    other.run_dir = str(tmp_path / "other")
    with pytest.raises(UserError, match="none of its"):
        train(other)


def test_a_loss_that_is_no_number_ends_the_run_with_what_to_do(tmp_path):
    cfg = configure(*TINY, "optimizer=sgd", "optimizer.lr=1e30", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match=r"loss became (nan|inf).*Lower optimizer.lr"):
        train(cfg)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed"
    assert "optimizer.lr" in record["error"]


def test_what_is_interrupted_says_so_and_how_to_go_on(tmp_path, monkeypatch, capsys):
    interrupted_in(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(configure(*TINY, f"run_dir={tmp_path / 'run'}"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    assert f"resume={tmp_path / 'run'}" in capsys.readouterr().err


def test_a_signal_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """torch.save may turn a KeyboardInterrupt into a RuntimeError: the run is interrupted all the same, not failed."""

    def save(checkpoint, file):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598") from None

    monkeypatch.setattr(torch, "save", save)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        raise_on_signals()
        with pytest.raises(KeyboardInterrupt) as caught:
            train(configure(*TINY, f"run_dir={tmp_path}"))
    finally:
        signals.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert isinstance(caught.value.__cause__, RuntimeError)
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["status"], record["error"]) == ("interrupted", "KeyboardInterrupt: ")


def test_a_folder_with_a_run_is_not_written_over(finished_run):
    before = (finished_run / "run.json").read_text()
    with pytest.raises(UserError, match="there is already a run in this folder"):
        train(configure(*TINY, f"run_dir={finished_run}"))
    assert (finished_run / "run.json").read_text() == before


def test_a_finished_run_whose_checkpoints_were_not_kept_is_not_overwritten(tmp_path, finished_run):
    shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    with pytest.raises(UserError, match="there is already a run in this folder"):
        train(configure(*TINY, f"run_dir={tmp_path / 'run'}"))
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before


def test_overfit_learns_one_batch(tmp_path):
    choices = ["debug=overfit", "model=unet", "encoder=small", "data.batch_size=2", "trainer=cpu", "logger=none"]
    metrics = train(
        configure(
            *choices, "trainer.max_epochs=30", "+trainer.enable_progress_bar=false", f"run_dir={tmp_path / 'run'}"
        )
    )
    assert metrics["val"]["images"] == 2
    assert metrics["val"]["miou"] > 0.6


def test_profiling_leaves_a_table(tmp_path, capsys):
    train(configure(*TINY, "debug=profile", "logger=none", f"run_dir={tmp_path / 'run'}"))
    (table,) = (tmp_path / "run").glob("fit-*profile*.txt")
    assert "training_step" in table.read_text()
    assert table.name in capsys.readouterr().out
