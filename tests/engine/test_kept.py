"""Checkpoints that a sweep keeps."""

import shutil

import numpy as np
import pytest
from support.configs import TINY, configure

from segpipe.config import build
from segpipe.engine import scheduler
from segpipe.engine.predictor import Predictor
from segpipe.errors import UserError
from segpipe.runs import checkpoints
from segpipe.runs.run import Run
from segpipe.train import train


# ---- checkpoints that are kept
def copied(run, folder):
    shutil.copytree(run, folder)
    return Run(folder)


def test_the_best_weights_alone_predict_the_same_and_cannot_be_gone_on_with(tmp_path, finished_run):
    kept = copied(finished_run, tmp_path / "run")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    before = Predictor(kept.folder)(image)
    size = kept.checkpoint("best").stat().st_size
    assert checkpoints.latest_intact(kept) is not None
    checkpoints.compact(kept, "best")
    assert (Predictor(kept.folder)(image) == before).all()
    assert not kept.checkpoint("last").exists()
    assert kept.checkpoint("best").stat().st_size < size / 2
    assert build.weights_file(str(kept.folder)) == kept.checkpoint("best")
    assert checkpoints.latest_intact(kept) is None
    with pytest.raises(UserError, match=r"no checkpoints/last\.ckpt to resume from"):
        train(configure(*TINY, f"resume={kept.folder}"))
    written = kept.checkpoint("best").stat().st_mtime_ns
    checkpoints.compact(kept, "best")
    assert kept.checkpoint("best").stat().st_mtime_ns == written


def test_checkpoints_stay_where_the_best_cannot_be_rewritten(tmp_path, finished_run, monkeypatch):
    kept = copied(finished_run, tmp_path / "run")
    names = sorted(path.name for path in (kept.folder / "checkpoints").iterdir())

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write", full)
    slots = scheduler.Scheduler(name="x", workers=1, gpu=False, keep="best")
    slots.compact(kept)
    assert sorted(path.name for path in (kept.folder / "checkpoints").iterdir()) == names
    monkeypatch.undo()
    slots.compact(kept)
    assert [path.name for path in (kept.folder / "checkpoints").iterdir()] == ["best.ckpt"]


def test_a_finished_run_whose_weights_were_not_kept_says_so(tmp_path, finished_run):
    kept = copied(finished_run, tmp_path / "run")
    checkpoints.compact(kept, "none")
    assert not (kept.folder / "checkpoints").exists()
    with pytest.raises(UserError, match=r"weights were not kept.*train it again: python -m segpipe.train"):
        Predictor(kept.folder)
    settings = configure(*TINY, "resume=auto", f"run_dir={kept.folder}")
    before = kept.record_path.stat().st_mtime_ns
    train(settings)  # it counts as finished
    assert kept.record_path.stat().st_mtime_ns == before
