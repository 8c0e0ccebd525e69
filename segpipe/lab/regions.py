"""The regions of a true mask (connected components of its classes), and what is predicted for each."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segpipe.data.dataset import IGNORE_INDEX, Mask
from segpipe.metrics.components import components
from segpipe.metrics.contours import NO_CONTOUR, contours, fill_ignored, near_contours

NEAR = 1  # pixels, chessboard distance: the tolerance of contour positions


class Truth(NamedTuple):
    """A true mask (H, W) without ignored pixels (``contours.fill_ignored``), its contours and its regions.

    labelled: pixels that are not ignored. contour: its contour pixels, each with another class among its eight
    neighbours; far from labelled pixels there are none. near: pixels within NEAR of a contour pixel. numbers: the
    region of each pixel, from 0. classes: of each region.
    """

    mask: Mask
    filled: Mask
    labelled: NDArray[np.bool_]
    contour: NDArray[np.bool_]
    near: NDArray[np.bool_]
    numbers: NDArray[np.int32]
    classes: NDArray[np.int64]


class Contours(NamedTuple):
    """A prediction's contour pixels (H, W), and the pixels within NEAR of one."""

    contour: NDArray[np.bool_]
    near: NDArray[np.bool_]


def truth_of(mask: Mask) -> Truth:
    """Return the regions and contours of a mask (H, W)."""
    filled = fill_ignored(mask[None] % IGNORE_INDEX, mask[None])  # any prediction: only the truth is used
    drawn, found = contours_of(filled.truth, filled.far), components(filled.truth)
    return Truth(mask, filled.truth[0], mask != IGNORE_INDEX, *drawn, found.numbers[0], found.classes)


def filled_prediction(prediction: Mask, truth: Truth) -> tuple[Mask, Contours]:
    """Return a prediction (H, W) with ignored pixels filled as those of the truth, and its contours."""
    filled = fill_ignored(prediction[None], truth.mask[None])
    return filled.prediction[0], contours_of(filled.prediction, filled.far)


def contours_of(labels: NDArray[np.uint8], far: NDArray[np.bool_] | None) -> Contours:
    """Return the contours of label maps (1, H, W), without those that are far from labelled pixels."""
    drawn = contours(labels)
    if far is not None:
        drawn = np.where(far, NO_CONTOUR, drawn)
    return Contours(drawn[0] != NO_CONTOUR, near_contours(drawn, NEAR)[0])


def pixels_by_region(truth: Truth, prediction: Mask, num_classes: int) -> NDArray[np.int64]:
    """Return the number of labelled pixels of each region that are predicted as each class, (R, C)."""
    index = truth.numbers[truth.labelled].astype(np.int64) * num_classes + prediction[truth.labelled]
    return np.bincount(index, minlength=len(truth.classes) * num_classes).reshape(-1, num_classes)
