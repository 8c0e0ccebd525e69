"""Upsampling operators: each enlarges a map by a factor, to the size of a source map of the encoder.

An operator is built from ``(in_channels, out_channels, *, factor, source_channels)`` and called with ``(x, source)``.
``source`` is the encoder's map at the target stride. It gives the target size, and the positions for unpooling.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.errors import UserError
from segpipe.models.init import Conv2d, proj1x1
from segpipe.models.part import Part


class Upsampler(Part):
    """The base of all operators. A subclass states by class attributes what is different from the values here.

    The values here are safe: they never make two different networks count as one. If ``segpipe.models.cost`` does not
    count the multiply-adds of an operator, give it a method ``cost(x, source)`` that returns them for one forward pass.

    one_step: it enlarges by any factor in one operation. If not, it is built with a factor of 2 only, and the network
        applies it once for each step of 2, up to the full size.
    parameter_free: it has no parameters where all widths agree: training cannot change what it computes.
    linear: for a given source it is a linear function of ``x``, and a 1x1 convolution after it can be moved before it
        or be merged into it. In a linear decoder, sum and concatenation are then the same class of functions.
    needs_pooling: it uses the positions of the encoder's 2 x 2 max-poolings.
    guided: its result depends on the values of the source. If not, it depends on the size of the source only.
    stochastic_backward: on a GPU its gradients are summed in no fixed order (``torch.use_deterministic_algorithms``
        lists such functions): two runs of one seed differ in the last digits.
    initial: what it computes before training where the widths agree, apart from the border.
    """

    one_step: ClassVar[bool] = True
    parameter_free: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    needs_pooling: ClassVar[bool] = False
    guided: ClassVar[bool] = False
    stochastic_backward: ClassVar[bool] = False
    initial: ClassVar[Literal["nearest", "bilinear", "blur", "other"]] = "other"


def crop_or_pad_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Crop ``x`` or repeat its edge, equally on opposite sides, to ``size`` (H, W).

    An encoder that pads in all layers gives equal sizes, and ``x`` is returned unchanged. AlexNet does not: its maps
    are smaller and centred on the image. If the difference is odd, the cells of a centred map are shifted by half a
    cell; each output cell is then the mean of its two neighbours. With AlexNet every step of 2 has such a difference
    (12 to 13, 26 to 27, 54 to 55).
    """
    down, right = size[0] - x.shape[-2], size[1] - x.shape[-1]
    if not down and not right:
        return x
    beside, over = (right + 1) // 2, (down + 1) // 2  # one cell more in total, where the difference is odd
    x = F.pad(x, (beside, beside, over, over), mode="replicate")
    return F.avg_pool2d(x, (1 + down % 2, 1 + right % 2), stride=1) if down % 2 or right % 2 else x


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


class Bilinear(Interpolate):
    """Bilinear interpolation; pixels are areas (``align_corners=False``)."""

    mode = initial = "bilinear"
    stochastic_backward = True


def bilinear_kernel(kernel: int, factor: int) -> Tensor:
    """The (kernel, kernel) weights with which a transposed convolution of stride ``factor`` interpolates bilinearly.

    With kernel = 2f - f % 2 they are the initial weights of FCN (Long et al. 2015, section 3.3). A larger kernel has
    zeros around them. In a smaller kernel, as U-Net's 2x2, the weights that reach one output pixel are divided by their
    sum; for 2x2 at factor 2 this gives nearest-neighbour interpolation.
    """
    distance = torch.arange(kernel) - (kernel - 1) / 2
    line = (1 - distance.abs() / factor).clamp(min=0)
    for phase in range(min(factor, kernel)):
        line[phase::factor] /= line[phase::factor].sum()
    return line[:, None] * line[None, :]


