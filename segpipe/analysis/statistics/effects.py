"""A collection's differences, estimated: the confirmatory family, interactions, single cells, noise of seeds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from segpipe.analysis.collect import Collection, FinishedRun, TrainedNetwork
from segpipe.analysis.scores import Score
from segpipe.analysis.statistics import contrasts
from segpipe.analysis.statistics.comparison import Comparison, holm_family
from segpipe.analysis.statistics.contrasts import Contrast, Design
from segpipe.analysis.statistics.intervals import estimate
from segpipe.analysis.statistics.resample import BootstrapScores, Matrices, ScoreCounts, score_and_resample
from segpipe.analysis.statistics.singles import against_best, simultaneous_family
from segpipe.errors import UserError
from segpipe.metrics.confusion import RatioCounts


@dataclass(frozen=True, eq=False)
class Analysis:
    """All comparisons of one score.

    cells: of every single network with a reference, or (reference None) with the best of the others; then ``declared``
    says that it is really worse than the best.
    noise: (N,) standard deviation of each network's score over seeds, NaN with fewer than two.
    """

    scored: BootstrapScores
    marginal: list[Comparison]
    interactions: list[Comparison]
    cells: list[Comparison]
    reference: int | None
    noise: NDArray[np.float64]
    resamples: int
    score: Score


def analyse(
    collection: Collection,
    counts: ScoreCounts | Matrices | None = None,
    *,
    reference: str | None = None,
    resamples: int = 10_000,
) -> Analysis:
    """Compare the collection's networks by its score on the test.

    counts: what it is computed from; None takes the confusion matrices.
    reference: the network that single cells are compared with, by a place's name; None compares each with the best of
    the others, whichever that is. Raises UserError where no network is called so.
    """
    networks = collection.networks
    found = score_and_resample(counts or counts_of(collection), collection.groups, resamples=resamples)
    chosen = None if reference is None else named(networks, reference)
    changes = chain.from_iterable(one.interactions() for one in designs(collection, found))
    return Analysis(
        found,
        marginal(collection, found),
        holm_family(compared(collection, found, changes)),
        against_best(collection, found)
        if chosen is None
        else simultaneous_family(compared(collection, found, contrasts.against(networks, chosen)), found),
        chosen,
        noise(found.found),
        resamples,
        collection.score,
    )


def marginal(collection: Collection, found: BootstrapScores, score: Score | None = None) -> list[Comparison]:
    """The family of marginal differences of a score, of every factor, over all strata. None: the collection's own."""
    looked_at = chain.from_iterable(one.marginal() for one in designs(collection, found))
    return holm_family(compared(collection, found, looked_at, score))


def designs(collection: Collection, found: BootstrapScores) -> list[Design]:
    """One of each stratum, of the runs that have this score."""
    networks = collection.networks
    seeds = [frozenset(np.flatnonzero(there).tolist()) for there in np.isfinite(found.found)]
    return [Design(networks, stratum, seeds) for stratum in contrasts.strata(networks)]


def compared(
    collection: Collection, found: BootstrapScores, looked_at: Iterable[Contrast], score: Score | None = None
) -> list[Comparison]:
    """What is known of contrasts, each on its own."""
    own = score or collection.score
    return [Comparison(one, estimate(found, one.weights, collection.seeds), score=own) for one in looked_at]


def counts_of(collection: Collection) -> ScoreCounts | Matrices:
    """What the collection's score is computed from: the test's confusion matrices, or counts taken from them."""
    counts, of = collection.score.counts, collection.score.of
    if counts is not None:
        return tallies_of(collection, lambda run: counts(run.matrices))
    if of is None:
        raise UserError(
            f"{collection.score.label}: this score is not computed from confusion matrices (of=None). "
            f"Give a score with a function of confusion matrices."
        )
    runs = {
        (number, collection.seeds.index(seed)): run.matrices
        for number, network in enumerate(collection.networks)
        for seed, run in network.runs.items()
    }
    return Matrices(runs, (len(collection.networks), len(collection.seeds)), of)


def tallies_of(collection: Collection, of: Callable[[FinishedRun], RatioCounts | None]) -> ScoreCounts:
    """Every run's counts in one array; NaN where a run is missing, or has none of this score; one run has it."""
    there = {run: found for run in collection.runs if (found := of(run)) is not None}
    present = next(iter(there.values())).present  # of the truth, so the same for all
    over = np.full((len(collection.networks), len(collection.seeds), *present.shape), np.nan)
    under = over.copy()
    for number, network in enumerate(collection.networks):
        for seed, run in network.runs.items():
            if run in there and there[run].numerator.shape == present.shape:
                place = number, collection.seeds.index(seed)
                over[place], under[place] = there[run].numerator, there[run].denominator
    return ScoreCounts(over, under, present)


def noise(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation over seeds, (N,)."""
    counts = np.isfinite(found).sum(1)
    return np.array([np.nanstd(row, ddof=1) if count > 1 else np.nan for row, count in zip(found, counts, strict=True)])


def named(networks: list[TrainedNetwork], name: str) -> int:
    """The network that a place of this name is. Raises UserError where none is."""
    for number, network in enumerate(networks):
        if network.runs and name in [place.label for place in network.places]:
            return number
    known = ", ".join(sorted(place.label for network in networks if network.runs for place in network.places))
    raise UserError(f"--reference {name!r}: no network has this name. Give one of: {known}.")
