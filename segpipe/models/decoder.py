"""One decoder for FCN, SegNet, DeconvNet, U-Net, and all combinations of their parts.

The encoder reduces the image to maps of stride 1, 2, 4, ... The decoder starts at the coarsest map and doubles its
height and width in each step. One step from stride 2s to stride s applies up to five modules in this order::

    x, stride 2s -> upsample x2 -> smooth -> fuse with the skip of stride s -> attention -> refine -> x, stride s

    upsample   the upsampling operator (``upsample/``)
    smooth     an optional 3x3 convolution, which removes artefacts of the operator (``refine.SmoothConv``)
    fuse       combines the result with a skip, an encoder map of the same stride (``fusion.py``)
    attention  an optional weighing of the combined map by numbers computed from it (``attention.py``)
    refine     convolutions on the combined map (``refine.py``)

The published architectures are four settings of this step, without ``smooth`` and ``attention``::

                 upsample                  fuse     refine                                   width            narrow
    FCN          transposed conv 4x4       sum      none (the decoder is linear)             num_classes      -
    SegNet       max-unpooling             none     3x3 convs, as many as in the encoder     the encoder's    refine
    DeconvNet    max-unpooling             none     the same number of 3x3 transposed convs  the encoder's    refine
    U-Net        transposed conv 2x2       concat   two 3x3 convs                            the encoder's    upsample

- FCN (Long et al. 2015) upsamples class scores and adds class scores that 1x1 convolutions predict from finer maps.
- SegNet (Badrinarayanan et al. 2017) puts each value back at the position of the encoder's pooling maximum, and fills
  the gaps by convolutions. It uses these positions instead of a skip.
- DeconvNet (Noh et al. 2015) does the same with transposed convolutions of stride 1, and has fully connected layers
  between encoder and decoder (``necks.Bottleneck``).
- U-Net (Ronneberger et al. 2015) concatenates the encoder's features with the upsampled features and convolves both.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.errors import UserError
from segpipe.models.encoders import Encoder
from segpipe.models.fusion import NoFusion
from segpipe.models.init import proj1x1, seed_for

Factory = Callable[..., nn.Module]


class Skips(NamedTuple):
    """Which steps of a decoder have a skip, and what is done to it beside the fusion.

    at: strides of the steps that fuse a skip; None: all. drop: see ``SkipTap``. attention: factory of the module behind
    each fusion of a skip, called with its channels; None: no attention.
    """

    at: Sequence[int] | None = None
    drop: float = 0.0
    attention: Factory | None = None


ALL_SKIPS = Skips()


class Decoder(nn.Module):
    """Upsamples a map from stride ``start`` to stride ``stop``, one step of 2 for each stride between.

    in_channels: channels of the map of stride ``start``.
    upsample, fusion, refine, smooth: factories of the modules of each step (see the top of this file). ``smooth=None``
        leaves that module out.
    width: channels of the decoder's maps. None: those of the encoder at the same stride. A number: the same for all.
        A list: one number for each step, coarse to fine; it may begin with one more, for the coarsest map. A 1x1
        convolution converts the coarsest map to its width where the two differ.
    taps: where a skip comes from. ``conv``: the encoder's last map at the stride. ``pool``: the output of the
        max-pooling that leads to the stride (pool3 and pool4 of FCN).
    narrow: which module reduces the channels to those of the next finer map. ``upsample``: the operator (U-Net).
        ``refine``: its last convolution (SegNet, DeconvNet), so that the map has the channels of the next unpooling.
    skip_scales: one factor for the skip of each step, coarse to fine (FCN-8s trained at once). None: 1.
    zero_start: the convolution of the coarsest map starts at zero, so that all class scores start at zero (FCN).
    skips: which steps have a skip, and its options; the other steps have none, whatever the fusion.

    Raises UserError if a list of ``width`` or ``skip_scales`` has the wrong length.
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
        skips: Skips = ALL_SKIPS,
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleDict()  # keyed by stride: FCN-32s, 16s and 8s use the same names
        strides = decoder_strides(encoder, start=start, stop=stop)
        channels, *widths = resolve_widths(width, in_channels, encoder, strides)
        scales = per_step(skip_scales, strides, "model.skip_scales") or [1.0] * len(strides)
        self.project = proj1x1(in_channels, channels, zero=zero_start)
        self.channels: dict[int, int] = {}  # stride: channels of the map after the step
        for stride, scale, (step_width, finer) in zip(strides, scales, pairwise([*widths, *widths[-1:]]), strict=True):
            up_channels, out_channels = (step_width, step_width) if narrow == "upsample" else (channels, finer)
            tap = SkipTap(encoder, stride=stride, pooled=taps == "pool", scale=scale, drop=skips.drop)
            fuse: Any = (fusion if skips.at is None or stride in skips.at else NoFusion)(tap.channels, up_channels)
            self.steps[str(stride)] = Step(
                upsample=upsample(channels, up_channels, factor=2, source_channels=encoder.channels[stride]),
                smooth=smooth(up_channels) if smooth else nn.Identity(),
                tap=tap,
                fuse=fuse,
                attention=skips.attention(fuse.out_channels) if skips.attention and fuse.uses_skip else nn.Identity(),
                refine=refine(fuse.out_channels, step_width, out_channels, encoder.depths[stride]),
            )
            channels = self.channels[stride] = out_channels
        self.out_channels = channels

    def forward(self, x: Tensor, features: dict[int, Tensor], maps: dict[str, Tensor] | None = None) -> Tensor:
        """(N, in_channels, H/start, W/start) to (N, out_channels, H/stop, W/stop).

        features: the encoder's maps, stride: (N, encoder.channels[stride], H/stride, W/stride).
        maps: a dict that gets the map after each step, by stride; None: they are not kept.
        """
        x = self.project(x)
        for stride, step in self.steps.items():
            x = step(x, features, features[int(stride)])  # (N, C, H/stride, W/stride)
            if maps is not None:
                maps[stride] = x
        return x


