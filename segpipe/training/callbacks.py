"""What happens beside the training: the history on disk, pictures, checkpoints that are written whole."""

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
from segpipe.data.dataset import Sample, Split
from segpipe.data.examples import save_examples
from segpipe.data.module import SegmentationData
from segpipe.models.network import resize_logits
from segpipe.runs import checkpoints
from segpipe.runs.run import Run
from segpipe.runs.storage import read_history, write_history
from segpipe.training import tracking
from segpipe.training.task import SegmentationTask


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and then moves it there in one step; reads one wherever it lies by now."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """See TorchCheckpointIO."""
        checkpoints.write(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
        """See TorchCheckpointIO. Where the run was moved, the callbacks are told its folder.

        Lightning would forget which checkpoint was the best.
        """
        checkpoint = super().load_checkpoint(path, *arguments, **named)
        here = os.path.realpath(Path(path).parent)  # as Lightning writes it
        for name, state in checkpoint.get("callbacks", {}).items():
            if isinstance(state, dict) and state.get("dirpath"):
                checkpoint["callbacks"][name] = relocate_paths(state, state["dirpath"], here)
        return checkpoint


def relocate_paths(content: Any, old: str, new: str) -> Any:
    """The state of a callback with another folder in every path that begins with the old one."""
    if isinstance(content, dict):
        return {relocate_paths(key, old, new): relocate_paths(value, old, new) for key, value in content.items()}
    if isinstance(content, str) and (content == old or content.startswith(f"{old}/")):
        return new + content.removeprefix(old)
    return content


class KeepSigtermHandler(pl.Callback):
    """Lets SIGTERM do on a rank what it did before the trainer: Lightning's handler asks the other ranks about it.

    That is a collective operation inside a signal handler, at which ranks wait for one another for ever (2.6.6).
    """

    def __init__(self) -> None:
        self.before = signal.getsignal(signal.SIGTERM)

    def restore(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the handler back; by then Lightning has put in its own."""
        signal.signal(signal.SIGTERM, self.before)

    on_train_start = on_validation_start = on_test_start = restore


class History(pl.Callback):
    """Keeps ``history.csv``: a line an epoch with every logged number, so that a run can be read without W&B."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.rows: list[dict[str, float]] = []

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on behind the epochs that a resumed run has done."""
        self.rows = [row for row in read_history(self.run.history) if row["epoch"] < trainer.current_epoch]

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write a line; by then the epoch's validation is done."""
        validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        numbers = {
            name: float(value)
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith("train/") or (validated and name.startswith("val/"))
        }
        place = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        self.rows.append({**place, "lr": trainer.optimizers[0].param_groups[0]["lr"], **numbers})
        write_history(self.run.history, self.rows)


class LogPredictions(pl.Callback):
    """Logs the same few validation pictures with their masks to W&B.

    count: how many, spread evenly over the split. every: epochs from one time to the next.
    """

    changes_result: ClassVar[bool] = False  # read by naming.changes_result

    def __init__(self, *, count: int = 4, every: int = 1) -> None:
        self.count, self.every = count, every

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Predict and log."""
        logger = trainer.logger
        if not isinstance(logger, WandbLogger) or (trainer.current_epoch + 1) % self.every or trainer.sanity_checking:
            return
        assert isinstance(pl_module, SegmentationTask)
        data: SegmentationData = trainer.datamodule  # type: ignore[attr-defined]
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


def predict_samples(
    task: SegmentationTask, data: SegmentationData, split: Split, count: int
) -> tuple[list[Sample], list[NDArray[np.uint8]], list[str]]:
    """Samples spread evenly over a split, pictures at their masks' size, with predictions and names."""
    samples = data.samples(split)
    number = len(samples)
    chosen = sorted({round(i * (number - 1) / max(count - 1, 1)) for i in range(min(count, number))})
    kept, predictions = [], []
    training = task.training
    task.eval()
    for index in chosen:
        batch = samples[[(0, index)]]
        with torch.inference_mode():
            logits = resize_logits(task(batch["image"].to(task.device)), batch["mask"].shape[-2:])
            image = resize_logits(batch["image"].float(), batch["mask"].shape[-2:])
        kept.append(Sample(image[0].byte().permute(1, 2, 0).numpy(), batch["mask"][0].numpy()))
        predictions.append(logits.argmax(1)[0].byte().cpu().numpy())
    task.train(training)
    return kept, predictions, [data.split(split).names[index] for index in chosen]


def save_prediction_grid(task: SegmentationTask, data: SegmentationData, split: Split, run: Run, *, title: str) -> None:
    """Write ``pictures/predictions.png``, picture, truth, prediction and errors of a few samples, and ``examples``."""
    samples, predictions, names = predict_samples(task, data, split, 4)
    images, truths = [sample.image for sample in samples], [sample.mask for sample in samples]
    palette = data.split(split).palette
    page = visualise.prediction_grid(images, truths, predictions, classes=task.classes, palette=palette, title=title)
    visualise.save_image(page, run.pictures / "predictions.png")
    save_examples(run.examples, names=names, images=images, truths=truths, predictions=predictions, palette=palette)
