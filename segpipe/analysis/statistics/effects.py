"""Estimates of all differences of a collection: marginal contrasts, interactions, single networks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from segpipe.analysis.collection import Collection, FinishedRun, TrainedNetwork
from segpipe.analysis.scores import ReportScore
from segpipe.analysis.statistics import contrasts
from segpipe.analysis.statistics.comparison import Comparison, holm_family
from segpipe.analysis.statistics.contrasts import Contrast, Design
from segpipe.analysis.statistics.intervals import estimate
from segpipe.analysis.statistics.resample import BootstrapScores, Matrices, ScoreCounts, score_and_resample
from segpipe.analysis.statistics.single_networks import against_best, simultaneous_family
from segpipe.errors import UserError
from segpipe.metrics.confusion import RatioCounts
from segpipe.runs.tuned_levels import leave_one_out_factor


@dataclass(frozen=True, eq=False)
class Analysis:
    """All comparisons of one score.

    single_networks: each network minus a reference, or (reference None) minus the best of the others; ``significant``
    then means that it is significantly worse than the best. seed_std: (N,) standard deviation of each network's score
    over seeds, NaN with fewer than two.
    """

    scores: BootstrapScores
    marginal: list[Comparison]
    interactions: list[Comparison]
    single_networks: list[Comparison]
    reference: int | None
    seed_std: NDArray[np.float64]
    resamples: int
    score: ReportScore


def analyse(
    collection: Collection,
    counts: ScoreCounts | Matrices | None = None,
    *,
    reference: str | None = None,
    resamples: int = 10_000,
) -> Analysis:
    """Compare the networks of a collection by its score on the test.

    counts: the data of the score; None takes the confusion matrices. reference: the label of the network that single
    networks are compared with; None compares each with the best of the others. Raises UserError if no network has this
    label.
    """
    networks = collection.networks
    scores = resample(collection, counts or score_counts(collection), resamples=resamples)
    number = None if reference is None else network_number(networks, reference)
    interactions = chain.from_iterable(one.interactions() for one in designs(collection, scores))
    return Analysis(
        scores,
        marginal(collection, scores),
        holm_family(compare(collection, scores, interactions)),
        against_best(collection, scores)
        if number is None
        else simultaneous_family(compare(collection, scores, contrasts.against(networks, number)), scores),
        number,
        std_over_seeds(scores.observed),
        resamples,
        collection.score,
    )


def resample(collection: Collection, counts: ScoreCounts | Matrices, *, resamples: int) -> BootstrapScores:
    """Return the score of every run, on the test images and on resampled ones."""
    scores = score_and_resample(counts, collection.groups, resamples=resamples)
    if collection.tuned is None or collection.tuned.seeds:
        return scores
    return scores._replace(seed_factor=leave_one_out_factor(len(collection.seeds)))


def marginal(collection: Collection, scores: BootstrapScores, score: ReportScore | None = None) -> list[Comparison]:
    """Return the family of marginal differences of every factor over all strata.

    score: None takes the collection's own.
    """
    differences = chain.from_iterable(one.marginal() for one in designs(collection, scores))
    return holm_family(compare(collection, scores, differences, score))


def designs(collection: Collection, scores: BootstrapScores) -> list[Design]:
    """Return the design of each stratum, with the seeds that have this score."""
    networks = collection.networks
    seeds = [frozenset(np.flatnonzero(has_run).tolist()) for has_run in np.isfinite(scores.observed)]
    return [Design(networks, stratum, seeds) for stratum in contrasts.strata(networks)]


def compare(
    collection: Collection, scores: BootstrapScores, selected: Iterable[Contrast], score: ReportScore | None = None
) -> list[Comparison]:
    """Return the comparison of each contrast, without correction."""
    compared_score = score or collection.score
    return [Comparison(one, estimate(scores, one.weights, collection.seeds), score=compared_score) for one in selected]


def score_counts(collection: Collection) -> ScoreCounts | Matrices:
    """Return the data of the collection's score: confusion matrices of the test, or counts taken from them."""
    counts, of = collection.score.counts, collection.score.compute
    if collection.score.at_boundaries:
        return ratio_counts(collection, lambda run: run.counts)
    if counts is not None:
        return ratio_counts(collection, lambda run: counts(run.matrices))
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


def ratio_counts(collection: Collection, of: Callable[[FinishedRun], RatioCounts | None]) -> ScoreCounts:
    """Return the counts of all runs in one array; NaN if a run is missing or has no such counts.

    At least one run has them.
    """
    counts_of_runs = {run: counts for run in collection.runs if (counts := of(run)) is not None}
    present = next(iter(counts_of_runs.values())).present  # of the ground truth, so equal for all runs
    numerator = np.full((len(collection.networks), len(collection.seeds), *present.shape), np.nan)
    denominator = numerator.copy()
    for number, network in enumerate(collection.networks):
        for seed, run in network.runs.items():
            if run in counts_of_runs and counts_of_runs[run].numerator.shape == present.shape:
                index = number, collection.seeds.index(seed)
                numerator[index], denominator[index] = counts_of_runs[run].numerator, counts_of_runs[run].denominator
    return ScoreCounts(numerator, denominator, present)


def std_over_seeds(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard deviation over seeds, (N,); NaN with fewer than two."""
    counts = np.isfinite(scores).sum(1)
    return np.array(
        [np.nanstd(row, ddof=1) if count > 1 else np.nan for row, count in zip(scores, counts, strict=True)]
    )


def network_number(networks: list[TrainedNetwork], name: str) -> int:
    """Return the index of the network with a design point of this label. Raises UserError if there is none."""
    for number, network in enumerate(networks):
        if network.runs and name in [point.label for point in network.points]:
            return number
    names = ", ".join(sorted(point.label for network in networks if network.runs for point in network.points))
    raise UserError(f"--reference {name!r}: no network has this name. Give one of: {names}.")
