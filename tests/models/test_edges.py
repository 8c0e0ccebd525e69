"""Padding by the edge: by slices, as on a GPU under deterministic algorithms, and by torch's function."""

import pytest
import torch
import torch.nn.functional as F

from segpipe.models.upsample.base import crop_or_pad_to, pad_by_edge, pad_by_slices

BORDERS = [(0, 0, 0, 0), (0, 3, 0, 2), (1, 1, 1, 1), (2, 0, 5, 1), (-1, 2, 1, -2), (-1, -1, -2, 0), (7, 7, 7, 7)]


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 4, 6)])
def test_both_ways_give_equal_values_and_gradients(border, layout, shape):
    found = []
    for pad in (pad_by_slices, pad_by_edge, lambda x, sides: F.pad(x, sides, mode="replicate")):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=layout)
        y = pad(x.requires_grad_(), border)
        (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
        found.append((y.detach(), x.grad))
    for y, grad in found[1:]:
        assert torch.equal(found[0][0], y)
        torch.testing.assert_close(found[0][1], grad)
    assert torch.equal(found[1][1], found[2][1])  # to the bit where the function is the same


@pytest.mark.parametrize("size", [(5, 5), (6, 7), (3, 4), (4, 8)])
def test_deterministic_mode_changes_nothing_on_a_cpu(size):
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    expected = crop_or_pad_to(x, size)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(crop_or_pad_to(x, size), expected)
    finally:
        torch.use_deterministic_algorithms(False)
