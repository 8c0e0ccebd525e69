"""The score by which a report compares networks: a function of confusion matrices, and its display."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from segpipe.errors import UserError, nearest
from segpipe.metrics import boundaries
from segpipe.metrics.confusion import (
    SCORES,
    Matrices,
    RatioCounts,
    class_accuracy_counts,
    dice_counts,
    iou_counts,
    pixel_accuracy_counts,
)


@dataclass(frozen=True)
class ReportScore:
    """A score of the report; higher is better.

    key: its name in ``metrics.json`` (below ``val`` and ``test``), in ``history.csv`` and in CSV files.
    label: its name in sentences, in tables and on axes.
    compute: from confusion matrices (..., C, C) of counts, rows true, to scores (...); NaN where undefined. None for a
        score that is not computed from them: the report then only shows it.
    counts: the same score of matrices (I, C, C), one for each image, as a mean over classes of ratios of sums.
        Optional: resampling is faster with it (C sums for each image instead of C x C).
    definition: the text after the label in "Score: mIoU ...".
    scale, unit, digits: a stored value is multiplied by ``scale`` and shown in this unit with so many decimals. A
        difference of 1 in shown values is a point.
    at_boundaries: it is one of ``boundaries.NAMES``, whose counts runs store for the test images alone. Networks are
        then ranked by their validation mIoU.
    """

    key: str
    label: str
    compute: Callable[[Matrices], Any] | None = None
    counts: Callable[[Matrices], RatioCounts] | None = None
    definition: str = "of all test pixels together"
    scale: float = 100
    unit: str = "%"
    digits: int = 1
    at_boundaries: bool = False

    @property
    def ranking(self) -> "ReportScore":
        """The score on the validation images by which networks are ranked."""
        return MIOU if self.at_boundaries else self

    @property
    def point(self) -> float:
        """One point, as a stored value."""
        return 1 / self.scale

    @property
    def title(self) -> str:
        """The label at the start of a heading."""
        return self.label.capitalize() if self.label.islower() else self.label

    @property
    def on_axis(self) -> str:
        """The label of an axis."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def in_unit(self) -> str:
        """The unit in words, for example ``in percent``."""
        return {"%": "in percent", "": "without a unit"}.get(self.unit, f"in {self.unit}")

    @property
    def units(self) -> str:
        """The units of scores and differences in words."""
        return f"{self.in_unit}, differences in {'percentage points' if self.unit == '%' else 'the same unit'}"

    def of_all(self, matrices: Matrices) -> float:
        """Return the score of matrices (I, C, C) summed over images.

        Raises ValueError if it is not computed from them.
        """
        if self.compute is None:
            raise ValueError(f"{self.label} is not a function of confusion matrices")
        return float(self.compute(np.asarray(matrices).sum(0)))


MIOU = ReportScore(
    "miou",
    SCORES["miou"].label,
    compute=SCORES["miou"].value,
    counts=iou_counts,
    definition="of all test pixels together, mean over the classes in the test masks",
)
COUNTS: dict[str, Callable[[Matrices], RatioCounts]] = {
    "miou": iou_counts,
    "dice": dice_counts,
    "mean_class_accuracy": class_accuracy_counts,
    "pixel_accuracy": pixel_accuracy_counts,
}  # of the scores that are means of ratios; others are resampled by whole matrices, which takes longer


def find_score(name: str) -> ReportScore:
    """Return the score with this key: one of ``confusion.SCORES`` or ``boundaries.NAMES``. Raises UserError for others.

    Boundary scores are means over images (boundary_f) or over classes of sums over images (docs/boundaries.md).
    """
    if name == MIOU.key:
        return MIOU
    if name in SCORES:
        score = SCORES[name]
        mean = ", mean over the classes in the test masks" if score.per_class else ""
        definition = f"of all test pixels together{mean}"
        return ReportScore(name, score.label, compute=score.value, counts=COUNTS.get(name), definition=definition)
    if name in boundaries.NAMES:
        kind = "mean over images" if name in boundaries.AVERAGES else "of all test images together, mean over classes"
        return ReportScore(name, name, definition=f"{kind} (docs/boundaries.md)", at_boundaries=True)
    names = [*SCORES, *boundaries.NAMES]
    raise UserError(f"--score {name}: no such score. Give one of: {', '.join(names)}.{nearest(name, names)}")
