"""DySample: sampling positions from the decoder's map."""

import math

import torch.nn.functional as F
from torch import Tensor

from segpipe.errors import UserError
from segpipe.models.init import NormalConv2d, ZeroConv2d, proj1x1
from segpipe.models.upsample.base import Start, Upsampler, crop_or_pad_to
from segpipe.models.upsample.sampling import centres, sample


class DySample(Upsampler):
    """Dynamic sampling (DySample, "lp"): ``x`` is sampled bilinearly at positions that are computed from ``x``.

    A 1x1 convolution gives an offset for each pixel of a cell and each group of channels, times 1/4 of a cell.

    plus: the offset is multiplied by 2 sigmoid(a second 1x1 convolution), which starts at 1: "DySample+".
    groups: of channels with positions of their own; where they do not divide the width, their greatest common divisor
    is taken. init: ``interpolation``: offsets of zero, exactly bilinear interpolation. ``published``: normal weights
    with standard deviation 0.001.

    A 1x1 convolution comes first where the widths differ. Raises UserError for fewer than one group.
    """

    content_aware = True
    stochastic_backward = True
    initial = "bilinear"
    paper = "DySample: Liu et al. 2023"
    limits = "moves values, and with them edges, without mixing more than four; no new extremes"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        factor: int,
        source_channels: int,
        plus: bool = False,
        groups: int = 4,
        init: Start = "interpolation",
    ) -> None:
        super().__init__()
        self.check(groups=groups)
        self.factor, self.groups = factor, math.gcd(out_channels, groups)
        self.project = proj1x1(in_channels, out_channels)
        offsets = 2 * self.groups * factor**2
        if init == "published":
            self.offset: NormalConv2d | ZeroConv2d = NormalConv2d(out_channels, offsets, 1, std=0.001)
        else:
            self.offset = ZeroConv2d(out_channels, offsets)
        self.scope = ZeroConv2d(out_channels, offsets, bias=False) if plus else None

    @classmethod
    def check(cls, *, groups: int = 4, **others: object) -> None:
        """See ``Part``: there is a group."""
        if groups < 1:
            raise UserError(f"groups={groups}: allowed is a whole number of 1 or more.")

    def offsets(self, x: Tensor) -> Tensor:
        """(N, out, h, w) to (N, 2, groups, s * h, s * w): to the right and down, in pixels of ``x``."""
        scope = 0.25 if self.scope is None else 0.5 * self.scope(x).sigmoid()
        return F.pixel_shuffle(scope * self.offset(x), self.factor).unflatten(1, (2, self.groups))

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, in, h, w) to (N, out, H, W); source: (N, source_channels, H, W)."""
        x = self.project(x)
        positions = centres(x, self.factor)[:, :, None] + self.offsets(x)
        groups = x.unflatten(1, (self.groups, -1)).flatten(0, 1)  # (N * groups, out / groups, h, w)
        y = sample(groups, positions.transpose(1, 2).flatten(0, 1)).unflatten(0, (-1, self.groups)).flatten(1, 2)
        return crop_or_pad_to(y, source.shape[-2:])

    def explain(self, x: Tensor, source: Tensor) -> dict[str, Tensor]:
        """See ``Upsampler``: ``offsets`` and ``group_offsets``."""
        offsets = crop_or_pad_to(self.offsets(self.project(x)).flatten(1, 2), source.shape[-2:])
        by_group = offsets.unflatten(1, (2, self.groups)).transpose(1, 2)
        return {"offsets": by_group.mean(1), "group_offsets": by_group}
