"""The primitive of the kernel operators: against a slow loop, its gradients, its precision, what traces it."""

import itertools

import pytest
import torch
from support.maps import random, same

from segpipe.models.cost import count
from segpipe.models.upsample import Upsampler, assemble
from segpipe.models.upsample.kernels import (
    assemble_planes,
    bilinear_weights,
    inner_products,
    pad,
    similarity_planes,
    square,
    to_planes,
    unpad,
    weighted_sum,
)
from segpipe.models.upsample.local_attention import NEIGHBOURS

OUTSIDE = ["zeros", "edge"]


def neighbour(x, row, column, outside):
    """x (C, h, w) at one cell, which may lie outside."""
    height, width = x.shape[-2:]
    if outside == "edge":
        row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
    inside = 0 <= row < height and 0 <= column < width
    return x[:, row, column] if inside else torch.zeros_like(x[:, 0, 0])


def by_loop(x, kernel, offsets, outside):
    """The definition, pixel by pixel."""
    factor = kernel.shape[-1] // x.shape[-1]
    out = x.new_zeros(*x.shape[:2], *kernel.shape[-2:])
    for n, row, column in itertools.product(range(len(x)), *map(range, kernel.shape[-2:])):
        for tap, (down, right) in enumerate(offsets):
            value = neighbour(x[n], row // factor + down, column // factor + right, outside)
            out[n, :, row, column] += kernel[n, tap, row, column] * value
    return out


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize(
    ("factor", "offsets"), [(2, square(5)), (3, square(3)), (1, square(3)), (4, NEIGHBOURS[5]), (2, NEIGHBOURS[17])]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_assemble_is_its_definition(factor, offsets, outside, channels):
    x, kernel = random(2, channels, 3, 2), random(2, len(offsets), 3 * factor, 2 * factor, seed=1)
    same(assemble(x, kernel, offsets, outside), by_loop(x, kernel, offsets, outside))
    x.requires_grad_()
    same(assemble(x, kernel, offsets, outside), by_loop(x.detach(), kernel, offsets, outside))  # the autograd function


def test_a_square_is_the_default():
    x, kernel = random(1, 2, 3, 4), random(1, 9, 6, 8, seed=1)
    same(assemble(x, kernel), assemble(x, kernel, square(3), "zeros"))


@pytest.mark.parametrize("shape", [(1, 9, 6, 7), (1, 8, 6, 8), (1, 9, 5, 8)])
def test_a_kernel_that_does_not_fit_is_rejected(shape):
    with pytest.raises(ValueError, match=r"must be \(N, "):
        assemble(random(1, 2, 3, 4), random(*shape))


@pytest.mark.parametrize("outside", OUTSIDE)
def test_similarity_is_its_definition(outside):
    query, key = random(2, 3, 4, 6), random(2, 3, 2, 3, seed=1)
    offsets = NEIGHBOURS[13]
    found = similarity_planes(to_planes(query, 2), key, offsets, outside)
    for row, column in itertools.product(range(4), range(6)):
        for tap, (down, right) in enumerate(offsets):
            of_key = neighbour(key[1], row // 2 + down, column // 2 + right, outside)
            same(found[1, tap, 2 * (row % 2) + column % 2, row // 2, column // 2], query[1, :, row, column] @ of_key)


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("offsets", [square(5), NEIGHBOURS[5]], ids=len)
def test_gradients_are_those_of_the_definition(offsets, outside):
    x, kernel = random(2, 2, 3, 2).requires_grad_(), random(2, len(offsets), 4, 3, 2, seed=1).requires_grad_()
    query = random(2, 2, 4, 3, 2, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: assemble_planes(*given, offsets, outside), (x, kernel))
    assert torch.autograd.gradcheck(lambda *given: similarity_planes(*given, offsets, outside), (query, x))


def test_only_the_gradients_that_are_needed_are_computed():
    x, kernel = random(1, 2, 3, 2), random(1, 9, 4, 3, 2, seed=1)
    for first, second in ((True, False), (False, True)):
        given = x.clone().requires_grad_(first), kernel.clone().requires_grad_(second)
        assemble_planes(*given, square(3), "edge").sum().backward()
        assert [one.grad is not None for one in given] == [first, second]


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (4, 2)])
def test_unpad_is_the_transpose_of_pad(size, outside):
    x, y = random(2, 3, *size), random(2, 3, size[0] + 4, size[1] + 4, seed=1)
    same((pad(x, square(5), outside) * y).sum(), (x * unpad(y.clone(), square(5), outside)).sum())


def test_the_sum_has_single_precision_and_the_result_the_type_of_the_map():
    x = torch.full((1, 1, 3, 3), 1.0, dtype=torch.bfloat16).requires_grad_()
    kernel = torch.full((1, 25, 6, 6), 1.0, dtype=torch.bfloat16)
    kernel[:, 1:] = 2**-9  # each is lost if it is added to 1 in bfloat16
    found = assemble(x, kernel, square(5), "edge")
    assert found.dtype == torch.bfloat16
    exact = torch.tensor(1 + 24 * 2**-9).bfloat16()
    assert torch.equal(found, exact.expand_as(found))
    found.sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_deterministic_algorithms_are_enough():
    x, kernel = random(2, 2, 3, 4).requires_grad_(), random(2, 9, 6, 8, seed=1).requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        assemble(x, kernel, square(3), "edge").sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert x.grad is not None


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_bilinear_weights_interpolate(factor):
    x = random(1, 2, 5, 4)
    weights = bilinear_weights(square(3), factor).double()
    same(weights.sum(0), torch.ones(factor**2, dtype=torch.float64))
    found = weighted_sum(pad(x, square(3), "edge"), weights[None, :, :, None, None], square(3))
    expected = torch.nn.functional.interpolate(x, scale_factor=factor, mode="bilinear")
    same(found, to_planes(expected, factor))


def test_a_product_is_counted_for_each_neighbour_channel_and_pixel():
    class Operator(Upsampler):
        def forward(self, x, kernel):
            return assemble(x, kernel)

    x, kernel = torch.zeros(1, 8, 5, 6, device="meta"), torch.zeros(1, 25, 10, 12, device="meta")
    assert count(lambda: Operator()(x, kernel)) == 25 * 8 * 10 * 12


@pytest.mark.slow
def test_it_is_compiled_and_exported():
    class Module(torch.nn.Module):
        def forward(self, x, kernel):
            return assemble(x, kernel.softmax(1), square(3), "edge")

    x, kernel = random(2, 2, 3, 4).float(), random(2, 9, 6, 8, seed=1).float()
    expected = Module()(x, kernel)
    compiled = torch.compile(Module(), backend="aot_eager", fullgraph=True)
    given = x.clone().requires_grad_(), kernel.clone().requires_grad_()
    found = compiled(*given)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    again = x.clone().requires_grad_(), kernel.clone().requires_grad_()
    Module()(*again).square().sum().backward()
    for one, other in zip(given, again, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(Module(), (x, kernel), dynamic_shapes=({0: batch}, {0: batch}))
    torch.testing.assert_close(exported.module()(x, kernel), expected)
    more = torch.cat([x, x[:1]]), torch.cat([kernel, kernel[:1]])
    torch.testing.assert_close(exported.module()(*more), Module()(*more))


def test_image_by_image_is_the_batch():
    x, kernel = random(3, 2, 3, 4), random(3, 9, 4, 3, 4, seed=1)
    same(assemble_planes(x, kernel, square(3), "edge"), weighted_sum(pad(x, square(3), "edge"), kernel, square(3)))
    planes = random(3, 2, 4, 3, 4, seed=2)
    same(
        similarity_planes(planes, x, square(3), "zeros"),
        inner_products(pad(x, square(3), "zeros"), planes, square(3)),
    )
