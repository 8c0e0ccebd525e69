"""A part of a collection: the cells at certain levels. So two sweeps can be compared in the cells that both have."""

from collections.abc import Collection as Values
from collections.abc import Mapping
from dataclasses import replace

from segpipe.analysis.collection import Collection
from segpipe.analysis.factors import Factor
from segpipe.runs.labels import Level


def levels_of(collection: Collection, factor: Factor) -> list[Level]:
    """Return the levels of all networks with runs, each once; one if the sweep does not vary the factor."""
    trained = [network for network in collection.networks if network.runs]
    return [*dict.fromkeys(network.level(factor, point) for network in trained for point in network.points)]


def restricted(collection: Collection, only: Mapping[Factor, Values[Level]]) -> Collection:
    """Return the cells at these levels alone. only: the levels of each factor."""
    networks = []
    for network in collection.networks:
        points = [
            point
            for point in network.points
            if all(network.level(factor, point) in levels for factor, levels in only.items())
        ]
        if points:
            networks.append(replace(network, points=points))
    return replace(collection, networks=networks)
