"""The guide: how a guided operator reads the encoder's map."""

from typing import Literal

from torch import Tensor, nn

from segpipe.models.init import proj1x1
from segpipe.models.upsample.base import crop_or_pad_to

Reading = Literal["lateral", "raw"]  # values of ``decoder.guide``


class Guide(nn.Module):
    """The encoder's map at the target stride, as a guided operator reads it.

    reading: ``lateral``: projected by a 1x1 convolution of its own to the width of the operator, where the widths
    differ. The published operators stand behind such a projection. ``raw``: the encoder's map itself.
    """

    def __init__(self, source_channels: int, width: int, *, factor: int, reading: Reading) -> None:
        super().__init__()
        self.factor = factor
        self.channels = width if reading == "lateral" else source_channels
        self.lateral = proj1x1(source_channels, self.channels)

    def forward(self, source: Tensor, x: Tensor) -> Tensor:
        """(N, source_channels, H, W) to (N, channels, s * h, s * w): of s times the size of ``x``, (N, C, h, w).

        The two sizes differ behind AlexNet only; see ``crop_or_pad_to``.
        """
        return crop_or_pad_to(self.lateral(source), [self.factor * side for side in x.shape[-2:]])
