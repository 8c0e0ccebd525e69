"""What each network scored and cost: one line a network, means over its seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from segpipe.analysis.collect import Collection, FinishedRun, TrainedNetwork
from segpipe.analysis.design_points import DesignPoint
from segpipe.analysis.factors import Factor, Level
from segpipe.analysis.scores import Score
from segpipe.analysis.statistics.contrasts import Stratum
from segpipe.analysis.statistics.effects import Analysis


@dataclass(frozen=True, eq=False)
class NetworkResult:
    """A network's scores and cost; NaN for what its runs do not say.

    mark: a letter, where it is more than one place of the design. front: not surpassed on validation by any
    network that costs no more, by the name of the cost. score: which one ``test``, ``deviation`` and ``val`` are.
    """

    number: int
    network: TrainedNetwork
    mark: str
    test: float
    deviation: float
    val: float
    cost: dict[str, float]
    front: frozenset[str]
    score: Score

    @property
    def place(self) -> DesignPoint:
        """The first of its places."""
        return self.network.places[0]

    @property
    def seeds(self) -> int:
        """How often it was trained."""
        return len(self.network.runs)


COSTS = {  # of metrics.json: what it is, by how much it is divided, in what unit, with how many decimals
    "parameters": ("parameters", 1e6, "M", 2),
    "gmac": ("multiply-adds", 1e-3, "M", 1),
    "latency_ms": ("latency", 1, "ms", 1),
    "peak_memory_mib": ("memory", 1, "MiB", 0),
}


def network_results(collection: Collection, analysis: Analysis) -> list[NetworkResult]:
    """Of the networks that have runs."""
    there = [(number, network) for number, network in enumerate(collection.networks) if network.runs]
    costs = {number: {name: cost(network, name) for name in COSTS} for number, network in there}
    val = {number: network.val for number, network in there}
    marks = letters(number for number, network in there if len(network.places) > 1)
    return [
        NetworkResult(
            number,
            network,
            marks.get(number, ""),
            float(np.nanmean(analysis.scored.found[number])),
            float(analysis.noise[number]),
            val[number],
            costs[number],
            frozenset(name for name in COSTS if on_front(number, {n: costs[n][name] for n in costs}, val)),
            collection.score,
        )
        for number, network in there
    ]


def cost(network: TrainedNetwork, name: str) -> float:
    """The median over seeds: times are disturbed by what else the machine does."""
    found = [figure for run in network.runs.values() if (figure := number_of(run, "cost", name)) is not None]
    return float(np.median(found)) if found else math.nan


def metric(run: FinishedRun, *path: str) -> Any:
    """What metrics.json holds under a path of names; None where there is nothing."""
    found: Any = run.metrics
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def number_of(run: FinishedRun, *path: str) -> float | None:
    """The same, where it is a finite number."""
    found = metric(run, *path)
    return float(found) if isinstance(found, int | float) and math.isfinite(found) else None


def on_front(number: int, costs: dict[int, float], val: dict[int, float]) -> bool:
    """Whether no network that costs no more scores higher, or as high for less (Pareto)."""
    own = costs[number]
    if not math.isfinite(own):
        return False
    return not any(
        costs[other] <= own and val[other] >= val[number] and (costs[other] < own or val[other] > val[number])
        for other in costs
    )


def letters(numbers: Iterable[int]) -> dict[int, str]:
    """a, b, .. z, aa, ab .."""
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    found = {}
    for count, number in enumerate(numbers):
        more, place = divmod(count, len(alphabet))
        found[number] = (alphabet[more - 1] if more else "") + alphabet[place]
    return found


@dataclass(frozen=True, eq=False)
class FactorGrid:
    """The standings of one stratum, by the levels of the factors.

    The first factor gives the rows and the lines of figures.
    """

    stratum: Stratum
    factors: tuple[Factor, ...]
    of: dict[tuple[Level, ...], NetworkResult]

    @property
    def score(self) -> Score:
        """What the standings are of."""
        return next(iter(self.of.values())).score

    def levels(self, factor: Factor) -> list[Level]:
        """A factor's, in the order of figures."""
        place = self.factors.index(factor)
        return factor.drawn(levels[place] for levels in self.of)

    def others(self, *factors: Factor | None) -> list[Factor]:
        """The factors less some."""
        return [factor for factor in self.factors if factor not in factors]

    def combinations(self, factors: Sequence[Factor]) -> list[dict[str, Level]]:
        """All combinations of levels of some factors; a single empty one of no factors."""
        keys = [factor.key for factor in factors]
        return [dict(zip(keys, levels, strict=True)) for levels in product(*map(self.levels, factors))]

    def at(self, *levels: Mapping[str, Level]) -> NetworkResult | None:
        """The standing at these levels, given in parts; None where there is none."""
        merged = {key: level for part in levels for key, level in part.items()}
        return self.of.get(tuple(merged[factor.key] for factor in self.factors))

    def at_all(self, levels: Mapping[str, Level]) -> list[NetworkResult]:
        """All standings at the levels of some of the factors."""
        places = [(self.factors.index(factor), levels[factor.key]) for factor in self.factors if factor.key in levels]
        return [found for key, found in self.of.items() if all(key[place] == level for place, level in places)]

    @property
    def label(self) -> str:
        """The stratum in words."""
        return stratum_label(self.stratum)


def stratum_label(stratum: Stratum) -> str:
    """A stratum as a heading."""
    setting, view, model = stratum
    return ", ".join(filter(None, [model, view, setting]))


def grids(found: Sequence[NetworkResult]) -> list[FactorGrid]:
    """One for each stratum."""
    of: dict[Stratum, dict[tuple[Level, ...], NetworkResult]] = {}
    for standing in found:
        for place in standing.network.places:
            of.setdefault(place.stratum, {})[place.levels] = standing
    factors = found[0].place.factors if found else ()
    return [FactorGrid(stratum, factors, cells) for stratum, cells in of.items()]
