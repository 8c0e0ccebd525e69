"""The one decoder: FCN, SegNet, DeconvNet, U-Net and what lies between differ in what is put into its slots.

At each stride, from coarse to fine:   upsample x2  ->  smooth  ->  fuse with the skip  ->  refine ::

                 upsample       fuse      refine                       width            narrows in
    FCN          deconv         sum       nothing (it is linear)       classes          -
    SegNet       unpool         none      as many 3x3 as the encoder   the encoder's    refine
    DeconvNet    unpool         none      the same, transposed         the encoder's    refine
    U-Net        deconv 2x2     concat    two 3x3                      the encoder's    upsample
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.errors import UserError
from segpipe.models.encoders import Encoder
from segpipe.models.init import proj1x1

Factory = Callable[..., nn.Module]


class Decoder(nn.Module):
    """Climbs from stride ``start`` to stride ``stop``; upsample, fusion, refine, smooth make the modules of the slots.

    width: channels of every map on the way; None keeps the encoder's; a list has one number for each step up, and may
        have the coarsest map's in front of them. A map is given its width by a 1x1 convolution where it has another.
    taps: where a skip is taken: ``conv``, the encoder's last map at the stride; ``pool``, what leads to the stride by
        max-pooling (FCN's pool3 and pool4).
    narrow: where the channels become the next finer map's: in ``upsample`` (U-Net), or in the last convolution of
        ``refine`` (SegNet, DeconvNet: the map then fits the switches of the next unpooling).
    skip_scales: a factor for the skip of each step up (FCN-8s trained at once); None for 1.
    zero_start: the first projection starts at zero, so that class scores do, as FCN's.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        encoder: Encoder,
        start: int,
        stop: int,
        upsample: Factory,
        fusion: Factory,
        refine: Factory,
        smooth: Factory | None = None,
        width: int | Sequence[int] | None = None,
        taps: Literal["conv", "pool"] = "conv",
        narrow: Literal["refine", "upsample"] = "refine",
        skip_scales: Sequence[float] | None = None,
        zero_start: bool = False,
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleDict()  # keyed by stride: the names survive from FCN-32s to 16s to 8s
        strides = decoder_strides(encoder, start=start, stop=stop)
        channels, *widths = resolve_widths(width, in_channels, encoder, strides)
        scales = per_step(skip_scales, strides, "model.skip_scales") or [1.0] * len(strides)
        self.project = proj1x1(in_channels, channels, zero=zero_start)
        for stride, scale, (step_width, finer) in zip(strides, scales, pairwise([*widths, *widths[-1:]]), strict=True):
            up_channels, out_channels = (step_width, step_width) if narrow == "upsample" else (channels, finer)
            tap = SkipTap(encoder, stride=stride, pooled=taps == "pool", scale=scale)
            fuse = fusion(tap.channels, up_channels)
            self.steps[str(stride)] = Step(
                upsample=upsample(channels, up_channels, factor=2, source_channels=encoder.channels[stride]),
                smooth=smooth(up_channels) if smooth else nn.Identity(),
                tap=tap,
                fuse=fuse,
                refine=refine(fuse.out_channels, step_width, out_channels, encoder.depths[stride]),
            )
            channels = out_channels
        self.out_channels = channels

    def forward(self, x: Tensor, features: dict[int, Tensor]) -> Tensor:
        """(N, in_channels, H/start, W/start) and the encoder's maps to (N, out_channels, H/stop, W/stop)."""
        x = self.project(x)
        for stride, step in self.steps.items():
            x = step(x, features, features[int(stride)])  # (N, C, H/stride, W/stride)
        return x


def decoder_strides(encoder: Encoder, *, start: int, stop: int) -> list[int]:
    """The strides that are climbed to, coarse to fine."""
    return [stride for stride in reversed(encoder.strides) if stop <= stride < start]


def resolve_widths(
    width: int | Sequence[int] | None, in_channels: int, encoder: Encoder, strides: list[int]
) -> list[int]:
    """Channels of the coarsest map, which comes with ``in_channels``, and for each step up: what ``width`` means."""
    if isinstance(width, Sequence) and len(width) == len(strides) + 1:
        return list(width)
    coarsest = width if isinstance(width, int) else in_channels
    return [coarsest, *(per_step(width, strides, "model.width") or [encoder.channels[stride] for stride in strides])]


def per_step(given: Any, strides: list[int], option: str) -> list[Any] | None:
    """One value for each step up, coarse to fine. Raises UserError for a list of another length."""
    if given is None:
        return None
    if not isinstance(given, Sequence):
        return [given] * len(strides)
    if len(given) != len(strides):
        raise UserError(
            f"{option}={list(given)} has {len(given)} entries: give one for each of the {len(strides)} steps up, to "
            f"strides {', '.join(map(str, strides))}."
        )
    return list(given)


class Step(nn.Module):
    """One step of the decoder, to twice the height and width."""

    def __init__(
        self, *, upsample: nn.Module, smooth: nn.Module, tap: "SkipTap", fuse: nn.Module, refine: nn.Module
    ) -> None:
        super().__init__()
        self.upsample, self.smooth, self.tap, self.fuse, self.refine = upsample, smooth, tap, fuse, refine

    def forward(self, x: Tensor, features: dict[int, Tensor], source: Tensor) -> Tensor:
        """(N, C, H/2s, W/2s) to (N, C', H/s, W/s), s being the stride of ``source``, a map of the encoder."""
        x = self.smooth(self.upsample(x, source))
        skip = self.tap(features) if self.fuse.uses_skip else None
        return self.refine(self.fuse(x, skip))


class SkipTap(nn.Module):
    """Takes the skip of a stride from the encoder's maps: the map itself, or the pooling that leads to it."""

    def __init__(self, encoder: Encoder, *, stride: int, pooled: bool, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.pool = encoder.pools.get(stride) if pooled else None  # not pooled there: the map itself
        self.source = stride if self.pool is None else stride // 2
        self.channels = encoder.channels[self.source]

    def forward(self, features: dict[int, Tensor]) -> Tensor:
        """stride: (N, C, H/stride, W/stride) to (N, channels, H/s, W/s)."""
        skip = features[self.source]
        skip = skip if self.pool is None else F.max_pool2d(skip, *self.pool)
        return skip if self.scale == 1 else skip * self.scale
