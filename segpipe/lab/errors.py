"""The errors of a prediction by type: missed object, wrong class, displaced boundary, hole. docs/lab.md."""

from itertools import product
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.data.dataset import Mask
from segpipe.lab.regions import Contours, Truth, filled_prediction, pixels_by_region
from segpipe.metrics.contours import NO_CONTOUR, contours

TYPES = ("missed object", "wrong class", "displaced boundary", "hole")
MISSED, WRONG_CLASS, DISPLACED, HOLE = range(1, len(TYPES) + 1)  # values of an error map; 0: right, or ignored
FOUND = 0.5  # share of a region's pixels that have to get its class


class Beside(NamedTuple):
    """The classes beside each contour pixel of a true mask.

    indices: flat indices (n,) of the contour pixels. classes: (n, C), whether one of the eight neighbours is of it, and
    the pixel itself is not.
    """

    indices: NDArray[np.int64]
    classes: NDArray[np.bool_]


class Errors(NamedTuple):
    """The errors of the prediction of one image.

    types: (H, W), the type of each wrong pixel, 0 elsewhere. of_regions: (R,), MISSED or WRONG_CLASS, or 0 for a region
    that is found. right: (R,) labelled pixels of each region with its class. events, pixels: (4, C) by type and true
    class. contours: of the prediction.
    """

    types: NDArray[np.uint8]
    of_regions: NDArray[np.uint8]
    right: NDArray[np.int64]
    events: NDArray[np.int64]
    pixels: NDArray[np.int64]
    contours: Contours


def beside_of(truth: Truth, num_classes: int) -> Beside:
    """Return the classes beside each contour pixel of a true mask."""
    indices = np.flatnonzero(contours(truth.filled[None])[0] != NO_CONTOUR)
    padded, width = np.pad(truth.filled, 1, mode="edge"), truth.filled.shape[1]
    rows, columns = indices // width + 1, indices % width + 1
    classes = np.zeros((len(indices), num_classes), bool)
    for down, right in product((-1, 0, 1), repeat=2):
        classes[np.arange(len(indices)), padded[rows + down, columns + right]] = True
    classes[np.arange(len(indices)), truth.filled.ravel()[indices]] = False
    return Beside(indices, classes)


def find_errors(prediction: Mask, truth: Truth, beside: Beside, num_classes: int) -> Errors:
    """Return the type of each wrong pixel of a prediction (H, W).

    A region with fewer than FOUND of its pixels right is a *missed object* if most of its wrong pixels get a class of a
    neighbouring region, else of a *wrong class*. In the other regions, a connected patch of one wrong class is a
    *displaced boundary* if it touches a true region of that class, else a *hole*.
    """
    filled, drawn = filled_prediction(prediction, truth)
    by_class = pixels_by_region(truth, filled, num_classes)
    every = np.arange(len(truth.classes))
    right, total = by_class[every, truth.classes], by_class.sum(1)
    by_class[every, truth.classes] = 0
    neighbours = np.zeros(by_class.shape, bool)
    np.logical_or.at(neighbours, truth.numbers.ravel()[beside.indices], beside.classes)
    lost = (total > 0) & (right < FOUND * total)
    of_regions = np.where(lost, np.where(neighbours[every, by_class.argmax(1)], MISSED, WRONG_CLASS), 0).astype(
        np.uint8
    )

    wrong = truth.labelled & (filled != truth.filled)
    types = np.where(wrong, of_regions[truth.numbers], 0).astype(np.uint8)
    events = np.zeros((len(TYPES), num_classes), np.int64)
    np.add.at(events, (of_regions[lost] - 1, truth.classes[lost]), 1)
    touching = np.zeros(filled.size, bool)
    touching[beside.indices] = beside.classes[np.arange(len(beside.indices)), filled.ravel()[beside.indices]]
    add_patches(types, events, wrong & (types == 0), truth.filled, filled, touching.reshape(filled.shape))
    pixels = np.bincount(
        (types[wrong].astype(np.int64) - 1) * num_classes + truth.filled[wrong], minlength=len(TYPES) * num_classes
    )
    return Errors(types, of_regions, right, events, pixels.reshape(events.shape), drawn)


def add_patches(
    types: NDArray[np.uint8],
    events: NDArray[np.int64],
    wrong: NDArray[np.bool_],
    truth: Mask,
    prediction: Mask,
    touching: NDArray[np.bool_],
) -> None:
    """Write the type of each patch of wrong pixels into ``types`` (H, W), and count patches in ``events`` (4, C).

    wrong: pixels of found regions. touching: pixels beside a true pixel of the class that they are predicted as.
    """
    pairs = np.unique(np.stack([truth[wrong], prediction[wrong]]), axis=1).T
    for true, predicted in pairs.tolist():
        mask = wrong & (truth == true) & (prediction == predicted)
        count, patches = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
        kinds = np.full(count, HOLE, np.uint8)
        kinds[np.unique(patches[mask & touching])] = DISPLACED
        types[mask] = kinds[patches[mask]]
        for kind in (DISPLACED, HOLE):
            events[kind - 1, true] += int((kinds[1:] == kind).sum())
