"""EUCB: the efficient up-convolution block of EMCAD."""

import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.models.init import IdentityConv2d, NormalConv2d
from segpipe.models.upsample.base import Start, Upsampler, crop_or_pad_to


class Eucb(Upsampler):
    """Repetition, a 3x3 convolution of each channel, batch normalisation, ReLU, a 1x1 convolution.

    EMCAD's channel shuffle between the last two has as many groups as channels, which is the identity. init:
    ``interpolation``: both convolutions start as the identity where the widths agree. ``published``: normal weights
    with standard deviation 0.02.
    """

    paper = "EMCAD: Rahman et al. 2024"
    limits = "not linear; the ReLU removes negative values before the channels are mixed"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        factor: int,
        source_channels: int,
        init: Start = "interpolation",
    ) -> None:
        super().__init__()
        self.factor = factor
        if init == "published":
            self.depthwise: nn.Conv2d = NormalConv2d(
                in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False, std=0.02
            )
            self.mix: nn.Conv2d = NormalConv2d(in_channels, out_channels, 1, std=0.02)
        else:
            self.depthwise = IdentityConv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
            self.mix = IdentityConv2d(in_channels, out_channels, 1)
        self.norm = nn.BatchNorm2d(in_channels)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, in, h, w) to (N, out, H, W); source: (N, source_channels, H, W)."""
        y = F.interpolate(x, scale_factor=self.factor, mode="nearest")
        y = self.mix(F.relu(self.norm(self.depthwise(y))))
        return crop_or_pad_to(y, source.shape[-2:])
