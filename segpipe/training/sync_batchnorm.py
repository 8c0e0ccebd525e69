"""Batch normalisation over the batches of all ranks: torch's on a GPU; here for a CPU, which torch does not support."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pytorch_lightning.plugins.layer_sync import LayerSync
from torch import Tensor, nn

Statistics = list[Tensor]


class SyncBatchNormFunction(torch.autograd.Function):
    """Normalises by the mean and variance over all ranks; appends mean, variance and count to ``statistics``.

    The images of each rank affect the results of all ranks. The sums in the backward pass are therefore over all ranks.
    """

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, statistics: Statistics
    ) -> Tensor:
        """See torch.autograd.Function."""
        local_mean, local_variance = torch.batch_norm_update_stats(image, None, None, 0.0)  # as torch's SyncBatchNorm
        local_count = local_mean.new_tensor([image.numel() / image.shape[1]])
        sums = total(torch.cat([local_mean * local_count, local_count]))
        mean, count = sums[:-1] / sums[-1], sums[-1]
        # Squares of deviations from the joint mean: a difference of large sums would lose precision
        variance = total((local_variance + (local_mean - mean).square()) * local_count) / count
        ctx.save_for_backward(image, weight, mean, variance, count)
        ctx.eps = eps
        statistics.extend([mean, variance, count])
        return F.batch_norm(image, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        """See torch.autograd.Function. The gradients of parameters are those of this rank, as DDP expects."""
        image, weight, mean, variance, count = ctx.saved_tensors
        # The gradient for constant mean and variance
        direct, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], image, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        along, shared = total(torch.stack([of_weight, of_bias]))  # (C,): sums over normalised values, over ones
        deviation = (variance + ctx.eps).rsqrt()
        scale = (deviation if weight is None else deviation * weight) / count
        slope = scale * along * deviation
        shape = [1, -1, *[1] * (image.ndim - 2)]
        through = torch.addcmul((scale * shared - slope * mean).view(shape), image, slope.view(shape))
        of_parameters = (of_weight, of_bias) if weight is not None else (None, None)
        return direct - through, *of_parameters, None, None


def total(part: Tensor) -> Tensor:
    """The sum over all ranks."""
    part = part.clone()
    dist.all_reduce(part)
    return part


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """The class of batch normalisations while ranks train on CPUs; objects, names and values stay the same.

    Mean and variance are those of the values of all ranks, whose numbers may differ.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return apply_act_and_drop(self, self.over_ranks(input) if self.training else super().forward(input))

    def over_ranks(self, image: Tensor) -> Tensor:
        """Normalise by the statistics of all ranks, and update the running statistics, as nn.BatchNorm2d does."""
        statistics: Statistics = []
        normalised = SyncBatchNormFunction.apply(image.float(), self.weight, self.bias, self.eps, statistics)
        if self.track_running_stats:
            mean, variance, count = statistics
            self.update_running_stats(mean, variance * count / (count - 1).clamp(min=1))
        return normalised.to(image.dtype)

    def update_running_stats(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics by those of a step, (C,); variance: unbiased."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class GpuSyncBatchNorm(nn.SyncBatchNorm):
    """The class of batch normalisations while ranks train on GPUs, based on nn.SyncBatchNorm."""

    process_group = None  # all ranks

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return apply_act_and_drop(self, super().forward(input))


def apply_act_and_drop(module: Any, normalised: Tensor) -> Tensor:
    """Apply the dropout and activation that timm's batch normalisations contain, if there are any."""
    return module.act(module.drop(normalised)) if hasattr(module, "act") else normalised


class SyncBatchNormPlugin(LayerSync):
    """A plugin of Lightning that synchronises the batch normalisations of a model during a fit.

    gpu: whether the ranks train on GPUs; DDP of torch accepts nn.SyncBatchNorm on GPUs only.
    """

    def __init__(self, *, gpu: bool) -> None:
        self.gpu = gpu

    def apply(self, model: nn.Module) -> nn.Module:
        """Make every batch normalisation a synchronised one, and store its original class."""
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.original_class = type(module)  # type: ignore[assignment]
                module.__class__ = GpuSyncBatchNorm if self.gpu else CpuSyncBatchNorm  # type: ignore[assignment]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Restore the original classes."""
        for module in model.modules():
            if isinstance(module, CpuSyncBatchNorm | GpuSyncBatchNorm):
                module.__class__ = module.__dict__.pop("original_class")
        return model
