"""The choice of a level of a nuisance factor by validation scores: which level, and how certain the choice is."""

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

EXACT = 50_000  # up to this number, all resamples of seeds are enumerated; else DRAWN are drawn
DRAWN = 10_000
L = TypeVar("L", bound=Hashable)


class Choice(NamedTuple, Generic[L]):
    """The level chosen for a cell, and the seeds it was chosen on.

    other: the share of resamples of the seeds that choose another level; NaN with one seed. regret: the mIoU of the
    best level of each seed minus that of the chosen level, mean over seeds.
    """

    level: L
    seeds: list[int]
    other: float
    regret: float


def choose(
    scores: Mapping[L, Mapping[int, float]], levels: Iterable[L], seeds: Iterable[int], *, incomplete: bool = False
) -> Choice[L] | None:
    """Return the level with the highest mean over the same seeds for all levels; None where no level can be compared.

    scores: by level and seed. incomplete: compare all levels with any score, on the seeds that all these levels have.
    If False, compare only the levels that have every seed.
    """
    needed = [*seeds]
    candidates = [level for level in levels if scores.get(level, {}).keys() >= set(needed)]
    if incomplete:
        candidates = [level for level in levels if scores.get(level)]
        needed = [seed for seed in needed if all(seed in scores[level] for level in candidates)]
    if not candidates or not needed:
        return None
    values = np.array([[scores[level][seed] for seed in needed] for level in candidates])
    best = int(values.mean(1).argmax())
    regret = float((values.max(0) - values[best]).mean())
    return Choice(candidates[best], needed, share_of_others(values, best), regret)


def leave_one_out_factor(seeds: int) -> float:
    """Return the variance of a mean over seeds that are each judged at the level that the others choose.

    It is a multiple of the variance of independent seeds: 1 + S / (S - 1). The levels of any two seeds are chosen on
    nearly the same seeds, so their scores are correlated; this is the correction for overlapping training sets of
    Nadeau and Bengio (2003, Machine Learning 52, section 3), with one of S seeds left out.
    """
    return 1 + seeds / max(seeds - 1, 1)


def share_of_others(scores: NDArray[np.float64], chosen: int) -> float:
    """Return the share of resamples of the seeds, with replacement, in which another level has a higher mean.

    scores: (levels, seeds). chosen: index of the chosen level. Few resamples are enumerated, else DRAWN are drawn. The
    share is NaN with one seed.
    """
    number = scores.shape[1]
    if number == 1:
        return float("nan")
    if number**number <= EXACT:
        drawn = np.array(list(itertools.product(range(number), repeat=number)))
    else:
        drawn = np.random.default_rng(0).integers(number, size=(DRAWN, number))
    means = scores[:, drawn].mean(2)
    return float((means.max(0) > means[chosen] + 1e-12).mean())


def at_edge(level: object, levels: Sequence[object]) -> bool:
    """Return whether a level is the smallest or the largest number of at least two."""
    numbers = [float(one) for one in levels if isinstance(one, int | float) and math.isfinite(one)]
    return isinstance(level, int | float) and len(set(numbers)) > 1 and level in (min(numbers), max(numbers))
