"""Where classes meet in a label map, what lies near, and how well two such maps agree there.

A label map here is (H, W) uint8, every pixel of some class. ``fill`` makes one of a mask with ignored pixels.
A contour pixel has a pixel of another class among its eight neighbours, so that a boundary is two pixels wide, one on
either side. The picture's frame is no contour.
"""

import math
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.metrics import IGNORE_INDEX

Labels = NDArray[np.uint8]  # (H, W)
TOLERANCE = 0.0075  # of the picture's diagonal (SegNet, section 4)
NOTHING = np.uint8(255)  # in a map of contours, where there is none
WORD = 64  # bits


class Filled(NamedTuple):
    """Two label maps without gaps; what was ignored, and what of it is far from all that is not."""

    prediction: Labels
    truth: Labels
    ignored: NDArray[np.bool_] | None = None  # (H, W); None where nothing is
    far: NDArray[np.bool_] | None = None  # (H, W) the ignored pixels no nearer than ``tolerance`` to any other


def fill(prediction: Labels, truth: Labels) -> Filled | None:
    """Give each ignored pixel of the truth the class of the nearest pixel that is not ignored, in either map.

    Then an ignored region inside one class has no boundary, nor has its edge; where it parts two classes, their
    boundary runs midway through it, as through the ignored outlines of VOC and Pets. What is predicted of ignored
    pixels makes no difference. Near is by OpenCV's 5 x 5 distances. None where everything is ignored.
    """
    ignored = truth == IGNORE_INDEX
    if not ignored.any():
        return Filled(prediction, truth)
    if ignored.all():
        return None
    distance, nearest = cv2.distanceTransformWithLabels(
        ignored.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    kept = ~ignored
    sources, gaps = nearest[kept], nearest[ignored]
    maps = []
    for labels in (prediction, truth):
        table = np.zeros(len(sources) + 1, np.uint8)
        table[sources] = labels[kept]
        full = labels.copy()
        full[ignored] = table[gaps]
        maps.append(full)
    return Filled(maps[0], maps[1], ignored, distance >= tolerance(truth.shape))


def tolerance(shape: tuple[int, ...]) -> float:
    """Pixels that a contour may be off, in a picture of (H, W)."""
    return TOLERANCE * math.hypot(*shape)


def contours(labels: Labels) -> Labels:
    """The class of each contour pixel, NOTHING elsewhere; (H, W)."""
    square = box(1)
    inside = cv2.dilate(labels, square) == cv2.erode(labels, square)
    return np.where(inside, NOTHING, labels)


@cache
def box(reach: int) -> Labels:
    """All shifts by up to ``reach`` rows and columns, for cv2.dilate."""
    return np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)


def near(contours: Labels, distances: tuple[int, ...], *, value: int = 1, frame: bool = False) -> Labels:
    """``value`` times the number of ``distances`` that each pixel lies within of a pixel of another class; (H, W).

    A distance is that of a chessboard's king, as by repeated erosion with a square of 3 x 3: contour pixels are at 1.
    distances: rising. frame: whether all that is outside the picture is of another class, too.
    """
    reached = (contours != NOTHING).view(np.uint8) * np.uint8(value)
    if frame:
        reached[0] = reached[-1] = reached[:, 0] = reached[:, -1] = value
    total, before = np.zeros_like(reached), 1
    for distance in distances:
        reached = cv2.dilate(reached, box(distance - before))
        total += reached
        before = distance
    return total


def spread(bits: NDArray[np.unsignedinteger], radius: float) -> NDArray[np.unsignedinteger]:
    """Of each pixel, all bits that are set in pixels nearer than ``radius`` (Euclidean); (H, W).

    A disc is rows of growing width: those farthest from its middle first.
    """
    (height, width), margin = bits.shape, math.ceil(radius)
    padded = np.zeros((height + 2 * margin, width + 2 * margin), bits.dtype)
    padded[margin : margin + height, margin : margin + width] = bits
    wide, reach = padded[:, margin : margin + width].copy(), 0
    found = np.zeros_like(bits)
    for row in range(margin, -1, -1):
        while (reach + 1) ** 2 + row**2 < radius**2:
            reach += 1
            for start in (margin - reach, margin + reach):
                wide |= padded[:, start : start + width]
        if row < radius:
            for start in (margin - row, margin + row):
                found |= wide[start : start + height]
    return found


class Matches(NamedTuple):
    """Contour pixels of each class, and how many have one of the same class in the other map near by; (C,)."""

    pixels: NDArray[np.int64]
    matched: NDArray[np.int64]


def match(first: Labels, second: Labels, *, radius: float, num_classes: int) -> tuple[Matches, Matches]:
    """Look for each contour pixel's like in the other map of contours, nearer than ``radius`` (Euclidean).

    Classes are bits, so that one pass serves as many as a word has.
    """

    def counted(classes: Labels) -> NDArray[np.int64]:
        return np.bincount(classes, minlength=num_classes)[:num_classes]

    matched = [np.zeros(first.shape, bool), np.zeros(first.shape, bool)]
    for start in range(0, num_classes, WORD):
        count = min(num_classes - start, WORD)
        table = np.zeros(256, np.min_scalar_type(2**count - 1))
        table[start : start + count] = 2 ** np.arange(count, dtype=np.uint64)
        bits = [table[contours] for contours in (first, second)]
        for found, own, other in zip(matched, bits, bits[::-1], strict=True):
            found |= (spread(other, radius) & own) != 0
    sides = zip((first, second), matched, strict=True)
    one, two = (Matches(counted(side[side != NOTHING]), counted(side[found])) for side, found in sides)
    return one, two
