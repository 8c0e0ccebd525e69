"""The scores and costs of each network, as means over its seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from scipy.special import stdtrit

from segpipe.analysis.collection import Collection, FinishedRun, TrainedNetwork
from segpipe.analysis.design_points import DesignPoint, Stratum
from segpipe.analysis.factors import Factor, Level
from segpipe.analysis.scores import ReportScore
from segpipe.analysis.statistics.effects import Analysis
from segpipe.analysis.statistics.intervals import MIN_SEEDS


@dataclass(frozen=True, eq=False)
class NetworkResult:
    """The scores and costs of a network; NaN where its runs have none.

    number: its index. letter: marks a network that is several cells. test, val: mean scores over seeds; std: standard
    deviation of the test score over seeds. cost: median by name. pareto: the costs for which it is on the Pareto front,
    see ``pareto_front``. score: the score of ``test``, ``std`` and ``val``.
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
    def checkerboard(self) -> float:
        """The phase share of the logits on a constant image, median over its runs; NaN where they have none."""
        values = [number_of(run, "checkerboard") for run in self.network.runs.values()]
        known = [value for value in values if value is not None]
        return float(np.median(known)) if known else float("nan")

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
    val = {number: {seed: run.val for seed, run in network.runs.items()} for number, network in trained}
    fronts = {
        name: pareto_front({number: one[name] for number, one in costs.items()}, val)
        for name in compared_costs(collection)
    }
    marks = letters(number for number, network in trained if len(network.points) > 1)
    return [
        NetworkResult(
            number,
            network,
            marks.get(number, ""),
            float(np.nanmean(analysis.scores.observed[number])),
            float(analysis.seed_std[number]),
            network.val,
            costs[number],
            frozenset(name for name, front in fronts.items() if number in front),
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


def compared_costs(collection: Collection) -> list[str]:
    """Return the costs that are properties of a network.

    On a CPU, the memory is that of the whole training process, with its data and libraries, so it is left out.
    """
    on_cpu = any(str(metric(run, "cost", "device")).startswith("cpu") for run in collection.runs)
    return [name for name in COSTS if not (on_cpu and name == "peak_memory_mib")]


def pareto_front(costs: Mapping[int, float], val: Mapping[int, Mapping[int, float]]) -> set[int]:
    """Return the networks that are better than every cheaper one, on validation and by more than noise.

    costs: by network. val: validation scores by network and seed. Of networks with equal cost, those that are within
    noise of the best are all on the front. Networks whose cost is not known are not.
    """
    by_cost: dict[float, list[int]] = {}
    for number in sorted((number for number in costs if math.isfinite(costs[number])), key=lambda one: costs[one]):
        by_cost.setdefault(costs[number], []).append(number)
    front: set[int] = set()
    cheaper: list[int] = []
    for members in by_cost.values():
        best = max(members, key=lambda number: np.mean([*val[number].values()]))
        if all(is_better(val[best], val[other]) for other in cheaper):
            front |= {number for number in members if number == best or not is_better(val[best], val[number])}
        cheaper += members
    return front


def is_better(one: Mapping[int, float], other: Mapping[int, float]) -> bool:
    """Return whether the scores of a network, by seed, exceed those of another one by more than noise.

    That is: the 95 % interval of the difference, paired by seed, is above zero. With fewer than MIN_SEEDS common seeds
    the noise is unknown, and the means decide; equal means are not better.
    """
    seeds = sorted(one.keys() & other.keys())
    if len(seeds) < MIN_SEEDS:
        return float(np.mean([*one.values()])) > float(np.mean([*other.values()]))
    difference = np.array([one[seed] - other[seed] for seed in seeds])
    error = float(difference.std(ddof=1)) / len(seeds) ** 0.5
    return float(difference.mean()) > float(stdtrit(len(seeds) - 1, 0.975)) * error


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
    """The results of one stratum by the levels of the drawn factors.

    The first factor gives the rows and the lines of figures. averaged: factors over whose levels each result is a mean.
    """

    stratum: Stratum
    factors: tuple[Factor, ...]
    results: dict[tuple[Level, ...], NetworkResult]
    averaged: tuple[Factor, ...] = ()

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


def grids(results: Sequence[NetworkResult], averaged: Sequence[Factor] = ()) -> list[FactorGrid]:
    """Return a grid for each stratum. averaged: factors that are not drawn."""
    by_stratum: dict[Stratum, dict[tuple[Level, ...], dict[int, NetworkResult]]] = {}
    for result in results:
        for point in result.network.points:
            levels = tuple(
                level for factor, level in zip(point.factors, point.levels, strict=True) if factor not in averaged
            )
            by_stratum.setdefault(point.stratum, {}).setdefault(levels, {})[result.number] = result
    factors = tuple(factor for factor in results[0].point.factors if factor not in averaged) if results else ()
    return [
        FactorGrid(
            stratum,
            factors,
            {levels: average([*cell.values()], factors, levels) for levels, cell in cells.items()},
            tuple(averaged),
        )
        for stratum, cells in by_stratum.items()
    ]


def average(results: Sequence[NetworkResult], factors: Sequence[Factor], levels: Sequence[Level]) -> NetworkResult:
    """Return the mean of networks that differ only in averaged factors; of one network, its result.

    factors, levels: those that the networks have in common, for the label. The runs of the mean are those of all its
    networks. Its standard deviation over seeds is the root of the mean variance.
    """
    first = results[0]
    if len(results) == 1:
        return first
    label = " ".join(factor.in_name(level) for factor, level in zip(factors, levels, strict=True))
    runs = dict(enumerate(run for one in results for _, run in sorted(one.network.runs.items())))
    return replace(
        first,
        number=-1 - first.number,
        network=TrainedNetwork([first.point._replace(name=label)], runs),
        letter="",
        test=float(np.mean([one.test for one in results])),
        std=float(np.sqrt(np.mean([one.std**2 for one in results]))),
        val=float(np.mean([one.val for one in results])),
        cost={name: float(np.mean([one.cost[name] for one in results])) for name in first.cost},
        pareto=frozenset(),
    )
