"""Scores are written before cost and images; what only draws, measures or logs cannot cost a result."""

import json
import shlex

import numpy as np
import pytest
import torch
from support.configs import TINY, configure
from torch import nn

from segpipe.config.compatibility import another_decoder
from segpipe.data.examples import save_examples
from segpipe.data.visualise import prediction_grid
from segpipe.engine import fit
from segpipe.models import cost
from segpipe.models.windows import Windows
from segpipe.runs.run import Run
from segpipe.runs.summary import with_decoder
from segpipe.train import train
from segpipe.training import callbacks
from segpipe.training.callbacks import predict_samples

SCORED = {"run.json", "config.yaml", "history.csv", "metrics.json", "confusion/val.npz", "confusion/test.npz"}


def failing(error):
    """A function that fails."""

    def fail(*given, **named):
        raise error

    return fail


def written(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("where", "name", "error"),
    [
        (fit.cost, "measure", torch.OutOfMemoryError("CUDA out of memory")),
        (fit.cost, "measure", RuntimeError("DefaultCPUAllocator: can't allocate memory")),
        (fit, "save_prediction_grid", ValueError("bad shape")),
        (fit, "print_summary", UnicodeEncodeError("ascii", "\u00d7", 0, 1, "no")),
    ],
)
def test_what_follows_the_scores_costs_no_run(where, name, error, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(where, name, failing(error))
    metrics = train(configure(*TINY, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"))
    assert Run(tmp_path / "run").record["status"] == "finished"
    stored = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert stored["test"]["miou"] == metrics["test"]["miou"]
    assert (stored["cost"] is None) == (name == "measure")
    assert written(tmp_path / "run") >= SCORED
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning:")]
    assert len(warnings) == 1
    assert str(error).splitlines()[0] in warnings[0]


@pytest.mark.parametrize("name", ["measure", "save_prediction_grid"])
def test_an_interruption_after_the_scores_leaves_a_finished_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(fit.cost if name == "measure" else fit, name, failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        train(configure(*TINY, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"))
    assert Run(tmp_path / "run").record["status"] == "finished"
    assert written(tmp_path / "run") >= SCORED


def test_logged_predictions_that_fail_cost_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(callbacks, "WandbLogger", object)  # so that the callback predicts with any logger
    monkeypatch.setattr(callbacks, "predict_samples", failing(RuntimeError("out of memory")))
    train(configure(*TINY, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"))
    assert "W&B: lost val/predictions (out of memory)" in capsys.readouterr().out


def test_a_prediction_that_fails_leaves_the_network_in_training_mode():
    class Failing(nn.Module):
        device = torch.device("cpu")
        windows = Windows(failing(RuntimeError("no")), stride=1)

    class Data:
        def samples(self, split):
            return [{"image": torch.zeros(1, 3, 8, 8), "mask": torch.zeros(1, 8, 8)}]

    class Samples(list):
        def __getitem__(self, keys):
            return super().__getitem__(0)

    data = Data()
    data.samples = lambda split: Samples(Data().samples(split))
    network = Failing().train()
    with pytest.raises(RuntimeError, match="no"):
        predict_samples(network, data, "val", 1)
    assert network.training


@pytest.mark.parametrize("shape", [(12000, 32), (32, 12000), (3000, 1), (1, 3000), (96, 96), (1, 1)])
def test_images_of_any_shape_are_drawn(shape, tmp_path):
    image, mask = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)
    palette = [(0, 0, 0), (255, 0, 0)]
    page = prediction_grid([image], [mask], [mask], classes=["a", "b"], palette=palette, title="title")
    assert max(page.size) < 6000
    save_examples(tmp_path, names=["x"], images=[image], truths=[mask], predictions=[mask], palette=palette)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("size", "measured"),
    [
        ((360, 480), (360, 480)),
        ((1024, 2048), (1024, 2048)),
        ((12000, 32), (12000, 32)),
        ((6000, 6000), (1440, 1440)),
        ((2048, 4096), (1024, 2048)),
        ((32, 1_000_000), (32, 256_000)),
    ],
)
def test_the_cost_of_large_images_is_measured_for_smaller_ones(size, measured):
    assert cost.measured_size(size) == measured


def test_the_cost_needs_no_more_memory_and_time_than_allowed(monkeypatch):
    """The images that the network gets: one for the latency, and batches that are not too large."""
    sizes = []

    class Network(nn.Conv2d):
        def forward(self, image):
            sizes.append(tuple(image.shape))
            return super().forward(image.float())

    monkeypatch.setattr(cost, "LARGEST_IMAGE", 64 * 64)
    monkeypatch.setattr(cost, "LARGEST_BATCH", 2 * 64 * 64)
    network = Network(3, 1, 1)
    result = cost.measure(network, (300, 300), batch=8)
    assert result["size"] == [64, 64]
    assert set(sizes) == {(1, 3, 64, 64), (2, 3, 64, 64)}
    assert sizes.count((1, 3, 64, 64)) == 11 + 1  # a warm-up, 10 for the latency, one for the multiply-adds
    assert result["gmac"] == 3 * 64 * 64 / 1e9
    sizes.clear()
    cost.measure(network, (32, 32), batch=8)
    assert set(sizes) == {(1, 3, 32, 32), (8, 3, 32, 32)}
    sizes.clear()
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    cost.measure(network, (32, 32), batch=8)
    assert sizes.count((8, 3, 32, 32)) == 2


def test_the_next_command_trains_the_same_with_another_decoder(tmp_path, capsys):
    given = ["data=folder", "data.root=my photos", "decoder=bilinear", "+decoder.smooth=conv3x3", "seed=3"]
    assert with_decoder(given, "decoder=nearest") == ["data=folder", "data.root=my photos", "seed=3", "decoder=nearest"]
    assert with_decoder(["experiment=sweep_camvid"], "decoder=x")[-1] == "hydra.mode=RUN"
    for name in ("bilinear", "unpool", "nearest"):
        assert another_decoder(configure(f"decoder={name}")) != name
    train(configure(*TINY, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"))
    run = Run(tmp_path / "run")
    run.update(overrides=given)
    fit.print_summary(run, json.loads(run.metrics.read_text()), another="decoder=nearest")
    assert shlex.join(["data=folder", "data.root=my photos", "seed=3", "decoder=nearest"]) in capsys.readouterr().out
