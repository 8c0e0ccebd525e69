"""How a skip joins the map that comes up: not at all, by sum (FCN), by concatenation (U-Net).

Built from ``(skip_channels, width)``, ``width`` being the channels of the map that comes up; ``out_channels`` says what
leaves. The lateral is a 1x1 convolution from the skip's width to that of the map; it is there only where the two
differ, and starts at zero, so that a finer FCN starts as the coarser one.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from segpipe.models.init import proj1x1
from segpipe.models.part import Part


class Fusion(Part):
    """The base of all fusions. A subclass states by class attributes what is different from the values here.

    uses_skip: it reads the skip. If not, it returns the map as it came, and has no parameters.
    linear: it is a linear map of the two together.
    initial: what it computes before training where the skip has the width of the map.
    out_channels: of an object: the channels of what it returns.
    """

    uses_skip: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    initial: ClassVar[Literal["none", "sum", "concat", "other"]] = "other"
    out_channels: int


class NoFusion(Fusion):
    """Leave the skip out."""

    uses_skip = False
    linear = True
    initial = "none"

    def __init__(self, skip_channels: int, width: int) -> None:
        super().__init__()
        self.out_channels = width

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(N, width, H, W), as it came."""
        return x


class Sum(Fusion):
    """Add the skip: what FCN does with its scores (Long et al. 2015, section 4.2)."""

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
    """Put the skip's channels behind the map's: what U-Net does (Ronneberger et al. 2015)."""

    linear = True
    initial = "concat"

    def __init__(self, skip_channels: int, width: int) -> None:
        super().__init__()
        self.out_channels = 2 * width
        self.lateral = proj1x1(skip_channels, width, zero=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, width, H, W) and (N, skip_channels, H, W) to (N, 2 * width, H, W)."""
        return torch.cat([x, self.lateral(skip)], dim=1)
