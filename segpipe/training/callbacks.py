"""Callbacks: the history on disk, a line for each epoch, logged predictions, atomic checkpoints."""

import math
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from numpy.typing import NDArray
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from segpipe.data import visualise
from segpipe.data.bands import visible
from segpipe.data.dataset import Sample, Split
from segpipe.data.datasets.shapes import Shapes
from segpipe.data.examples import save_examples
from segpipe.data.module import SegmentationData
from segpipe.errors import in_words
from segpipe.metrics.confusion import SCORES
from segpipe.models.network import resize_logits
from segpipe.runs import checkpoints
from segpipe.runs.run import Run
from segpipe.runs.storage import is_component, read_history, write_history
from segpipe.training import tracking
from segpipe.training.task import SegmentationTask


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically: to a temporary file, which is then renamed. Reads them from a moved folder too."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """See TorchCheckpointIO."""
        checkpoints.write(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
        """See TorchCheckpointIO. The states of callbacks get the paths of the checkpoint's folder.

        The run's folder may have been moved, and no path is taken from a checkpoint: Lightning removes the files that
        its ModelCheckpoint has stored. Raises UserError where the file is damaged.
        """
        checkpoint = checkpoints.read(Path(path))
        here = os.path.realpath(Path(path).parent)  # the form that Lightning stores
        for state in checkpoint.get("callbacks", {}).values():
            if isinstance(state, dict) and "dirpath" in state:
                relocate_paths(state, here)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint. Only a regular file is removed, never a folder."""
        if os.path.isfile(path) and not os.path.islink(path):
            os.unlink(path)


def relocate_paths(state: dict[str, Any], folder: str) -> None:
    """Replace the paths in the state of a ModelCheckpoint by those of the same file names in ``folder``."""

    def local(path: object) -> str:
        name = os.path.basename(str(path))
        return os.path.join(folder, name) if is_component(name) else ""

    state["dirpath"] = folder
    for key in ("best_model_path", "last_model_path", "kth_best_model_path"):
        if state.get(key):
            state[key] = local(state[key])
    best = state.get("best_k_models")
    state["best_k_models"] = {local(path): value for path, value in best.items()} if isinstance(best, dict) else {}


