"""The upsampling operators: each enlarges a map by a factor, to the size of a source map of the encoder.

Built from ``(in_channels, out_channels, *, factor, source_channels)`` and called with ``(x, source)``, where ``source``
is the encoder's own map at the target stride: target size and unpooling positions come from it.
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

    The values here are safe: no two networks are taken for one because of them. An operator whose multiply-adds are not
    those that ``segpipe.models.cost`` counts has a method ``cost(x, source)``, which returns them for one call of
    ``forward``.

    one_step: it enlarges by any factor in one operation. If not, it is built with a factor of 2 only, and the network
        applies it once for each step of 2, up to the full size.
    parameter_free: it has no parameters where all widths agree, so that training cannot change what it computes.
    linear: for a given source it is a linear map of ``x``, and a 1x1 convolution behind it can be moved in front of it
        or be made part of it. In a linear decoder, sum and concatenation are then the same class of functions.
    needs_pooling: it uses the positions of the encoder's 2 x 2 max-poolings.
    guided: its result depends on the values of the source. If not, it depends on the size of the source only.
    stochastic_backward: on a GPU its gradients are summed in no fixed order (``torch.use_deterministic_algorithms``
        lists such functions), so that two runs of one seed differ in the last digits.
    initial: what it computes before training where the width stays, apart from the border.
    """

    one_step: ClassVar[bool] = True
    parameter_free: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    needs_pooling: ClassVar[bool] = False
    guided: ClassVar[bool] = False
    stochastic_backward: ClassVar[bool] = False
    initial: ClassVar[Literal["nearest", "bilinear", "blur", "other"]] = "other"


def crop_or_pad_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Crop, or repeat the edge, on all sides alike, until ``x`` has the ``size`` (H, W).

    Where an encoder pads everywhere there is nothing to do; AlexNet's maps are smaller, and centred on the image. Where
    the difference is odd, the cells of a centred map lie half a cell beside those of ``size``, each of which gets the
    mean of its two neighbours. Behind AlexNet every step of 2 has such a difference (12 to 13, 26 to 27, 54 to 55).
    """
    down, right = size[0] - x.shape[-2], size[1] - x.shape[-1]
    if not down and not right:
        return x
    beside, over = (right + 1) // 2, (down + 1) // 2  # one more cell in all, where the difference is odd
    x = F.pad(x, (beside, beside, over, over), mode="replicate")
    return F.avg_pool2d(x, (1 + down % 2, 1 + right % 2), stride=1) if down % 2 or right % 2 else x


class Interpolate(Upsampler):
    """Fixed interpolation, after a 1x1 convolution where the widths differ (before: it is cheaper on the small map)."""

    parameter_free, linear = True, True
    mode: ClassVar[str]

    def __init__(self, in_channels: int, out_channels: int, *, factor: int, source_channels: int) -> None:
        super().__init__()
        self.factor = factor
        self.project = proj1x1(in_channels, out_channels)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, in, h, w) to (N, out, H, W), H and W being the source's."""
        return crop_or_pad_to(
            F.interpolate(self.project(x), scale_factor=self.factor, mode=self.mode), source.shape[-2:]
        )


class Nearest(Interpolate):
    """Repeat each value."""

    mode = initial = "nearest"


class Bilinear(Interpolate):
    """Interpolate linearly between values, pixels taken as areas (``align_corners=False``)."""

    mode = initial = "bilinear"
    stochastic_backward = True


def bilinear_kernel(kernel: int, factor: int) -> Tensor:
    """The (kernel, kernel) weights with which a transposed convolution of stride ``factor`` interpolates bilinearly.

    For kernel = 2f - f % 2 it is FCN's start (Long et al. 2015, section 3.3); a longer kernel gets zeros around it. A
    shorter one, as U-Net's 2x2, is divided by what each output pixel hears in all, and so starts as repetition.
    """
    distance = torch.arange(kernel) - (kernel - 1) / 2
    line = (1 - distance.abs() / factor).clamp(min=0)
    for phase in range(min(factor, kernel)):
        line[phase::factor] /= line[phase::factor].sum()
    return line[:, None] * line[None, :]


