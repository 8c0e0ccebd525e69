"""SAPA: kernels from the similarity of the encoder's map and the decoder's."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from segpipe.errors import UserError
from segpipe.models.init import NormalConv2d, ZeroConv2d
from segpipe.models.upsample.base import Start, check_channels
from segpipe.models.upsample.guide import Guide, Reading
from segpipe.models.upsample.kernels import KernelUpsampler, check_side, similarity_planes, square, to_planes

Kind = Literal["inner", "bilinear", "gated"]


class Sapa(KernelUpsampler):
    """Similarity-aware point affiliation (SAPA): a pixel takes from the neighbours that its guide is similar to.

    The logits are inner products of a query at each pixel with keys of the neighbours.

    kind: ``inner``: query and key are the guide and ``x`` themselves, without parameters. ``bilinear``: projections of
        both, after group normalisation. ``gated``: the query is g q(guide) + (1 - g) q'(x), with a gate g of each cell.
    kernel: side of the kernels, odd. channels: of query and key. guide: see ``Guide``; ``inner`` needs equal widths,
    so ``lateral``. init: see ``KernelUpsampler``; the published start is normal with standard deviation 0.02. The
    start of ``inner`` is a blur of similar neighbours in both cases, since its logits cannot start at zero.

    Raises UserError for an even kernel, and for ``kind=inner`` with ``guide=raw``.
    """

    guided = True
    paper = "SAPA: Lu et al. 2022"
    limits = "a weighted mean of neighbours that follows similarity to the encoder's map; one kernel for all channels"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        factor: int,
        source_channels: int,
        kind: Kind = "bilinear",
        kernel: int = 5,
        channels: int = 32,
        guide: Reading = "lateral",
        init: Start = "interpolation",
    ) -> None:
        self.check(kind=kind, kernel=kernel, channels=channels, guide=guide)
        super().__init__(in_channels, out_channels, factor=factor, offsets=square(kernel), init=init)
        self.kind = kind
        self.guide = Guide(source_channels, out_channels, factor=factor, reading=guide)
        if kind == "inner":
            return
        self.normalise_source, self.normalise = group_norm(self.guide.channels), group_norm(out_channels)
        self.query = query_conv(self.guide.channels, channels, init)
        self.key = NormalConv2d(out_channels, channels, 1, std=0.02)
        if kind == "gated":
            self.query_of_x = query_conv(out_channels, channels, init)
            self.gate = NormalConv2d(out_channels, 1, 1, std=0.02)

    @classmethod
    def check(
        cls,
        *,
        kind: Kind = "bilinear",
        kernel: int = 5,
        channels: int = 32,
        guide: Reading = "lateral",
        **others: object,
    ) -> None:
        """See ``Part``: the kernel is odd, and what is compared has equal widths."""
        check_side("kernel", kernel)
        check_channels(channels)
        if kind == "inner" and guide == "raw":
            raise UserError(
                "kind=inner: allowed is guide=lateral. It multiplies the channels of the guide with those of the map, "
                "and a raw encoder map may have another number of channels; kind=bilinear accepts both."
            )

    def logits(self, x: Tensor, source: Tensor) -> Tensor:
        """See ``KernelUpsampler``."""
        guide = self.guide(source, x)
        if self.kind == "inner":
            return similarity_planes(to_planes(guide, self.factor), x, self.offsets, "zeros")
        normalised = self.normalise(x)
        query = to_planes(self.query(self.normalise_source(guide)), self.factor)  # (N, D, s * s, h, w)
        if self.kind == "gated":
            gate = self.gate(normalised).sigmoid()[:, :, None]  # (N, 1, 1, h, w)
            query = gate * query + (1 - gate) * self.query_of_x(x)[:, :, None]
        return similarity_planes(query, self.key(normalised), self.offsets, "zeros")


def query_conv(in_channels: int, channels: int, init: Start) -> nn.Conv2d:
    """The projection to queries: zero with ``interpolation``, so that the logits start at zero."""
    if init == "published":
        return NormalConv2d(in_channels, channels, 1, std=0.02)
    return ZeroConv2d(in_channels, channels)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with 32 groups as published, or fewer, so that a group has at least 8 channels.

    SAPA has 32 groups of 8 at a width of 256. A group of one channel would be a single value on a map of one cell.
    """
    groups = math.gcd(channels, 32)
    while groups > 1 and channels // groups < 8:
        groups //= 2
    return GroupNorm(groups, channels)


class GroupNorm(nn.GroupNorm):
    """Group normalisation that also takes a group of a single value: one channel, on a map of one cell.

    The value becomes zero, as the formula has it. torch's class raises an error for it, in evaluation too.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
