"""Sub-pixel convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.models.init import Conv2d
from segpipe.models.upsample.base import Start, Upsampler, crop_or_pad_to


class PixelShuffle(Upsampler):
    """Sub-pixel convolution: a 3x3 convolution to f^2 times the channels, which become blocks of f x f pixels.

    init: ``interpolation``: nearest-neighbour interpolation where the widths agree, else equal pixels within a block
    (ICNR, Aitken et al. 2017). ``published``: torch's random start, as in the literature's comparisons of operators.
    """

    linear = True
    initial = "nearest"
    paper = "Shi et al. 2016; Aitken et al. 2017"
    limits = "any linear function of 3x3 neighbours, the same in all blocks; may leave checkerboards"

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
            self.conv: nn.Conv2d = nn.Conv2d(in_channels, out_channels * factor**2, kernel_size=3, padding=1)
        else:
            self.conv = ShuffleConv2d(in_channels, out_channels, factor=factor)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, in, h, w) to (N, out, H, W); source: (N, source_channels, H, W)."""
        return crop_or_pad_to(F.pixel_shuffle(self.conv(x), self.factor), source.shape[-2:])


class ShuffleConv2d(Conv2d):
    """The convolution of PixelShuffle with ICNR initialisation (Aitken et al. 2017): equal pixels within a block."""

    def __init__(self, in_channels: int, out_channels: int, *, factor: int) -> None:
        self.factor = factor
        super().__init__(in_channels, out_channels * factor**2, kernel_size=3, padding=1)

    def reset_parameters(self) -> None:
        """Nearest-neighbour interpolation where the widths agree, else He initialisation repeated within a block."""
        super().reset_parameters()
        with torch.no_grad():
            one = self.weight[:: self.factor**2].clone()
            if one.shape[0] == one.shape[1]:
                nn.init.dirac_(one)
            self.weight.copy_(one.repeat_interleave(self.factor**2, dim=0))
