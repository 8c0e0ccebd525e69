"""The differences that are estimated: marginal contrasts of each factor, interactions, single networks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from segpipe.analysis.collection import TrainedNetwork
from segpipe.analysis.design_points import ALL_GROUPS, Stratum
from segpipe.analysis.factors import FACTORS, Factor, Level
from segpipe.analysis.statistics.intervals import MIN_SEEDS

Pair = tuple[Factor, Level, Level]  # a factor and two of its levels
CELL = "cell"  # the factor of comparisons of single networks
ONLY = "the only context"  # the name of a context without factors


@dataclass(frozen=True, eq=False)
class Contrast:
    """``a`` minus ``b``: weights (C, N) of the networks' scores, of which the mean over the C contexts is taken.

    factor: its key; two keys for an interaction; CELL for single networks.
    dropped: contexts that are excluded because fewer than three seeds have all runs.
    square: of an interaction: levels a, b of the first factor, then c, d of the second.
    """

    factor: str
    a: str
    b: str
    stratum: Stratum | None
    weights: NDArray[np.float64]
    dropped: tuple[str, ...] = ()
    square: tuple[str, str, str, str] | None = None

    @property
    def contexts(self) -> int:
        """The number of pairs of networks in the mean."""
        return len(self.weights)


class Design:
    """The design points of one stratum and their networks.

    stratum: ALL_GROUPS takes all design points, and compares only the factors whose levels form groups.
    seeds: for each network, the seeds with a score; None takes the seeds with a run.
    """

    def __init__(
        self, networks: list[TrainedNetwork], stratum: Stratum, seeds: Sequence[frozenset[int]] | None = None
    ) -> None:
        self.size = len(networks)
        self.stratum = stratum
        across = stratum == ALL_GROUPS
        points = [
            (point, number)
            for number, network in enumerate(networks)
            for point in network.points
            if across or point.stratum == stratum
        ]
        first = points[0][0] if points else None
        self.factors = FACTORS if first is None else (*first.factors, *first.outer) if across else first.factors
        self.compared = first.outer if first is not None and across else self.factors
        self.of = {point.all_levels if across else point.levels: number for point, number in points}
        self.seeds = [frozenset(network.runs) for network in networks] if seeds is None else seeds
        self.levels = {
            factor.key: factor.ordered(levels[point] for levels in self.of) for point, factor in enumerate(self.factors)
        }

    def at(self, levels: Mapping[str, Level]) -> int | None:
        """Return the index of the network at these levels; None if there is none."""
        return self.of.get(tuple(levels[factor.key] for factor in self.factors))

    def contexts(self, *varied: Factor) -> Iterator[tuple[dict[str, Level], str]]:
        """Yield all combinations of levels of the other factors, each with its name."""
        others = [factor for factor in self.factors if factor not in varied]
        for levels in product(*(self.levels[factor.key] for factor in others)):
            names = [factor.in_context(level) for factor, level in zip(others, levels, strict=True)]
            yield {factor.key: level for factor, level in zip(others, levels, strict=True)}, " ".join(names) or ONLY

    def is_undefined(self, factor: Factor, context: Mapping[str, Level]) -> bool:
        """Return whether a difference of the factor has no meaning in a context, but has one elsewhere."""
        return any(context.get(key) == level and self.levels[key] != [level] for key, level in factor.undefined_at)

    def pairs(self, factor: Factor, a: Level, b: Level) -> tuple[dict[tuple[int, int], str], list[str]]:
        """Return the pairs of networks that differ only in one factor, with a context each; and contexts without runs.

        Each pair occurs once. A network is not paired with itself: fusion has no effect at the coarsest stride. The
        depth of skips is compared only where there are skips; without skips, the stride is how the upsampling is
        divided into steps.
        """
        contexts: dict[tuple[int, int], str] = {}
        missing = []
        for context, name in self.contexts(factor):
            if self.is_undefined(factor, context):
                continue
            pair = tuple(self.at({**context, factor.key: level}) for level in (a, b))
            if pair[0] is None or pair[1] is None or pair[0] == pair[1]:
                continue
            if len(self.seeds[pair[0]] & self.seeds[pair[1]]) < min(MIN_SEEDS, self.max_seeds):
                missing.append(name)
            else:
                contexts.setdefault((pair[0], pair[1]), name)
        return contexts, missing

    @property
    def max_seeds(self) -> int:
        """The largest number of seeds of a network."""
        return max(len(self.seeds[number]) for number in self.of.values())

    def marginal(self) -> Iterator[Contrast]:
        """Yield the contrast of every pair of levels of every factor, each the mean over its contexts."""
        for factor in self.compared:
            for a, b in combinations(self.levels[factor.key], 2):
                pairs, missing = self.pairs(factor, a, b)
                if pairs or missing:
                    yield self.contrast(factor.key, str(a), str(b), [*pairs], missing)

    def interactions(self) -> Iterator[Contrast]:
        """Yield the change of every difference of one factor between two levels of another factor."""
        for first, second in combinations(self.factors, 2):
            if first not in self.compared and second not in self.compared:
                continue
            levels = (combinations(self.levels[factor.key], 2) for factor in (first, second))
            for (a, b), (c, d) in product(*levels):
                yield from self.interaction((first, a, b), (second, c, d))

    def interaction(self, first: Pair, second: Pair) -> Iterator[Contrast]:
        """Yield (a - b at c) - (a - b at d), the mean over the other factors, if all four are different networks."""
        (one, a, b), (two, c, d) = first, second
        squares: dict[tuple[int, ...], str] = {}
        missing = []
        for context, name in self.contexts(one, two):
            corners = [self.at({**context, one.key: x, two.key: y}) for x, y in ((a, c), (b, c), (a, d), (b, d))]
            four = tuple(corner for corner in corners if corner is not None)
            if len(set(four)) < 4:
                continue
            if len(frozenset.intersection(*(self.seeds[corner] for corner in four))) < min(MIN_SEEDS, self.max_seeds):
                missing.append(name)
            else:
                squares.setdefault(four, name)
        if squares or missing:
            difference, square = f"{a} - {b}", (str(a), str(b), str(c), str(d))
            contrast = self.contrast(
                f"{one.key} x {two.key}", f"{difference} at {c}", f"{difference} at {d}", [*squares], missing
            )
            yield replace(contrast, square=square)

    def contrast(
        self, factor: str, a: str, b: str, contexts: Sequence[tuple[int, ...]], missing: list[str]
    ) -> Contrast:
        """Return the contrast of pairs of networks (a, b), or of squares (a c, b c, a d, b d), in this stratum."""
        weights = np.zeros((len(contexts), self.size))
        for row, networks in zip(weights, contexts, strict=True):
            row[list(networks)] = (1, -1) if len(networks) == 2 else (1, -1, -1, 1)
        return Contrast(factor, a, b, self.stratum, weights, tuple(missing))


def against(networks: list[TrainedNetwork], reference: int) -> list[Contrast]:
    """Return the contrast of every other network minus the reference, if they share a seed."""
    family = []
    for number, network in enumerate(networks):
        if number != reference and network.runs.keys() & networks[reference].runs.keys():
            weights = np.zeros((1, len(networks)))
            weights[0, [number, reference]] = 1, -1
            family.append(Contrast(CELL, network.label, networks[reference].label, None, weights))
    return family


def strata(networks: list[TrainedNetwork]) -> list[Stratum]:
    """Return the strata in the order of the networks, and ALL_GROUPS if there are factors whose levels form groups."""
    points = [point for network in networks for point in network.points if network.runs]
    return [*dict.fromkeys(point.stratum for point in points), *([ALL_GROUPS] if points and points[0].outer else [])]
