"""Fusions combine a skip with the upsampled map: sum (FCN), concatenation (U-Net), gates, and others.

A fusion is built from ``(skip_channels, width)``; ``width`` is the number of channels of the upsampled map. Its
``out_channels`` is the number of channels that it returns. The lateral is a 1x1 convolution from ``skip_channels`` to
``width``. It exists only where the two differ. Its initial weights are zero, so that a finer FCN first computes what
the coarser FCN does; ``starts_as_coarser`` says for which fusions this holds.

In the formulas x is the upsampled map and y the skip behind its lateral. No fusion has batch normalisation: its results
do not depend on the number of devices, and it works with a batch of one image and on maps of 1x1.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from segpipe.errors import UserError
from segpipe.models.attention import hidden_width
from segpipe.models.init import Conv2d, ZeroConv2d, proj1x1
from segpipe.models.part import Part


class Fusion(Part):
    """The base of all fusions. A subclass states by class attributes what is different from the values here.

    uses_skip: it reads the skip. If not, it returns the upsampled map unchanged and has no parameters.
    linear: it is a linear function of the upsampled map and the skip together.
    initial: what it computes before training where the skip has ``width`` channels.
    starts_as_coarser: before training, where there is a lateral, it returns the upsampled map unchanged, or beside
        channels of zeros. Then a finer FCN starts as the coarser one, and a deeper network as the one without the skip.
    out_channels: number of channels that it returns; set by the constructor.
    """

    uses_skip: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    initial: ClassVar[Literal["none", "sum", "concat", "max", "product", "other"]] = "other"
    starts_as_coarser: ClassVar[bool] = False
    out_channels: int


class NoFusion(Fusion):
    """No skip: return the upsampled map unchanged."""

    uses_skip = False
    linear = True
    initial = "none"
    starts_as_coarser = True

    def __init__(self, skip_channels: int, width: int) -> None:
        super().__init__()
        self.out_channels = width

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(N, width, H, W) to the same tensor; the skip is not read."""
        return x


class Sum(Fusion):
    """Add the skip, as FCN does with class scores (Long et al. 2015, section 4.2)."""

    linear = True
    initial = "sum"
    starts_as_coarser = True

    def __init__(self, skip_channels: int, width: int) -> None:
        super().__init__()
        self.out_channels = width
        self.lateral = proj1x1(skip_channels, width, zero=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, width, H, W) and (N, skip_channels, H, W) to (N, width, H, W)."""
        return x + self.lateral(skip)


class Concat(Fusion):
    """Concatenate the channels of the map and of the skip, in this order, as U-Net does (Ronneberger et al. 2015)."""

    linear = True
    initial = "concat"
    starts_as_coarser = True

    def __init__(self, skip_channels: int, width: int) -> None:
        super().__init__()
        self.out_channels = 2 * width
        self.lateral = proj1x1(skip_channels, width, zero=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, width, H, W) and (N, skip_channels, H, W) to (N, 2 * width, H, W)."""
        return torch.cat([x, self.lateral(skip)], dim=1)


class Max(Fusion):
    """Take the larger value of map and skip, which "made learning difficult" (Long et al. 2015, section 4.2, footnote).

    The gradient goes to the larger one only. With a lateral, which starts at zero, it starts as max(x, 0): a finer FCN
    does not start as the coarser one.
    """

    initial = "max"

    def __init__(self, skip_channels: int, width: int) -> None:
        super().__init__()
        self.out_channels = width
        self.lateral = proj1x1(skip_channels, width, zero=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, width, H, W) and (N, skip_channels, H, W) to (N, width, H, W)."""
        return torch.maximum(x, self.lateral(skip))


class Product(Fusion):
    """Multiply the map by 1 plus the skip, x (1 + y), after the products of U-Net v2 (Peng et al. 2023).

    The published product is x y, which would be zero behind a lateral that starts at zero.
    """

    initial = "product"
    starts_as_coarser = True

    def __init__(self, skip_channels: int, width: int) -> None:
        super().__init__()
        self.out_channels = width
        self.lateral = proj1x1(skip_channels, width, zero=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, width, H, W) and (N, skip_channels, H, W) to (N, width, H, W)."""
        return x * (1 + self.lateral(skip))


