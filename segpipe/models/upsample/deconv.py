"""Transposed convolutions: of a square kernel, and of two lines."""

from typing import Any

import torch
from torch import Tensor, nn

from segpipe.errors import UserError
from segpipe.models.upsample.base import Start, Upsampler, crop_or_pad_to


def bilinear_line(kernel: int, factor: int) -> Tensor:
    """The (kernel,) weights with which a transposed convolution of stride ``factor`` interpolates linearly."""
    distance = torch.arange(kernel) - (kernel - 1) / 2
    line = (1 - distance.abs() / factor).clamp(min=0)
    for phase in range(min(factor, kernel)):
        line[phase::factor] /= line[phase::factor].sum()
    return line


def bilinear_kernel(kernel: int, factor: int) -> Tensor:
    """The (kernel, kernel) weights with which a transposed convolution of stride ``factor`` interpolates bilinearly.

    With kernel = 2f - f % 2 they are the initial weights of FCN (Long et al. 2015, section 3.3). A larger kernel has
    zeros around them. In a smaller kernel, as U-Net's 2x2, the weights that reach one output pixel are divided by their
    sum; for 2x2 at factor 2 this gives nearest-neighbour interpolation.
    """
    line = bilinear_line(kernel, factor)
    return line[:, None] * line[None, :]


def check_kernel(kernel: int) -> None:
    """Raise UserError for a kernel that would shift the map, apart from the literature's 3."""
    if kernel != 3 and (kernel < 2 or kernel % 2):
        raise UserError(
            f"kernel={kernel}: allowed is an even number of 2 or more, or 3 as in the literature's comparisons; an odd "
            f"kernel shifts the map by half a pixel at every step of 2."
        )


def geometry(kernel: int, factor: int) -> tuple[int, int, int]:
    """The side of a kernel at a factor, its padding and its output padding: the map grows by the factor exactly.

    kernel: the side at factor 2. A kernel of 3 has padding 1 and output padding 1 there, as in the literature.
    """
    side = max(kernel * factor // 2, factor)
    extra = (side - factor) % 2 if kernel % 2 else 0
    return side, (side - factor + extra) // 2, extra


class Deconv(Upsampler, nn.ConvTranspose2d):
    """A transposed ("fractionally strided") convolution: learned upsampling.

    kernel: side at factor 2, even; other factors scale it. FCN: 4 (2 * factor), U-Net: 2, FCN-Basic: 8. Comparisons in
        the literature use 3, with padding 1 and output padding 1; it shifts the map by half a pixel.
    frozen: the initial weights are not trained, as in the last upsampling of the FCN release.
    depthwise: each channel separately, only where in_channels == out_channels; ``linear`` does not hold then.
    init: ``interpolation``: bilinear interpolation. ``published``: torch's random start, as in the literature's
        comparisons of operators.

    Raises UserError for an odd kernel other than 3.
    """

    linear = True
    initial = "bilinear"  # a kernel of 2: nearest
    paper = "Long et al. 2015; Zeiler and Fergus 2014"
    limits = "any linear interpolation, the same at all pixels; may leave checkerboards"

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
        init: Start = "interpolation",
    ) -> None:
        check_kernel(kernel)
        self.init = init
        side, padding, output_padding = geometry(kernel, factor)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size=side,
            stride=factor,
            padding=padding,
            output_padding=output_padding,
            bias=not frozen,
            groups=in_channels if depthwise and in_channels == out_channels else 1,
        )
        if frozen:
            self.requires_grad_(False)

    @classmethod
    def check(cls, *, kernel: int = 4, **others: Any) -> None:
        """See ``Part``: the kernel is even, or 3."""
        check_kernel(kernel)

    def reset_parameters(self) -> None:
        """Bilinear interpolation where the widths agree, else He initialisation; zero biases.

        With ``init=published`` it is torch's start.
        """
        if self.init == "published":
            super().reset_parameters()
            return
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


class Decomposed(Upsampler):
    """A transposed convolution along the columns, then one along the rows: learned, separable upsampling.

    kernel: length at factor 2; see ``Deconv``. init: ``interpolation``: bilinear interpolation where the widths agree.
    ``published``: torch's random start.

    Raises UserError for an odd kernel other than 3.
    """

    linear = True
    initial = "bilinear"
    paper = "Wojna et al. 2019, section 2"
    limits = "what a product of two lines can: no diagonal structure in the kernel of a pair of channels"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        factor: int,
        source_channels: int,
        kernel: int = 4,
        init: Start = "interpolation",
    ) -> None:
        super().__init__()
        check_kernel(kernel)
        self.columns = LineDeconv(in_channels, out_channels, kernel=kernel, factor=factor, axis=0, init=init)
        self.rows = LineDeconv(out_channels, out_channels, kernel=kernel, factor=factor, axis=1, init=init)

    @classmethod
    def check(cls, *, kernel: int = 4, **others: Any) -> None:
        """See ``Part``: the kernel is even, or 3."""
        check_kernel(kernel)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, in, h, w) to (N, out, H, W); source: (N, source_channels, H, W)."""
        return crop_or_pad_to(self.rows(self.columns(x)), source.shape[-2:])


class LineDeconv(nn.ConvTranspose2d):
    """A transposed convolution along one axis: 0 enlarges the height, 1 the width. It has a bias on axis 1 only."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int, factor: int, axis: int, init: Start
    ) -> None:
        self.axis, self.init = axis, init
        side, padding, output_padding = geometry(kernel, factor)

        def along(value: int, other: int) -> tuple[int, int]:
            return (value, other) if axis == 0 else (other, value)

        super().__init__(
            in_channels,
            out_channels,
            kernel_size=along(side, 1),
            stride=along(factor, 1),
            padding=along(padding, 0),
            output_padding=along(output_padding, 0),
            bias=axis == 1,
        )

    def reset_parameters(self) -> None:
        """Linear interpolation where the widths agree, else He initialisation; ``published``: torch's start."""
        if self.init == "published":
            super().reset_parameters()
            return
        side, factor = self.kernel_size[self.axis], self.stride[self.axis]
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.in_channels == self.out_channels:
            with torch.no_grad():
                self.weight.zero_()
                diagonal = torch.arange(self.in_channels)
                line = bilinear_line(side, factor).to(self.weight.device)
                self.weight[diagonal, diagonal] = line.view(self.weight.shape[2:])
        else:  # an output pixel is a sum of side / factor values of each input channel
            nn.init.normal_(self.weight, std=(2 * factor / (self.in_channels * side)) ** 0.5)
