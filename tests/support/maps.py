"""Shared by the tests that were test_exactness.py."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from segpipe.models.upsample import bilinear_kernel

CHANNELS = 3


same = partial(torch.testing.assert_close, rtol=0, atol=1e-12)  # equal but for the order of the additions


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal values in double precision, a function of the shape and the seed alone."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def finer(x: Tensor, factor: int, channels: int = CHANNELS) -> Tensor:
    """A source map for ``x`` to be enlarged to; only its size counts."""
    return x.new_zeros(x.shape[0], channels, x.shape[-2] * factor, x.shape[-1] * factor)


def diagonal(line: Tensor) -> Tensor:
    """The (CHANNELS, CHANNELS, k, k) weights that apply one (k, k) kernel to each channel and mix none."""
    return torch.eye(CHANNELS, dtype=torch.float64)[:, :, None, None] * line.double()


# ... and bilinear interpolation
def bilinear_by_deconv(x: Tensor, factor: int) -> Tensor:
    """A plain transposed convolution with the kernel of side 2f - f % 2."""
    side = 2 * factor - factor % 2
    weight = diagonal(bilinear_kernel(side, factor))
    return F.conv_transpose2d(x, weight, stride=factor, padding=(side - factor) // 2)


def bilinear(x: Tensor, factor: int) -> Tensor:
    """What torch calls bilinear interpolation, pixels taken as areas."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
