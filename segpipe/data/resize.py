"""Resize images and masks so that both stay aligned; reduction and enlargement use different filters.

OpenCV's INTER_NEAREST takes the top left pixel of each block. This shifts a mask against its image: by a third of a
pixel of the result for a reduction by 3.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.data.dataset import IGNORE_INDEX, Image, Mask
from segpipe.data.files import check_pixels

ENLARGED = 1 / 16  # share of the largest number of pixels that an image may get by being enlarged


def to_network(image: Image, size: Sequence[int] | None, *, smallest: int = 1) -> Image:
    """Return the image (H, W, C) as the network receives it in training, validation, test and prediction.

    size: height and width in pixels; the aspect ratio may change. None keeps the size, but enlarges an image with a
    side below ``smallest`` and keeps its aspect ratio; raises UserError if it gets too large then.
    ``models.network.resize_logits`` resizes the scores back.
    """
    if size is None:
        height, width = image.shape[:2]
        scale = max(1.0, smallest / min(height, width))
        size = max(round(height * scale), smallest), max(round(width * scale), smallest)
        if scale > 1:
            check_pixels(
                *size,
                f"an image of {height} x {width}, enlarged to the encoder's minimum of {smallest}",
                share=ENLARGED,
            )
    return resize_image(image, size)


def resize_image(image: Image, size: Sequence[int]) -> Image:
    """Resize (h, w, C) to (H, W, C) of ``size``: area means along axes that shrink, bilinear along axes that grow."""
    reduced = reduced_size(image.shape, size)
    if reduced != image.shape[:2]:
        image = by_opencv(image, reduced, cv2.INTER_AREA)
    if reduced != tuple(size):
        image = by_opencv(image, size, cv2.INTER_LINEAR)
    return image


def by_opencv(image: Image, size: Sequence[int], how: int) -> Image:
    """Resize (h, w, C) to (H, W, C) by an interpolation of OpenCV, which takes up to four bands at once."""
    parts = [image[..., first : first + 4] for first in range(0, image.shape[2], 4)]
    if len(parts) == 1:
        return with_bands(cv2.resize(image, (size[1], size[0]), interpolation=how), image)
    resized = [cv2.resize(np.ascontiguousarray(part), (size[1], size[0]), interpolation=how) for part in parts]
    return np.concatenate([one.reshape(size[0], size[1], -1) for one in resized], axis=2)


def with_bands(changed: NDArray[Any], image: Image) -> Image:
    """Return an image that OpenCV has changed, with the axis of the bands, which it removes from a single band."""
    return changed[..., None] if changed.ndim < image.ndim else changed


def resize_mask(mask: Mask, size: Sequence[int]) -> Mask:
    """Resize (h, w) to ``size``: the most frequent class of each area where axes shrink, else the nearest pixel."""
    reduced = reduced_size(mask.shape, size)
    if reduced != mask.shape:
        mask = largest_share(mask, reduced)
    return mask if reduced == tuple(size) else nearest(mask, (size[0], size[1]))


def reduced_size(shape: Sequence[int], size: Sequence[int]) -> tuple[int, int]:
    """Return the size after reducing the axes that shrink and keeping the others."""
    return min(shape[0], size[0]), min(shape[1], size[1])


def class_shares(mask: Mask, size: tuple[int, int], labels: Iterable[int]) -> Iterator[NDArray[np.float32]]:
    """Yield for each label its share of the pixels of each area, (height, width), 0 to 1."""
    plane = np.empty(mask.shape, np.float32)
    for label in labels:
        np.copyto(plane, mask == label)
        yield cv2.resize(plane, size[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[misc]


def class_fractions(mask: Mask, stride: int, num_classes: int) -> NDArray[np.float32]:
    """Return the fraction of the pixels of each block that belong to each class: (C, ceil(H/stride), ceil(W/stride)).

    Ignored pixels and pixels outside the image belong to no class, so fractions may sum to less than 1.
    """
    height, width = (-(-side // stride) for side in mask.shape)
    padded = np.full((height * stride, width * stride), IGNORE_INDEX, np.uint8)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return np.stack([*class_shares(padded, (height, width), range(num_classes))])


def largest_share(mask: Mask, size: tuple[int, int]) -> Mask:
    """Return the label with the most pixels of each area; IGNORE_INDEX counts as a label.

    If two labels have equal shares, the lower and the higher label alternate from cell to cell. Equal shares are common
    at even factors; always taking the lower label would reduce the area of classes of high index.
    """
    alternate = (np.arange(size[0])[:, None] + np.arange(size[1])) % 2 == 1
    most = np.zeros(size, np.float32)
    result = np.empty(size, np.uint8)
    labels = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    for label, share in zip(labels, class_shares(mask, size, labels), strict=True):
        larger = (share > most) | (alternate & (share == most) & (share > 0))
        result[larger] = label
        np.maximum(most, share, out=most)
    return result


def nearest(mask: Mask, size: tuple[int, int]) -> Mask:
    """Return the label at the centre of each new pixel; on an edge between two pixels, the two alternate."""
    result = np.empty(size, np.uint8)
    (rows, row_edges), (columns, column_edges) = map(centre_cells, mask.shape, size)
    for row, column in product((0, 1), repeat=2):  # the alternation forms a checkerboard
        alternate = row != column
        above, left = (rows - (alternate & row_edges))[row::2], (columns - (alternate & column_edges))[column::2]
        result[row::2, column::2] = mask[above][:, left]
    return result


def centre_cells(source: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return for each of ``length`` centres the index of its source pixel, and whether it is on that pixel's edge."""
    cell, rest = np.divmod((2 * np.arange(length) + 1) * source, 2 * length)
    return cell, rest == 0
