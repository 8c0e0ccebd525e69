"""The average of the weights: what it is, who sees it, and how it goes on."""

import json

import numpy as np
import pytest
import torch
from support.configs import TINY, configure
from support.trainings import equal, weights

import segpipe
from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.errors import UserError
from segpipe.evaluate import evaluate
from segpipe.runs.storage import read_history
from segpipe.train import train
from segpipe.training import task
from segpipe.training.callbacks import LogPredictions
from segpipe.training.ema import RAW, MovingAverage
from segpipe.training.pretrained import warm_start

EMA = [*TINY, "callbacks=ema", "callbacks.ema.decay=0.9"]


def checkpoint(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def averaged_run(tmp_path_factory):
    """A tiny training of 8 steps in two epochs, with an average."""
    folder = tmp_path_factory.mktemp("runs") / "averaged"
    train(configure(*EMA, "data.batch_size=4", f"run_dir={folder}"))
    return folder


def test_training_itself_is_not_changed(averaged_run, tmp_path):
    train(configure(*TINY, "data.batch_size=4", f"run_dir={tmp_path / 'plain'}"))
    saved = checkpoint(averaged_run)
    assert equal(saved[RAW], weights(tmp_path / "plain"))
    assert not equal(saved["state_dict"], saved[RAW])


def test_the_average_is_the_recurrence_of_its_docstring(tmp_path, monkeypatch):
    """Batch normalisation's statistics are averaged as weights are; counters are the network's own."""
    seen, update = [], MovingAverage.on_train_batch_end

    def watched(self, trainer, pl_module, *rest):
        seen.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})
        update(self, trainer, pl_module, *rest)

    monkeypatch.setattr(MovingAverage, "on_train_batch_end", watched)
    cfg = configure(*EMA, "callbacks.ema.decay=0.3", "data.batch_size=4", f"run_dir={tmp_path / 'run'}")
    start = build.task(cfg, build.data(cfg))
    expected = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    train(cfg)
    assert len(seen) == 8
    for step, state in enumerate(seen, start=1):
        keep = min(0.3, (1 + step) / (10 + step))
        for name, tensor in state.items():
            floating = tensor.is_floating_point()
            expected[name] = keep * expected[name] + (1 - keep) * tensor if floating else tensor
    saved = checkpoint(tmp_path / "run")["state_dict"]
    assert any("running_var" in name for name in saved)
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, expected[name])


def test_validation_and_overlays_see_the_average_and_training_goes_on_with_the_weights(tmp_path, monkeypatch):
    seen = []

    def look(self, trainer, pl_module):
        average = trainer.callbacks[[type(c) for c in trainer.callbacks].index(MovingAverage)]
        now = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}
        seen.append((now, {name: tensor.clone() for name, tensor in average.average.items()}))

    monkeypatch.setattr(LogPredictions, "on_validation_end", look)
    monkeypatch.setattr(LogPredictions, "on_train_epoch_end", look)
    train(configure(*EMA, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"))
    (inside, kept), (after, average) = seen[:2]
    assert equal(inside, average)
    assert equal(kept, after)
    assert not equal(inside, after)


def test_the_best_checkpoint_is_the_average_for_all_who_read_it(averaged_run, tmp_path):
    """Every epoch's score is that of its average, and so are the run's own scores, and those of evaluate and load."""
    metrics = json.loads((averaged_run / "metrics.json").read_text())
    best = max(read_history(averaged_run / "history.csv"), key=lambda row: row["val/miou"])
    assert metrics["val"]["miou"] == pytest.approx(best["val/miou"], abs=1e-6)
    assert metrics["val"]["loss"] == pytest.approx(best["val/loss"], abs=1e-6)
    for split in ("val", "test"):
        again = evaluate(averaged_run, overrides=[], split=split, out=tmp_path / split, device="cpu")
        assert again["miou"] == metrics[split]["miou"]
    state = weights(averaged_run, "best")
    network = segpipe.load(averaged_run, device="cpu").network
    assert all(torch.equal(state[f"network.{name}"], tensor) for name, tensor in network.state_dict().items())
    cfg = configure(*TINY)
    begun = build.task(cfg, build.data(cfg))
    warm_start(begun.network, averaged_run / "checkpoints" / "best.ckpt")
    assert equal(begun.state_dict(), state)


def test_validating_a_finished_training_does_not_bring_the_last_average_back(tmp_path, monkeypatch):
    """As Lightning's own callback would: the first epoch is made the best, and is what metrics.json must tell of."""
    count, losses, finish = task.logged_scores, [], task.SegmentationTask.finish_evaluation

    def worse_each_time(matrices, classes):
        return count(matrices, classes) | {"miou": 1.0 / (1 + len(losses))}

    def finished(self, split):
        finish(self, split)
        losses.append(self.evaluations[split].loss)

    monkeypatch.setattr(task, "logged_scores", worse_each_time)
    monkeypatch.setattr(task.SegmentationTask, "finish_evaluation", finished)
    metrics = train(configure(*EMA, f"run_dir={tmp_path / 'run'}"))
    assert metrics["best_epoch"] == 0
    first, second, again, _test = losses
    assert first != second
    assert again == first


def test_a_resumed_average_is_that_of_a_run_that_was_not_interrupted(tmp_path):
    choices = [*EMA, "neck.dropout=0.3", "scheduler=constant"]
    train(configure(*choices, f"run_dir={tmp_path / 'whole'}"))
    train(configure(*choices, "trainer.max_epochs=1", f"run_dir={tmp_path / 'halves'}"))
    config = tmp_path / "halves" / "config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 1", "max_epochs: 2"))
    train(configure(f"resume={tmp_path / 'halves'}"))
    for name in ("last", "best"):
        whole, halves = checkpoint(tmp_path / "whole", name), checkpoint(tmp_path / "halves", name)
        assert equal(whole["state_dict"], halves["state_dict"])
        assert equal(whole[RAW], halves[RAW])
    for split in ("val", "test"):
        first, second = (np.load(tmp_path / run / "confusion" / f"{split}.npz") for run in ("whole", "halves"))
        assert (first["matrices"] == second["matrices"]).all()


def test_an_average_makes_another_run():
    plain, *others = [configure(*TINY), configure(*EMA), configure(*EMA, "callbacks.ema.decay=0.99")]
    assert len({Plan.of(cfg).identity for cfg in (plain, *others)}) == 3


def test_a_decay_that_keeps_all_is_refused():
    with pytest.raises(UserError, match=r"callbacks.ema.decay=1.*from 0 to"):
        Plan.of(configure("callbacks=ema", "callbacks.ema.decay=1"))
