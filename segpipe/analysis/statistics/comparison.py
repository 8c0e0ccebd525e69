"""A difference with its estimate, and the correction of a family of differences."""

from dataclasses import dataclass, replace

from segpipe.analysis.scores import MIOU, ReportScore
from segpipe.analysis.statistics.contrasts import Contrast
from segpipe.analysis.statistics.intervals import Estimate, holm, seeds_needed

ALPHA = 0.05  # family-wise error


@dataclass(frozen=True, eq=False)
class Comparison:
    """A contrast and its estimate.

    family: the number of differences that are tested together. score: the score that is compared.
    """

    contrast: Contrast
    estimate: Estimate
    family: int = 1
    score: ReportScore = MIOU

    @property
    def significant(self) -> bool:
        """Whether the difference is significant for new trainings tested on the same images, within its family."""
        return below(self.estimate.trainings, ALPHA)

    @property
    def significant_on_new_images(self) -> bool:
        """Whether it is also significant for new trainings and new images."""
        return below(self.estimate.images, ALPHA)

    @property
    def seeds_needed(self) -> int | None:
        """The number of seeds that would detect a true difference of the observed size; see ``seeds_needed_for``."""
        return self.seeds_needed_for(self.estimate.difference)

    def seeds_needed_for(self, difference: float | None = None) -> int | None:
        """Return the number of seeds that detect a true difference with probability 0.8 as the family's smallest p.

        difference: None takes one point of the score.
        Returns None beyond 1,000, and without an interval, because the variance is then unknown.
        """
        interval = self.estimate.trainings
        if interval is None:
            return None
        deviation = interval.standard_error * (interval.dof + 1) ** 0.5
        target = self.score.point if difference is None else difference
        return seeds_needed(deviation, target, alpha=ALPHA / self.family)


def holm_family(family: list[Comparison]) -> list[Comparison]:
    """Return a family with Holm's correction for each of the two questions."""
    trainings = holm([one.estimate.trainings for one in family])
    images = holm([one.estimate.images for one in family])
    return [
        replace(one, estimate=replace(one.estimate, trainings=first, images=second), family=len(family))
        for one, first, second in zip(family, trainings, images, strict=True)
    ]


def below(interval: object, level: float) -> bool:
    """Return whether an interval has an adjusted p below a level."""
    adjusted = getattr(interval, "adjusted", None)
    return adjusted is not None and adjusted < level
