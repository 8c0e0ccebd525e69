"""The callback that follows a decoder over its training (``callbacks=inspect``)."""

from typing import ClassVar

import numpy as np
import PIL.Image
import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from segpipe.data import visualise
from segpipe.data.module import SegmentationData
from segpipe.lab import monitor, strip
from segpipe.lab.facts import Inspection, RunFacts, ShownImage
from segpipe.lab.look import look
from segpipe.models.network import resize_logits
from segpipe.training import tracking
from segpipe.training.callbacks import History, may_send_images
from segpipe.training.task import SegmentationTask


class Inspect(pl.Callback):
    """Measures the decoder at the end of every ``every``-th epoch, and draws its maps for one validation image.

    The history gets, for each step, the distance of the kernels from fixed operators (``lab/bilinear/8``), and the
    phase share on constant images (``lab/checkerboard/8``, ``lab/checkerboard/logits``); docs/lab.md defines them. The
    figure is ``pictures/climb.png`` in the run's folder, and ``lab/climb`` in W&B where images may be sent.
    """

    changes_result: ClassVar[bool] = False  # read by config.identity.changes_result

    def __init__(self, *, every: int = 1) -> None:
        self.every = every
        self.side: int | None = None  # of the constant image that was needed before

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, log and draw. The history writes its line after this."""
        if (trainer.current_epoch + 1) % self.every:
            return
        assert isinstance(pl_module, SegmentationTask)
        numbers, self.side = monitor.measure(pl_module.network, side=self.side)
        pl_module.log_dict(numbers, on_step=False, on_epoch=True, rank_zero_only=True)
        history = next(callback for callback in trainer.callbacks if isinstance(callback, History))  # type: ignore[attr-defined]
        history.more |= numbers
        run = history.run
        data: SegmentationData = trainer.datamodule  # type: ignore[attr-defined]
        figure = climb_figure(pl_module, data, label=f"{run.record.get('name', '')} epoch {trainer.current_epoch + 1}")
        visualise.save_image(figure, run.pictures / "climb.png")
        logger = trainer.logger
        if isinstance(logger, WandbLogger) and may_send_images(logger, data):
            tracking.log_image(logger, key="lab/climb", image=np.asarray(figure))


def climb_figure(task: SegmentationTask, data: SegmentationData, *, label: str) -> PIL.Image.Image:
    """Return the climb of the first validation image."""
    batch, dataset = data.samples("val")[[(0, 0)]], data.split("val")
    mask = batch["mask"][0].numpy()
    image = resize_logits(batch["image"].float(), mask.shape)[0].byte().permute(1, 2, 0).numpy()
    facts = look(task.network, batch["image"].to(task.device), size=mask.shape, truth=mask)
    shown = ShownImage(dataset.names[0], image, mask)
    return strip.climb_figure(Inspection(task.classes, dataset.palette, [shown], [RunFacts(label, images=[facts])]), 0)
