"""Single networks compared: each with the best of the others, or with a reference that was named."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segpipe.analysis.collect import Collection
from segpipe.analysis.statistics import best
from segpipe.analysis.statistics.comparison import ALPHA, Comparison
from segpipe.analysis.statistics.contrasts import CELL, Contrast
from segpipe.analysis.statistics.intervals import Estimate, Interval, common_correlation, simultaneous, widest
from segpipe.analysis.statistics.resample import BootstrapScores

BEST = "the best of the others"


def simultaneous_family(family: list[Comparison], found: BootstrapScores) -> list[Comparison]:
    """A family with simultaneous intervals, for each of the two questions."""
    if not family:
        return family
    differences = [one.estimate.difference for one in family]
    both = covariances(family, found)
    trainings, pictures = (
        simultaneous(differences, intervals, round(common_correlation(covariance), 2))
        for intervals, covariance in zip(
            ([one.estimate.trainings for one in family], [one.estimate.pictures for one in family]), both, strict=True
        )
    )
    return [
        replace(
            one, estimate=replace(one.estimate, trainings=first, pictures=first and second and widest(first, second))
        )
        for one, first, second in zip(family, trainings, pictures, strict=True)
    ]


def against_best(collection: Collection, found: BootstrapScores) -> list[Comparison]:
    """Every network that was trained less the best of the others, on the test alone: see ``best``."""
    trained = np.flatnonzero(np.isfinite(found.found).any(1)).tolist()
    kept = best.candidates(np.isfinite(found.found))
    if len(kept) < 2:
        return [unknown(collection, found, number, trained) for number in trained] if len(trained) > 1 else []
    difference, seeds = best.paired(found.found[kept])
    pictures = best.with_pictures(found, kept, seeds)
    here = best.best_of(difference, [seeds])
    everywhere = None if pictures is None else best.best_of(difference, [seeds, pictures])
    np.fill_diagonal(difference, np.inf)
    family = []
    for number in trained:
        if number not in kept:
            family.append(unknown(collection, found, number, kept.tolist()))
            continue
        place = int(np.flatnonzero(kept == number)[0])
        other = int(difference[place].argmin())
        common = np.flatnonzero(np.isfinite(found.found[[number, kept[other]]]).all(0))
        known = Estimate(
            float(difference[place, other]),
            tuple(collection.seeds[seed] for seed in common),
            bounded(here, seeds, place),
            bounded(everywhere, pictures, place) if everywhere and pictures else None,
            {},
        )
        size = (len(kept) - 1) * int((here.adjusted >= ALPHA).sum())
        contrast = less_best(collection, number, int(kept[other]))
        family.append(Comparison(contrast, known, size, collection.score))
    return family


def bounded(found: best.AgainstBest, spread: best.Spread, place: int) -> Interval:
    """Of one network; error and degrees of freedom are those beside the rival that speaks most against it."""
    rival = found.rival[place]
    numbers = (found.low[place], found.high[place], spread.standard_error[place, rival], spread.dof[place, rival])
    return Interval(*map(float, (*numbers, found.p[place], found.adjusted[place])))


def unknown(collection: Collection, found: BootstrapScores, number: int, others: Sequence[int]) -> Comparison:
    """A network that has too few seeds in common with the others; its mean is as found."""
    own = np.flatnonzero(np.isfinite(found.found[number]))
    means = {other: float(np.nanmean(found.found[other])) for other in others if other != number}
    other = max(means, key=lambda one: means[one])
    names = tuple(collection.seeds[seed] for seed in own)
    gap = float(np.nanmean(found.found[number])) - means[other]
    contrast = less_best(collection, number, other)
    return Comparison(contrast, Estimate(gap, names, None, None, {}), score=collection.score)


def less_best(collection: Collection, number: int, other: int) -> Contrast:
    """The contrast, by the best of the others as found."""
    weights = np.zeros((1, len(collection.networks)))
    weights[0, [number, other]] = 1, -1
    return Contrast(CELL, collection.networks[number].label, BEST, None, weights)


def covariances(family: list[Comparison], found: BootstrapScores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the differences' means, (K, K): over seeds; over seeds and pictures. From the seeds that all have."""
    weights = np.concatenate([one.contrast.weights for one in family])
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
