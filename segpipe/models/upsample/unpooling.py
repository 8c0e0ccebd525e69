"""Max-unpooling."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segpipe.models.init import proj1x1
from segpipe.models.upsample.base import Upsampler, crop_or_pad_to


class Unpool(Upsampler):
    """Max-unpooling (Zeiler and Fergus 2014; SegNet; DeconvNet).

    Each value goes to the position of the maximum of its 2x2 cell in the encoder's map; all other values are zero. The
    positions (switches) differ from channel to channel of the source. Therefore 1x1 convolutions convert ``x`` to
    ``source_channels`` before and to ``out_channels`` after, each only where the widths differ.
    """

    one_step = False
    parameter_free, needs_pooling, guided = True, True, True  # not linear: the switches differ from channel to channel
    paper = "Zeiler and Fergus 2014; SegNet; DeconvNet"
    limits = "exact positions of maxima, one value in four; a convolution should follow"

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
