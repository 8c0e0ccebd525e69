"""The pictures of a run that are drawn after its test: learning curves, confusion matrix, worst images."""

import os
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from segpipe.config import build
from segpipe.data.module import SegmentationData
from segpipe.runs.run import Run
from segpipe.runs.storage import read_history, write_bytes
from segpipe.runs.summary import format_score
from segpipe.training.callbacks import save_worst_images
from segpipe.training.task import SegmentationTask


def wanted(cfg: DictConfig) -> bool:
    """Return whether the pictures are drawn: the key ``pictures``; with ``auto``, not for the jobs of a sweep."""
    given = cfg.get("pictures", "auto")
    return build.SWEEP not in os.environ if given == "auto" else bool(given)


def drawings(
    cfg: DictConfig, run: Run, task: SegmentationTask, data: SegmentationData, metrics: dict[str, Any]
) -> dict[str, Callable[[], None]]:
    """Return functions that draw the pictures of a run which was tested, by what they draw; none if none is wanted.

    metrics: the content of metrics.json.
    """
    if not wanted(cfg):
        return {}
    name = run.record["name"]

    def curves() -> None:
        from segpipe.analysis import run_pictures  # imported here: matplotlib takes a second, after the training

        picture = run_pictures.learning_curves(read_history(run.history), title=name)
        write_bytes(run.pictures / "curves.png", picture)

    def confusion() -> None:
        from segpipe.analysis import run_pictures

        matrix = task.evaluations["test"].matrices.sum(0)
        title = f"{name}   test mIoU {format_score(metrics['test']['miou'])}"
        picture = run_pictures.confusion_matrix(matrix, task.classes, title=title)
        write_bytes(run.pictures / "confusion.png", picture)

    return {
        "the learning curves": curves,
        "the confusion matrix": confusion,
        "the worst images": lambda: save_worst_images(task, data, run),
    }
