"""A collection's differences, estimated: the confirmatory family, interactions, single cells, noise of seeds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from segpipe.analysis import contrasts
from segpipe.analysis.collect import Collection, Finished, Network
from segpipe.analysis.contrasts import Contrast, Design
from segpipe.analysis.intervals import (
    LEAST_SEEDS,
    Estimate,
    common_correlation,
    estimate,
    holm,
    seeds_needed,
    simultaneous,
    wider,
)
from segpipe.analysis.resample import Scored, Tallies, scored
from segpipe.errors import UserError
from segpipe.metrics import Tally, tally

POINT = 0.01  # a percentage point of mIoU


@dataclass(frozen=True, eq=False)
class Comparison:
    """A contrast and what is known of it. family: how many differences it was looked at with."""

    contrast: Contrast
    estimate: Estimate
    family: int = 1

    @property
    def declared(self) -> bool:
        """Whether the difference is real for *these pictures, new trainings*, all that was looked at considered."""
        return below(self.estimate.trainings, 0.05)

    @property
    def general(self) -> bool:
        """The same for *new pictures too*."""
        return below(self.estimate.pictures, 0.05)

    @property
    def needed(self) -> int | None:
        """Seeds that would show a true difference as large as the one found; see ``needed_for``."""
        return self.needed_for(self.estimate.difference)

    def needed_for(self, difference: float = POINT) -> int | None:
        """Seeds that would show a true difference on these pictures, with probability 0.8, as the family's smallest p.

        None beyond 1,000, and where fewer than three seeds do not say how much trainings differ.
        """
        by_seed = self.estimate.by_seed
        if len(by_seed) < LEAST_SEEDS:
            return None
        return seeds_needed(float(np.std(by_seed, ddof=1)), difference, alpha=0.05 / self.family)


@dataclass(frozen=True, eq=False)
class Analysis:
    """All comparisons of one score.

    noise: (N,) standard deviation of each network's score over seeds, NaN with fewer than two.
    """

    scored: Scored
    marginal: list[Comparison]
    interactions: list[Comparison]
    cells: list[Comparison]
    reference: int
    noise: NDArray[np.float64]
    resamples: int


def analyse(
    collection: Collection,
    tallies: Tallies | None = None,
    *,
    reference: str | None = None,
    resamples: int = 10_000,
) -> Analysis:
    """Compare the collection's networks by a score; None takes the test's mIoU.

    reference: the network that single cells are compared with, by a place's name; None takes the one of the best
    validation mIoU. Raises UserError where no network is called so.
    """
    networks = collection.networks
    found = scored(tallies or miou_tallies(collection), collection.groups, resamples=resamples)
    chosen = contrasts.best(networks) if reference is None else named(networks, reference)
    return Analysis(
        found,
        marginal(collection, found),
        corrected(compared(collection, found, chain.from_iterable(one.interactions() for one in designs(networks)))),
        at_once(compared(collection, found, contrasts.against(networks, chosen)), found),
        chosen,
        noise(found.found),
        resamples,
    )


def marginal(collection: Collection, found: Scored) -> list[Comparison]:
    """The confirmatory family of a score: every factor's marginal differences, over all strata."""
    looked_at = chain.from_iterable(one.marginal() for one in designs(collection.networks))
    return corrected(compared(collection, found, looked_at))


def designs(networks: list[Network]) -> list[Design]:
    """One of each stratum."""
    return [Design(networks, stratum) for stratum in contrasts.strata(networks)]


def compared(collection: Collection, found: Scored, looked_at: Iterable[Contrast]) -> list[Comparison]:
    """What is known of contrasts, each on its own."""
    return [Comparison(one, estimate(found, one.weights, collection.seeds)) for one in looked_at]


def miou_tallies(collection: Collection) -> Tallies:
    """Of the test's confusion matrices."""
    return tallies_of(collection, lambda run: tally(run.matrices))


def tallies_of(collection: Collection, of: Callable[[Finished], Tally | None]) -> Tallies:
    """Every run's counts in one array; NaN where a run is missing, or has none of this score; one run has it."""
    there = {run: found for run in collection.runs if (found := of(run)) is not None}
    present = next(iter(there.values())).present  # of the truth, so the same for all
    over = np.full((len(collection.networks), len(collection.seeds), *present.shape), np.nan)
    under = over.copy()
    for number, network in enumerate(collection.networks):
        for seed, run in network.runs.items():
            if run in there and there[run].over.shape == present.shape:
                place = number, collection.seeds.index(seed)
                over[place], under[place] = there[run].over, there[run].under
    return Tallies(over, under, present)


def corrected(family: list[Comparison]) -> list[Comparison]:
    """A family with Holm's correction, for each of the two questions."""
    trainings = holm([one.estimate.trainings for one in family])
    pictures = holm([one.estimate.pictures for one in family])
    return [
        replace(one, estimate=replace(one.estimate, trainings=first, pictures=second), family=len(family))
        for one, first, second in zip(family, trainings, pictures, strict=True)
    ]


def at_once(family: list[Comparison], found: Scored) -> list[Comparison]:
    """A family with simultaneous intervals, for each of the two questions."""
    if not family:
        return family
    differences = [one.estimate.difference for one in family]
    both = covariances(family, found)
    trainings, pictures = (
        simultaneous(differences, intervals, common_correlation(covariance))
        for intervals, covariance in zip(
            ([one.estimate.trainings for one in family], [one.estimate.pictures for one in family]), both, strict=True
        )
    )
    return [
        replace(
            one, estimate=replace(one.estimate, trainings=first, pictures=first and second and wider(first, second))
        )
        for one, first, second in zip(family, trainings, pictures, strict=True)
    ]


def covariances(family: list[Comparison], found: Scored) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the differences' means, (K, K): over seeds; over seeds and pictures. From the seeds that all have."""
    weights = np.stack([one.contrast.weights for one in family])
    used = np.flatnonzero(np.abs(weights).sum(0))
    there = np.isfinite(found.found[used]).all(0)
    count = int(there.sum())
    if count < 2:
        nothing = np.eye(len(family))
        return nothing, nothing
    by_seed = weights[:, used] @ found.found[np.ix_(used, there)]
    seed = np.cov(by_seed) / count
    moved = weights[:, used] @ found.resampled[:, used][:, :, there].mean(2).T
    return np.atleast_2d(seed), np.atleast_2d(seed + np.cov(moved))


def noise(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation over seeds, (N,)."""
    counts = np.isfinite(found).sum(1)
    return np.array([np.nanstd(row, ddof=1) if count > 1 else np.nan for row, count in zip(found, counts, strict=True)])


def named(networks: list[Network], name: str) -> int:
    """The network that a place of this name is. Raises UserError where none is."""
    for number, network in enumerate(networks):
        if network.runs and name in [place.said for place in network.places]:
            return number
    known = ", ".join(sorted(place.said for network in networks if network.runs for place in network.places))
    raise UserError(f"--reference {name!r}: no network here is called so. There are: {known}.")


def below(interval: object, level: float) -> bool:
    """Whether an interval's adjusted p is."""
    adjusted = getattr(interval, "adjusted", None)
    return adjusted is not None and adjusted < level
