"""The identities that the ways up are said to have, each on tiny random maps in double precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.models.fusion import Concat, Sum
from segpipe.models.init import init_weights
from segpipe.models.refine import Merge1x1, SmoothConv
from segpipe.models.upsample import Bilinear, Deconv, Nearest, PixelShuffle, Unpool, bilinear_kernel, unpool

CHANNELS = 3
same = partial(torch.testing.assert_close, rtol=0, atol=1e-12)  # equal but for the order of the additions
nearly = partial(torch.testing.assert_close, rtol=0, atol=1e-6)  # and but for thirds in single precision


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal values in double precision, a function of the shape and the seed alone."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def positive(*shape: int, seed: int = 0) -> Tensor:
    """Values of 0.1 and more."""
    return random(*shape, seed=seed).abs() + 0.1


def finer(x: Tensor, factor: int, channels: int = CHANNELS) -> Tensor:
    """A source map for ``x`` to be enlarged to; only its size counts."""
    return x.new_zeros(x.shape[0], channels, x.shape[-2] * factor, x.shape[-1] * factor)


def diagonal(line: Tensor) -> Tensor:
    """The (CHANNELS, CHANNELS, k, k) weights that apply one (k, k) kernel to each channel and mix none."""
    return torch.eye(CHANNELS, dtype=torch.float64)[:, :, None, None] * line.double()


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


# A transposed convolution with the right kernel is nearest repetition ...


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_box_kernel_repeats(factor: int) -> None:
    """A kernel of ones, as large as the factor, repeats each value: plain, and as ``Deconv``."""
    x = random(2, CHANNELS, 3, 4)
    repeated = x.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    box = diagonal(torch.ones(factor, factor))
    deconv = Deconv(CHANNELS, CHANNELS, factor=factor, source_channels=CHANNELS, kernel=2, frozen=True).double()
    deconv.weight.copy_(box)
    same(F.conv_transpose2d(x, box, stride=factor), repeated)
    same(deconv(x, finer(x, factor)), repeated)
    nearest = Nearest(CHANNELS, CHANNELS, factor=factor, source_channels=CHANNELS)
    assert torch.equal(nearest(x, finer(x, factor)), repeated)


# ... and bilinear interpolation


def bilinear_by_deconv(x: Tensor, factor: int) -> Tensor:
    """A plain transposed convolution with the kernel of side 2f - f % 2."""
    side = 2 * factor - factor % 2
    weight = diagonal(bilinear_kernel(side, factor))
    return F.conv_transpose2d(x, weight, stride=factor, padding=(side - factor) // 2)


def bilinear(x: Tensor, factor: int) -> Tensor:
    """What torch calls bilinear interpolation, pixels taken as areas."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


FACTORS = [2, 3, 4, 8, 32]


@pytest.mark.parametrize("factor", FACTORS)
def test_bilinear_kernel_interpolates_inside(factor: int) -> None:
    """Equal but for the f // 2 rows and columns next to the border."""
    x, border = random(2, CHANNELS, 3, 4), factor // 2
    inside = (..., slice(border, -border), slice(border, -border))
    nearly(bilinear_by_deconv(x, factor)[inside], bilinear(x, factor)[inside])


@pytest.mark.parametrize("factor", FACTORS)
def test_bilinear_kernel_fades_at_the_border(factor: int) -> None:
    """The f // 2 outermost rows and columns lie beyond the last centre of an input pixel, and there the two differ.

    Interpolation repeats the edge there; the transposed convolution finds zeros, so that the weights that fall outside
    are lost. What is left of them is what it makes of a map of ones, and by just that it is darker.
    """
    x, border = random(2, CHANNELS, 3, 4), factor // 2
    left = bilinear_by_deconv(torch.ones_like(x), factor)
    nearly(bilinear_by_deconv(x, factor), bilinear(x, factor) * left)
    faded = torch.ones(x.shape[-2] * factor, x.shape[-1] * factor, dtype=torch.bool)
    faded[border:-border, border:-border] = False
    assert torch.equal(left < 1 - 1e-6, faded.expand_as(left))


@pytest.mark.parametrize("factor", FACTORS)
def test_bilinear_kernel_interpolates_everywhere_once_padded(factor: int) -> None:
    """With one repeated pixel around the input, and its share of the output cropped, the border agrees too."""
    x = random(2, CHANNELS, 3, 4)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    nearly(bilinear_by_deconv(padded, factor)[..., factor:-factor, factor:-factor], bilinear(x, factor))


# ... and unpooling to fixed positions, but no other unpooling


