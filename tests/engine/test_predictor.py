"""A finished run as a function, and its evaluation."""

import json

import numpy as np
import pytest
from support.camvid import write_camvid

import segpipe
from segpipe.errors import UserError
from segpipe.evaluate import evaluate
from segpipe.runs.counts import read_boundaries
from segpipe.runs.run import Run

# a finished run as a function


def test_load_gives_a_mask_for_a_picture_of_any_size(finished_run):
    predictor = segpipe.load(finished_run, device="cpu")
    for size in ((45, 61), (200, 120), (7, 9)):
        mask = predictor(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
        assert (mask.shape, mask.dtype) == (size, np.uint8)
        assert mask.max() < 6
    with pytest.raises(UserError, match=r"float64 \(4, 4\)"):
        predictor(np.zeros((4, 4)))


def test_load_says_what_is_no_run(tmp_path, finished_run):
    with pytest.raises(UserError, match="no such folder"):
        segpipe.load(tmp_path / "nothing")
    (tmp_path / "config.yaml").write_text((finished_run / "config.yaml").read_text())
    with pytest.raises(UserError, match="no checkpoints/best"):
        Run.open(tmp_path).best_checkpoint()


def test_evaluating_again_gives_the_same_numbers(finished_run, tmp_path):
    metrics = json.loads((finished_run / "metrics.json").read_text())
    for split in ("val", "test"):
        again = evaluate(finished_run, overrides=[], split=split, out=tmp_path / split, device="cpu")
        assert again["miou"] == metrics[split]["miou"]
        with (
            np.load(finished_run / "confusion" / f"{split}.npz") as a,
            np.load(tmp_path / split / "confusion.npz") as b,
        ):
            assert (a["matrices"] == b["matrices"]).all()
        counted = read_boundaries(tmp_path / split / "boundaries.npz")
        assert all(len(part) == again["images"] for tally in counted.values() for part in tally)
    for name, tally in read_boundaries(Run(finished_run).boundaries("test")).items():
        assert all((one == other).all() for one, other in zip(tally, counted[name], strict=True))
    fewer = evaluate(finished_run, overrides=["data.dataset.test=3"], split="test", out=tmp_path / "few", device="cpu")
    assert fewer["images"] == 3
    with pytest.raises(UserError, match="trained on the classes background"):
        evaluate(
            finished_run, overrides=["data=camvid", f"data.root={write_camvid(tmp_path / 'camvid')}"], split="test"
        )
