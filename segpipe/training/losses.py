"""Losses as sums and counts: a sum over a part of a batch, divided by a count over the global batch.

A loss of T terms is called with logits (N, K, H, W) and masks int64 (N, H, W). It returns the sum of each term (T,).
``counts(masks)`` returns the divisor of each term (T,). Sums and counts can be added over accumulation steps and ranks;
means cannot. The loss therefore does not depend on how a global batch is divided. ``term_weights`` (T,) are the weights
of the terms.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.errors import UserError
from segpipe.metrics.confusion import IGNORE_INDEX


class Loss(nn.Module):
    """A loss of one or several terms."""

    term_weights: Tensor  # (T,)

    def counts(self, mask: Tensor) -> Tensor:
        """The divisors of the sums, (T,), for masks (N, H, W)."""
        raise NotImplementedError

    def combine(self, sums: Tensor, counts: Tensor) -> Tensor:
        """The loss, a scalar, from the sums (T,) and counts (T,) of the global batch."""
        return (self.term_weights * sums / counts.clamp(min=1e-12)).sum()


class ClassWeighted(Loss):
    """A weighted mean over all pixels that are not ignored; the weight of a pixel is that of its class.

    weight: one number per class. ``median_frequency`` (Eigen and Fergus 2015): median of all class frequencies divided
        by that of the class, counted in the training masks and set by ``set_weight``. None: equal weights.
    """

    weight: Tensor | None

    def __init__(self, *, weight: list[float] | Literal["median_frequency"] | None = None) -> None:
        super().__init__()
        self.weighting = weight if isinstance(weight, str) else None
        self.register_buffer("term_weights", torch.ones(1), persistent=False)
        self.register_buffer("weight", None, persistent=False)
        if isinstance(weight, list):
            self.set_weight(torch.tensor(weight))

    def set_weight(self, weight: Tensor) -> None:
        """Set the class weights (K,)."""
        self.weight = weight.float()

    def weights(self, mask: Tensor) -> Tensor:
        """The weight of each pixel of masks (N, H, W): 0 for ignored pixels, 1 for others if weights are equal."""
        valid = mask != IGNORE_INDEX
        return self.weight[mask.where(valid, 0)] * valid if self.weight is not None else valid

    def counts(self, mask: Tensor) -> Tensor:
        """The sum of the weights of all pixels that are not ignored, (1,); their number if weights are equal."""
        return self.weights(mask).sum()[None]


class CrossEntropy(ClassWeighted):
    """Pixelwise cross-entropy.

    weight: see ``ClassWeighted``. label_smoothing: share of the target that is distributed over all classes, 0 to 1.
    """

    def __init__(
        self, *, weight: list[float] | Literal["median_frequency"] | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(weight=weight)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The sum of the loss, (1,); see the top of this file."""
        loss = F.cross_entropy(
            logits,
            mask,
            weight=self.weight,
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return loss[None]


class Focal(ClassWeighted):
    """Focal loss (Lin et al. 2017): cross-entropy times (1 - p)^gamma; p is the probability of the true class.

    The paper uses a sigmoid per class and divides by the number of objects. This loss uses the softmax over all classes
    and divides by the weights of the pixels: ``gamma=0`` equals ``CrossEntropy``.

    gamma: larger values give less weight to pixels that are predicted well. weight: see ``ClassWeighted``; the paper's
        alpha.
    """

    def __init__(self, *, gamma: float = 2.0, weight: list[float] | Literal["median_frequency"] | None = None) -> None:
        super().__init__(weight=weight)
        self.gamma = gamma

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The sum of the loss, (1,); see the top of this file."""
        surprise = F.cross_entropy(logits, mask, ignore_index=IGNORE_INDEX, reduction="none")  # -log p, (N, H, W)
        missing = (-torch.expm1(-surprise)).clamp(min=1e-12)  # 1 - p; at 0 the gradient would be infinite for gamma < 1
        return (missing**self.gamma * surprise * self.weights(mask)).sum()[None]


class HardCrossEntropy(Loss):
    """Cross-entropy over the hardest pixels: a share of the labelled pixels of each image with the largest loss.

    Online hard example mining (Shrivastava et al. 2016) keeps a fixed number of regions of an image, after suppressing
    neighbours. This loss keeps a share of the pixels and suppresses none. Other variants keep all pixels below a
    probability threshold, with a minimum per batch; their count depends on the predictions and on how a batch is
    divided. Here the count depends on the mask only. For the same reason there are no class weights.

    share: of the labelled pixels, rounded to an integer of at least one pixel; 1 equals ``CrossEntropy``.
    """

    def __init__(self, *, share: float = 0.25) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("term_weights", torch.ones(1), persistent=False)

    def num_kept(self, mask: Tensor) -> Tensor:
        """The number of pixels kept in each of the masks (N, H, W), (N,)."""
        valid = (mask != IGNORE_INDEX).flatten(1).sum(1)
        return (self.share * valid).round().long().clamp(min=1).minimum(valid)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The sum of the loss, (1,); see the top of this file."""
        loss = F.cross_entropy(logits, mask, ignore_index=IGNORE_INDEX, reduction="none")
        hardest = loss.masked_fill(mask == IGNORE_INDEX, -1.0).flatten(1).sort(descending=True)[0]  # (N, H * W)
        rank = torch.arange(hardest.shape[1], device=mask.device)
        return hardest.where(rank < self.num_kept(mask)[:, None], 0).sum()[None]

    def counts(self, mask: Tensor) -> Tensor:
        """The number of pixels kept in all images, (1,)."""
        return self.num_kept(mask).sum()[None]


class ImageMean(Loss):
    """A mean over all images that have a labelled pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("term_weights", torch.ones(1), persistent=False)

    def counts(self, mask: Tensor) -> Tensor:
        """The number of images with at least one labelled pixel, (1,)."""
        return (mask != IGNORE_INDEX).flatten(1).any(1).sum()[None]


class Dice(ImageMean):
    """Soft Dice loss (Milletari et al. 2016): 1 - mean Dice over the classes of an image, averaged over images."""

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The sum of the loss, (1,); see the top of this file."""
        valid = (mask != IGNORE_INDEX)[:, None]
        shares = logits.softmax(1) * valid
        truth = torch.zeros_like(shares).scatter_(1, mask.where(valid[:, 0], 0)[:, None], 1.0) * valid
        both, all_of = (shares * truth).sum((2, 3)), (shares + truth).sum((2, 3))  # (N, K)
        present = truth.sum((2, 3)) > 0
        dice = (2 * both / all_of.clamp(min=1e-6) * present).sum(1) / present.sum(1).clamp(min=1)
        return ((1 - dice) * present.any(1)).sum()[None]


class WeightedSum(Loss):
    """The sum of several losses, each multiplied by a factor. Raises UserError if their numbers differ."""

    def __init__(self, *, terms: Sequence[Loss], factors: list[float]) -> None:
        super().__init__()
        if len(terms) != len(factors):
            raise UserError(f"loss: {len(terms)} terms and {len(factors)} factors: give one factor for each term.")
        self.terms = nn.ModuleList(terms)
        scaled = [factor * term.term_weights for term, factor in zip(terms, factors, strict=True)]
        self.register_buffer("term_weights", torch.cat(scaled), persistent=False)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The sums of all terms, concatenated."""
        return torch.cat([term(logits, mask) for term in self.terms])

    def counts(self, mask: Tensor) -> Tensor:
        """The counts of all terms, concatenated."""
        return torch.cat([term.counts(mask).to(self.term_weights) for term in self.terms])  # type: ignore[operator]