class Deconv(Upsampler, nn.ConvTranspose2d):
    """A transposed ("fractionally strided") convolution: the learned way up.

    kernel: its side at factor 2, scaled with the factor: 4 is FCN's 2f, 2 is U-Net's, 8 is FCN-Basic's.
    frozen: keep the start for ever, as FCN's release does with its last upsampling.
    depthwise: every channel on its own (only where in_channels == out_channels); ``linear`` does not hold then.
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
        """See ``Part``: a kernel has an edge in its middle."""
        if kernel < 2 or kernel % 2:
            raise UserError(
                f"kernel={kernel}: allowed is an even number of 2 or more; an odd one would shift the map by half a "
                f"pixel at every step."
            )

    def reset_parameters(self) -> None:
        """Start as bilinear interpolation where the width stays, else by He's rule."""
        side, factor = self.kernel_size[0], self.stride[0]
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.in_channels == self.out_channels:
            with torch.no_grad():
                self.weight.zero_()
                diagonal = torch.arange(self.in_channels)
                second = torch.zeros_like(diagonal) if self.groups > 1 else diagonal
                self.weight[diagonal, second] = bilinear_kernel(side, factor).to(self.weight.device)
        else:  # an output pixel hears side^2 / factor^2 taps of each input channel
            nn.init.normal_(self.weight, std=(2 * factor**2 / (self.in_channels * side**2)) ** 0.5)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:  # type: ignore[override]
        """(N, in, h, w) to (N, out, H, W), H and W being the source's."""
        return crop_or_pad_to(super().forward(x), source.shape[-2:])


class Unpool(Upsampler):
    """Put each value back where the encoder's 2x2 maximum was, zero elsewhere (Zeiler and Fergus; SegNet; DeconvNet).

    The switches are the source's, so the values get the source's width first, by a 1x1 where it differs, and
    ``out_channels`` after, likewise.
    """

    one_step = False
    parameter_free, needs_pooling, guided = True, True, True  # not linear: the switches differ from channel to channel

    def __init__(self, in_channels: int, out_channels: int, *, factor: int, source_channels: int) -> None:
        super().__init__()
        if factor != 2:
            raise ValueError(f"Unpool goes up by 2 at a time, not by {factor}.")
        self.enter = proj1x1(in_channels, source_channels)
        self.leave = proj1x1(source_channels, out_channels)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, in, h, w) to (N, out, h * factor, w * factor); source: (N, source_channels, h * factor, w * factor)."""
        _, switches = F.max_pool2d(source, 2, return_indices=True)  # positions in the flat H * W
        values = crop_or_pad_to(self.enter(x), switches.shape[-2:])  # a neck with an even kernel gives one cell more
        return self.leave(unpool(values, switches, source.shape[-2:]))


def unpool(values: Tensor, switches: Tensor, size: Sequence[int]) -> Tensor:
    """Scatter (N, C, h, w) values to their flat positions in zeros of ``(N, C, *size)``.

    ``max_unpool2d`` is the faster of the two, but raises under deterministic algorithms.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return F.max_unpool2d(values, switches, kernel_size=(2, 2), output_size=list(size))
    flat = values.new_zeros(*values.shape[:2], size[0] * size[1])
    return flat.scatter(2, switches.flatten(2), values.flatten(2)).unflatten(2, tuple(size))


class PixelShuffle(Upsampler):
    """Sub-pixel convolution (Shi et al. 2016): a 3x3 convolution to factor^2 times the channels, dealt out in space."""

    linear = True
    initial = "nearest"

    def __init__(self, in_channels: int, out_channels: int, *, factor: int, source_channels: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = ShuffleConv2d(in_channels, out_channels, factor=factor)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, in, h, w) to (N, out, H, W), H and W being the source's."""
        return crop_or_pad_to(F.pixel_shuffle(self.conv(x), self.factor), source.shape[-2:])


class ShuffleConv2d(Conv2d):
    """A PixelShuffle's convolution, with the ICNR start (Aitken et al. 2017): the pixels of a block start alike."""

    def __init__(self, in_channels: int, out_channels: int, *, factor: int) -> None:
        self.factor = factor
        super().__init__(in_channels, out_channels * factor**2, kernel_size=3, padding=1)

    def reset_parameters(self) -> None:
        """Start as nearest-neighbour repetition where the width stays, else as He's start repeated in a block."""
        super().reset_parameters()
        with torch.no_grad():
            one = self.weight[:: self.factor**2].clone()
            if one.shape[0] == one.shape[1]:
                nn.init.dirac_(one)
            self.weight.copy_(one.repeat_interleave(self.factor**2, dim=0))
