"""The LightningModule: a common step for training, validation and test, exact sums over ranks, the optimizer."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from segpipe.data.samples import Batch
from segpipe.errors import UserError
from segpipe.metrics.boundaries import BoundaryCounts, concatenate, count_boundaries
from segpipe.metrics.confusion import confusion_matrices, logged_scores
from segpipe.models.decoder import keyed_drops
from segpipe.models.init import seed_for
from segpipe.models.network import Network, resize_logits
from segpipe.models.windows import Windows, largest
from segpipe.training.losses import Loss

LR_RULES = {"constant": 0.0, "linear": 1.0, "sqrt": 0.5}


class Evaluation(NamedTuple):
    """The results of n images of a split: indices (n,), confusion matrices (n, C, C) in the same order, and the loss.

    epoch: after which the evaluation took place. boundaries: of the n images, in the same order; counted in a test
        only.
    """

    indices: NDArray[np.int64]
    matrices: NDArray[np.int64]
    loss: float
    epoch: int
    boundaries: BoundaryCounts | None = None


class SegmentationTask(pl.LightningModule):
    """Trains a network and counts its predictions in validation and test.

    optimizer: a factory, called with parameter groups. scheduler: (step, total steps) to a factor of the learning rate.
    seed: of dropout, together with epoch and rank.
    accumulate: number of parts of a batch that are processed one after another before the optimizer's step.
    clip: maximal norm of the gradient; None: no clipping. channels_last: memory format of the weights.
    encoder_lr: factor of the encoder's learning rate, for example below 1 for pretrained weights.
    lr_rule, lr_batch: the learning rate is multiplied by (global batch / lr_batch) to the power of LR_RULES (linear:
        Goyal et al. 2017). The number of devices has no influence, since it does not change the global batch.
    The heads of ``model.deep_supervision``, one for each step of the decoder but the last, add their losses with the
    weights 1/2, 1/4, ... from fine to coarse (Lee et al. 2015; halved at each step as in nnU-Net, Isensee et al. 2021).
    The loss of validation and test is that of the network alone.
    compile: use torch.compile. It takes time at the start, and again for images of other sizes.

    The loss of a step is divided by the counts of the *global* batch: all parts, all ranks.
    """

    def __init__(
        self,
        *,
        network: Network,
        loss: Loss,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[[int, int], float],
        classes: list[str],
        seed: int,
        accumulate: int = 1,
        clip: float | None = None,
        channels_last: bool = True,
        encoder_lr: float = 1.0,
        lr_rule: Literal["constant", "linear", "sqrt"] = "constant",
        lr_batch: int = 8,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network.to(memory_format=torch.channels_last) if channels_last else network  # type: ignore[call-overload]
        if compile:
            self.network.compile()  # in place; otherwise all names in the checkpoints would change
        self.loss, self.make_optimizer, self.schedule = loss, optimizer, scheduler
        self.classes, self.seed, self.accumulate, self.clip = classes, seed, accumulate, clip
        self.encoder_lr, self.lr_rule, self.lr_batch = encoder_lr, lr_rule, lr_batch
        self.windows = Windows(network, stride=network.encoder.coarsest, smallest=network.encoder.min_size)
        self.evaluations: dict[str, Evaluation] = {}
        self.epoch_losses: list[Tensor] = []
        self.epoch_counts: list[Tensor] = []
        self.eval_buffer: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self.at_boundaries: list[BoundaryCounts] = []  # of the same batches

    def forward(self, image: Tensor) -> Tensor:
        """RGB images (N, 3, H, W), 0 to 255, to logits (N, K, H, W)."""
        return self.network(image)

    def step(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K, H', W') of the masks' size, and the sums of the loss (T,); used by training, validation, test.

        image: (N, 3, H, W). mask: (N, H', W'). Logits are float32 in any training precision, because sums over all
        pixels of an image need it.
        """
        logits = resize_logits(self(image).float(), mask.shape[-2:])
        return logits, self.loss(logits, mask)

    def training_loss(self, image: Tensor, mask: Tensor, counts: Tensor) -> Tensor:
        """The loss of a part of a batch, divided by ``counts``, with those of auxiliary heads added.

        image: (N, 3, H, W). mask: (N, H', W').
        """
        if not self.network.auxiliary:
            return self.loss.combine(self.step(image, mask)[1], counts)
        total = torch.zeros((), device=image.device)
        for place, logits in enumerate(self(image).float()):  # (N, K, H, W)
            sums = self.loss(resize_logits(logits, mask.shape[-2:]), mask)
            total = total + self.loss.combine(sums, counts) / 2**place
        return total

    def on_train_epoch_start(self) -> None:
        """Seed dropout by (seed, epoch, rank): a resumed training equals one without interruption."""
        self.epoch_losses, self.epoch_counts = [], []
        rank = f" rank {self.global_rank}" if self.global_rank else ""  # dropout differs between ranks
        torch.manual_seed(seed_for(self.seed, f"epoch {self.current_epoch}{rank}"))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of the optimizer on this rank's part of a global batch."""
        images, masks = batch["image"], batch["mask"].long()
        counts = self.all_reduce_sum(self.loss.counts(masks).float())
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        parts = list(zip(*(part.chunk(self.accumulate) for part in (images, masks, batch["index"])), strict=True))
        total = torch.zeros((), device=self.device)
        for number, (image, mask, index) in enumerate(parts, start=1):
            with self.without_sync() if number < len(parts) else nullcontext(), self.keyed_drops(index):
                loss = self.training_loss(image, mask, counts)
                self.manual_backward(loss * self.trainer.world_size)  # DDP takes the mean over ranks
            total += loss.detach()
        if self.clip:
            nn.utils.clip_grad_norm_(self.parameters(), self.clip)  # Lightning's method rejects fused optimizers
        optimizer.step()
        self.lr_schedulers().step()  # type: ignore[union-attr, call-arg]
        self.epoch_losses.append(total)
        self.epoch_counts.append(counts)
        if self.trainer.is_last_batch:  # once per epoch: logging would slow down small networks
            mean = self.all_reduce_sum(torch.stack(self.epoch_losses).mean())  # each rank has its part of each sum
            self.log("train/loss", mean, on_step=False, on_epoch=True)

    def keyed_drops(self, index: Tensor) -> Any:
        """A context in which the skips that training drops follow from (seed, epoch, image). index: (N,) of images."""

        def images() -> list[str]:
            return [f"epoch {self.current_epoch} image {number}" for number in index.tolist()]

        return keyed_drops(self.network, seed=self.seed, images=images)

    def on_train_epoch_end(self) -> None:
        """Raise UserError if the loss is not finite, or if no pixel of the first epoch was labelled."""
        loss = float(self.trainer.callback_metrics.get("train/loss", 0.0))
        if not np.isfinite(loss):
            raise UserError(
                f"The loss became {loss} in epoch {self.current_epoch + 1}. Lower optimizer.lr (a tenth is a good "
                f"try), raise scheduler.warmup, or set task.clip=1."
            )
        complete = len(self.epoch_counts) == len(self.epoch_losses) > 0  # it was not resumed within the epoch
        if self.current_epoch == 0 and complete and not torch.stack(self.epoch_counts).any():
            raise UserError(
                "The images or crops of the first epoch show no labelled pixel, so nothing was learned. Take a larger "
                "data.crop, or crops around labelled pixels: data.steps_per_epoch=auto data.rare_share=0.5."
            )

    def evaluation_step(self, batch: Batch, *, at_boundaries: bool = False) -> None:
        """Count one batch. at_boundaries: count at boundaries too, which takes longer."""
        if any(self.windows.is_large(batch[name].shape[-2:]) for name in ("image", "mask")):  # type: ignore[literal-required]
            self.evaluate_in_parts(batch, at_boundaries=at_boundaries)
            return
        mask = batch["mask"].long()
        logits, sums = self.step(batch["image"], mask)
        prediction = logits.max(1).indices  # equals argmax, but is up to five times faster on a CPU
        matrices = confusion_matrices(prediction, mask, len(self.classes))
        self.eval_buffer.append((batch["index"], matrices, sums, self.loss.counts(mask)))
        if at_boundaries:
            maps = prediction.cpu().numpy(), batch["mask"].cpu().numpy()
            self.at_boundaries.append(count_boundaries(*maps, num_classes=len(self.classes)))

    def evaluate_in_parts(self, batch: Batch, *, at_boundaries: bool) -> None:
        """Count a batch of large images, part by part: see ``models.windows``.

        The counts are those of the complete prediction. The loss is that of the parts, each taken as an image: the same
        for a loss that is a mean over pixels, another one for those that are a mean over images.
        """
        sums, counts = (torch.zeros_like(self.loss.term_weights) for _ in range(2))
        for image, mask, index in zip(batch["image"], batch["mask"], batch["index"], strict=True):
            prediction = torch.empty_like(mask, device="cpu")
            matrix = torch.zeros(1, len(self.classes), len(self.classes), dtype=torch.long, device=mask.device)
            for rows, columns, logits in self.windows.tiles(image[None], mask.shape):
                truth = mask[rows, columns][None].long()
                part = largest(logits)
                prediction[rows, columns] = part
                matrix += confusion_matrices(part[None].to(mask.device), truth, len(self.classes))
                sums += self.loss(logits[None], truth)
                counts += self.loss.counts(truth)
            self.eval_buffer.append((index[None], matrix, torch.zeros_like(sums), torch.zeros_like(counts)))
            if at_boundaries:
                maps = prediction[None].numpy(), mask[None].cpu().numpy()
                self.at_boundaries.append(count_boundaries(*maps, num_classes=len(self.classes)))
        self.eval_buffer[-1] = (*self.eval_buffer[-1][:2], sums, counts)

    def finish_evaluation(self, split: str) -> None:
        """Combine the counts of all batches and ranks, store the Evaluation, and log the scores."""
        index, local_matrices, sums, counts = (torch.cat(parts) for parts in zip(*self.eval_buffer, strict=True))
        terms = len(self.loss.term_weights)
        sums, counts = (self.all_reduce_sum(part.float().view(-1, terms).sum(0)) for part in (sums, counts))
        indices, matrices = self.gather_rows(index), self.gather_rows(local_matrices)
        order = np.argsort(indices)
        boundaries = None
        if self.at_boundaries:
            local = concatenate(self.at_boundaries)
            boundaries = BoundaryCounts(*(self.gather_rows(torch.from_numpy(part)) for part in local)).select(order)
        self.eval_buffer, self.at_boundaries = [], []
        loss = float(self.loss.combine(sums, counts))
        self.evaluations[split] = Evaluation(indices[order], matrices[order], loss, self.current_epoch, boundaries)
        # Equal values on every rank: the best checkpoint and early stopping may depend on each of them.
        self.log(f"{split}/loss", loss)
        for name, value in logged_scores(matrices, self.classes).items():
            self.log(f"{split}/{name}", value, prog_bar=name == "miou")

    def on_validation_start(self) -> None:
        """Copy the buffers of rank 0, since running statistics may differ between ranks."""
        if self.trainer.world_size > 1:
            for buffer in self.buffers():
                dist.broadcast(buffer, 0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch."""
        self.evaluation_step(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch."""
        self.evaluation_step(batch, at_boundaries=True)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation split."""
        self.finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test split."""
        self.finish_evaluation("test")

    def configure_optimizers(self) -> Any:
        """The optimizer, without weight decay for norms and biases, and the schedule per step."""
        optimizer = self.make_optimizer(parameter_groups(self, encoder_lr=self.encoder_lr))
        batch = self.trainer.datamodule.batch_size / self.lr_batch  # type: ignore[attr-defined]
        for group in optimizer.param_groups:
            group["lr"] *= group["factor"] * batch ** LR_RULES[self.lr_rule]
        total = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [LambdaLR(optimizer, lambda step: self.schedule(step, total))]

    def check_optimizer(self) -> None:
        """Build the optimizer and call the schedule once. Raises UserError where they reject their arguments."""
        for group, attempt in (
            ("optimizer", lambda: self.make_optimizer(parameter_groups(self, encoder_lr=self.encoder_lr))),
            ("scheduler", lambda: self.schedule(0, 100)),
        ):
            try:
                attempt()
            except (TypeError, ValueError) as error:
                raise UserError(f"{group}: {error}. Change its arguments.") from error

    def without_sync(self) -> Any:
        """A context without the exchange of gradients between ranks."""
        wrapped = self.trainer.strategy.model
        return wrapped.no_sync() if hasattr(wrapped, "no_sync") else nullcontext()  # type: ignore[union-attr, operator]

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks."""
        tensor = tensor.detach().to(self.device)
        if self.trainer.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather_rows(self, tensor: Tensor) -> NDArray[Any]:
        """The rows of all ranks in one array, in the order of ranks."""
        local = tensor.cpu().numpy()
        if self.trainer.world_size == 1:
            return local
        parts: list[Any] = [None] * self.trainer.world_size
        dist.all_gather_object(parts, local)
        return np.concatenate(parts)


def parameter_groups(module: nn.Module, *, encoder_lr: float = 1.0) -> list[dict[str, Any]]:
    """Parameter groups: convolutions with weight decay, norms and biases (one-dimensional tensors) without.

    ``factor`` of each group is the factor of its learning rate: ``encoder_lr`` for the encoder's parameters, else 1.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            slowed = encoder_lr != 1 and "encoder" in name.split(".")
            groups.setdefault((parameter.ndim > 1, slowed), []).append(parameter)
    return [
        {"params": members, "factor": encoder_lr if slowed else 1.0} | ({} if decayed else {"weight_decay": 0.0})
        for (decayed, slowed), members in sorted(groups.items(), reverse=True)
    ]