class KeepSigtermHandler(pl.Callback):
    """Restores the SIGTERM handler of a rank that Lightning replaces.

    Lightning's handler runs a collective operation inside the signal handler. Ranks then wait for one another without
    end (Lightning 2.6.6).
    """

    def __init__(self) -> None:
        self.before = signal.getsignal(signal.SIGTERM)

    def restore(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the handler; Lightning has set its own before."""
        signal.signal(signal.SIGTERM, self.before)

    on_train_start = on_validation_start = on_test_start = restore


class History(pl.Callback):
    """Writes ``history.csv``: one line per epoch with all logged numbers. It makes a run readable without W&B."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.rows: list[dict[str, float]] = []
        self.more: dict[str, float] = {}  # of the present epoch, from other callbacks

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the lines of the epochs that a resumed run has finished."""
        self.rows = [row for row in read_history(self.run.history) if row["epoch"] < trainer.current_epoch]

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line of the epoch; its validation is finished by then."""
        validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        numbers = {
            name: float(value)
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith("train/") or (validated and name.startswith("val/"))
        }
        numbers, self.more = numbers | self.more, {}
        position = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        self.rows.append({**position, "lr": trainer.optimizers[0].param_groups[0]["lr"], **numbers})
        write_history(self.run.history, self.rows)


class EpochLines(pl.Callback):
    """Prints a line after each epoch, with the time that is left: for logs, where a progress bar is of no use.

    history: has written the epoch before this callback is called.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.seconds: list[float] = []  # of the epochs of this process, with their validation
        self.since = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Store the time."""
        self.since = time.monotonic()

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line of the epoch."""
        self.seconds.append(time.monotonic() - self.since)
        print(epoch_line(self.history.rows, epochs=trainer.max_epochs, seconds=self.seconds), flush=True)


def epoch_line(rows: Sequence[dict[str, float]], *, epochs: int | None, seconds: Sequence[float]) -> str:
    """Return a line on the last epoch: loss, validation mIoU if it was validated, duration, and the time that is left.

    rows: of history.csv. epochs: of the training. seconds: of the epochs since the process started. The first of these
    is left out of the mean, because it is slower (data are read, memory is allocated). Epochs are counted from 1.
    """
    row = rows[-1]
    done = int(row["epoch"]) + 1
    parts = [f"epoch {done}/{epochs}", f"loss {row.get('train/loss', math.nan):.3f}"]
    scores = {int(one["epoch"]) + 1: one["val/miou"] for one in rows if "val/miou" in one}
    known = {epoch: score for epoch, score in scores.items() if not math.isnan(score)}
    if done in scores:
        best = max(known, key=lambda epoch: known[epoch], default=done)
        at = f" (best {known[best]:.3f} at {best})" if best != done else " (best so far)" if done in known else ""
        parts.append(f"val mIoU {scores[done]:.3f}{at}")
    later = seconds[1:] or seconds
    mean = sum(later) / len(later)
    left = max((epochs or done) - done, 0)
    parts.append(f"{in_words(mean)} an epoch" + (f", {in_words(mean * left)} left" if left else ""))
    return "  ".join(parts)


class LogPredictions(pl.Callback):
    """Logs the same few validation images with their masks to W&B.

    count: number of images, spread evenly over the split. every: interval in epochs.
    """

    changes_result: ClassVar[bool] = False  # read by config.identity.changes_result

    def __init__(self, *, count: int = 4, every: int = 1) -> None:
        self.count, self.every = count, every

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Predict the images and log them."""
        logger = trainer.logger
        if not isinstance(logger, WandbLogger) or (trainer.current_epoch + 1) % self.every or trainer.sanity_checking:
            return
        assert isinstance(pl_module, SegmentationTask)
        data: SegmentationData = trainer.datamodule  # type: ignore[attr-defined]
        with tracking.tolerate_wandb_errors("val/predictions"):
            samples, predictions, names = predict_samples(pl_module, data, "val", self.count)
            tracking.log_overlays(
                logger,
                key="val/predictions",
                images=[sample.image for sample in samples],
                truths=[sample.mask for sample in samples],
                predictions=predictions,
                names=names,
                classes=pl_module.classes,
            )


def may_send_images(logger: WandbLogger, data: SegmentationData) -> bool:
    """Return whether images may leave the machine: if ``logger.images`` is true, or null and the scenes are drawn."""
    dataset = data.split("val")
    drawn = isinstance(getattr(dataset, "whole", dataset), Shapes)
    images = getattr(logger, "images", None)
    return drawn if images is None else bool(images)


def predict_samples(
    task: SegmentationTask, data: SegmentationData, split: Split, count: int
) -> tuple[list[Sample], list[NDArray[np.uint8]], list[str]]:
    """Predict ``count`` samples, spread evenly over a split.

    Returns samples (the image resized to its mask, with three bands), predictions (H, W) of class indices, and names.
    """
    number = len(data.samples(split))
    chosen = sorted({round(i * (number - 1) / max(count - 1, 1)) for i in range(min(count, number))})
    return predict_chosen(task, data, split, chosen)


def predict_chosen(
    task: SegmentationTask, data: SegmentationData, split: Split, chosen: Sequence[int]
) -> tuple[list[Sample], list[NDArray[np.uint8]], list[str]]:
    """Predict the samples of a split with the indices ``chosen``. Returns what ``predict_samples`` returns."""
    samples, kept, predictions = data.samples(split), [], []
    training = task.training
    task.eval()
    try:
        for index in chosen:
            batch = samples[[(0, index)]]
            size = batch["mask"].shape[-2:]
            predictions.append(task.windows.masks(batch["image"].to(task.device), size)[0].numpy())
            image = resize_logits(batch["image"].float(), size)
            image = image.byte() if batch["image"].dtype == torch.uint8 else image
            kept.append(Sample(visible(image[0].permute(1, 2, 0).numpy()), batch["mask"][0].numpy()))
    finally:
        task.train(training)
    return kept, predictions, [data.split(split).names[index] for index in chosen]


def save_prediction_grid(task: SegmentationTask, data: SegmentationData, split: Split, run: Run, *, title: str) -> None:
    """Write ``pictures/predictions.png`` (image, truth, prediction and errors of four samples) and ``examples``."""
    samples, predictions, names = predict_samples(task, data, split, 4)
    images, truths = [sample.image for sample in samples], [sample.mask for sample in samples]
    palette = data.split(split).palette
    page = visualise.prediction_grid(images, truths, predictions, classes=task.classes, palette=palette, title=title)
    visualise.save_image(page, run.pictures / "predictions.png")
    save_examples(run.examples, names=names, images=images, truths=truths, predictions=predictions, palette=palette)


def save_worst_images(task: SegmentationTask, data: SegmentationData, run: Run, *, count: int = 4) -> None:
    """Write ``pictures/worst.png``: the ``count`` images of the test with the lowest mIoU, the lowest one first.

    Images without labelled pixels have no score, and are left out.
    """
    result = task.evaluations["test"]
    scores = SCORES["miou"].value(result.matrices)
    order = [int(place) for place in np.argsort(scores, kind="stable") if not np.isnan(scores[place])][:count]
    if not order:
        return
    chosen = [int(result.indices[place]) for place in order]
    samples, predictions, names = predict_chosen(task, data, "test", chosen)
    labels = [f"{name}   mIoU {scores[place]:.3f}" for name, place in zip(names, order, strict=True)]
    few = len(order) == len(scores)
    title = "test images by mIoU" if few else f"{len(order)} of {len(scores)} test images: those with the lowest mIoU"
    page = visualise.prediction_grid(
        [sample.image for sample in samples],
        [sample.mask for sample in samples],
        predictions,
        classes=task.classes,
        palette=data.split("test").palette,
        title=title,
        labels=labels,
    )
    visualise.save_image(page, run.pictures / "worst.png")
