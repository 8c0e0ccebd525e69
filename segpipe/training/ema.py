"""An exponential moving average of the weights, used for validation, the best checkpoint, and the test."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

RAW = "raw_state_dict"  # key of the weights in a checkpoint with which training resumes


class MovingAverage(pl.Callback):
    """Averages the weights over the steps of a training (Polyak and Juditsky 1992, with exponential weights).

    It averages all floating-point values of the state dict, including the statistics of batch normalisation. It copies
    the integer counters. Validation during training uses the average. A checkpoint contains the average as
    ``state_dict``, and the weights beside it, with which ``resume`` continues. docs/architecture.md explains why this
    is not Lightning's callback.

    decay: the largest weight of the old average in a step. After t steps the weight is min(decay, (1 + t) / (10 + t)),
        as in TensorFlow's ExponentialMovingAverage. Otherwise the random initial weights would dominate the average of
        a short training.
    """

    def __init__(self, *, decay: float = 0.999) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}  # during validation it holds the weights
        self.swapped = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start with the current weights, or move a loaded average to the device."""
        state = self.average or pl_module.state_dict()
        self.average = {name: tensor.detach().to(pl_module.device, copy=True) for name, tensor in state.items()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average after a step of the optimizer; each batch is one step."""
        step = trainer.global_step
        current = pl_module.state_dict()
        averaged = [name for name, tensor in current.items() if tensor.is_floating_point()]
        update = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        update([self.average[name] for name in averaged], [current[name] for name in averaged], step)
        for name in current.keys() - set(averaged):
            self.average[name].copy_(current[name])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the average into the network, if the validation belongs to a training."""
        if trainer.state.fn == TrainerFn.FITTING and self.average:
            self.swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the weights: after LogPredictions, which comes before this callback, and before checkpoints."""
        if self.swapped:
            self.swap(pl_module)

    def swap(self, pl_module: pl.LightningModule) -> None:
        """Exchange the values of the network with those of ``average``."""
        for name, tensor in pl_module.state_dict().items():
            kept = self.average[name].clone()
            self.average[name].copy_(tensor)
            tensor.copy_(kept)
        self.swapped = not self.swapped

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the average as ``state_dict``, where readers look for weights, and the weights under RAW."""
        checkpoint[RAW], checkpoint["state_dict"] = checkpoint["state_dict"], dict(self.average)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Load the weights and their average."""
        self.average = checkpoint["state_dict"]
        pl_module.load_state_dict(checkpoint[RAW])
