"""Which pixels a cell covers, and scores of cells at full size."""

import numpy as np
import pytest
import torch
from support.planes import CLASSES, blocks

from segpipe.analysis.oracle import area
from segpipe.data.resize import class_fractions
from segpipe.lab.cells import cell_fractions, contours_of_map, enlarge, image_extent
from segpipe.metrics.contours import NO_CONTOUR


def fractions(mask, stride, shape, padded, size=None):
    return cell_fractions(mask, stride=stride, shape=shape, size=size or mask.shape, padded=padded, num_classes=CLASSES)


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16])
def test_a_perfect_map_is_that_of_bound(stride):
    """Also where the image is no multiple of the stride: the network pads it."""
    for seed in range(3):
        mask = blocks(seed, (45, 61), side=5)
        mask[np.random.default_rng(seed).random(mask.shape) < 0.05] = 255
        padded = (48, 64)
        shape = tuple(side // stride for side in padded)
        found = fractions(mask, stride, shape, padded)
        part = class_fractions(mask.astype(np.uint8), stride, CLASSES)
        assert np.array_equal(found[:, : part.shape[1], : part.shape[2]], part)
        assert not found[:, part.shape[1] :].any()
        prediction = enlarge(torch.from_numpy(found)[None], stride=stride, size=(45, 61), padded=padded, full=(45, 61))
        inside = slice(0, 45 - stride), slice(0, 61 - stride)  # next to the padding, bound repeats its last cell
        assert np.array_equal(prediction[inside], area(mask.astype(np.uint8), stride, CLASSES)[inside])


def test_a_smaller_map_is_centred():
    """Six cells of 4 pixels on 32: the first one begins at pixel 4."""
    mask = np.zeros((32, 32), np.uint8)
    mask[4:8, 4:8] = 1
    found = fractions(mask, 4, (6, 6), (32, 32))
    assert found[1, 0, 0] == 1
    assert found[1].sum() == 1
    larger = fractions(mask, 4, (10, 10), (32, 32))  # one cell more on each side: the neck of AlexNet has one in all
    assert larger[1, 2, 2] == 1
    assert not larger[:, 0].any()


def test_contours_of_a_map_end_with_the_image():
    mask = np.zeros((45, 61), np.uint8)
    mask[:, 20:] = 1
    lines = contours_of_map(mask, padded=(64, 64), shape=(16, 16))
    assert image_extent(mask.shape, padded=(64, 64), shape=(16, 16)) == (45 / 4, 61 / 4)
    assert lines.shape == (1, 12, 16)
    assert np.flatnonzero((lines[0] != NO_CONTOUR).all(0)).tolist() == [4, 5]


def test_a_mask_of_another_size_is_resized_to_the_input():
    mask = np.kron(blocks(0, (8, 8), side=1), np.ones((2, 2), int)).astype(np.uint8)
    assert np.array_equal(fractions(mask, 1, (8, 8), (8, 8), size=(8, 8)), fractions(mask[::2, ::2], 1, (8, 8), (8, 8)))
    scores = torch.from_numpy(fractions(mask, 1, (8, 8), (8, 8), size=(8, 8)))[None]
    assert enlarge(scores, stride=1, size=(8, 8), padded=(8, 8), full=(16, 16)).shape == (16, 16)
