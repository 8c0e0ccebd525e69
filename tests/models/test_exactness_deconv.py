"""What a transposed convolution is, how the learned operators start, and concatenation as a sum."""

import pytest
import torch
import torch.nn.functional as F
from support.maps import CHANNELS, bilinear, bilinear_by_deconv, finer, random, same
from torch import Tensor, nn

from segpipe.models.fusion import Concat, Sum
from segpipe.models.init import init_weights
from segpipe.models.refine import Merge1x1, SmoothConv
from segpipe.models.upsample import Bilinear, Deconv, Nearest, PixelShuffle


def started(module: nn.Module) -> nn.Module:
    """The module in double precision, with the start that a network of seed 0 would give it."""
    init_weights(module, seed=0, prefix="decoder")
    return module.double()


def shaken(module: nn.Module) -> nn.Module:
    """The module in double precision, every parameter random."""
    module.double()
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(random(*parameter.shape, seed=100 + number))
    return module


# What a transposed convolution is
KERNELS = [(2, 2), (2, 4), (2, 8), (4, 4), (8, 2)]  # factor, and Deconv's kernel of a factor-2 step


def random_deconv(factor: int, kernel: int) -> Deconv:
    """From 2 to 3 channels, weights and biases random."""
    deconv = Deconv(2, 3, factor=factor, source_channels=1, kernel=kernel)
    shaken(deconv)
    return deconv


@pytest.mark.parametrize(("factor", "kernel"), KERNELS)
def test_deconv_is_zero_insertion_and_convolution(factor: int, kernel: int) -> None:
    """Put f - 1 zeros between the pixels, pad, and convolve at stride 1 with the kernel turned by 180 degrees."""
    x, deconv = random(2, 2, 3, 4), random_deconv(factor, kernel)
    side, padding = deconv.kernel_size[0], int(deconv.padding[0])
    spread = x.new_zeros(2, 2, (3 - 1) * factor + 1, (4 - 1) * factor + 1)
    spread[..., ::factor, ::factor] = x
    turned = deconv.weight.flip(2, 3).transpose(0, 1)
    same(deconv(x, finer(x, factor)), F.conv2d(spread, turned, deconv.bias, padding=side - 1 - padding))


@pytest.mark.parametrize(("factor", "kernel"), KERNELS)
def test_deconv_is_the_gradient_of_a_strided_convolution(factor: int, kernel: int) -> None:
    """What brings gradients back through a convolution of stride f is its transpose."""
    x, deconv = random(2, 2, 3, 4), random_deconv(factor, kernel)
    nn.init.zeros_(deconv.bias)  # type: ignore[arg-type]
    fine = random(2, 3, 3 * factor, 4 * factor, seed=1).requires_grad_()
    coarse = F.conv2d(fine, deconv.weight, stride=factor, padding=int(deconv.padding[0]))
    (gradient,) = torch.autograd.grad(coarse, fine, x)
    same(deconv(x, finer(x, factor)), gradient)


@pytest.mark.parametrize(("factor", "kernel"), [(2, 2), (2, 4), (4, 4)])
def test_deconv_is_the_transposed_matrix(factor: int, kernel: int) -> None:
    """The convolution written out as a matrix, column by column; the transposed convolution is its transpose."""
    x, deconv = random(1, 2, 2, 3), random_deconv(factor, kernel)
    nn.init.zeros_(deconv.bias)  # type: ignore[arg-type]
    shape = (3, 2 * factor, 3 * factor)
    pixels = torch.eye(3 * 2 * factor * 3 * factor, dtype=torch.float64).view(-1, *shape)
    columns = F.conv2d(pixels, deconv.weight, stride=factor, padding=int(deconv.padding[0])).flatten(1)
    matrix = columns.T  # (coarse values, fine values)
    same(deconv(x, finer(x, factor)), (matrix.T @ x.flatten()).view(1, *shape))


# How the learned ways start


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_pixelshuffle_starts_as_nearest(factor: int) -> None:
    """Where the width stays."""
    x = random(2, CHANNELS, 3, 4)
    upsample = started(PixelShuffle(CHANNELS, CHANNELS, factor=factor, source_channels=CHANNELS))
    same(upsample(x, finer(x, factor)), F.interpolate(x, scale_factor=factor, mode="nearest"))


@pytest.mark.parametrize("factor", [2, 4])
def test_pixelshuffle_starts_without_checkerboard(factor: int) -> None:
    """Where the width changes, all pixels of a block still start alike (ICNR), and blocks differ."""
    x = random(2, 2, 3, 4)
    y = started(PixelShuffle(2, CHANNELS, factor=factor, source_channels=1))(x, finer(x, factor))
    first = y[..., ::factor, ::factor]
    assert first.unique().numel() == first.numel()
    same(y, F.interpolate(first, scale_factor=factor, mode="nearest"))


