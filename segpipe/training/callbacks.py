"""Callbacks: the history on disk, logged predictions, atomic checkpoints."""

import os
import signal
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

    Returns samples (the image resized to its mask), predictions (H, W) of class indices, and names.
    """
    samples = data.samples(split)
    number = len(samples)
    chosen = sorted({round(i * (number - 1) / max(count - 1, 1)) for i in range(min(count, number))})
    kept, predictions = [], []
    training = task.training
    task.eval()
    try:
        for index in chosen:
            batch = samples[[(0, index)]]
            with torch.inference_mode():
                logits = resize_logits(task(batch["image"].to(task.device)), batch["mask"].shape[-2:])
                image = resize_logits(batch["image"].float(), batch["mask"].shape[-2:])
            image = image.byte() if batch["image"].dtype == torch.uint8 else image
            kept.append(Sample(visible(image[0].permute(1, 2, 0).numpy()), batch["mask"][0].numpy()))
            predictions.append(logits.argmax(1)[0].byte().cpu().numpy())
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
