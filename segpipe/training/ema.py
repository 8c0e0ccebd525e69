"""An exponential moving average of the weights, which is what gets validated, kept as the best, and tested."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

RAW = "raw_state_dict"  # where a checkpoint holds the weights that training goes on with


class MovingAverage(pl.Callback):
    """Averages a network over the steps of its training (Polyak and Juditsky 1992, with exponential weights).

    All that a checkpoint holds is averaged, a batch normalisation's statistics too; its counters are copied. While the
    trainer fits, validation sees the average; checkpoints hold it as ``state_dict``, and the weights themselves beside
    it, with which ``resume`` goes on. For why it is not Lightning's own callback, see docs/architecture.md.

    decay: share of the average that a step keeps, at most: after t steps it is (1 + t) / (10 + t) until that is more,
        as in TensorFlow's ExponentialMovingAverage, or short trainings would be averaged with their random start.
    """

    def __init__(self, *, decay: float = 0.999) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}  # while validating, the weights themselves
        self.swapped = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the weights as they are; on a GPU, bring what was loaded to it."""
        state = self.average or pl_module.state_dict()
        self.average = {name: tensor.detach().to(pl_module.device, copy=True) for name, tensor in state.items()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take in what the optimizer's step made; every batch is one."""
        step = trainer.global_step
        current = pl_module.state_dict()
        averaged = [name for name, tensor in current.items() if tensor.is_floating_point()]
        update = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        update([self.average[name] for name in averaged], [current[name] for name in averaged], step)
        for name in current.keys() - set(averaged):
            self.average[name].copy_(current[name])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average into the network, unless it is a finished one that is validated."""
        if trainer.state.fn == TrainerFn.FITTING and self.average:
            self.swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights back: after the overlays, which stand before this, and before checkpoints, which are last."""
        if self.swapped:
            self.swap(pl_module)

    def swap(self, pl_module: pl.LightningModule) -> None:
        """Exchange the network's values with those kept here."""
        for name, tensor in pl_module.state_dict().items():
            kept = self.average[name].clone()
            self.average[name].copy_(tensor)
            tensor.copy_(kept)
        self.swapped = not self.swapped

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The average where every reader looks for weights."""
        checkpoint[RAW], checkpoint["state_dict"] = checkpoint["state_dict"], dict(self.average)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the weights, and with their average."""
        self.average = checkpoint["state_dict"]
        pl_module.load_state_dict(checkpoint[RAW])
