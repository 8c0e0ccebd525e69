"""Interpolation followed by a convolution."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.models.init import IdentityConv2d
from segpipe.models.upsample.base import Start, Upsampler, crop_or_pad_to


class ResizeConv(Upsampler):
    """Resize-convolution: interpolation, then a 3x3 convolution at the larger size.

    mode: of the interpolation. separable: a 3x3 convolution of each channel, then a 1x1 convolution. init:
    ``interpolation``: the convolution starts as the identity where the widths agree, else by He initialisation.
    ``published``: torch's random start.
    """

    linear = True
    stochastic_backward = True
    initial = "bilinear"  # mode=nearest: nearest
    paper = "Odena et al. 2016; Wojna et al. 2019"
    limits = "smooth and without checkerboards; convolves at the larger size"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        factor: int,
        source_channels: int,
        mode: Literal["bilinear", "nearest"] = "bilinear",
        separable: bool = False,
        init: Start = "interpolation",
    ) -> None:
        super().__init__()
        self.factor, self.mode = factor, mode
        conv = nn.Conv2d if init == "published" else IdentityConv2d
        if separable:
            depthwise = conv(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
            self.conv: nn.Module = nn.Sequential(depthwise, conv(in_channels, out_channels, 1))
        else:
            self.conv = conv(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, in, h, w) to (N, out, H, W); source: (N, source_channels, H, W)."""
        y = self.conv(F.interpolate(x, scale_factor=self.factor, mode=self.mode))
        return crop_or_pad_to(y, source.shape[-2:])
