"""The confusion matrix, and all scores that are computed from it."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import reduce
from operator import getitem
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Matrices = NDArray[Any]  # (..., C, C) counts, rows true, columns predicted
Values = NDArray[np.float64]
IGNORE_INDEX = 255  # of mask pixels that are not labelled


def confusion_matrices(prediction: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Count pixels by (true, predicted) class, one matrix for each image.

    prediction, mask: (N, H, W) of any integer type; pixels of IGNORE_INDEX in the mask are dropped.
    Returns int64 (N, C, C), rows true, columns predicted.
    """
    cells = num_classes**2 + 1  # the last one is for ignored pixels
    index = torch.where(mask == IGNORE_INDEX, cells - 1, mask.long() * num_classes + prediction)
    index = index + cells * torch.arange(len(mask), device=mask.device)[:, None, None]
    counts = torch.bincount(index.flatten(), minlength=cells * len(mask)).view(len(mask), cells)
    return counts[:, :-1].reshape(-1, num_classes, num_classes)


def class_totals(matrices: Matrices) -> tuple[Values, Values, Values]:
    """Pixels of each class that are hit, true and predicted: three arrays (..., C) from matrices (..., C, C).

    TP, FP and FN are ``hits``, ``predicted - hits`` and ``true - hits``.
    """
    counts = np.asarray(matrices, np.float64)
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1), counts.sum(-2)


def iou(matrices: Matrices) -> Values:
    """Intersection over union of each class, TP / (TP + FP + FN)."""
    hits, true, predicted = class_totals(matrices)
    return hits / (true + predicted - hits)


def class_accuracy(matrices: Matrices) -> Values:
    """Share of each class's true pixels that are predicted as it, TP / (TP + FN)."""
    hits, true, _ = class_totals(matrices)
    return hits / true


def precision(matrices: Matrices) -> Values:
    """Share of the pixels predicted as each class that are it, TP / (TP + FP); 0 where none is predicted as it."""
    hits, _, predicted = class_totals(matrices)
    return hits / np.maximum(predicted, 1)


def dice(matrices: Matrices) -> Values:
    """Dice coefficient of each class, 2 TP / (2 TP + FP + FN): the F1 score of its pixels (Dice 1945)."""
    hits, true, predicted = class_totals(matrices)
    return 2 * hits / (true + predicted)


def pixel_accuracy(matrices: Matrices) -> Values:
    """Share of all pixels that are predicted as their class."""
    hits, true, _ = class_totals(matrices)
    return hits.sum(-1) / true.sum(-1)


def frequency_weighted_iou(matrices: Matrices) -> Values:
    """IoU of the classes, weighted by their shares of the true pixels."""
    true = class_totals(matrices)[1]
    return sum_over(true * iou(matrices), true > 0) / true.sum(-1)


def sum_over(values: Values, where: NDArray[np.bool_]) -> Values:
    """The sums (...) of values (..., C) over those classes for which ``where`` (..., C) holds.

    Each sum adds only these values: with zeros instead of the others, numpy would add in another order.
    """
    rows = zip(values.reshape(-1, values.shape[-1]), where.reshape(-1, where.shape[-1]), strict=True)
    return np.array([row[kept].sum() for row, kept in rows]).reshape(values.shape[:-1])


@dataclass(frozen=True)
class Score:
    """A score of confusion matrices: how it is computed, and what it is called. From 0 to 1, higher is better.

    compute: integer matrices (..., C, C), rows true, columns predicted, to values: (..., C), one for each class, where
        ``per_class`` is given, else (...). A value has to be finite where the class has true pixels; elsewhere it is
        not used. Division by zero gives no warning.
    label: display text of the score, which is the mean over the classes in the truth if it is per class.
    per_class: name of the values of the classes. They are ``per_class_NAME`` in metrics.json, ``val/NAME/CLASS`` in
        history.csv and W&B, ``test_NAME/CLASS`` in results.csv.
    class_label: display text of the values of the classes; None takes ``label``.
    log_classes: False keeps the values of the classes out of history.csv, W&B and results.csv.
    """

    compute: Callable[[Matrices], Any]
    label: str
    _: KW_ONLY
    per_class: str | None = None
    class_label: str | None = None
    log_classes: bool = True

    def by_class(self, matrices: Matrices) -> Values:
        """The values (..., C) of the classes; NaN where a class is absent from the truth. Only if it is per class."""
        return np.where(class_totals(matrices)[1] > 0, self._values(matrices), np.nan)

    def value(self, matrices: Matrices, *, divide_by_all: bool = False) -> Values:
        """The score (...) of each of the matrices (..., C, C); NaN where they are empty. See ``scores``."""
        if self.per_class is None:
            return self._values(matrices)
        values, present = self.by_class(matrices), class_totals(matrices)[1] > 0
        with np.errstate(invalid="ignore"):
            mean = sum_over(values, present) / (values.shape[-1] if divide_by_all else present.sum(-1))
        return np.where(present.any(-1), mean, np.nan)

    def _values(self, matrices: Matrices) -> Values:
        """The result of ``compute``. Raises ValueError if its shape is wrong."""
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.asarray(self.compute(matrices), np.float64)
        needed = matrices.shape[:-1] if self.per_class else matrices.shape[:-2]
        if values.shape != needed:
            each = "class of each matrix, since per_class is given" if self.per_class else "matrix"
            raise ValueError(
                f"The score {self.label} of matrices {matrices.shape} has the shape {values.shape}. The shape must "
                f"be {needed}: one value for each {each}."
            )
        return values


