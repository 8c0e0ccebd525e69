"""Shared by the tests that were test_boundaries.py."""

import itertools

import numpy as np

from segpipe.data.dataset import IGNORE_INDEX
from segpipe.metrics.boundaries import (
    REGIONS,
    count_boundaries,
)
from segpipe.metrics.contours import fill_ignored

I = IGNORE_INDEX  # noqa: E741


def filled_up(prediction, truth):
    """Both maps, without gaps."""
    filled = fill_ignored(prediction[None], truth[None])
    return filled.prediction[0], filled.truth[0]


def counted(prediction, truth, name, classes=3):
    """Hits, union and true pixels by class."""
    return count_boundaries(prediction[None], truth[None], num_classes=classes).counts[0, REGIONS.index(name)].tolist()


def blobs(seed, shape, classes=4, *, ignored=0.0, coarse=5, grain=0.05):
    """A random mask of patches with some grain; the last class is always missing."""
    draw = np.random.default_rng(seed)
    size = [-(-side // coarse) for side in shape]
    mask = np.kron(draw.integers(0, classes - 1, size), np.ones((coarse, coarse), int))[: shape[0], : shape[1]]
    mask = np.where(draw.random(shape) < grain, draw.integers(0, classes - 1, shape), mask)
    holes = np.kron(draw.random(size) < ignored, np.ones((coarse, coarse), bool))[: shape[0], : shape[1]]
    return np.where(holes, I, mask).astype(np.uint8)


def pair(seed, shape, **options):
    """A truth, and a prediction that agrees with it in most places; it knows the class that the truth lacks."""
    draw, truth = np.random.default_rng(seed + 100), blobs(seed, shape, **options)
    guess = np.roll(np.where(truth == I, 0, truth), 1, axis=draw.integers(2))
    patches = np.kron(draw.random([-(-side // 4) for side in shape]) < 0.1, np.ones((4, 4), bool))
    guess = np.where(patches[: shape[0], : shape[1]], 3, guess)
    return np.where(draw.random(shape) < 0.03, draw.integers(0, 4, shape), guess).astype(np.uint8), truth


# Slow references, over sets of pixels; each takes maps without gaps and the set of pixels that count
def pixels(shape):
    return list(itertools.product(range(shape[0]), range(shape[1])))


def slow_contour(labels, label):
    found = set()
    for row, column in pixels(labels.shape):
        window = labels[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        if labels[row, column] == label and (window != label).any():
            found.add((row, column))
    return found