def test_nearest_with_smooth_starts_as_nearest() -> None:
    """The resize-convolution's 3x3 starts as the identity, up to the border."""
    x = random(2, CHANNELS, 3, 4)
    nearest = Nearest(CHANNELS, CHANNELS, factor=2, source_channels=CHANNELS)
    repeated = F.interpolate(x, scale_factor=2, mode="nearest")
    same(started(SmoothConv(CHANNELS))(nearest(x, finer(x, 2))), repeated)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("factor", "kernel"), [(2, 4), (2, 8), (4, 4), (8, 4), (32, 4)])
def test_deconv_starts_as_bilinear(factor: int, kernel: int, frozen: bool, depthwise: bool) -> None:
    """With FCN's kernel, and with a longer one; at the border it fades, as the kernel does."""
    x = random(2, CHANNELS, 3, 4)
    deconv = started(
        Deconv(
            CHANNELS,
            CHANNELS,
            factor=factor,
            source_channels=CHANNELS,
            kernel=kernel,
            frozen=frozen,
            depthwise=depthwise,
        )
    )
    bilinearly = Bilinear(CHANNELS, CHANNELS, factor=factor, source_channels=CHANNELS)(x, finer(x, factor))
    same(bilinearly, bilinear(x, factor))
    same(deconv(x, finer(x, factor)), bilinearly * bilinear_by_deconv(torch.ones_like(x), factor))
    weight, *bias = deconv.parameters()
    assert weight.shape[1] == (1 if depthwise else CHANNELS)
    assert (weight.requires_grad, len(bias)) == ((False, 0) if frozen else (True, 1))


# In a linear decoder, concatenation and sum reach the same functions


def test_concat_starts_as_the_sum() -> None:
    """``Concat`` with its 1x1 behind, as it starts, adds the two maps."""
    x, skip = random(2, CHANNELS, 4, 6), random(2, CHANNELS, 4, 6, seed=1)
    concat, mix = Concat(CHANNELS, CHANNELS), started(Merge1x1(2 * CHANNELS, CHANNELS, CHANNELS, 0))
    same(mix(concat(x, skip)), Sum(CHANNELS, CHANNELS)(x, skip))
    same(mix(concat(x, skip)), x + skip)


def affine(layer: object) -> tuple[Tensor, Tensor]:
    """The (out, in) matrix and the (out,) bias of a 1x1 convolution."""
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    return layer.weight[:, :, 0, 0], layer.bias


def mixed() -> tuple[Concat, Merge1x1, Sum, Tensor]:
    """A random concatenation of 3 and 5 channels with its 1x1, a sum whose lateral does the skip's part, and the rest.

    The rest is the (3, 3) matrix by which the map that comes up has to be multiplied before it is summed.
    """
    concat, mix, total = Concat(5, CHANNELS), Merge1x1(2 * CHANNELS, CHANNELS, CHANNELS, 0), Sum(5, CHANNELS)
    shaken(concat), shaken(mix), shaken(total)
    (before, offset), (mixing, bias) = affine(concat.lateral), affine(mix[0])
    weight, own = mixing[:, CHANNELS:], mixing[:, :CHANNELS]
    with torch.no_grad():
        for parameter, value in zip(affine(total.lateral), (weight @ before, weight @ offset + bias), strict=True):
            parameter.copy_(value)
    return concat, mix, total, own


@pytest.mark.parametrize("way", [Nearest, Bilinear])
def test_every_concat_is_a_sum_behind_interpolation(way: type[Nearest | Bilinear]) -> None:
    """The 1x1 behind a concatenation passes through interpolation into the scores below, and into the lateral."""
    x, skip = random(2, CHANNELS, 2, 3), random(2, 5, 4, 6, seed=1)
    concat, mix, total, own = mixed()
    upsample = way(CHANNELS, CHANNELS, factor=2, source_channels=5)
    same(total(upsample(F.conv2d(x, own[:, :, None, None]), skip), skip), mix(concat(upsample(x, skip), skip)))


def test_every_concat_is_a_sum_behind_deconv() -> None:
    """There the 1x1 goes into the transposed convolution itself, which mixes channels anyway."""
    x, skip = random(2, CHANNELS, 2, 3), random(2, 5, 4, 6, seed=1)
    concat, mix, total, own = mixed()
    first, second = (Deconv(CHANNELS, CHANNELS, factor=2, source_channels=5) for _ in range(2))
    shaken(first)
    second.double()
    assert first.bias is not None
    assert second.bias is not None
    with torch.no_grad():
        second.weight.copy_(torch.einsum("po,iokl->ipkl", own, first.weight))
        second.bias.copy_(own @ first.bias)
    same(total(second(x, skip), skip), mix(concat(first(x, skip), skip)))
