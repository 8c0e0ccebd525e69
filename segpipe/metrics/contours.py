"""Contours between classes in label maps, distances from them, and the agreement of contours of two maps.

Label maps are a stack of images of equal size, (N, H, W) uint8; each pixel has a class. ``fill_ignored`` converts masks
with ignored pixels to label maps. A contour pixel has a pixel of another class among its eight neighbours: a boundary
is two pixels wide, one on each side. The border of an image is not a contour.
"""

import math
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.metrics.confusion import IGNORE_INDEX

Labels = NDArray[np.uint8]  # (N, H, W)
TOLERANCE = 0.0075  # share of the image diagonal (SegNet, section 4)
NO_CONTOUR = np.uint8(255)  # value of pixels without a contour
WORD = 64  # bits


class Filled(NamedTuple):
    """Two stacks of label maps without ignored pixels; the masks of ignored pixels, and of those far from others."""

    prediction: Labels
    truth: Labels
    ignored: NDArray[np.bool_] | None = None  # (N, H, W); None if no pixel is ignored
    far: NDArray[np.bool_] | None = None  # (N, H, W): at least ``tolerance`` from pixels not ignored


def fill_ignored(prediction: Labels, truth: Labels) -> Filled:
    """Give each ignored pixel of the truth the class of the nearest pixel that is not ignored, in either map.

    An ignored region inside one class then has no boundary, neither inside nor at its edge. If it separates two
    classes, their boundary is in the middle of the region, as in the ignored outlines of VOC. Predictions for ignored
    pixels have no influence. Distances are those of OpenCV with a 5 x 5 mask.
    """
    ignored = truth == IGNORE_INDEX
    if not ignored.any():
        return Filled(prediction, truth)
    maps, far = (prediction.copy(), truth.copy()), ignored.copy()
    for number in np.flatnonzero(ignored.any((1, 2))):
        gaps, kept = ignored[number], ~ignored[number]
        if not kept.any():
            for labels in maps:
                labels[number] = 0
            continue
        distance, nearest = cv2.distanceTransformWithLabels(
            gaps.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        sources, wanted = nearest[kept], nearest[gaps]
        for labels in maps:
            table = np.zeros(len(sources) + 1, np.uint8)
            table[sources] = labels[number][kept]
            labels[number][gaps] = table[wanted]
        far[number] = distance >= tolerance(gaps.shape)
    return Filled(*maps, ignored, far)


def tolerance(shape: tuple[int, ...]) -> float:
    """The tolerance of contour positions in pixels, for an image of shape (H, W)."""
    return TOLERANCE * math.hypot(*shape)


def contours(labels: Labels) -> Labels:
    """The class of each contour pixel, NO_CONTOUR elsewhere, (N, H, W)."""
    largest, least = np.empty_like(labels), np.empty_like(labels)
    for image, above, below in zip(labels, largest, least, strict=True):
        above[:], below[:] = cv2.dilate(image, box(1)), cv2.erode(image, box(1))
    return np.where(largest == least, NO_CONTOUR, labels)


@cache
def box(reach: int) -> NDArray[np.uint8]:
    """The structuring element of cv2.dilate for shifts by up to ``reach`` rows and columns."""
    return np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)


def count_within(contours: Labels, distances: tuple[int, ...], *, value: int = 1, frame: bool = False) -> Labels:
    """``value`` times the number of ``distances`` within which each pixel has a pixel of another class, (N, H, W).

    It is the chessboard distance, as of repeated erosion with a 3 x 3 square: contour pixels have distance 1.
    distances: ascending. frame: whether pixels outside the image count as another class.
    """
    every = (contours != NO_CONTOUR).view(np.uint8) * np.uint8(value)
    if frame:
        every[:, 0] = every[:, -1] = every[..., 0] = every[..., -1] = value
    total = np.zeros_like(every)
    for reached, sum_of_all in zip(every, total, strict=True):
        before = 1
        for distance in distances:
            reached = cv2.dilate(reached, box(distance - before))
            sum_of_all += reached
            before = distance
    return total


def near_contours(contours: Labels, distance: int) -> NDArray[np.bool_]:
    """Whether each pixel has a contour pixel of any class at a chessboard distance of at most ``distance``, (N, H, W).

    contours: result of ``contours``. distance: 1 or more.
    """
    return count_within(contours, (distance + 1,)) > 0


def dilate_bits(bits: NDArray[np.unsignedinteger], radius: float) -> NDArray[np.unsignedinteger]:
    """For each pixel, all bits that are set in pixels nearer than ``radius`` (Euclidean), (N, H, W).

    The disc is processed in rows of increasing width, beginning with the rows farthest from its centre.
    """
    (number, height, width), margin = bits.shape, math.ceil(radius)
    padded = np.zeros((number, height + 2 * margin, width + 2 * margin), bits.dtype)
    padded[:, margin : margin + height, margin : margin + width] = bits
    wide, reach = padded[..., margin : margin + width].copy(), 0
    dilated = np.zeros_like(bits)
    for row in range(margin, -1, -1):
        while (reach + 1) ** 2 + row**2 < radius**2:
            reach += 1
            for start in (margin - reach, margin + reach):
                wide |= padded[..., start : start + width]
        if row < radius:
            for start in {margin - row, margin + row}:
                dilated |= wide[:, start : start + height]
    return dilated


class Matches(NamedTuple):
    """Numbers of contour pixels of each image and class, and of those with a match in the other map, (N, C)."""

    pixels: NDArray[np.int64]
    matched: NDArray[np.int64]


def match(first: Labels, second: Labels, *, radius: float, num_classes: int) -> tuple[Matches, Matches]:
    """Match contour pixels with those of the same class in the other map, nearer than ``radius`` (Euclidean).

    first, second: (N, H, W), results of ``contours``. Classes are bits: one pass processes as many as a word has bits.
    """
    matched = [np.zeros(first.shape, bool), np.zeros(first.shape, bool)]
    for start in range(0, num_classes, WORD):
        count = min(num_classes - start, WORD)
        table = np.zeros(256, np.min_scalar_type(2**count - 1))
        table[start : start + count] = 2 ** np.arange(count, dtype=np.uint64)
        bits = [table[contours] for contours in (first, second)]
        for hit, bits_here, other in zip(matched, bits, bits[::-1], strict=True):
            hit |= (dilate_bits(other, radius) & bits_here) != 0
    sides = zip((first, second), matched, strict=True)
    one, two = (
        Matches(*(count_by_image(side, kept, num_classes=num_classes) for kept in (side != NO_CONTOUR, hit)))
        for side, hit in sides
    )
    return one, two


def count_by_image(labels: Labels, kept: NDArray[np.bool_], *, num_classes: int) -> NDArray[np.int64]:
    """The number of pixels of each class among those kept, (N, C)."""
    indices = np.flatnonzero(kept)
    classes = labels.ravel()[indices]
    index = indices // (labels.shape[1] * labels.shape[2]) * 256 + classes
    return np.bincount(index, minlength=256 * len(labels)).reshape(len(labels), 256)[:, :num_classes]
