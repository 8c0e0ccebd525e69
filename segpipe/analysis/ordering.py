"""The levels of a factor in the order of their effects; ``≈`` joins levels that are not significantly different."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.intervals import Interval

SIGNIFICANT, NOT_SIGNIFICANT, UNKNOWN = ">", "≈", ","


@dataclass(frozen=True, eq=False)
class Order:
    """The levels of a factor, the highest first.

    signs: between neighbours: ``>`` significant, ``≈`` not significant, ``,`` unknown. unordered: levels without a
    known difference from those of ``levels``.
    """

    levels: list[str]
    signs: list[str]
    unordered: list[str]

    @property
    def label(self) -> str:
        """The order on one line."""
        unordered = f"not ordered: {', '.join(self.unordered)}"
        if not self.levels:
            return unordered
        parts = [self.levels[0]]
        for sign, level in zip(self.signs, self.levels[1:], strict=True):
            parts += [f"{sign} {level}" if sign == UNKNOWN else f" {sign} {level}"]
        return "".join([*parts, f" ({unordered})" if self.unordered else ""])


def as_positive(comparison: Comparison) -> Comparison:
    """Return the comparison, with levels exchanged if the difference is negative."""
    return exchanged(comparison) if comparison.estimate.difference < 0 else comparison


def exchanged(comparison: Comparison) -> Comparison:
    """Return the comparison with its levels exchanged: ``b`` minus ``a``."""
    estimate, contrast = comparison.estimate, comparison.contrast
    square = contrast.square and (*contrast.square[:2], contrast.square[3], contrast.square[2])
    return replace(
        comparison,
        contrast=replace(contrast, a=contrast.b, b=contrast.a, weights=-contrast.weights, square=square),
        estimate=replace(
            estimate,
            difference=-estimate.difference,
            trainings=negated(estimate.trainings),
            images=negated(estimate.images),
        ),
    )


def negated(interval: Interval | None) -> Interval | None:
    """Return the interval of the opposite difference."""
    return interval and replace(interval, low=-interval.high, high=-interval.low)


def order(comparisons: Sequence[Comparison]) -> Order:
    """Return the order of a factor's levels by a least-squares fit to all pairwise differences.

    Pairs may have been compared in different contexts. Only levels that are connected by known differences can be
    ordered; of several such sets, the largest is ordered.
    """
    all_levels = list(dict.fromkeys(level for one in comparisons for level in (one.contrast.a, one.contrast.b)))
    levels = connected(all_levels, comparisons)
    used = [one for one in comparisons if is_known(one) and one.contrast.a in levels]
    rows = np.zeros((len(used), len(levels)))
    for row, one in zip(rows, used, strict=True):
        row[levels.index(one.contrast.a)], row[levels.index(one.contrast.b)] = 1, -1
    differences = [one.estimate.difference for one in used]
    effects = np.linalg.lstsq(rows, np.array(differences), rcond=None)[0]
    ranked = [levels[index] for index in np.argsort(-effects, kind="stable")]
    for _ in ranked:  # a significant difference overrides the fit
        for index in range(len(ranked) - 1):
            a, b = ranked[index : index + 2]
            pair = comparison_of(comparisons, a, b)
            if pair is not None and pair.significant and pair.contrast.a == b:
                ranked[index], ranked[index + 1] = b, a
    signs = [sign(comparison_of(comparisons, a, b)) for a, b in pairwise(ranked)]
    return Order(ranked, signs, [level for level in all_levels if level not in ranked])


def is_known(comparison: Comparison) -> bool:
    """Return whether a difference has a value."""
    return math.isfinite(comparison.estimate.difference)


def connected(levels: Sequence[str], comparisons: Sequence[Comparison]) -> list[str]:
    """Return the largest set of levels that known differences connect; empty if no difference is known."""
    sets = [{level} for level in levels]
    for one in filter(is_known, comparisons):
        joined = [part for part in sets if {one.contrast.a, one.contrast.b} & part]
        sets = [part for part in sets if part not in joined] + [set().union(*joined)]
    largest = max(sets, key=lambda part: (len(part), -min(map(levels.index, part))), default=set())
    return [level for level in levels if level in largest] if len(largest) > 1 else []


def sign(comparison: Comparison | None) -> str:
    """Return the sign between two neighbours of an order."""
    if comparison is None or comparison.estimate.trainings is None:
        return UNKNOWN
    return SIGNIFICANT if comparison.significant else NOT_SIGNIFICANT


def comparison_of(comparisons: Sequence[Comparison], a: str, b: str) -> Comparison | None:
    """Return the comparison of two levels, with a non-negative difference; None if they were not compared."""
    for one in comparisons:
        if {one.contrast.a, one.contrast.b} == {a, b}:
            return as_positive(one)
    return None
