"""Degenerate runs are flagged in the table and the verdict, which says whether it changes without them."""

import json

import numpy as np
import pytest
from support.factor_sweeps import write_factors
from support.reports import text_of

from segpipe.analysis.collect import collect
from segpipe.analysis.flags import find_flags
from segpipe.runs.counts import read_confusion, write_confusion

DESIGN = {"encoder": ["small", "vgg16"], "loss": ["dice", "focal"]}


def score(levels):
    return 0.5 + 0.1 * (levels["encoder"] == "vgg16") + 0.05 * (levels["loss"] == "dice")


@pytest.fixture
def sweep(tmp_path):
    """A sweep whose best epochs are neither the first nor the last."""
    folder = write_factors(tmp_path / "x", DESIGN, score, seeds=4)
    for path in folder.glob("*/metrics.json"):
        change(path, training={"epochs": 5, "steps": 10, "seconds": 1.0})
    return folder


def change(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def set_matrices(folder, matrices):
    path = folder / "confusion" / "test.npz"
    found = read_confusion(path)
    names = [found[name].tolist() for name in ("names", "groups")]
    write_confusion(path, names=names[0], groups=names[1], matrices=matrices)


def one_class(folder):
    matrices = read_confusion(folder / "confusion" / "test.npz")["matrices"]
    set_matrices(folder, np.stack([matrices.sum(2), 0 * matrices.sum(2)], axis=2))


FAULTS = {
    "one class predicted": one_class,
    "predictions equal another network's": lambda folder: set_matrices(
        folder, read_confusion(folder.parent / "run1-s1" / "confusion" / "test.npz")["matrices"]
    ),
    "loss not finite": lambda folder: (folder / "history.csv").write_text(
        "epoch,train/loss,val/miou\n0,nan,0.4\n1,0.3,0.5\n"
    ),
    "best epoch is the first": lambda folder: change(folder / "metrics.json", best_epoch=0),
    "best epoch is the last": lambda folder: change(folder / "metrics.json", best_epoch=4),
}


def test_sound_runs_have_no_flags(sweep, no_drawing):
    assert find_flags(collect(sweep)) == []
    assert "Flagged" not in text_of(sweep)[0]


@pytest.mark.parametrize("reason", FAULTS)
def test_a_degenerate_run_is_flagged(sweep, reason):
    FAULTS[reason](sweep / "run3-s2")
    (flag,) = find_flags(collect(sweep))
    assert (flag.network, flag.seed, flag.reason) == (3, 2, reason)


def test_the_verdict_says_whether_it_changes_without_them(sweep, no_drawing):
    FAULTS["best epoch is the first"](sweep / "run3-s2")
    text, _ = text_of(sweep)
    assert "Flagged runs 1 of 16 runs Best epoch is the first in 1 run: vgg16 focal (seed 2)." in text
    assert "Without the flagged runs, the verdict is the same." in text
    assert "best epoch is the first (1 of 4)" in text
    FAULTS["one class predicted"](sweep / "run3-s2")
    FAULTS["one class predicted"](sweep / "run2-s2")
    text, _ = text_of(sweep)
    assert "Flagged runs 2 of 16 runs" in text
    assert "Without the flagged runs, the verdict changes. " in text
    assert "Encoder: vgg16 > small (with them: " in text


def test_where_most_runs_end_at_their_best_the_verdict_is_not_repeated(sweep, no_drawing):
    for path in sweep.glob("*/metrics.json"):
        change(path, best_epoch=4)
    text, _ = text_of(sweep)
    assert "Best epoch is the last in 16 runs. Most runs are flagged, so the verdict is not repeated" in text
    FAULTS["loss not finite"](sweep / "run3-s2")
    assert (
        "Without the runs flagged for another reason than the last epoch, the verdict is the same." in text_of(sweep)[0]
    )
