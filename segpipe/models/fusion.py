"""Fusions combine a skip with the upsampled map: none, sum (FCN), or concatenation (U-Net).

A fusion is built from ``(skip_channels, width)``; ``width`` is the number of channels of the upsampled map. Its
``out_channels`` is the number of channels that it returns. The lateral is a 1x1 convolution from ``skip_channels`` to
``width``. It exists only where the two differ. Its initial weights are zero, so that a finer FCN first computes what
the coarser FCN does.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from segpipe.models.init import proj1x1
from segpipe.models.part import Part


class Fusion(Part):
    """The base of all fusions. A subclass states by class attributes what is different from the values here.

    uses_skip: it reads the skip. If not, it returns the upsampled map unchanged and has no parameters.
    linear: it is a linear function of the upsampled map and the skip together.
    initial: what it computes before training where the skip has ``width`` channels.
    out_channels: number of channels that it returns; set by the constructor.
    """

    uses_skip: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    initial: ClassVar[Literal["none", "sum", "concat", "other"]] = "other"
    out_channels: int


class NoFusion(Fusion):
    """No skip: return the upsampled map unchanged."""

    uses_skip = False
    linear = True
    initial = "none"

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

    def __init__(self, skip_channels: int, width: int) -> None:
        super().__init__()
        self.out_channels = 2 * width
        self.lateral = proj1x1(skip_channels, width, zero=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, width, H, W) and (N, skip_channels, H, W) to (N, 2 * width, H, W)."""
        return torch.cat([x, self.lateral(skip)], dim=1)
