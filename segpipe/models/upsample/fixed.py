"""Fixed interpolation: nearest and bilinear."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from segpipe.models.init import proj1x1
from segpipe.models.upsample.base import Upsampler, crop_or_pad_to


class Interpolate(Upsampler):
    """Fixed interpolation, after a 1x1 convolution where the widths differ.

    The convolution comes first because it is cheaper on the smaller map.
    """

    parameter_free, linear = True, True
    mode: ClassVar[str]

    def __init__(self, in_channels: int, out_channels: int, *, factor: int, source_channels: int) -> None:
        super().__init__()
        self.factor = factor
        self.project = proj1x1(in_channels, out_channels)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, in, h, w) to (N, out, H, W); source: (N, source_channels, H, W)."""
        return crop_or_pad_to(
            F.interpolate(self.project(x), scale_factor=self.factor, mode=self.mode), source.shape[-2:]
        )


class Nearest(Interpolate):
    """Nearest-neighbour interpolation: repeat each value."""

    mode = initial = "nearest"
    limits = "no value that x has not; edges are steps of f pixels"


class Bilinear(Interpolate):
    """Bilinear interpolation; pixels are areas (``align_corners=False``)."""

    mode = initial = "bilinear"
    stochastic_backward = True
    limits = "smooth ramps; no edge is sharper than a pixel of x"
