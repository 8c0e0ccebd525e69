"""Checkpoints within an epoch, with which a resumed training equals one that was never interrupted."""

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.trainer.states import TrainerFn

from segpipe.data.module import SegmentationData
from segpipe.engine import shutdown
from segpipe.engine.guards import check_folder
from segpipe.errors import UserError
from segpipe.runs.checkpoints import WITHIN_EPOCH
from segpipe.runs.run import Run, display_path, repair_hint
from segpipe.training.task import SegmentationTask


class StepCheckpoint(pl.callbacks.Checkpoint):
    """Writes ``last.ckpt`` after every ``every`` steps, and when a signal ends the training. It has to be the last one.

    A checkpoint within an epoch has, under WITHIN_EPOCH, the number of trained batches and, for each rank, the losses
    of this epoch and the states of the random generators. The order of the images and their augmentation are functions
    of (seed, epoch, index), so nothing else is needed (``docs/architecture.md``). Lightning stores the rest.
    With several ranks, only ``every`` writes checkpoints: a signal reaches the ranks in different steps.
    """

    def __init__(self, run: Run, *, every: int | None = None) -> None:
        self.run, self.every = run, every
        self.saving = False
        self.between_steps = False
        self.saved_step = -1
        self.resumed: dict[str, Any] | None = None

    def on_train_batch_start(self, *arguments: object) -> None:
        """Note that the training is within a step."""
        self.between_steps = False

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: object) -> None:
        """Write a checkpoint if it is due, and obey a signal that has waited for the end of the step."""
        self.between_steps = True
        if self.every and trainer.global_step % self.every == 0 and is_within_epoch(trainer):
            self.save(trainer)
        shutdown.release()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write a checkpoint if a signal ends the training between two steps of an epoch."""
        shutdown.held[0] = False
        wanted = self.between_steps and shutdown.is_interruption(exception) and trainer.world_size == 1
        if wanted and trainer.state.fn == TrainerFn.FITTING and is_within_epoch(trainer):
            try:
                self.save(trainer)
            except (OSError, RuntimeError, UserError) as error:  # the previous checkpoint is intact
                print(f"Warning: no checkpoint was written within the epoch ({error}).")

    def save(self, trainer: pl.Trainer) -> None:
        """Write the checkpoint, unless that of this step is there."""
        if self.saved_step == trainer.global_step:
            return
        if trainer.is_global_zero:
            check_folder(self.run)
        self.saving = True
        try:
            trainer.save_checkpoint(self.run.checkpoint("last"))
        finally:
            self.saving = False
        self.saved_step = trainer.global_step

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what a resumed epoch needs."""
        if not self.saving:
            return
        assert isinstance(pl_module, SegmentationTask)
        own = {"losses": torch.stack(pl_module.epoch_losses).cpu(), "random": random_states()}
        states: list[Any] = [own]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            dist.all_gather_object(states, own)
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        checkpoint[WITHIN_EPOCH] = {"batches": batches, "ranks": states}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let the data begin at the batch after the last one that was trained."""
        self.resumed = checkpoint.get(WITHIN_EPOCH)
        if self.resumed is not None:
            data = trainer.datamodule  # type: ignore[attr-defined]
            assert isinstance(data, SegmentationData)
            data.start = (int(checkpoint["epoch"]), int(self.resumed["batches"]))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the losses of the epoch and the random generators. Raises UserError where they are damaged.

        With another number of ranks than before, rank 0 gets the losses, and the draws of dropout are others.
        """
        if self.resumed is None:
            return
        assert isinstance(pl_module, SegmentationTask)
        try:
            states = self.resumed["ranks"]
            losses = [state["losses"] for state in states]
            if len(states) == trainer.world_size:
                own = losses[trainer.global_rank]
                restore_random_states(states[trainer.global_rank]["random"])
            else:
                own = torch.stack(losses).sum(0) * (trainer.global_rank == 0)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            path = display_path(self.run.checkpoint("last"))
            raise UserError(f"{path} is damaged: {error}. {repair_hint(self.run.folder)}") from error
        pl_module.epoch_losses = list(own.to(pl_module.device))
        self.resumed = None


def is_within_epoch(trainer: pl.Trainer) -> bool:
    """Return whether batches of the epoch are trained and others are not. After the last one comes its validation."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return 0 < progress.current.ready < trainer.num_training_batches and not progress.is_last_batch


def random_states() -> dict[str, Any]:
    """Return the states of the global random generators, as tensors and lists of numbers."""
    _, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
        "numpy": [torch.from_numpy(np.asarray(keys, np.int64)), int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Restore the states of ``random_states``. Raises ValueError, TypeError, RuntimeError for what is no state."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"][0])
    keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