class AttentionGate(Fusion):
    """Concatenate the map and the skip, whose pixels are weighed by a gate (Attention U-Net: Oktay et al. 2018).

    The gate of a pixel is sigmoid(psi(relu(theta(skip) + phi(x)))), with 1x1 convolutions to ``width / 2`` channels
    (at least 4) and to 1. They have He initialisation, as published. Departures: the gate is computed at the skip's
    size, as most implementations do, and not at half of it; the convolution of the gated skip, which has no gate of its
    own there, is the lateral, without batch normalisation behind it.
    """

    starts_as_coarser = True

    def __init__(self, skip_channels: int, width: int) -> None:
        super().__init__()
        self.out_channels = 2 * width
        hidden = hidden_width(width, 2)
        self.theta = Conv2d(skip_channels, hidden, 1, bias=False)
        self.phi = Conv2d(width, hidden, 1)
        self.psi = Conv2d(hidden, 1, 1)
        self.lateral = proj1x1(skip_channels, width, zero=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, width, H, W) and (N, skip_channels, H, W) to (N, 2 * width, H, W)."""
        gate = self.psi((self.theta(skip) + self.phi(x)).relu()).sigmoid()  # (N, 1, H, W)
        return torch.cat([x, self.lateral(skip * gate)], dim=1)


class WeightedSum(Fusion):
    """The base of the sums whose weights are learned. The weights of map and skip add up to ``total``.

    total: 2 by default, where equal weights give the sum, so that the start is the sum. Published is 1, or 2 in the
        authors' code of AFF. With 1 the start is half the sum, and a finer FCN starts with halved scores.

    Raises UserError for a total of 0 or less.
    """

    initial = "sum"
    starts_as_coarser = True

    def __init__(self, skip_channels: int, width: int, *, total: float = 2.0) -> None:
        self.check(total=total)
        super().__init__()
        self.out_channels = width
        self.total = total
        self.lateral = proj1x1(skip_channels, width, zero=True)

    @classmethod
    def check(cls, *, total: float = 2.0, **others: Any) -> None:
        """See ``Part``: the total is positive."""
        if not 0 < total < float("inf"):
            raise UserError(f"total={total:g}: allowed is a number above 0; 2 starts as the sum, 1 is as published.")

    def mix(self, x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        """Return ``total (share x + (1 - share) y)``. share: between 0 and 1, of a shape that broadcasts to ``x``."""
        return self.total * (y + share * (x - y))


class AFF(WeightedSum):
    """Weigh each value of map and skip by attention on their sum (attentional feature fusion: Dai et al. 2021).

    The share of x is sigmoid(L(x + y) + G(mean of x + y over the pixels)); L and G are two 1x1 convolutions each, with
    ``width / 4`` channels between them (at least 4). Departures: the last convolutions start at zero, so that all
    shares are 1/2; the normalisation is over an image (GroupNorm with one group), and only inside L: batch
    normalisation of the 1x1 map in G fails with a batch of one image.
    """

    def __init__(self, skip_channels: int, width: int, *, total: float = 2.0) -> None:
        super().__init__(skip_channels, width, total=total)
        hidden = hidden_width(width, 4)
        self.local = nn.Sequential(
            Conv2d(width, hidden, 1), nn.GroupNorm(1, hidden), nn.ReLU(), ZeroConv2d(hidden, width)
        )
        self.context = nn.Sequential(Conv2d(width, hidden, 1), nn.ReLU(), ZeroConv2d(hidden, width))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, width, H, W) and (N, skip_channels, H, W) to (N, width, H, W)."""
        y = self.lateral(skip)
        both = x + y
        share = (self.local(both) + self.context(both.mean((2, 3), keepdim=True))).sigmoid()
        return self.mix(x, y, share)


class GatedSum(WeightedSum):
    """Weigh map and skip of each pixel by a gate that is computed from the map (FADE: Lu et al. 2022).

    The share of y is sigmoid(conv1x1(x)). The convolution starts at zero, so that all shares are 1/2. Departure: the
    gate is computed from the upsampled map, not from the map before upsampling, whose gate would be repeated.
    """

    def __init__(self, skip_channels: int, width: int, *, total: float = 2.0) -> None:
        super().__init__(skip_channels, width, total=total)
        self.gate = ZeroConv2d(width, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, width, H, W) and (N, skip_channels, H, W) to (N, width, H, W)."""
        return self.mix(self.lateral(skip), x, self.gate(x).sigmoid())


class NormalisedSum(WeightedSum):
    """Weigh map and skip by two positive numbers over their sum (fast normalised fusion, BiFPN: Tan et al. 2020).

    The attribute ``weights`` holds the weights of map and skip, which start at 1. After training, the ratio tells how
    much the skip is used. A weight below 0 counts as 0. EPSILON makes the start 0.005 % smaller than the sum.
    """

    EPSILON = 1e-4

    def __init__(self, skip_channels: int, width: int, *, total: float = 2.0) -> None:
        super().__init__(skip_channels, width, total=total)
        self.weights = nn.Parameter(torch.ones(2))

    def reset_parameters(self) -> None:
        """Set both weights to 1."""
        nn.init.ones_(self.weights)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, width, H, W) and (N, skip_channels, H, W) to (N, width, H, W)."""
        positive = self.weights.relu()
        shares = self.total * positive / (positive.sum() + self.EPSILON)
        return shares[0] * x + shares[1] * self.lateral(skip)
