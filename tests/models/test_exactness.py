"""The identities that the ways up are said to have, each on tiny random maps in double precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from support.maps import CHANNELS, bilinear, bilinear_by_deconv, diagonal, finer, random, same
from torch import Tensor

from segpipe.models.upsample import Deconv, Nearest, Unpool, unpool

nearly = partial(torch.testing.assert_close, rtol=0, atol=1e-6)  # and but for thirds in single precision


def positive(*shape: int, seed: int = 0) -> Tensor:
    """Values of 0.1 and more."""
    return random(*shape, seed=seed).abs() + 0.1


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
