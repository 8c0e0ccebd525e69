"""How a skip joins the map that comes up: not at all, by sum (FCN), by concatenation (U-Net).

Built from ``(skip_channels, width)``, ``width`` being the channels of the map that comes up; ``out_channels`` says what
leaves. The lateral is a 1x1 convolution from the skip's width to that of the map; it is there only where the two
differ, and starts at zero, so that a finer FCN starts as the coarser one.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from segpipe.models.init import project


class NoSkip(nn.Module):
    """Leave the skip out."""

    uses_skip: ClassVar[bool] = False

    def __init__(self, skip_channels: int, width: int) -> None:
        super().__init__()
        self.out_channels = width

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(N, width, H, W), as it came."""
        return x


class Sum(nn.Module):
    """Add the skip: what FCN does with its scores (Long et al. 2015, section 4.2)."""

    uses_skip: ClassVar[bool] = True

    def __init__(self, skip_channels: int, width: int) -> None:
        super().__init__()
        self.out_channels = width
        self.lateral = project(skip_channels, width, zero=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, width, H, W) and (N, skip_channels, H, W) to (N, width, H, W)."""
        return x + self.lateral(skip)


class Concat(nn.Module):
    """Put the skip's channels behind the map's: what U-Net does (Ronneberger et al. 2015)."""

    uses_skip: ClassVar[bool] = True

    def __init__(self, skip_channels: int, width: int) -> None:
        super().__init__()
        self.out_channels = 2 * width
        self.lateral = project(skip_channels, width, zero=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, width, H, W) and (N, skip_channels, H, W) to (N, 2 * width, H, W)."""
        return torch.cat([x, self.lateral(skip)], dim=1)
