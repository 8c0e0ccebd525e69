"""Which differences are looked at: marginal contrasts of each factor, their interactions, single cells."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from segpipe.analysis.collect import TrainedNetwork
from segpipe.analysis.factors import FACTORS, Factor, Level
from segpipe.analysis.statistics.intervals import MIN_SEEDS

Stratum = tuple[str, str, str]
Pair = tuple[Factor, Level, Level]  # a factor and two of its levels
CELL = "cell"  # stands for the factor of a single network against another
ONLY = "the only context"  # where no factor is left that contexts could differ in


@dataclass(frozen=True, eq=False)
class Contrast:
    """``a`` less ``b``, as weights (C, N) of the networks' scores: a row for each context, of which the mean is taken.

    factor: its key; two of them for an interaction; cell for a single network against another.
    dropped: contexts left out, since fewer than three seeds have all runs there.
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
        """How many pairs of networks it is the mean of."""
        return len(self.weights)


class Design:
    """The places of one stratum, and the networks that they are.

    seeds: of each network, those that it has a score of; None takes those that it was trained with.
    """

    def __init__(
        self, networks: list[TrainedNetwork], stratum: Stratum, seeds: Sequence[frozenset[int]] | None = None
    ) -> None:
        self.size = len(networks)
        self.stratum = stratum
        ours = [
            (place, number)
            for number, network in enumerate(networks)
            for place in network.places
            if place.stratum == stratum
        ]
        self.factors = ours[0][0].factors if ours else FACTORS
        self.of = {place.levels: number for place, number in ours}
        self.seeds = [frozenset(network.runs) for network in networks] if seeds is None else seeds
        self.levels = {
            factor.key: factor.ordered(levels[place] for levels in self.of) for place, factor in enumerate(self.factors)
        }

    def at(self, levels: Mapping[str, Level]) -> int | None:
        """The network at these levels; None where there is none."""
        return self.of.get(tuple(levels[factor.key] for factor in self.factors))

    def contexts(self, *varied: Factor) -> Iterator[tuple[dict[str, Level], str]]:
        """All combinations of levels of the other factors, each with its name."""
        others = [factor.key for factor in self.factors if factor not in varied]
        for levels in product(*(self.levels[key] for key in others)):
            yield dict(zip(others, levels, strict=True)), " ".join(map(str, levels)) or ONLY

    def is_undefined(self, factor: Factor, context: Mapping[str, Level]) -> bool:
        """Whether a difference of the factor has no meaning in a context, and has one elsewhere."""
        return any(context.get(key) == level and self.levels[key] != [level] for key, level in factor.undefined_at)

    def pairs(self, factor: Factor, a: Level, b: Level) -> tuple[dict[tuple[int, int], str], list[str]]:
        """Pairs of networks that differ in one factor alone, each once, with a context; and contexts that lack runs.

        A network beside itself is no pair: fusion has nothing to do at the coarsest stride. A skip's depth is a
        question only where there are skips; without any, the stride is how the climb is divided.
        """
        found: dict[tuple[int, int], str] = {}
        missing = []
        for context, said in self.contexts(factor):
            if self.is_undefined(factor, context):
                continue
            pair = tuple(self.at({**context, factor.key: level}) for level in (a, b))
            if pair[0] is None or pair[1] is None or pair[0] == pair[1]:
                continue
            if len(self.seeds[pair[0]] & self.seeds[pair[1]]) < min(MIN_SEEDS, self.most):
                missing.append(said)
            else:
                found.setdefault((pair[0], pair[1]), said)
        return found, missing

    @property
    def most(self) -> int:
        """Seeds of the network that was trained most often."""
        return max(len(self.seeds[number]) for number in self.of.values())

    def marginal(self) -> Iterator[Contrast]:
        """Of every factor all pairs of levels, each the mean over its contexts."""
        for factor in self.factors:
            for a, b in combinations(self.levels[factor.key], 2):
                found, missing = self.pairs(factor, a, b)
                if found or missing:
                    yield self.contrast(factor.key, str(a), str(b), [*found], missing)

    def interactions(self) -> Iterator[Contrast]:
        """By how much a difference of one factor changes from one level of another factor to the next."""
        for first, second in combinations(self.factors, 2):
            levels = (combinations(self.levels[factor.key], 2) for factor in (first, second))
            for (a, b), (c, d) in product(*levels):
                yield from self.interaction((first, a, b), (second, c, d))

    def interaction(self, first: Pair, second: Pair) -> Iterator[Contrast]:
        """(a - b at c) - (a - b at d), the mean over the other factors, where all four are networks apart."""
        (one, a, b), (two, c, d) = first, second
        squares: dict[tuple[int, ...], str] = {}
        missing = []
        for context, name in self.contexts(one, two):
            corners = [self.at({**context, one.key: x, two.key: y}) for x, y in ((a, c), (b, c), (a, d), (b, d))]
            four = tuple(corner for corner in corners if corner is not None)
            if len(set(four)) < 4:
                continue
            if len(frozenset.intersection(*(self.seeds[corner] for corner in four))) < min(MIN_SEEDS, self.most):
                missing.append(name)
            else:
                squares.setdefault(four, name)
        if squares or missing:
            said, square = f"{a} - {b}", (str(a), str(b), str(c), str(d))
            found = self.contrast(f"{one.key} x {two.key}", f"{said} at {c}", f"{said} at {d}", [*squares], missing)
            yield replace(found, square=square)

    def contrast(
        self, factor: str, a: str, b: str, contexts: Sequence[tuple[int, ...]], missing: list[str]
    ) -> Contrast:
        """Of pairs of networks (a, b), or of squares (a c, b c, a d, b d); in this stratum."""
        weights = np.zeros((len(contexts), self.size))
        for row, networks in zip(weights, contexts, strict=True):
            row[list(networks)] = (1, -1) if len(networks) == 2 else (1, -1, -1, 1)
        return Contrast(factor, a, b, self.stratum, weights, tuple(missing))


def against(networks: list[TrainedNetwork], reference: int) -> list[Contrast]:
    """Every other network less the reference."""
    found = []
    for number, network in enumerate(networks):
        if number != reference and network.runs.keys() & networks[reference].runs.keys():
            weights = np.zeros((1, len(networks)))
            weights[0, [number, reference]] = 1, -1
            found.append(Contrast(CELL, network.label, networks[reference].label, None, weights))
    return found


def strata(networks: list[TrainedNetwork]) -> list[Stratum]:
    """In the order in which they were asked for."""
    return list(dict.fromkeys(place.stratum for network in networks for place in network.places if network.runs))