SCORES = {  # by the key in metrics.json; new entries are logged, printed and reported without further code
    "miou": Score(iou, "mIoU", per_class="iou", class_label="IoU"),
    "pixel_accuracy": Score(pixel_accuracy, "pixel accuracy"),
    "mean_class_accuracy": Score(
        class_accuracy, "mean class accuracy", per_class="accuracy", class_label="accuracy", log_classes=False
    ),
    "frequency_weighted_iou": Score(frequency_weighted_iou, "frequency-weighted IoU"),
    "dice": Score(dice, "Dice", per_class="dice"),
}
CLASS_SCORES = {  # of single classes only: in metrics.json, in the table of a test and in W&B's summary
    "precision": Score(precision, "precision", per_class="precision"),
    "recall": Score(class_accuracy, "recall", per_class="recall"),  # the accuracy of a class, by its other name
}


def scores(matrix: NDArray[np.integer], *, divide_by_all: bool = False) -> dict[str, Any]:
    """All scores of a (C, C) matrix, rows true, columns predicted, from 0 to 1 (Long et al. 2015, section 5).

    Returns a float for each of SCORES, a list of C floats ``per_class_NAME`` for each that is per class, and the true
    ``pixels`` of each class. NaN: the class (or everything) is absent from the truth.
    Means are over the classes present in the truth. ``divide_by_all`` divides by the number of all classes instead,
    absent ones counting zero, as the script released with SegNet does.
    """
    means = {name: float(score.value(matrix, divide_by_all=divide_by_all)) for name, score in SCORES.items()}
    by_class = {
        f"per_class_{score.per_class}": score.by_class(matrix).tolist() for score in SCORES.values() if score.per_class
    }
    return {**means, **by_class, "pixels": [int(value) for value in matrix.sum(1)]}


def named_scores(matrices: NDArray[np.integer], classes: list[str]) -> dict[str, Any]:
    """The scores of the sum of matrices (n, C, C), per-class values by class name, and the number of images.

    Those of CLASS_SCORES are among the values per class.
    """
    total = matrices.sum(0)
    more = {f"per_class_{name}": score.by_class(total).tolist() for name, score in CLASS_SCORES.items()}
    values = {
        key: dict(zip(classes, value, strict=True)) if isinstance(value, list) else value
        for key, value in (scores(total) | more).items()
    }
    return values | {"images": len(matrices)}


def score_paths(classes: list[str]) -> dict[str, tuple[str, ...]]:
    """For each name that is logged (``miou``, ``iou/CLASS``), the keys of its value in the dict of ``named_scores``."""
    paths: dict[str, tuple[str, ...]] = {name: (name,) for name in SCORES}
    for score in SCORES.values():
        if score.per_class and score.log_classes:
            paths |= {f"{score.per_class}/{name}": (f"per_class_{score.per_class}", name) for name in classes}
    return paths


def logged_scores(matrices: NDArray[np.integer], classes: list[str]) -> dict[str, float]:
    """The scores of the sum of matrices (n, C, C), by the names under which they are logged."""
    values: Any = named_scores(matrices, classes)
    return {name: reduce(getitem, path, values) for name, path in score_paths(classes).items()}


class RatioCounts(NamedTuple):
    """A score that is the mean over classes of ratios of sums over images: the bootstrap resamples the summands.

    numerator, denominator: (I, C), for each image and class. present: (I, C), above 0 if the class is in the truth of
    the image. The mean is over the classes that are present in any of the images.
    """

    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]
    present: NDArray[np.float64]


def iou_counts(matrices: NDArray[np.integer]) -> RatioCounts:
    """The counts of mIoU: hits, union and true pixels of (I, C, C) confusion matrices."""
    hits, true, predicted = class_totals(matrices)
    return RatioCounts(hits, true + predicted - hits, true)


def dice_counts(matrices: NDArray[np.integer]) -> RatioCounts:
    """The counts of Dice: twice the hits, true plus predicted pixels, and true pixels."""
    hits, true, predicted = class_totals(matrices)
    return RatioCounts(2 * hits, true + predicted, true)


def class_accuracy_counts(matrices: NDArray[np.integer]) -> RatioCounts:
    """The counts of the mean class accuracy: hits, true pixels, and true pixels again."""
    hits, true, _ = class_totals(matrices)
    return RatioCounts(hits, true, true)


def pixel_accuracy_counts(matrices: NDArray[np.integer]) -> RatioCounts:
    """The counts of the pixel accuracy, in one column for all classes."""
    hits, true, _ = class_totals(matrices)
    return RatioCounts(hits.sum(-1, keepdims=True), *2 * (true.sum(-1, keepdims=True),))


def mean_ratio(counts: RatioCounts) -> float:
    """The score of all images; NaN if no class is present."""
    present = counts.present.sum(0) > 0
    if not present.any():
        return float("nan")
    return float((counts.numerator.sum(0)[present] / counts.denominator.sum(0)[present]).mean())
