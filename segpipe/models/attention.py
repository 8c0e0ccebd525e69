"""Attention behind a fusion: the joined map is weighed by numbers that are computed from the map itself.

An attention is built from ``(channels,)`` and returns a map of the same shape. Before training it returns its input.
"""

from torch import Tensor

from segpipe.models.init import Conv2d, ZeroConv2d
from segpipe.models.part import Part

MIN_HIDDEN = 4  # with class scores there may be 2 channels; a single ReLU could be zero everywhere


def hidden_width(channels: int, reduction: int) -> int:
    """Return the channels of a reduced map: ``channels / reduction`` rounded down, at least MIN_HIDDEN."""
    return max(channels // reduction, MIN_HIDDEN)


class Attention(Part):
    """The base of all attentions. Their elementwise products are part of a network's multiply-adds."""


class ScSE(Attention):
    """Concurrent spatial and channel squeeze and excitation (Roy, Navab and Wachinger 2018).

    The map is multiplied by the sum of two numbers between 0 and 1: one for each channel, from the means of all
    channels by two 1x1 convolutions; one for each pixel, from its channels by one. Both start at 1/2, so that the map
    is unchanged. The paper has He initialisation.
    """

    reduction = 16

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = hidden_width(channels, self.reduction)
        self.squeeze = Conv2d(channels, hidden, 1)
        self.channel = ZeroConv2d(hidden, channels)
        self.spatial = ZeroConv2d(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        means = x.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
        channel = self.channel(self.squeeze(means).relu()).sigmoid()
        return x * (channel + self.spatial(x).sigmoid())


ATTENTIONS: dict[str, type[Attention]] = {"scse": ScSE}  # values of ``fusion.attention`` other than null
