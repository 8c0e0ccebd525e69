"""One confusion matrix, and every score as a function of it."""

from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORE_INDEX = 255  # of a mask's pixels about which nothing is to be said


def confusion_matrices(prediction: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Count pixels by (true, predicted) class, one matrix for every picture.

    prediction, mask: (N, H, W) of any integer type; pixels of IGNORE_INDEX in the mask are dropped.
    Returns int64 (N, C, C), rows true, columns predicted.
    """
    cells = num_classes**2 + 1  # the last one takes the ignored pixels
    index = torch.where(mask == IGNORE_INDEX, cells - 1, mask.long() * num_classes + prediction)
    index = index + cells * torch.arange(len(mask), device=mask.device)[:, None, None]
    counts = torch.bincount(index.flatten(), minlength=cells * len(mask)).view(len(mask), cells)
    return counts[:, :-1].reshape(-1, num_classes, num_classes)


class Scores(TypedDict):
    """What a confusion matrix says; shares from 0 to 1. NaN: the class (or everything) is absent from the truth."""

    miou: float
    pixel_accuracy: float
    mean_class_accuracy: float
    frequency_weighted_iou: float
    per_class_iou: list[float]
    per_class_accuracy: list[float]
    pixels: list[int]


def scores(matrix: NDArray[np.integer], *, divide_by_all: bool = False) -> Scores:
    """All scores of a (C, C) matrix, rows true, columns predicted (Long et al. 2015, section 5).

    Means are over the classes present in the truth. ``divide_by_all`` divides by the number of all classes instead,
    absent ones counting zero, as the script released with SegNet does.
    """
    counts = matrix.astype(np.float64)
    hits, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    present = true > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(present, hits / (true + predicted - hits), np.nan)
        accuracy = np.where(present, hits / true, np.nan)

    def mean(values: NDArray[np.float64]) -> float:
        kept = values[present]
        return float(kept.sum() / (len(values) if divide_by_all else len(kept))) if len(kept) else float("nan")

    total = counts.sum()
    return {
        "miou": mean(iou),
        "pixel_accuracy": float(hits.sum() / total) if total else float("nan"),
        "mean_class_accuracy": mean(accuracy),
        "frequency_weighted_iou": float((true[present] * iou[present]).sum() / total) if total else float("nan"),
        "per_class_iou": [float(value) for value in iou],
        "per_class_accuracy": [float(value) for value in accuracy],
        "pixels": [int(value) for value in true],
    }


def named_scores(matrices: NDArray[np.integer], classes: list[str]) -> dict[str, Any]:
    """The scores of (n, C, C) matrices taken together, per-class ones by name, with the number of pictures."""
    found: dict[str, Any] = dict(scores(matrices.sum(0)))
    for key in ("per_class_iou", "per_class_accuracy", "pixels"):
        found[key] = dict(zip(classes, found[key], strict=True))
    return found | {"images": len(matrices)}


class Tally(NamedTuple):
    """A score that is the mean, over classes, of ratios of sums over pictures: resampling pictures resamples the sums.

    over, under: (I, C) numerators and denominators of every picture and class. present: (I, C), above 0 where the class
    is in the picture's truth; a class counts in the mean where any of the pictures has it.
    """

    over: NDArray[np.float64]
    under: NDArray[np.float64]
    present: NDArray[np.float64]


def tally(matrices: NDArray[np.integer]) -> Tally:
    """The counts of mIoU: hits, union and true pixels of (I, C, C) confusion matrices."""
    counts = matrices.astype(np.float64)
    hits, true, predicted = np.diagonal(counts, axis1=1, axis2=2), counts.sum(2), counts.sum(1)
    return Tally(hits, true + predicted - hits, true)


def tally_score(found: Tally) -> float:
    """The score on all pictures; NaN where no class is present."""
    there = found.present.sum(0) > 0
    if not there.any():
        return float("nan")
    return float((found.over.sum(0)[there] / found.under.sum(0)[there]).mean())
