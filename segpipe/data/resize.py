"""Bringing images and masks to another size, each direction by its own filter, so that both stay registered.

OpenCV's INTER_NEAREST takes the top left pixel of each block, which shifts a mask against its image: by a third of a
pixel where it is reduced threefold.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.data.dataset import Image, Mask


def to_network(image: Image, size: Sequence[int] | None, *, smallest: int = 1) -> Image:
    """The image as the network gets it, in training, validation, test and prediction: (H, W, 3) uint8.

    size: height and width, whatever the image's aspect; None keeps the image's own, and enlarges evenly what has a
    side below ``smallest``. ``models.network.resize_logits`` brings the scores back.
    """
    height, width = image.shape[:2]
    scale = max(1.0, smallest / min(height, width))
    return resize_image(image, size or (max(round(height * scale), smallest), max(round(width * scale), smallest)))


def resize_image(image: Image, size: Sequence[int]) -> Image:
    """(h, w, 3) to (height, width): an axis that shrinks by the mean over areas, one that grows by interpolation."""
    reduced = reduced_size(image.shape, size)
    if reduced != image.shape[:2]:
        image = cv2.resize(image, reduced[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if reduced != tuple(size):
        image = cv2.resize(image, tuple(size)[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return image


def resize_mask(mask: Mask, size: Sequence[int]) -> Mask:
    """(h, w) to (height, width): where it shrinks the class with the largest share of each area, else the nearest."""
    reduced = reduced_size(mask.shape, size)
    if reduced != mask.shape:
        mask = largest_share(mask, reduced)
    return mask if reduced == tuple(size) else nearest(mask, (size[0], size[1]))


def reduced_size(shape: Sequence[int], size: Sequence[int]) -> tuple[int, int]:
    """The size with only those axes changed that shrink."""
    return min(shape[0], size[0]), min(shape[1], size[1])


def class_shares(mask: Mask, size: tuple[int, int], labels: Iterable[int]) -> Iterator[NDArray[np.float32]]:
    """For each label, the share (height, width) of every area that it has, from 0 to 1."""
    plane = np.empty(mask.shape, np.float32)
    for label in labels:
        np.copyto(plane, mask == label)
        yield cv2.resize(plane, size[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[misc]


def largest_share(mask: Mask, size: tuple[int, int]) -> Mask:
    """Of each area the label with the most pixels, the ignored ones a label like any other.

    Of two alike the lower one, then the higher one, in turn from cell to cell: halves are common at even factors, and
    one rule for all would thin out every class of a high index.
    """
    turn = (np.arange(size[0])[:, None] + np.arange(size[1])) % 2 == 1
    most = np.zeros(size, np.float32)
    result = np.empty(size, np.uint8)
    labels = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    for label, share in zip(labels, class_shares(mask, size, labels), strict=True):
        larger = (share > most) | (turn & (share == most) & (share > 0))
        result[larger] = label
        np.maximum(most, share, out=most)
    return result


def nearest(mask: Mask, size: tuple[int, int]) -> Mask:
    """Of each pixel's centre the label there; of a centre on the edge between two, one or the other in turn."""
    result = np.empty(size, np.uint8)
    (rows, row_edges), (columns, column_edges) = map(centre_cells, mask.shape, size)
    for row, column in product((0, 1), repeat=2):  # the squares of a checkerboard, of which every second one turns
        turn = row != column
        above, left = (rows - (turn & row_edges))[row::2], (columns - (turn & column_edges))[column::2]
        result[row::2, column::2] = mask[above][:, left]
    return result


def centre_cells(source: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of ``source`` pixels the one in which each of ``length`` centres lies; and whether it lies on that one's edge."""
    cell, rest = np.divmod((2 * np.arange(length) + 1) * source, 2 * length)
    return cell, rest == 0
