"""Losses as sums and counts: a sum over a part of a batch, to be divided by a count over all of it.

Called with logits (N, K, H, W) and masks int64 (N, H, W), a loss gives its terms' sums (T,); ``counts(masks)`` gives
what each is to be divided by (T,). Both add up over accumulation steps and over ranks, which a mean does not, so that
the loss is the same however a global batch is dealt out. ``term_weights`` weighs the terms.
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
        """What the sums are to be divided by."""
        raise NotImplementedError

    def combine(self, sums: Tensor, counts: Tensor) -> Tensor:
        """The loss: a scalar."""
        return (self.term_weights * sums / counts.clamp(min=1e-12)).sum()


class ClassWeighted(Loss):
    """A sum over the pixels that are not ignored, each weighed by its class and divided by the weights' sum.

    weight: one per class; ``median_frequency`` (Eigen and Fergus 2015: median of the classes' frequencies over the
        class's own) is counted from the training masks, see ``set_weight``; None for all alike.
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
        """Give the (K,) class weights that the rule asks for."""
        self.weight = weight.float()

    def weights(self, mask: Tensor) -> Tensor:
        """(N, H, W) masks to what their pixels weigh: 0 where they are ignored, 1 where all classes weigh alike."""
        valid = mask != IGNORE_INDEX
        return self.weight[mask.where(valid, 0)] * valid if self.weight is not None else valid

    def counts(self, mask: Tensor) -> Tensor:
        """The sum of the weights of the pixels that count; their number where all weigh alike."""
        return self.weights(mask).sum()[None]


class CrossEntropy(ClassWeighted):
    """Pixelwise cross-entropy.

    weight: see ``ClassWeighted``. label_smoothing: share of the target spread over all classes.
    """

    def __init__(
        self, *, weight: list[float] | Literal["median_frequency"] | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(weight=weight)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """See the head of this file."""
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
    """Focal loss (Lin et al. 2017): cross-entropy times (1 - p)^gamma, p being the true class's probability.

    The paper takes a sigmoid per class and divides by the number of objects; here it is the softmax over the classes,
    and the pixels' weights, so that ``gamma=0`` is ``CrossEntropy``.

    gamma: how much what is right already is passed over. weight: see ``ClassWeighted``; the paper's alpha.
    """

    def __init__(self, *, gamma: float = 2.0, weight: list[float] | Literal["median_frequency"] | None = None) -> None:
        super().__init__(weight=weight)
        self.gamma = gamma

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """See the head of this file."""
        surprise = F.cross_entropy(logits, mask, ignore_index=IGNORE_INDEX, reduction="none")  # -log p, (N, H, W)
        missing = (-torch.expm1(-surprise)).clamp(min=1e-12)  # 1 - p; at 0 a gamma below 1 would have no gradient
        return (missing**self.gamma * surprise * self.weights(mask)).sum()[None]


class HardCrossEntropy(Loss):
    """Cross-entropy over a share of each picture's labelled pixels: those where it is largest.

    Online hard example mining (Shrivastava et al. 2016) keeps a fixed number of a picture's regions, after suppressing
    neighbours; here it is pixels, as a share, and nothing is suppressed. Variants that keep all pixels below some
    probability, and a least number in a batch, depend in their count on the predictions and on how a batch is dealt
    out: the number kept here follows from the mask alone. So there are no class weights either.

    share: of the labelled pixels, rounded to a whole number of them and at least one; 1 is ``CrossEntropy``.
    """

    def __init__(self, *, share: float = 0.25) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("term_weights", torch.ones(1), persistent=False)

    def num_kept(self, mask: Tensor) -> Tensor:
        """(N, H, W) masks to the number of pixels that count in each, (N,)."""
        valid = (mask != IGNORE_INDEX).flatten(1).sum(1)
        return (self.share * valid).round().long().clamp(min=1).minimum(valid)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """See the head of this file."""
        loss = F.cross_entropy(logits, mask, ignore_index=IGNORE_INDEX, reduction="none")
        hardest = loss.masked_fill(mask == IGNORE_INDEX, -1.0).flatten(1).sort(descending=True)[0]  # (N, H * W)
        rank = torch.arange(hardest.shape[1], device=mask.device)
        return hardest.where(rank < self.num_kept(mask)[:, None], 0).sum()[None]

    def counts(self, mask: Tensor) -> Tensor:
        """The number of pixels kept."""
        return self.num_kept(mask).sum()[None]


class ImageMean(Loss):
    """A sum over pictures, divided by the number of those with anything to learn from."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("term_weights", torch.ones(1), persistent=False)

    def counts(self, mask: Tensor) -> Tensor:
        """The number of pictures with a pixel that is not ignored."""
        return (mask != IGNORE_INDEX).flatten(1).any(1).sum()[None]


class Dice(ImageMean):
    """Soft Dice (Milletari et al. 2016): one minus its mean over the classes in a picture, meant over pictures."""

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """See the head of this file."""
        valid = (mask != IGNORE_INDEX)[:, None]
        shares = logits.softmax(1) * valid
        truth = torch.zeros_like(shares).scatter_(1, mask.where(valid[:, 0], 0)[:, None], 1.0) * valid
        both, all_of = (shares * truth).sum((2, 3)), (shares + truth).sum((2, 3))  # (N, K)
        present = truth.sum((2, 3)) > 0
        dice = (2 * both / all_of.clamp(min=1e-6) * present).sum(1) / present.sum(1).clamp(min=1)
        return ((1 - dice) * present.any(1)).sum()[None]


class WeightedSum(Loss):
    """Several losses, each with its factor."""

    def __init__(self, *, terms: Sequence[Loss], factors: list[float]) -> None:
        super().__init__()
        if len(terms) != len(factors):
            raise UserError(f"loss: {len(terms)} terms and {len(factors)} factors: give one factor for each term.")
        self.terms = nn.ModuleList(terms)
        scaled = [factor * term.term_weights for term, factor in zip(terms, factors, strict=True)]
        self.register_buffer("term_weights", torch.cat(scaled), persistent=False)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The terms' sums, one after another."""
        return torch.cat([term(logits, mask) for term in self.terms])

    def counts(self, mask: Tensor) -> Tensor:
        """The terms' counts, one after another."""
        return torch.cat([term.counts(mask).to(self.term_weights) for term in self.terms])  # type: ignore[operator]
