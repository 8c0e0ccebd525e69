"""Objects: what hangs together of one class, and how much of the small, the medium and the large is found."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.contours import Filled, Labels

SIZES = {"small": 0.005, "medium": 0.05, "large": float("inf")}  # up to which share of the picture, itself excluded
LIMITS = np.array(list(SIZES.values())[:-1])


class Objects(NamedTuple):
    """The connected components (eight neighbours) of all classes of a label map, numbered through."""

    numbers: NDArray[np.int32]  # (H, W)
    classes: NDArray[np.int64]  # of each object


def objects(labels: Labels) -> Objects:
    """Find them."""
    numbers = np.zeros(labels.shape, np.int32)
    before, first, classes = 0, np.zeros(256, np.int32), []
    for index in np.flatnonzero(np.bincount(labels.ravel())).tolist():
        mask = (labels == index).view(np.uint8)
        left, top, width, height = cv2.boundingRect(mask)
        mask, place = (whole[top : top + height, left : left + width] for whole in (mask, numbers))
        count, found = cv2.connectedComponents(mask, connectivity=8)
        place += found  # 1, 2 and so on; 0 where it is another class
        first[index] = before - 1
        before += count - 1
        classes += [index] * (count - 1)
    return Objects(numbers + first[labels], np.array(classes))


def object_counts(filled: Filled, *, num_classes: int) -> NDArray[np.int64]:
    """Hits, union and true pixels by the size of objects, (3, 3, C): sizes, then what is counted, then classes.

    A true object's pixels count for its size. A pixel predicted wrongly counts for the size of the true object of its
    class that the predicted object covers most of, where it covers any (of two alike, the first one), else for the
    predicted object's own size. Ignored pixels join objects as ``contours.fill`` says, but have no part in any size.
    """
    predicted, true = objects(filled.prediction), objects(filled.truth)
    pairs = predicted.numbers.astype(np.int64) * len(true.classes) + true.numbers
    pairs = pairs.ravel() if filled.ignored is None else pairs[~filled.ignored]
    pairs, shared = distinct(pairs, len(predicted.classes) * len(true.classes))
    covering, covered = np.divmod(pairs, len(true.classes))
    areas = np.bincount(covering, shared, minlength=len(predicted.classes))
    true_areas = np.bincount(covered, shared, minlength=len(true.classes))

    hit = predicted.classes[covering] == true.classes[covered]
    covering, covered, shared = covering[hit], covered[hit], shared[hit]
    limits = LIMITS * filled.truth.size
    sizes, true_sizes = (np.searchsorted(limits, each, side="right") for each in (areas, true_areas))
    rising = np.lexsort((-covered, shared))
    sizes[covering[rising]] = true_sizes[covered[rising]]  # the last one stays

    cells, places = len(SIZES) * num_classes, true_sizes * num_classes + true.classes
    wrong = areas - np.bincount(covering, shared, minlength=len(areas))
    hits = np.bincount(places[covered], shared, minlength=cells)
    present = np.bincount(places, true_areas, minlength=cells)
    union = present + np.bincount(sizes * num_classes + predicted.classes, wrong, minlength=cells)
    return np.stack([hits, union, present]).astype(np.int64).reshape(3, len(SIZES), num_classes).swapaxes(0, 1)


def distinct(values: NDArray[np.int64], bound: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different values, rising, and how often each is there; all are below ``bound``."""
    if bound > max(4 * len(values), 1 << 16):  # of noise there are as many pairs as pixels squared
        return np.unique(values, return_counts=True)
    counts = np.bincount(values, minlength=1)
    found = np.flatnonzero(counts)
    return found, counts[found]
