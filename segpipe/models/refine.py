"""Refinements process the map of each decoder step after fusion.

A refinement is built from ``(in_channels, width, out_channels, depth)``; ``depth`` is the number of convolutions that
the encoder has at the same stride.
"""

from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import nn

from segpipe.errors import UserError
from segpipe.models.init import Conv2d, proj1x1
from segpipe.models.part import Part


class Refinement(Part):
    """The base of all refinements. A subclass states by class attributes what is different from the values here.

    convolves: it has a convolution larger than 1x1; ``decoder.smooth`` then adds no convolution before it.
    linear: it is a linear function of each pixel, at most a 1x1 convolution.
    empty: it is the identity where the widths agree.
    """

    convolves: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    empty: ClassVar[bool] = False


class ConvStack(Refinement, nn.Sequential):
    """Convolution blocks with the channels ``[in, width, ..., width, out]``, as in U-Net, SegNet and DeconvNet.

    count: number of blocks; null: ``depth``, as many as the encoder has at this stride ("mirrored").
    kernel: side of each convolution, odd.
    norm, activation: batch normalisation and ReLU after each convolution.
    depthwise: convolve each channel separately, followed by a 1x1 convolution only where the widths differ (SegNet's
        single-channel decoder).
    transposed: transposed convolutions of stride 1 (DeconvNet).

    Raises UserError for an even kernel or a count below 1.
    """

    convolves = True

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        depth: int,
        *,
        count: int | None = None,
        kernel: int = 3,
        norm: bool = True,
        activation: bool = True,
        depthwise: bool = False,
        transposed: bool = False,
    ) -> None:
        self.check(count=count, kernel=kernel)
        channels = [in_channels, *[width] * ((count or depth) - 1), out_channels]
        super().__init__(
            *[
                conv_block(
                    before,
                    after,
                    kernel=kernel,
                    norm=norm,
                    activation=activation,
                    depthwise=depthwise,
                    transposed=transposed,
                )
                for before, after in pairwise(channels)
            ]
        )

    @classmethod
    def check(cls, *, count: int | None = None, kernel: int = 3, **others: Any) -> None:
        """See ``Part``: the kernel is odd, and there is at least one block."""
        if kernel < 1 or kernel % 2 == 0:
            raise UserError(f"kernel={kernel}: allowed is an odd number of 1 or more (an odd kernel has a centre).")
        if count is not None and count < 1:
            raise UserError(f"count={count}: allowed is a whole number of 1 or more, or null.")


class Merge1x1(Refinement, nn.Sequential):
    """The identity where the widths agree (FCN's linear decoder), else a 1x1 convolution, as after concatenation."""

    linear, empty = True, True

    def __init__(self, in_channels: int, width: int, out_channels: int, depth: int) -> None:
        if in_channels == 2 * width == 2 * out_channels:
            super().__init__(SumInitConv2d(in_channels, out_channels))
        else:
            super().__init__(proj1x1(in_channels, out_channels))


class SumInitConv2d(nn.Conv2d):
    """A 1x1 convolution that initially adds the two halves of its input: concat initially equals sum."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def reset_parameters(self) -> None:
        """Set the weights to two identity matrices side by side, and the biases to zero."""
        with torch.no_grad():
            self.weight.copy_(torch.eye(self.out_channels).repeat(1, 2)[:, :, None, None])
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class SmoothConv(Conv2d):
    """A 3x3 convolution that is initially the identity; after nearest, a resize-convolution (Odena et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, kernel_size=3, padding=1)

    def reset_parameters(self) -> None:
        """Set the centre weight of each channel to 1, all others and the biases to 0."""
        nn.init.dirac_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def conv_block(
    in_channels: int,
    out_channels: int,
    *,
    kernel: int = 3,
    norm: bool = True,
    activation: bool = True,
    depthwise: bool = False,
    transposed: bool = False,
) -> nn.Sequential:
    """A convolution that keeps the size (odd kernels), then batch normalisation and ReLU, both optional."""
    layers: list[nn.Module] = []
    if depthwise:
        layers += [Conv2d(in_channels, in_channels, kernel, padding=kernel // 2, groups=in_channels)]
        if in_channels != out_channels:
            layers += [Conv2d(in_channels, out_channels, 1)]
    elif transposed:
        layers += [TransposedConv2d(in_channels, out_channels, kernel, padding=kernel // 2)]
    else:
        layers += [Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)]
    if norm:
        layers += [nn.BatchNorm2d(out_channels)]
    if activation:
        layers += [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class TransposedConv2d(nn.ConvTranspose2d):
    """A transposed convolution of stride 1 with He initialisation and zero biases."""

    def reset_parameters(self) -> None:
        """Draw the weights from a normal distribution of variance 2 / fan-in."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")  # torch swaps in and out here
        if self.bias is not None:
            nn.init.zeros_(self.bias)
