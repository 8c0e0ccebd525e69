"""The scores and costs of each network, as means over its seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from segpipe.analysis.collect import Collection, FinishedRun, TrainedNetwork
from segpipe.analysis.design_points import DesignPoint
from segpipe.analysis.factors import Factor, Level
from segpipe.analysis.scores import ReportScore
from segpipe.analysis.statistics.contrasts import Stratum
from segpipe.analysis.statistics.effects import Analysis


@dataclass(frozen=True, eq=False)
class NetworkResult:
    """The scores and costs of a network; NaN where its runs have none.

    number: its index. letter: marks a network that is several cells. test, val: mean scores over seeds; std: standard
    deviation of the test score over seeds. cost: median by name. pareto: the costs for which it is on the Pareto front:
    no network of equal or lower cost has a better validation score. score: the score of ``test``, ``std`` and ``val``.
    """

    number: int
    network: TrainedNetwork
    letter: str
    test: float
    std: float
    val: float
    cost: dict[str, float]
    pareto: frozenset[str]
    score: ReportScore

    @property
    def point(self) -> DesignPoint:
        """Its first design point."""
        return self.network.points[0]

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return len(self.network.runs)


COSTS = {  # by key of metrics.json: name, divisor, unit, decimals
    "parameters": ("parameters", 1e6, "M", 2),
    "gmac": ("multiply-adds", 1e-3, "M", 1),
    "latency_ms": ("latency", 1, "ms", 1),
    "peak_memory_mib": ("memory", 1, "MiB", 0),
}


def network_results(collection: Collection, analysis: Analysis) -> list[NetworkResult]:
    """Return the results of the networks that have runs."""
    trained = [(number, network) for number, network in enumerate(collection.networks) if network.runs]
    costs = {number: {name: cost(network, name) for name in COSTS} for number, network in trained}
    val = {number: network.val for number, network in trained}
    marks = letters(number for number, network in trained if len(network.points) > 1)
    return [
        NetworkResult(
            number,
            network,
            marks.get(number, ""),
            float(np.nanmean(analysis.scores.observed[number])),
            float(analysis.seed_std[number]),
            val[number],
            costs[number],
            frozenset(name for name in COSTS if on_front(number, {n: costs[n][name] for n in costs}, val)),
            collection.score,
        )
        for number, network in trained
    ]


def cost(network: TrainedNetwork, name: str) -> float:
    """Return the median over seeds, because other processes disturb measured times; NaN without a value."""
    values = [value for run in network.runs.values() if (value := number_of(run, "cost", name)) is not None]
    return float(np.median(values)) if values else math.nan


def metric(run: FinishedRun, *path: str) -> Any:
    """Return the entry of metrics.json under a path of names; None if there is none."""
    node: Any = run.metrics
    for name in path:
        node = node.get(name) if isinstance(node, dict) else None
    return node


def number_of(run: FinishedRun, *path: str) -> float | None:
    """Return the entry under a path if it is a finite number, else None."""
    value = metric(run, *path)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def on_front(number: int, costs: dict[int, float], val: dict[int, float]) -> bool:
    """Return whether a network is on the Pareto front.

    That is: no network with the same or lower cost scores higher, and none with a lower cost scores as high.
    """
    cost = costs[number]
    if not math.isfinite(cost):
        return False
    return not any(
        costs[other] <= cost and val[other] >= val[number] and (costs[other] < cost or val[other] > val[number])
        for other in costs
    )


def letters(numbers: Iterable[int]) -> dict[int, str]:
    """Return a letter for each number: a, b, .. z, aa, ab .."""
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    names = {}
    for count, number in enumerate(numbers):
        prefix, index = divmod(count, len(alphabet))
        names[number] = (alphabet[prefix - 1] if prefix else "") + alphabet[index]
    return names


@dataclass(frozen=True, eq=False)
class FactorGrid:
    """The results of one stratum by the levels of the factors.

    The first factor gives the rows and the lines of figures.
    """

    stratum: Stratum
    factors: tuple[Factor, ...]
    results: dict[tuple[Level, ...], NetworkResult]

    @property
    def score(self) -> ReportScore:
        """The score of the results."""
        return next(iter(self.results.values())).score

    def levels(self, factor: Factor) -> list[Level]:
        """Return the levels of a factor in the order of figures."""
        index = self.factors.index(factor)
        return factor.drawn(levels[index] for levels in self.results)

    def others(self, *factors: Factor | None) -> list[Factor]:
        """Return all factors except those given."""
        return [factor for factor in self.factors if factor not in factors]

    def combinations(self, factors: Sequence[Factor]) -> list[dict[str, Level]]:
        """Return all combinations of levels of some factors; one empty combination for no factors."""
        keys = [factor.key for factor in factors]
        return [dict(zip(keys, levels, strict=True)) for levels in product(*map(self.levels, factors))]

    def at(self, *levels: Mapping[str, Level]) -> NetworkResult | None:
        """Return the result at these levels, given in parts; None if there is none."""
        merged = {key: level for part in levels for key, level in part.items()}
        return self.results.get(tuple(merged[factor.key] for factor in self.factors))

    def at_all(self, levels: Mapping[str, Level]) -> list[NetworkResult]:
        """Return all results at the levels of some of the factors."""
        positions = [
            (self.factors.index(factor), levels[factor.key]) for factor in self.factors if factor.key in levels
        ]
        return [
            result for key, result in self.results.items() if all(key[index] == level for index, level in positions)
        ]

    @property
    def label(self) -> str:
        """The stratum in words."""
        return stratum_label(self.stratum)


def stratum_label(stratum: Stratum) -> str:
    """Return a stratum as a heading."""
    setting, view, model = stratum
    return ", ".join(filter(None, [model, view, setting]))


def grids(results: Sequence[NetworkResult]) -> list[FactorGrid]:
    """Return a grid for each stratum."""
    by_stratum: dict[Stratum, dict[tuple[Level, ...], NetworkResult]] = {}
    for result in results:
        for point in result.network.points:
            by_stratum.setdefault(point.stratum, {})[point.levels] = result
    factors = results[0].point.factors if results else ()
    return [FactorGrid(stratum, factors, cells) for stratum, cells in by_stratum.items()]