def fixed_switches(position: int, x: Tensor) -> Tensor:
    """For every value of (N, C, h, w), the flat index of one corner of its 2x2 block: 0 1 above, 2 3 below."""
    rows = 2 * torch.arange(x.shape[-2]) + position // 2
    columns = 2 * torch.arange(x.shape[-1]) + position % 2
    return (rows[:, None] * 2 * x.shape[-1] + columns).expand(x.shape)


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_one_hot_kernel_unpools_to_a_fixed_position(position: int) -> None:
    """A 2x2 kernel with a single one is unpooling with all switches in that corner: plain, and as ``Deconv``."""
    x = random(2, CHANNELS, 3, 4)
    unpooled = unpool(x, fixed_switches(position, x), (6, 8))
    kernel = diagonal(F.one_hot(torch.tensor(position), 4).view(2, 2))
    deconv = Deconv(CHANNELS, CHANNELS, factor=2, source_channels=CHANNELS, kernel=2, frozen=True).double()
    deconv.weight.copy_(kernel)
    same(F.conv_transpose2d(x, kernel, stride=2), unpooled)
    same(deconv(x, finer(x, 2)), unpooled)
    assert torch.equal(unpooled[..., position // 2 :: 2, position % 2 :: 2], x)
    assert unpooled.count_nonzero() == x.numel()


def test_same_values_unpool_differently() -> None:
    """The same value goes where the source had its maximum: no function of the values alone does that."""
    upsample = Unpool(1, 1, factor=2, source_channels=1)
    value = torch.full((1, 1, 1, 1), 7.0)
    first, last = torch.tensor([[5.0, 1], [2, 3]])[None, None], torch.tensor([[1.0, 2], [3, 5]])[None, None]
    assert upsample(value, first).tolist() == [[[[7, 0], [0, 0]]]]
    assert upsample(value, last).tolist() == [[[[0, 0], [0, 7]]]]


def misfit(values: Tensor, target: Tensor, side: int) -> float:
    """What the best transposed convolution (one channel, stride 2) leaves over, as a share of the target."""
    taps = torch.eye(side * side, dtype=torch.float64).view(-1, 1, side, side)
    parts = [F.conv_transpose2d(values, tap[None], stride=2, padding=(side - 2) // 2).flatten() for tap in taps]
    design = torch.stack(parts, dim=1)
    best = torch.linalg.lstsq(design, target.flatten()[:, None]).solution
    return float((design @ best - target.flatten()[:, None]).norm() / target.norm())


@pytest.mark.parametrize("side", [2, 4, 6])
def test_unpooling_is_no_transposed_convolution(side: int) -> None:
    """The best kernel found by least squares leaves most of the unpooled map over; with fixed switches, nothing."""
    values, source = random(6, 1, 4, 4), random(6, 1, 8, 8, seed=1)
    _, switches = F.max_pool2d(source, 2, return_indices=True)
    assert misfit(values, unpool(values, fixed_switches(1, values), (8, 8)), side) < 1e-10
    assert misfit(values, unpool(values, switches, (8, 8)), side) > 0.5


# Unpooling undoes max-pooling, as far as anything can

SIZES = [(6, 8), (5, 8), (6, 7), (5, 7)]  # height and width of the source


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Deterministic algorithms on or off inside, as before outside."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(on)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_unpool_inverts_pool_at_the_maxima(size: tuple[int, int], on: bool) -> None:
    """Each block's maximum returns to its place; all else, an odd last row and column included, is zero."""
    source = random(2, CHANNELS, *size)
    expected = torch.zeros_like(source)
    for row in range(0, size[0] - 1, 2):
        for column in range(0, size[1] - 1, 2):
            block = source[..., row : row + 2, column : column + 2]
            kept = torch.where(block == block.amax((2, 3), keepdim=True), block, 0.0)
            expected[..., row : row + 2, column : column + 2] = kept
    upsample = Unpool(CHANNELS, CHANNELS, factor=2, source_channels=CHANNELS)
    with deterministic(on):
        assert torch.equal(upsample(F.max_pool2d(source, 2), source), expected)


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_pool_inverts_unpool(size: tuple[int, int], on: bool) -> None:
    """Positive values come through unpooling and max-pooling as they were."""
    values = positive(2, CHANNELS, size[0] // 2, size[1] // 2, seed=1)
    upsample = Unpool(CHANNELS, CHANNELS, factor=2, source_channels=CHANNELS)
    with deterministic(on):
        unpooled = upsample(values, random(2, CHANNELS, *size))
    assert unpooled.shape[-2:] == size
    assert torch.equal(F.max_pool2d(unpooled, 2), values)


@pytest.mark.parametrize("size", SIZES)
def test_both_ways_to_unpool_are_bit_equal(size: tuple[int, int]) -> None:
    """``max_unpool2d`` and the deterministic scatter agree in every bit, and so do the gradients of the values."""
    _, switches = F.max_pool2d(random(2, CHANNELS, *size), 2, return_indices=True)
    values = random(2, CHANNELS, size[0] // 2, size[1] // 2, seed=1).requires_grad_()
    later = random(2, CHANNELS, *size, seed=2)  # the gradient that arrives
    with deterministic(False):
        theirs = F.max_unpool2d(values, switches, kernel_size=(2, 2), output_size=size)
    with pytest.raises(RuntimeError, match="deterministic"), deterministic(True):
        F.max_unpool2d(values, switches, kernel_size=(2, 2), output_size=size)  # why there are two ways
    for on in (False, True):
        with deterministic(on):
            ours = unpool(values, switches, size)
            assert torch.equal(ours, theirs)
            (gradient,) = torch.autograd.grad(ours, values, later)
            assert torch.equal(gradient, later.flatten(2).gather(2, switches.flatten(2)).view_as(values))


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
