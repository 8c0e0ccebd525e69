"""The levels of a factor in the order of their effects, ties joined where no difference was declared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.intervals import Interval

SURE, TIED, UNKNOWN = ">", "≈", ","


@dataclass(frozen=True, eq=False)
class Order:
    """levels: the highest first. signs: between neighbours: ``>`` declared, ``≈`` not, ``,`` where nothing is known.

    apart: levels that cannot be ordered, since no difference from those of ``levels`` is known.
    """

    levels: list[str]
    signs: list[str]
    apart: list[str]

    @property
    def label(self) -> str:
        """On one line."""
        apart = f"not ordered: {', '.join(self.apart)}"
        if not self.levels:
            return apart
        parts = [self.levels[0]]
        for sign, level in zip(self.signs, self.levels[1:], strict=True):
            parts += [f"{sign} {level}" if sign == UNKNOWN else f" {sign} {level}"]
        return "".join([*parts, f" ({apart})" if self.apart else ""])


def as_positive(comparison: Comparison) -> Comparison:
    """The same comparison, turned so that the difference is not negative."""
    found = comparison.estimate
    if not found.difference < 0:
        return comparison
    contrast = comparison.contrast
    square = contrast.square and (*contrast.square[:2], contrast.square[3], contrast.square[2])
    return replace(
        comparison,
        contrast=replace(contrast, a=contrast.b, b=contrast.a, weights=-contrast.weights, square=square),
        estimate=replace(
            found,
            difference=-found.difference,
            trainings=negated(found.trainings),
            pictures=negated(found.pictures),
        ),
    )


def negated(interval: Interval | None) -> Interval | None:
    """Of the opposite difference."""
    return interval and replace(interval, low=-interval.high, high=-interval.low)


def order(comparisons: Sequence[Comparison]) -> Order:
    """Of one factor's levels, by least squares of all pairs: pairs need not have been compared in the same contexts.

    Only levels that known differences connect can be ordered: of several such sets, the largest is.
    """
    named = list(dict.fromkeys(level for one in comparisons for level in (one.contrast.a, one.contrast.b)))
    levels = connected(named, comparisons)
    inside = [one for one in comparisons if known(one) and one.contrast.a in levels]
    rows = np.zeros((len(inside), len(levels)))
    for row, one in zip(rows, inside, strict=True):
        row[levels.index(one.contrast.a)], row[levels.index(one.contrast.b)] = 1, -1
    differences = [one.estimate.difference for one in inside]
    height = np.linalg.lstsq(rows, np.array(differences), rcond=None)[0]
    ranked = [levels[place] for place in np.argsort(-height, kind="stable")]
    for _ in ranked:  # a declared difference goes before the fit, where the two disagree
        for place in range(len(ranked) - 1):
            a, b = ranked[place : place + 2]
            pair = between(comparisons, a, b)
            if pair is not None and pair.significant and pair.contrast.a == b:
                ranked[place], ranked[place + 1] = b, a
    signs = [sign(between(comparisons, a, b)) for a, b in pairwise(ranked)]
    return Order(ranked, signs, [level for level in named if level not in ranked])


def known(comparison: Comparison) -> bool:
    """Whether a difference was found at all."""
    return math.isfinite(comparison.estimate.difference)


def connected(levels: Sequence[str], comparisons: Sequence[Comparison]) -> list[str]:
    """The largest set of levels that known differences connect; none where none is known."""
    sets = [{level} for level in levels]
    for one in filter(known, comparisons):
        joined = [part for part in sets if {one.contrast.a, one.contrast.b} & part]
        sets = [part for part in sets if part not in joined] + [set().union(*joined)]
    largest = max(sets, key=lambda part: (len(part), -min(map(levels.index, part))), default=set())
    return [level for level in levels if level in largest] if len(largest) > 1 else []


def sign(comparison: Comparison | None) -> str:
    """Between two neighbours."""
    if comparison is None or comparison.estimate.trainings is None:
        return UNKNOWN
    return SURE if comparison.significant else TIED


def between(comparisons: Sequence[Comparison], a: str, b: str) -> Comparison | None:
    """The comparison of two levels, turned upward; None where they were not compared."""
    for one in comparisons:
        if {one.contrast.a, one.contrast.b} == {a, b}:
            return as_positive(one)
    return None
