"""Connected components of classes (objects), and scores for small, medium and large objects."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.metrics.contours import Filled, Labels

SIZES = {"small": 0.005, "medium": 0.05, "large": float("inf")}  # upper limit of the share of the image, exclusive
LIMITS = np.array(list(SIZES.values())[:-1])


class ConnectedComponents(NamedTuple):
    """The connected components (eight neighbours) of all classes in N images; numbers start at 0 in each image."""

    numbers: NDArray[np.int32]  # (N, H, W)
    classes: NDArray[np.int64]  # of each object, image by image
    counts: NDArray[np.int64]  # (N,) number of objects


def components(labels: Labels) -> ConnectedComponents:
    """The connected components of label maps (N, H, W)."""
    numbers = np.zeros(labels.shape, np.int32)
    classes: list[int] = []
    counts = np.zeros(len(labels), np.int64)
    for number, (image, numbered) in enumerate(zip(labels, numbers, strict=True)):
        before, first = 0, np.zeros(256, np.int32)
        for index in np.flatnonzero(np.bincount(image.ravel())).tolist():
            mask = (image == index).view(np.uint8)
            left, top, width, height = cv2.boundingRect(mask)
            mask, region = (array[top : top + height, left : left + width] for array in (mask, numbered))
            count, numbered_mask = cv2.connectedComponents(mask, connectivity=8)
            region += numbered_mask  # 1, 2, ...; 0 for other classes
            first[index] = before - 1
            before += count - 1
            classes += [index] * (count - 1)
        numbered += first[image]
        counts[number] = before
    return ConnectedComponents(numbers, np.array(classes), counts)


def object_counts(filled: Filled, *, num_classes: int) -> NDArray[np.int64]:
    """Hits, union and true pixels by object size, (N, 3, 3, C): sizes, kinds of counts, classes.

    The pixels of a true object count for its size. A wrongly predicted pixel belongs to a predicted object. It counts
    for the size of that true object of the same class with which the predicted object shares the most pixels (the first
    of two with equal numbers). If there is none, it counts for the size of the predicted object. Ignored pixels can
    connect objects, see ``contours.fill_ignored``, but are not part of their size.
    """
    predicted, true = components(filled.prediction), components(filled.truth)
    covering, covered, shared = overlaps(predicted, true, filled.ignored)
    areas = np.bincount(covering, shared, minlength=len(predicted.classes))
    true_areas = np.bincount(covered, shared, minlength=len(true.classes))

    hit = predicted.classes[covering] == true.classes[covered]
    covering, covered, shared = covering[hit], covered[hit], shared[hit]
    limits = LIMITS * filled.truth[0].size
    sizes, true_sizes = (np.searchsorted(limits, each, side="right") for each in (areas, true_areas))
    rising = np.lexsort((-covered, shared))
    sizes[covering[rising]] = true_sizes[covered[rising]]  # the last assignment holds

    def cells(objects: ConnectedComponents, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        image = np.repeat(np.arange(len(objects.counts)), objects.counts)
        return (image * len(SIZES) + sizes) * num_classes + objects.classes

    shape = (len(true.counts), len(SIZES), num_classes)
    true_cells, end = cells(true, true_sizes), len(true.counts) * len(SIZES) * num_classes
    wrong = areas - np.bincount(covering, shared, minlength=len(areas))
    hits = np.bincount(true_cells[covered], shared, minlength=end)
    present = np.bincount(true_cells, true_areas, minlength=end)
    union = present + np.bincount(cells(predicted, sizes), wrong, minlength=end)
    return np.stack([part.reshape(shape) for part in (hits, union, present)], axis=2).astype(np.int64)


def overlaps(
    predicted: ConnectedComponents, true: ConnectedComponents, ignored: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of predicted and true objects that share pixels: their indices among all objects, and numbers of pixels."""
    of_pairs = predicted.counts * true.counts
    first, columns = np.cumsum(of_pairs) - of_pairs, true.counts
    index = predicted.numbers * columns[:, None, None]
    index += true.numbers
    index += first[:, None, None]
    pairs, shared = unique_counts(index.ravel() if ignored is None else index[~ignored], int(of_pairs.sum()))
    image = np.searchsorted(first, pairs, side="right") - 1
    row, column = np.divmod(pairs - first[image], columns[image])
    before, true_before = (np.cumsum(each.counts) - each.counts for each in (predicted, true))
    return row + before[image], column + true_before[image], shared


def unique_counts(values: NDArray[np.int64], bound: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different values in ascending order, and the count of each; all values are below ``bound``."""
    if bound > max(4 * len(values), 1 << 16):  # noise gives as many pairs as pixels squared
        return np.unique(values, return_counts=True)
    counts = np.bincount(values, minlength=1)
    present = np.flatnonzero(counts)
    return present, counts[present]
