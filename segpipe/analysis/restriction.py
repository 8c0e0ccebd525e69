"""A part of a collection: the cells at certain levels. So two sweeps can be compared in the cells that both have."""

from collections.abc import Collection as Values
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from segpipe.analysis.collect import Collection, TrainedNetwork
from segpipe.analysis.design_points import DesignPoint
from segpipe.analysis.factors import Factor
from segpipe.runs.labels import NOT_SET, Level


def level_of(network: TrainedNetwork, factor: Factor, point: DesignPoint | None = None) -> Level:
    """Return the level of a network; from its configuration if its sweep does not vary the factor.

    point: the cell; its first one if None. NOT_SET where the configuration lacks the key, and for a network without
    runs.
    """
    of_point = point or network.points[0]
    if any(one.key == factor.key for one in (*of_point.factors, *of_point.outer)):
        return of_point.level(factor.key)
    with suppress(KeyError, StopIteration):
        return factor.level_in(next(iter(network.runs.values())).config)
    return NOT_SET


def levels_of(collection: Collection, factor: Factor) -> list[Level]:
    """Return the levels of all networks with runs, each once; one if the sweep does not vary the factor."""
    trained = [network for network in collection.networks if network.runs]
    return [*dict.fromkeys(level_of(network, factor, point) for network in trained for point in network.points)]


def restricted(collection: Collection, only: Mapping[Factor, Values[Level]]) -> Collection:
    """Return the cells at these levels alone. only: the levels of each factor."""
    networks = []
    for network in collection.networks:
        points = [
            point
            for point in network.points
            if all(level_of(network, factor, point) in levels for factor, levels in only.items())
        ]
        if points:
            networks.append(replace(network, points=points))
    return replace(collection, networks=networks)
