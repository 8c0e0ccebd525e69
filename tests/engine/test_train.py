"""What a training leaves, and that it repeats itself."""

import json
import math

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from support.configs import TINY, configure
from support.grid import slow
from support.trainings import equal, interrupted_in, weights

from segpipe.config import build
from segpipe.metrics.confusion import mean_ratio, scores
from segpipe.runs.counts import read_boundaries
from segpipe.runs.run import Run
from segpipe.runs.storage import read_history, write_history
from segpipe.train import train


def test_a_run_is_a_folder(finished_run):
    record = json.loads((finished_run / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["seed"] == 0
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert record["data_fingerprint"]["train"].startswith("shapes-")
    assert record["world_size"] == 1
    assert "${" not in (finished_run / "config.yaml").read_text()
    assert OmegaConf.load(finished_run / "config.yaml").data.crop == [96, 96]
    assert {path.name for path in (finished_run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (finished_run / "pictures" / "predictions.png").is_file()
    assert not list(finished_run.rglob("*.part"))


def test_history_has_a_line_an_epoch(finished_run):
    rows = read_history(finished_run / "history.csv")
    assert [row["epoch"] for row in rows] == [0, 1]
    assert [row["step"] for row in rows] == [2, 4]
    assert {"train/loss", "val/loss", "val/miou", "val/iou/disc", "lr"} <= rows[0].keys()


def test_scores_are_those_of_the_matrices_of_every_picture(finished_run):
    metrics = json.loads((finished_run / "metrics.json").read_text())
    for split, count in (("val", 5), ("test", 7)):
        with np.load(finished_run / "confusion" / f"{split}.npz") as file:
            names, groups, matrices = file["names"], file["groups"], file["matrices"]
        assert (len(names), len(groups), matrices.dtype, matrices.shape) == (count, count, np.int32, (count, 6, 6))
        assert names.tolist() == [f"{split}-{index:04d}" for index in range(count)]
        assert (matrices.sum((1, 2)) == 96 * 96).all()
        assert scores(matrices.sum(0))["miou"] == pytest.approx(metrics[split]["miou"])
    found = read_boundaries(Run(finished_run).boundaries("test"))
    shown = {name: None if math.isnan(mean_ratio(tally)) else mean_ratio(tally) for name, tally in found.items()}
    assert metrics["test"]["boundaries"] == shown
    assert all(len(part) == 7 for tally in found.values() for part in tally)
    assert "boundaries" not in metrics["val"]
    assert not Run(finished_run).boundaries("val").exists()


def test_every_run_says_what_it_costs(finished_run):
    cost = json.loads((finished_run / "metrics.json").read_text())["cost"]
    network = build.network(OmegaConf.load(finished_run / "config.yaml"), 6)
    assert cost["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert cost["size"] == [96, 96]
    assert all(cost[name] > 0 for name in ("gmac", "latency_ms", "images_per_s", "peak_memory_mib"))


def test_a_run_repeats_itself_bit_for_bit(finished_run, tmp_path):
    train(configure(*TINY, f"run_dir={tmp_path / 'again'}"))
    assert equal(weights(finished_run), weights(tmp_path / "again"))


@pytest.mark.parametrize("workers", [slow(0, several=False), 1])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(workers, tmp_path):
    """Dropout too: it depends on (seed, epoch), as do dropped skips. The schedule must be that of the whole."""
    choices = [*TINY, "neck.dropout=0.3", "fusion.drop=0.3", "scheduler=constant", f"data.workers={workers}"]
    train(configure(*choices, f"run_dir={tmp_path / 'whole'}"))
    train(configure(*choices, "trainer.max_epochs=1", f"run_dir={tmp_path / 'halves'}"))
    config = tmp_path / "halves" / "config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 1", "max_epochs: 2"))
    train(configure(f"resume={tmp_path / 'halves'}"))
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "halves"))
    assert [row["epoch"] for row in read_history(tmp_path / "halves" / "history.csv")] == [0, 1]


def test_the_history_of_a_resumed_run_is_that_of_one_that_was_not_interrupted(tmp_path, monkeypatch):
    choices = [*TINY, "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2"]
    train(configure(*choices, f"run_dir={tmp_path / 'whole'}"))
    interrupted_in(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(configure(*choices, f"run_dir={tmp_path / 'halves'}"))
    monkeypatch.undo()
    assert not (tmp_path / "halves" / "metrics.json").exists()
    train(configure(f"resume={tmp_path / 'halves'}"))
    whole, halves = ((tmp_path / name / "history.csv").read_bytes() for name in ("whole", "halves"))
    assert b"\n0,2,0.0" in whole
    assert halves == whole


def test_a_history_that_was_read_is_written_the_same(tmp_path):
    rows = [
        {"epoch": 0, "step": 20, "lr": 0.1, "train/loss": 1.0},
        {"epoch": 1, "step": 10**17 + 1, "lr": 1, "train/loss": math.nan, "val/miou": 1e-07, "val/loss": -math.inf},
        {"epoch": 2, "step": 60, "lr": 0.0, "train/loss": -3.0, "val/miou": 0.1 + 0.2, "val/loss": -2},
    ]
    write_history(tmp_path / "one.csv", rows)
    write_history(tmp_path / "two.csv", read_history(tmp_path / "one.csv"))
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert [type(row["epoch"]) for row in read_history(tmp_path / "two.csv")] == [int] * 3