class Deconv(Upsampler, nn.ConvTranspose2d):
    """A transposed ("fractionally strided") convolution: learned upsampling.

    kernel: side at factor 2, even; other factors scale it. FCN: 4 (2 * factor), U-Net: 2, FCN-Basic: 8.
    frozen: the initial weights are not trained, as in the last upsampling of the FCN release.
    depthwise: each channel separately, only where in_channels == out_channels; ``linear`` does not hold then.

    Raises UserError for an odd kernel.
    """

    linear = True
    initial = "bilinear"  # a kernel of 2: nearest

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        factor: int,
        source_channels: int,
        kernel: int = 4,
        frozen: bool = False,
        depthwise: bool = False,
    ) -> None:
        self.check(kernel=kernel)
        side = max(kernel * factor // 2, factor)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size=side,
            stride=factor,
            padding=(side - factor) // 2,
            bias=not frozen,
            groups=in_channels if depthwise and in_channels == out_channels else 1,
        )
        if frozen:
            self.requires_grad_(False)

    @classmethod
    def check(cls, *, kernel: int = 4, **others: Any) -> None:
        """See ``Part``: the kernel is even."""
        if kernel < 2 or kernel % 2:
            raise UserError(
                f"kernel={kernel}: allowed is an even number of 2 or more; an odd kernel would shift the map by half "
                f"a pixel at every step."
            )

    def reset_parameters(self) -> None:
        """Bilinear interpolation where the widths agree, else He initialisation; zero biases."""
        side, factor = self.kernel_size[0], self.stride[0]
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.in_channels == self.out_channels:
            with torch.no_grad():
                self.weight.zero_()
                diagonal = torch.arange(self.in_channels)
                second = torch.zeros_like(diagonal) if self.groups > 1 else diagonal
                self.weight[diagonal, second] = bilinear_kernel(side, factor).to(self.weight.device)
        else:  # an output pixel is a sum of side^2 / factor^2 values of each input channel
            nn.init.normal_(self.weight, std=(2 * factor**2 / (self.in_channels * side**2)) ** 0.5)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:  # type: ignore[override]
        """(N, in, h, w) to (N, out, H, W); source: (N, source_channels, H, W)."""
        return crop_or_pad_to(super().forward(x), source.shape[-2:])


class Unpool(Upsampler):
    """Max-unpooling (Zeiler and Fergus 2014; SegNet; DeconvNet).

    Each value goes to the position of the maximum of its 2x2 cell in the encoder's map; all other values are zero. The
    positions (switches) differ from channel to channel of the source. Therefore 1x1 convolutions convert ``x`` to
    ``source_channels`` before and to ``out_channels`` after, each only where the widths differ.
    """

    one_step = False
    parameter_free, needs_pooling, guided = True, True, True  # not linear: the switches differ from channel to channel

    def __init__(self, in_channels: int, out_channels: int, *, factor: int, source_channels: int) -> None:
        super().__init__()
        if factor != 2:
            raise ValueError(f"Unpool upsamples by a factor of 2 only, not by {factor}.")
        self.enter = proj1x1(in_channels, source_channels)
        self.leave = proj1x1(source_channels, out_channels)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, in, h, w) to (N, out, h * factor, w * factor); source: (N, source_channels, h * factor, w * factor)."""
        _, switches = F.max_pool2d(source, 2, return_indices=True)  # indices into the flat H * W
        values = crop_or_pad_to(self.enter(x), switches.shape[-2:])  # a neck with an even kernel adds one cell
        return self.leave(unpool(values, switches, source.shape[-2:]))


def unpool(values: Tensor, switches: Tensor, size: Sequence[int]) -> Tensor:
    """Scatter values (N, C, h, w) into zeros of shape ``(N, C, *size)``; switches: (N, C, h, w), flat indices.

    ``max_unpool2d`` is faster than ``scatter``, but raises an error under deterministic algorithms.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return F.max_unpool2d(values, switches, kernel_size=(2, 2), output_size=list(size))
    flat = values.new_zeros(*values.shape[:2], size[0] * size[1])
    return flat.scatter(2, switches.flatten(2), values.flatten(2)).unflatten(2, tuple(size))


class PixelShuffle(Upsampler):
    """Sub-pixel convolution (Shi et al. 2016).

    A 3x3 convolution gives factor^2 * out_channels channels; they become blocks of factor x factor pixels.
    """

    linear = True
    initial = "nearest"

    def __init__(self, in_channels: int, out_channels: int, *, factor: int, source_channels: int) -> None:
        super().__init__()
        self.factor = factor
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
