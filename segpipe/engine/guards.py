"""Guards of a training: what would end it wrongly or late is found early, or is brought to a point where it can end."""

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint

from segpipe.data.dataset import Split
from segpipe.data.module import SegmentationData
from segpipe.engine import shutdown
from segpipe.engine.dry_run import limited
from segpipe.errors import UserError, nearest, pluralise
from segpipe.metrics.confusion import score_paths
from segpipe.runs.run import Run, display_path
from segpipe.training.task import SegmentationTask

MOVE = "Remove or rename it, or train in another folder: hydra.run.dir=FOLDER."
OnValidation = Callable[[int, dict[str, float]], object]


class StopAfterSignal(pl.Callback):
    """Raises KeyboardInterrupt at the next batch where a library has caught the one that a signal raised."""

    def on_batch(self, *arguments: Any, **named: Any) -> None:
        """Raise KeyboardInterrupt if a signal asked this process to end."""
        if shutdown.signals:
            raise KeyboardInterrupt

    on_validation_batch_start = on_test_batch_start = on_batch

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: object) -> None:
        """Raise KeyboardInterrupt as ``on_batch``; else a signal has to wait until ``StepCheckpoint`` ends the step."""
        self.on_batch()
        if trainer.world_size == 1:  # ranks are interrupted at different times, and would wait for one another
            shutdown.hold()


class FolderGuard(pl.Callback):
    """Ends a training whose folder was removed, before anything is written to a new one of the same name."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the folder, on rank 0."""
        if trainer.is_global_zero:
            check_folder(self.run)


class StopAfterEpoch(pl.Callback):
    """Lets a training that a callback or ``trainer.max_time`` stops within an epoch end after this epoch.

    A run has a line in its history, a validation and a checkpoint for each epoch, and is resumed between two epochs.
    It has to be the last callback in the list, except for the checkpoints.
    """

    def __init__(self) -> None:
        self.stop = False

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint within the epoch."""
        return {"stop": self.stop}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.stop = bool(state_dict.get("stop"))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Store a stop before the first epoch: a run needs one epoch, for its best checkpoint."""
        written = any(isinstance(one, ModelCheckpoint) and one.best_model_path for one in trainer.checkpoint_callbacks)
        if trainer.should_stop and not written:
            self.stop, trainer.should_stop = True, False

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: object) -> None:
        """Store a stop within an epoch."""
        if trainer.should_stop and not trainer.is_last_batch:
            self.stop, trainer.should_stop = True, False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop, if a stop was stored."""
        trainer.should_stop = trainer.should_stop or self.stop


class ReportValidation(pl.callbacks.Checkpoint):
    """Calls a function after each validation of a training, with the epoch and the scores of ``val/``.

    It is a Checkpoint, which Lightning calls last: the history and the checkpoints of the epoch are written by then.
    """

    def __init__(self, report: OnValidation) -> None:
        self.report = report

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Call the function if the epoch was validated. Its errors end the training."""
        if (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0:
            logged = trainer.callback_metrics.items()
            scores = {name.removeprefix("val/"): float(value) for name, value in logged if name.startswith("val/")}
            self.report(trainer.current_epoch, scores)


def check_folder(run: Run) -> None:
    """Raise UserError where the folder of a run that is being trained was removed or renamed."""
    if not run.config.is_file():
        raise UserError(
            f"{run.folder}: the run's folder was removed or renamed while it was trained, so the run is not complete. "
            f"Train it again, in another folder."
        )


def check_places(run: Run) -> None:
    """Raise UserError where a folder lies at the place of a file of the run, or a file at that of a folder.

    It would be found when the file is written: after an epoch, or after the training.
    """
    splits = ("val", "test")
    files = [run.record_path, run.config, run.history, run.metrics, run.checkpoint("best"), run.checkpoint("last")]
    files += [path for split in splits for path in (run.confusion(split), run.boundaries(split))]
    for path in files:
        if path.is_dir():
            raise UserError(f"{display_path(path)}: this is a folder, but the run's file has this name. {MOVE}")
        for parent in (path.parent, run.pictures):
            if parent.exists() and not parent.is_dir():
                raise UserError(f"{display_path(parent)}: this is a file, but the run's folder has this name. {MOVE}")


def check_limits(cfg: DictConfig, data: SegmentationData, *, ranks: int = 1) -> None:
    """Raise UserError for a share of the batches of a split that is less than one batch of a rank."""
    splits: dict[Split, str] = {
        "train": "limit_train_batches",
        "val": "limit_val_batches",
        "test": "limit_test_batches",
    }
    for split, key in splits.items():
        share = cfg.trainer.get(key)
        if isinstance(share, float) and share < 1:
            number = len(data.loader(split, train=split == "train")) // ranks
            if int(share * number) < 1:
                raise UserError(
                    f"trainer.{key}={share:g}: less than one of the {number} batches of the {split} split. Give a "
                    f"number of batches, such as 1, or a share of 1/{number} or more."
                )


def notes_on_length(cfg: DictConfig, data: SegmentationData) -> list[str]:
    """Return a note where the warm-up of the learning rate is longer than the training."""
    warmup = cfg.scheduler.get("warmup")
    steps = limited(data.train_batches(), cfg.trainer.get("limit_train_batches")) * cfg.trainer.max_epochs
    if not isinstance(warmup, int) or warmup <= steps:
        return []
    return [
        f"scheduler.warmup={warmup} is longer than the training ({pluralise(steps, 'step')}): the learning rate ends "
        f"at {100 * steps / warmup:.2g} % of optimizer.lr or less. Set scheduler.warmup={steps // 10}, or more "
        f"trainer.max_epochs."
    ]


def check_labels(cfg: DictConfig, data: SegmentationData) -> None:
    """Raise UserError where training has no labelled pixel, or validation has none and chooses the best epoch."""
    if not data.has_labels("train"):
        raise UserError(
            "The train split has no labelled pixel, so there is nothing to learn from. Add labelled images to it."
        )
    monitor = str(cfg.callbacks.best.get("monitor"))
    if monitor.startswith("val/") and not data.has_labels("val"):
        raise UserError(
            f"The val split has no labelled pixel, so {monitor} has no value and no epoch is the best. Add labelled "
            f"images to it, or choose the epoch by training: callbacks.best.monitor=train/loss callbacks.best.mode=min."
        )


def check_monitors(cfg: DictConfig, task: SegmentationTask, callbacks: Iterable[pl.Callback]) -> None:
    """Raise UserError for a callback that monitors a value that is never logged.

    callbacks: of the trainer. A task or a callback of the user's own may log more values; then nothing is checked.
    """
    logged = ["train/loss", "val/loss", *(f"val/{name}" for name in score_paths(task.classes))]
    packages = {type(callback).__module__.partition(".")[0] for callback in callbacks}
    if type(task) is not SegmentationTask or packages - {"pytorch_lightning", "segpipe"}:
        return
    nodes = {name: node for name, node in cfg.callbacks.items() if isinstance(node, DictConfig)}
    for name, node in nodes.items():
        monitor = node.get("monitor")
        if isinstance(monitor, str) and monitor not in logged:
            raise UserError(
                f"callbacks.{name}.monitor={monitor}: this value is not logged. Allowed are {', '.join(logged[:3])} "
                f"and the other values of validation in history.csv.{nearest(monitor, logged)}"
            )
