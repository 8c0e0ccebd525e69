"""A difference with what is known of it, and a family of differences looked at together."""

from dataclasses import dataclass, replace

from segpipe.analysis.scores import MIOU, Score
from segpipe.analysis.statistics.contrasts import Contrast
from segpipe.analysis.statistics.intervals import Estimate, holm, seeds_needed

ALPHA = 0.05  # of a family


@dataclass(frozen=True, eq=False)
class Comparison:
    """A contrast and what is known of it. family: how many differences it was looked at with. score: what of."""

    contrast: Contrast
    estimate: Estimate
    family: int = 1
    score: Score = MIOU

    @property
    def significant(self) -> bool:
        """Whether the difference is real for *these pictures, new trainings*, all that was looked at considered."""
        return below(self.estimate.trainings, ALPHA)

    @property
    def significant_on_new_images(self) -> bool:
        """The same for *new pictures too*."""
        return below(self.estimate.pictures, ALPHA)

    @property
    def seeds_needed(self) -> int | None:
        """Seeds that would show a true difference as large as the one found; see ``seeds_needed_for``."""
        return self.seeds_needed_for(self.estimate.difference)

    def seeds_needed_for(self, difference: float | None = None) -> int | None:
        """Seeds that would show a true difference on these pictures, with probability 0.8, as the family's smallest p.

        difference: None takes a point of the score.
        None beyond 1,000, and where fewer than three seeds do not say how much trainings differ.
        """
        known = self.estimate.trainings
        if known is None:
            return None
        deviation = known.standard_error * (known.dof + 1) ** 0.5
        wanted = self.score.point if difference is None else difference
        return seeds_needed(deviation, wanted, alpha=ALPHA / self.family)


def holm_family(family: list[Comparison]) -> list[Comparison]:
    """A family with Holm's correction, for each of the two questions."""
    trainings = holm([one.estimate.trainings for one in family])
    pictures = holm([one.estimate.pictures for one in family])
    return [
        replace(one, estimate=replace(one.estimate, trainings=first, pictures=second), family=len(family))
        for one, first, second in zip(family, trainings, pictures, strict=True)
    ]


def below(interval: object, level: float) -> bool:
    """Whether an interval's adjusted p is."""
    adjusted = getattr(interval, "adjusted", None)
    return adjusted is not None and adjusted < level
