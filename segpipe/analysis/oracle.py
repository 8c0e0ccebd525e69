"""What fixed upsampling of a perfect coarse map would score: a reference for upsampling operators, not a limit."""

import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from segpipe.data.dataset import IGNORE_INDEX, Mask, SegmentationDataset, Split
from segpipe.data.resize import class_shares
from segpipe.errors import UserError
from segpipe.metrics.boundaries import boundary_scores, concatenate, count_boundaries
from segpipe.metrics.confusion import SCORES, confusion_matrices, scores
from segpipe.runs.summary import PYTHON

STRIDES = (2, 4, 8, 16, 32)


def nearest(mask: Mask, stride: int, num_classes: int) -> Mask:
    """Every stride-th pixel, repeated: of each block of stride x stride the one right and below of its middle.

    Blocks that reach over the picture's end repeat its last row and column. Where the pixel is ignored, the block is of
    none of the classes (``num_classes``): missed, and nobody's mistake.
    """
    height, width = mask.shape
    rows, columns = (np.minimum(np.arange(side) // stride * stride + stride // 2, side - 1) for side in (height, width))
    sampled = mask[np.ix_(rows, columns)]
    return np.where(sampled == IGNORE_INDEX, np.uint8(num_classes), sampled)


def class_fractions(mask: Mask, stride: int, num_classes: int) -> NDArray[np.float32]:
    """Of each block, the share of its pixels that each class has: (C, ceil(H/stride), ceil(W/stride)).

    Ignored pixels, and those of blocks that reach over the picture's end, are none's, so that shares may sum to less
    than 1.
    """
    height, width = (-(-side // stride) for side in mask.shape)
    whole = np.full((height * stride, width * stride), IGNORE_INDEX, np.uint8)
    whole[: mask.shape[0], : mask.shape[1]] = mask
    return np.stack([*class_shares(whole, (height, width), range(num_classes))])


def majority(mask: Mask, stride: int, num_classes: int) -> Mask:
    """Each block's most frequent class (of two alike, the first one), repeated."""
    blocks = class_fractions(mask, stride, num_classes).argmax(0).astype(np.uint8)
    return blocks.repeat(stride, 0).repeat(stride, 1)[: mask.shape[0], : mask.shape[1]]


def area(mask: Mask, stride: int, num_classes: int) -> Mask:
    """The shares of each block, enlarged bilinearly; the largest wins (of two alike, the first one).

    Centres are half-pixel, as ``F.interpolate`` has them with ``align_corners=False``.
    """
    small = class_fractions(mask, stride, num_classes)
    size = (small.shape[2] * stride, small.shape[1] * stride)
    enlarged = np.stack([cv2.resize(each, size, interpolation=cv2.INTER_LINEAR) for each in small])
    return enlarged[:, : mask.shape[0], : mask.shape[1]].argmax(0).astype(np.uint8)


RESAMPLERS: dict[str, Callable[[Mask, int, int], Mask]] = {
    "nearest": nearest, "majority+nearest": majority, "area+bilinear": area,
}  # fmt: skip


def bound(dataset: SegmentationDataset, split: Split) -> dict[str, Any]:
    """Bring down a split's true masks to each stride and up again, and score what comes of it as a prediction.

    Returns stride to resampling method to scores, from 0 to 1, counted at the masks' own size. Raises UserError where
    the data set has a problem.
    """
    if dataset.problems:
        raise UserError(f"{dataset.problems[0]}\n{PYTHON} -m segpipe.check_data lists all problems of the data.")
    count, hidden = len(dataset.classes), not sys.stdout.isatty()
    places = [(stride, way) for stride in STRIDES for way in RESAMPLERS]
    matrices = {place: np.zeros((count + 1, count + 1), np.int64) for place in places}
    at_boundaries: dict[tuple[int, str], list] = {place: [] for place in places}
    for index in track(range(len(dataset)), f"Reducing {split}", transient=True, disable=hidden):
        mask = dataset.read(index).mask
        for stride, way in places:
            guess = RESAMPLERS[way](mask, stride, count)
            pair = torch.from_numpy(guess)[None].long(), torch.from_numpy(mask)[None]
            matrices[stride, way] += confusion_matrices(*pair, count + 1)[0].numpy()
            at_boundaries[stride, way].append(count_boundaries(guess[None], mask[None], num_classes=count))
    found: dict[str, Any] = {str(stride): {} for stride in STRIDES}
    for (stride, way), matrix in matrices.items():
        whole = scores(matrix)
        found[str(stride)][way] = {
            **{name: whole[name] for name in SCORES},
            "per_class_iou": dict(zip(dataset.classes, whole["per_class_iou"], strict=False)),
            "boundaries": boundary_scores(concatenate(at_boundaries[stride, way])),
        }
    return found
