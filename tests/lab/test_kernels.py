"""Kernels, measured as the response to a single value, and their distances from fixed operators."""

import pytest
import torch
from torch import nn

from segpipe.lab import kernels
from segpipe.lab.kernels import Kernels, distances, fixed_kernel
from segpipe.models.upsample import Bilinear, Deconv, Nearest, PixelShuffle, Unpool


def of(operator, channels=4, factor=2):
    return kernels.kernels(operator, in_channels=channels, source_channels=3, factor=factor)


def built(kind, inner=4, outer=4, factor=2, **options):
    return kind(inner, outer, factor=factor, source_channels=3, **options)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        (Bilinear, {}, "bilinear"),
        (Nearest, {}, "nearest"),
        (Deconv, {"kernel": 4}, "bilinear"),
        (PixelShuffle, {}, "nearest"),
    ],
)
def test_operators_that_are_a_fixed_one_have_no_distance_from_it(kind, options, name, factor):
    found = distances(of(built(kind, factor=factor, **options), factor=factor))
    assert found[name] == pytest.approx(0, abs=1e-3)
    assert all(value > 0.3 for other, value in found.items() if other != name)


def test_a_transposed_convolution_can_become_unpooling():
    operator = built(Deconv, kernel=4)
    with torch.no_grad():
        operator.weight.zero_()
        operator.weight[range(4), range(4), 1, 2] = 1.0  # inside the cell: rows and columns 1 and 2
    found = distances(of(operator))
    assert found["unpooling"] == 0
    assert found["nearest"] == pytest.approx(0.75**0.5)  # a quarter of the kernel's energy is along a block of 2 x 2


def test_the_measured_kernel_is_the_weight_of_a_transposed_convolution():
    operator = built(Deconv, inner=5, outer=3, kernel=4)
    with torch.no_grad():
        operator.weight.normal_()
        operator.bias.normal_()
    assert torch.allclose(of(operator, 5).weight, operator.weight, atol=1e-6)


def test_scale_and_mixing_of_channels_do_not_count():
    start = distances(of(built(Bilinear)))
    mixed = distances(of(built(Bilinear, inner=4, outer=7)))  # a 1x1 convolution before it
    assert mixed == pytest.approx(start, abs=1e-4)


def test_change_is_relative_to_the_start():
    start = Kernels(torch.ones(2, 2, 2, 2), 2)
    moved = Kernels(torch.nn.functional.pad(1.5 * torch.ones(2, 2, 2, 2), (1, 1, 1, 1)), 2)
    assert kernels.change(start, start) == 0
    assert kernels.change(moved, start) == pytest.approx(0.5)


def test_kernels_reach_as_far_as_the_operator():
    assert of(built(Nearest)).weight.shape[-1] == 2
    assert of(built(PixelShuffle)).weight.shape[-1] == 2  # it begins as nearest
    assert of(built(Bilinear, factor=4), factor=4).weight.shape[-1] == 8


def test_the_strongest_come_first():
    weight = torch.zeros(3, 2, 2, 2)
    weight[2, 1] = 3.0
    weight[0, 1] = -4.0
    assert kernels.strongest(Kernels(weight, 2), 2) == [(0, 1), (2, 1)]


def test_what_has_no_kernels_is_refused():
    assert not kernels.is_linear(nn.ReLU())
    with pytest.raises(ValueError, match="Unpool is not linear"):
        of(built(Unpool))


def test_zero_kernels_have_no_distance():
    assert all(value != value for value in distances(Kernels(torch.zeros(2, 2, 4, 4), 2)).values())


def test_fixed_kernels_by_hand():
    pyramid = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.allclose(fixed_kernel("bilinear", 4, 2)[0], pyramid[:, None] * pyramid)
    assert torch.equal(fixed_kernel("nearest", 4, 2)[0], nn.functional.pad(torch.ones(2, 2), (1, 1, 1, 1)))
    assert fixed_kernel("unpooling", 4, 2).shape == (4, 4, 4)
    assert fixed_kernel("unpooling", 4, 2).sum() == 4
