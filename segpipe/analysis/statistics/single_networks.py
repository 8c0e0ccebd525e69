"""Comparisons of single networks: with the best of the others, or with a named reference."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segpipe.analysis.collection import Collection
from segpipe.analysis.statistics import best
from segpipe.analysis.statistics.comparison import ALPHA, Comparison
from segpipe.analysis.statistics.contrasts import CELL, Contrast
from segpipe.analysis.statistics.intervals import Estimate, Interval, common_correlation, simultaneous, widest
from segpipe.analysis.statistics.resample import BootstrapScores

BEST = "the best of the others"


def simultaneous_family(family: list[Comparison], scores: BootstrapScores) -> list[Comparison]:
    """Return a family with simultaneous intervals for each of the two questions."""
    if not family:
        return family
    differences = [one.estimate.difference for one in family]
    pair = covariances(family, scores)
    trainings, images = (
        simultaneous(differences, intervals, round(common_correlation(covariance), 2))
        for intervals, covariance in zip(
            ([one.estimate.trainings for one in family], [one.estimate.images for one in family]), pair, strict=True
        )
    )
    return [
        replace(one, estimate=replace(one.estimate, trainings=first, images=first and second and widest(first, second)))
        for one, first, second in zip(family, trainings, images, strict=True)
    ]


def against_best(collection: Collection, scores: BootstrapScores) -> list[Comparison]:
    """Return every trained network minus the best of the others, from test scores alone; see ``best``."""
    trained = np.flatnonzero(np.isfinite(scores.observed).any(1)).tolist()
    kept = best.candidates(np.isfinite(scores.observed))
    if len(kept) < 2:
        return [without_interval(collection, scores, number, trained) for number in trained] if len(trained) > 1 else []
    difference, seed_errors = best.paired(scores.observed[kept], scores.seed_factor)
    image_errors = best.with_images(scores, kept, seed_errors)
    best_trainings = best.best_of(difference, [seed_errors])
    best_images = None if image_errors is None else best.best_of(difference, [seed_errors, image_errors])
    np.fill_diagonal(difference, np.inf)
    family = []
    for number in trained:
        if number not in kept:
            family.append(without_interval(collection, scores, number, kept.tolist()))
            continue
        index = int(np.flatnonzero(kept == number)[0])
        other = int(difference[index].argmin())
        common = np.flatnonzero(np.isfinite(scores.observed[[number, kept[other]]]).all(0))
        estimate = Estimate(
            float(difference[index, other]),
            tuple(collection.seeds[seed] for seed in common),
            interval_of(best_trainings, seed_errors, index),
            interval_of(best_images, image_errors, index) if best_images and image_errors else None,
            {},
        )
        size = (len(kept) - 1) * int((best_trainings.adjusted >= ALPHA).sum())
        contrast = contrast_with_best(collection, number, int(kept[other]))
        family.append(Comparison(contrast, estimate, size, collection.score))
    return family


def interval_of(bounds: best.BestBounds, errors: best.PairedErrors, index: int) -> Interval:
    """Return the interval of one network; error and degrees of freedom are those of the comparison with its rival."""
    rival = bounds.rival[index]
    numbers = (bounds.low[index], bounds.high[index], errors.standard_error[index, rival], errors.dof[index, rival])
    return Interval(*map(float, (*numbers, bounds.p[index], bounds.adjusted[index])))


def without_interval(collection: Collection, scores: BootstrapScores, number: int, others: Sequence[int]) -> Comparison:
    """Return the observed difference of a network that has too few seeds in common with the others."""
    trained_seeds = np.flatnonzero(np.isfinite(scores.observed[number]))
    means = {other: float(np.nanmean(scores.observed[other])) for other in others if other != number}
    other = max(means, key=lambda one: means[one])
    used_seeds = tuple(collection.seeds[seed] for seed in trained_seeds)
    gap = float(np.nanmean(scores.observed[number])) - means[other]
    contrast = contrast_with_best(collection, number, other)
    return Comparison(contrast, Estimate(gap, used_seeds, None, None, {}), score=collection.score)


def contrast_with_best(collection: Collection, number: int, other: int) -> Contrast:
    """Return the contrast of a network and the best of the others as observed."""
    weights = np.zeros((1, len(collection.networks)))
    weights[0, [number, other]] = 1, -1
    return Contrast(CELL, collection.networks[number].label, BEST, None, weights)


def covariances(family: list[Comparison], scores: BootstrapScores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the covariances (K, K) of the mean differences: over seeds; over seeds and images.

    From the common seeds.
    """
    weights = np.concatenate([one.contrast.weights for one in family])
    used = np.flatnonzero(np.abs(weights).sum(0))
    common = np.isfinite(scores.observed[used]).all(0)
    count = int(common.sum())
    if count < 2:
        identity = np.eye(len(family))
        return identity, identity
    by_seed = weights[:, used] @ scores.observed[np.ix_(used, common)]
    seed = np.cov(by_seed) / count
    resampled = weights[:, used] @ scores.resampled[:, used][:, :, common].mean(2).T
    return np.atleast_2d(seed), np.atleast_2d(seed + np.cov(resampled))
