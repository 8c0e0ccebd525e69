"""The scores of a perfect coarse map after fixed upsampling: a reference for upsampling operators, not a limit."""

import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from rich.progress import track

from segpipe.data.dataset import IGNORE_INDEX, Mask, SegmentationDataset, Split
from segpipe.data.resize import class_fractions
from segpipe.errors import UserError
from segpipe.metrics.boundaries import boundary_scores, concatenate, count_boundaries
from segpipe.metrics.confusion import SCORES, confusion_matrices, scores
from segpipe.runs.run import PYTHON

STRIDES = (2, 4, 8, 16, 32)


def nearest(mask: Mask, stride: int, num_classes: int) -> Mask:
    """Return every stride-th pixel, repeated. The pixel of a block is the one to the lower right of its centre.

    mask: (H, W). Blocks that extend beyond the image repeat its last row and column. Where the pixel is ignored, the
    block gets the value ``num_classes``: it is then no class, and counts as missed.
    """
    height, width = mask.shape
    rows, columns = (np.minimum(np.arange(side) // stride * stride + stride // 2, side - 1) for side in (height, width))
    sampled = mask[np.ix_(rows, columns)]
    return np.where(sampled == IGNORE_INDEX, np.uint8(num_classes), sampled)


def majority(mask: Mask, stride: int, num_classes: int) -> Mask:
    """Return the most frequent class of each block, repeated. Ties give the lowest class index."""
    blocks = class_fractions(mask, stride, num_classes).argmax(0).astype(np.uint8)
    return blocks.repeat(stride, 0).repeat(stride, 1)[: mask.shape[0], : mask.shape[1]]


def area(mask: Mask, stride: int, num_classes: int) -> Mask:
    """Return the class with the largest bilinearly enlarged fraction, (H, W). Ties give the lowest class index.

    Centres are half-pixel, as in ``F.interpolate`` with ``align_corners=False``.
    """
    small = class_fractions(mask, stride, num_classes)
    size = (small.shape[2] * stride, small.shape[1] * stride)
    enlarged = np.stack([cv2.resize(each, size, interpolation=cv2.INTER_LINEAR) for each in small])
    return enlarged[:, : mask.shape[0], : mask.shape[1]].argmax(0).astype(np.uint8)


RESAMPLERS: dict[str, Callable[[Mask, int, int], Mask]] = {
    "nearest": nearest, "majority+nearest": majority, "area+bilinear": area,
}  # fmt: skip


def bound(dataset: SegmentationDataset, split: Split) -> dict[str, Any]:
    """Reduce the masks of a split to each stride, enlarge them again, and score the result as a prediction.

    Returns the scores (0 to 1) by stride and resampling method, at the size of the masks. Raises UserError if the data
    set has a problem.
    """
    if dataset.problems:
        raise UserError(f"{dataset.problems[0]}\n{PYTHON} -m segpipe.check_data lists all problems of the data.")
    count, no_terminal = len(dataset.classes), not sys.stdout.isatty()
    keys = [(stride, resampler) for stride in STRIDES for resampler in RESAMPLERS]
    matrices = {key: np.zeros((count + 1, count + 1), np.int64) for key in keys}
    at_boundaries: dict[tuple[int, str], list] = {key: [] for key in keys}
    for index in track(range(len(dataset)), f"Reducing {split}", transient=True, disable=no_terminal):
        mask = dataset.read(index).mask
        for stride, resampler in keys:
            prediction = RESAMPLERS[resampler](mask, stride, count)
            pair = torch.from_numpy(prediction)[None].long(), torch.from_numpy(mask)[None]
            matrices[stride, resampler] += confusion_matrices(*pair, count + 1)[0].numpy()
            at_boundaries[stride, resampler].append(count_boundaries(prediction[None], mask[None], num_classes=count))
    content: dict[str, Any] = {str(stride): {} for stride in STRIDES}
    for (stride, resampler), matrix in matrices.items():
        all_scores = scores(matrix)
        content[str(stride)][resampler] = {
            **{name: all_scores[name] for name in SCORES},
            "per_class_iou": dict(zip(dataset.classes, all_scores["per_class_iou"], strict=False)),
            "boundaries": boundary_scores(concatenate(at_boundaries[stride, resampler])),
        }
    return content
