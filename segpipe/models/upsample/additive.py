"""Bilinear additive upsampling, as an operator and as a residual of any operator."""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.models.init import sets_its_own_start
from segpipe.models.upsample.base import Start, Upsampler, crop_or_pad_to

EVERY = 4  # consecutive channels that are averaged


def channel_means(x: Tensor, groups: int) -> Tensor:
    """(N, C, h, w) to (N, groups, h, w): the means of consecutive channels.

    Where C is no multiple of ``groups``, group i has the channels from i C / groups, rounded down, to (i + 1) C /
    groups, rounded up. With more groups than channels, channels are repeated.
    """
    channels = x.shape[1]
    if channels == groups:
        return x
    if channels % groups == 0:
        return x.unflatten(1, (groups, -1)).mean(2)
    bounds = ((i * channels // groups, -(-(i + 1) * channels // groups)) for i in range(groups))
    return torch.stack([x[:, first:end].mean(1) for first, end in bounds], dim=1)


class Additive(Upsampler):
    """Bilinear additive upsampling: bilinear interpolation of the means of every 4 consecutive channels, then 3x3.

    The paper's text has the sum and its figure the mean; the mean keeps the size of the values.

    init: ``interpolation``: each channel of the result starts as the mean of its group, interpolated. ``published``:
    torch's random start.
    """

    linear = True
    stochastic_backward = True
    paper = "Wojna et al. 2019, section 2"
    limits = "smooth; keeps a quarter of the channels' information"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        factor: int,
        source_channels: int,
        init: Start = "interpolation",
    ) -> None:
        super().__init__()
        self.factor, self.groups = factor, -(-in_channels // EVERY)
        start = nn.Conv2d if init == "published" else RepeatConv2d
        self.conv = start(self.groups, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, in, h, w) to (N, out, H, W); source: (N, source_channels, H, W)."""
        means = channel_means(x, self.groups)  # before the interpolation: the same, on the smaller map
        y = self.conv(F.interpolate(means, scale_factor=self.factor, mode="bilinear"))
        return crop_or_pad_to(y, source.shape[-2:])


class RepeatConv2d(nn.Conv2d):
    """A convolution that starts by repeating each input channel for consecutive output channels; zero biases."""

    def reset_parameters(self) -> None:
        """Set the weight of the centre of one input channel to 1 for each output channel, all others to 0."""
        with torch.no_grad():
            self.weight.zero_()
            out = torch.arange(self.out_channels)
            middle = self.kernel_size[0] // 2
            self.weight[out, out * self.in_channels // self.out_channels, middle, middle] = 1
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Residual(nn.Module):
    """The additive map without a convolution: (N, in, h, w) to (N, out, H, W). It has no parameters."""

    def __init__(self, out_channels: int, *, factor: int) -> None:
        super().__init__()
        self.out_channels, self.factor = out_channels, factor

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """Means of consecutive channels, interpolated bilinearly to the size of the source."""
        means = channel_means(x, self.out_channels)
        y = F.interpolate(means, scale_factor=self.factor, mode="bilinear")
        return crop_or_pad_to(y, source.shape[-2:])


class WithResidual(Upsampler):
    """A base of the classes that ``with_residual`` makes. It stands before the operator's class."""

    def __init__(
        self, in_channels: int, out_channels: int, *, factor: int, source_channels: int, **arguments: Any
    ) -> None:
        super().__init__(  # type: ignore[call-arg]
            in_channels, out_channels, factor=factor, source_channels=source_channels, **arguments
        )
        self.residual = Residual(out_channels, factor=factor)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """The operator's result plus the additive map."""
        return super().forward(x, source) + self.residual(x, source)  # type: ignore[no-any-return,misc]


@cache
def with_residual(operator: type[Upsampler]) -> type[Upsampler]:
    """Return a subclass of an operator that adds the bilinear additive map of its input (Wojna et al. 2019).

    Its parameters have the names of the operator's, and so its initial weights. ``decoder.residual=true`` takes it.
    """
    attributes: dict[str, Any] = {
        "__module__": operator.__module__,
        "__doc__": operator.__doc__,
        "linear": False,  # the residual does not mix channels
        "stochastic_backward": True,
        "initial": "other",
    }
    if hasattr(operator, "reset_parameters") and sets_its_own_start(operator):
        attributes["reset_parameters"] = operator.reset_parameters
    return type(f"{operator.__name__}WithResidual", (WithResidual, operator), attributes)
