"""Which differences are looked at: marginal contrasts of each factor, their interactions, single cells."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from segpipe.analysis.collect import Network
from segpipe.analysis.intervals import LEAST_SEEDS

FACTORS = ("decoder", "fusion", "stride")
Stratum = tuple[str, str, str]
Pair = tuple[str, str | int, str | int]  # a factor and two of its levels


@dataclass(frozen=True, eq=False)
class Contrast:
    """``a`` less ``b``, as weights (C, N) of the networks' scores: a row for each context, of which the mean is taken.

    factor: decoder, fusion or stride; two of them for an interaction; cell for a single network against another.
    dropped: contexts left out, since fewer than three seeds have all runs there.
    """

    factor: str
    a: str
    b: str
    stratum: Stratum | None
    weights: NDArray[np.float64]
    dropped: tuple[str, ...] = ()

    @property
    def contexts(self) -> int:
        """How many pairs of networks it is the mean of."""
        return len(self.weights)


class Design:
    """The places of one stratum, and the networks that they are.

    seeds: of each network, those that it has a score of; None takes those that it was trained with.
    """

    def __init__(
        self, networks: list[Network], stratum: Stratum, seeds: Sequence[frozenset[int]] | None = None
    ) -> None:
        self.size = len(networks)
        self.stratum = stratum
        self.of = {
            (place.decoder, place.fusion, place.stride): number
            for number, network in enumerate(networks)
            for place in network.places
            if place.stratum == stratum
        }
        self.seeds = [frozenset(network.runs) for network in networks] if seeds is None else seeds
        self.levels: dict[str, list[str | int]] = {
            "decoder": [*dict.fromkeys(decoder for decoder, _, _ in self.of)],
            "fusion": [*dict.fromkeys(fusion for _, fusion, _ in self.of)],
            "stride": sorted({stride for _, _, stride in self.of}),
        }

    def pairs(self, factor: str, a: str | int, b: str | int) -> tuple[dict[tuple[int, int], str], list[str]]:
        """Pairs of networks that differ in one factor alone, each once, with a context; and contexts that lack runs.

        A network beside itself is no pair: fusion has nothing to do at the coarsest stride. A skip's depth is a
        question only where there are skips; without any, the stride is how the climb is divided.
        """
        others = [level for level in FACTORS if level != factor]
        found: dict[tuple[int, int], str] = {}
        missing = []
        for one, two in product(*(self.levels[other] for other in others)):
            context = dict(zip(others, (one, two), strict=True))
            if factor == "stride" and context["fusion"] == "none" and set(self.levels["fusion"]) != {"none"}:
                continue
            pair = tuple(self.of.get(place(context | {factor: level})) for level in (a, b))
            said = " ".join(str(context[other]) for other in others)
            if pair[0] is None or pair[1] is None or pair[0] == pair[1]:
                continue
            if len(self.seeds[pair[0]] & self.seeds[pair[1]]) < min(LEAST_SEEDS, self.most):
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
        for factor in FACTORS:
            for a, b in combinations(self.levels[factor], 2):
                found, missing = self.pairs(factor, a, b)
                if found or missing:
                    yield self.contrast(factor, str(a), str(b), [*found], missing)

    def interactions(self) -> Iterator[Contrast]:
        """By how much a difference of one factor changes from one level of another factor to the next."""
        for first, second in combinations(FACTORS, 2):
            for (a, b), (c, d) in product(combinations(self.levels[first], 2), combinations(self.levels[second], 2)):
                yield from self.interaction((first, a, b), (second, c, d))

    def interaction(self, first: Pair, second: Pair) -> Iterator[Contrast]:
        """(a - b at c) - (a - b at d), the mean over the third factor, where all four are networks apart."""
        (one, a, b), (two, c, d) = first, second
        third = next(factor for factor in FACTORS if factor not in (one, two))
        squares: dict[tuple[int, ...], str] = {}
        missing = []
        for level in self.levels[third]:
            corners = [self.of.get(place({one: x, two: y, third: level})) for x, y in ((a, c), (b, c), (a, d), (b, d))]
            four = tuple(corner for corner in corners if corner is not None)
            if len(set(four)) < 4:
                continue
            if len(frozenset.intersection(*(self.seeds[corner] for corner in four))) < min(LEAST_SEEDS, self.most):
                missing.append(str(level))
            else:
                squares.setdefault(four, str(level))
        if squares or missing:
            said = f"{a} - {b}"
            yield self.contrast(f"{one} x {two}", f"{said} at {c}", f"{said} at {d}", [*squares], missing)

    def contrast(
        self, factor: str, a: str, b: str, contexts: Sequence[tuple[int, ...]], missing: list[str]
    ) -> Contrast:
        """Of pairs of networks (a, b), or of squares (a c, b c, a d, b d); in this stratum."""
        weights = np.zeros((len(contexts), self.size))
        for row, networks in zip(weights, contexts, strict=True):
            row[list(networks)] = (1, -1) if len(networks) == 2 else (1, -1, -1, 1)
        return Contrast(factor, a, b, self.stratum, weights, tuple(missing))


def place(levels: dict[str, str | int]) -> tuple[str, str, int]:
    """As ``Design.of`` is keyed."""
    return str(levels["decoder"]), str(levels["fusion"]), int(levels["stride"])


def against(networks: list[Network], reference: int) -> list[Contrast]:
    """Every other network less the reference."""
    found = []
    for number, network in enumerate(networks):
        if number != reference and network.runs.keys() & networks[reference].runs.keys():
            weights = np.zeros((1, len(networks)))
            weights[0, [number, reference]] = 1, -1
            found.append(Contrast("cell", network.said, networks[reference].said, None, weights))
    return found


def strata(networks: list[Network]) -> list[Stratum]:
    """In the order in which they were asked for."""
    return list(dict.fromkeys(place.stratum for network in networks for place in network.places if network.runs))