def decoder_strides(encoder: Encoder, *, start: int, stop: int) -> list[int]:
    """The stride that each step produces, coarse to fine: 16, 8, 4 for start=32 and stop=4."""
    return [stride for stride in reversed(encoder.strides) if stop <= stride < start]


def resolve_widths(
    width: int | Sequence[int] | None, in_channels: int, encoder: Encoder, strides: list[int]
) -> list[int]:
    """Resolve ``width`` (see ``Decoder``): channels of the coarsest map, then of each step, coarse to fine."""
    if isinstance(width, Sequence) and len(width) == len(strides) + 1:
        return list(width)
    coarsest = width if isinstance(width, int) else in_channels
    return [coarsest, *(per_step(width, strides, "model.width") or [encoder.channels[stride] for stride in strides])]


def per_step(given: Any, strides: list[int], option: str) -> list[Any] | None:
    """One value for each step, coarse to fine; a single value is repeated. Raises UserError for a wrong length."""
    if given is None:
        return None
    if not isinstance(given, Sequence):
        return [given] * len(strides)
    if len(given) != len(strides):
        raise UserError(
            f"{option}={list(given)} has {len(given)} entries: give one for each of the {len(strides)} "
            f"upsampling steps, to strides {', '.join(map(str, strides))}."
        )
    return list(given)


class Step(nn.Module):
    """One step of the decoder: upsample to twice the height and width, smooth, fuse, attend, refine."""

    def __init__(
        self,
        *,
        upsample: nn.Module,
        smooth: nn.Module,
        tap: nn.Module,
        fuse: nn.Module,
        attention: nn.Module,
        refine: nn.Module,
    ) -> None:
        super().__init__()
        self.upsample, self.smooth, self.tap, self.fuse = upsample, smooth, tap, fuse
        self.attention, self.refine = attention, refine

    def forward(self, x: Tensor, features: dict[int, Tensor], source: Tensor) -> Tensor:
        """(N, C, H/2s, W/2s) to (N, C', H/s, W/s).

        features: all maps of the encoder; the skip is taken from them. source: the encoder's map of stride s.
        """
        x = self.smooth(self.upsample(x, source))
        skip = self.tap(features) if self.fuse.uses_skip else None
        return self.refine(self.attention(self.fuse(x, skip)))

    def strides_read(self, stride: int) -> set[int]:
        """The strides of the encoder's maps whose values it reads: for its skip, or by its operator, at ``stride``."""
        read = {stride} if self.upsample.guided else set()
        return {*read, int(self.tap.source)} if self.fuse.uses_skip else read  # type: ignore[arg-type]


class SkipTap(nn.Module):
    """Takes the skip of a stride from the encoder's maps: the last map of the stride, or the pooling that leads to it.

    scale: the skip is multiplied by it.
    drop: probability that the complete skip of an image is zero in training. What is kept is not scaled up: it has the
        values of evaluation. ``keyed_drops`` makes the choice a function of (seed, image, stride); without it, it is
        drawn from torch's generator.
    """

    kept: Tensor | None  # (N,) of bool: the images whose skip is kept in the next forward pass; None: drawn there

    def __init__(self, encoder: Encoder, *, stride: int, pooled: bool, scale: float = 1.0, drop: float = 0.0) -> None:
        super().__init__()
        self.stride, self.scale, self.drop, self.kept = stride, scale, drop, None
        self.pool = encoder.pools.get(stride) if pooled else None  # no max-pooling: the map itself
        self.source = stride if self.pool is None else stride // 2
        self.channels = encoder.channels[self.source]

    def forward(self, features: dict[int, Tensor]) -> Tensor:
        """stride: (N, C, H/stride, W/stride) to (N, channels, H/s, W/s)."""
        skip = features[self.source]
        skip = skip if self.pool is None else F.max_pool2d(skip, *self.pool)
        skip = skip if self.scale == 1 else skip * self.scale
        if not (self.training and self.drop):
            return skip
        kept = torch.rand(len(skip), device=skip.device) >= self.drop if self.kept is None else self.kept
        return torch.where(kept.view(-1, 1, 1, 1), skip, 0.0)


@contextmanager
def keyed_drops(network: nn.Module, *, seed: int, images: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Inside the ``with`` block, choose the skips that a training step drops by (seed, image, stride) alone.

    Then the order of images, the number of devices and interruptions have no influence, as with augmentation.
    images: returns a key for each image of the batch, for example ``epoch 3 image 17``. It is called only where a
    skip can be dropped.
    """
    taps = [module for module in network.modules() if isinstance(module, SkipTap) and module.drop]
    keys = images() if taps else []
    for tap in taps:
        shares = [seed_for(seed, f"skip {tap.stride} {key}") / 2**63 for key in keys]
        tap.kept = (torch.tensor(shares, dtype=torch.float64) >= tap.drop).to(next(network.parameters()).device)
    try:
        yield
    finally:
        for tap in taps:
            tap.kept = None
