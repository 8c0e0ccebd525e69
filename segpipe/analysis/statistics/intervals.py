"""Intervals of differences: for new trainings on the same images, and for new trainings and new images."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from segpipe.analysis.statistics.pairing import Pairing, by_context
from segpipe.analysis.statistics.resample import BootstrapScores

MIN_SEEDS = 3  # with fewer, a t interval is too wide to be useful
MIN_GROUPS = 3  # of images, for the same reason
DRAWS = 10_000  # random draws of the largest |t|
MOST_SEEDS = 1000  # upper limit of the search

Values = float | NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """The interval of a difference: bounds, standard error, degrees of freedom, p of "no difference".

    adjusted: p corrected for the number of differences in the family; None before the correction.
    """

    low: float
    high: float
    standard_error: float
    dof: float
    p: float
    adjusted: float | None = None


@dataclass(frozen=True)
class Estimate:
    """A difference: the mean over contexts of means over seeds.

    seeds: all seeds of any context. trainings: the interval for new trainings on the same images; images: that for new
    trainings and new images, never narrower. None with fewer than MIN_SEEDS seeds in a context, or MIN_GROUPS groups of
    images. variance_components: variances of the mean by their source: seed, pictures (of images), residual.
    """

    difference: float
    seeds: tuple[int, ...]
    trainings: Interval | None
    images: Interval | None
    variance_components: dict[str, float]


def estimate(
    bootstrap: BootstrapScores, weights: NDArray[np.float64], seeds: Sequence[int], *, level: float = 0.95
) -> Estimate:
    """Estimate the contrast ``weights`` (N,) of the networks' scores, or the mean over contexts (C, N), paired by seed.

    A context uses the seeds with which every network that has a weight in it was trained. Seeds and images are crossed:
    each training was tested on the same images. So the variance of the mean is that over seeds plus that over images,
    minus the residual that both contain: the random variation of a single training on single images.
    """
    rows = np.atleast_2d(weights)
    if not len(rows):
        return Estimate(float("nan"), (), None, None, {})
    has_run = np.isfinite(by_context(rows, bootstrap.observed))  # (C, S)
    used_seeds = tuple(seeds[int(index)] for index in np.flatnonzero(has_run.any(0)))
    patterns, pattern_of_row, counts = np.unique(has_run, axis=0, return_inverse=True, return_counts=True)
    rows = np.stack(
        [rows[pattern_of_row.ravel() == number].mean(0) for number in range(len(patterns))]
    )  # contexts with the same seeds are averaged
    pairing = Pairing(patterns, counts / counts.sum())
    differences = by_context(rows, bootstrap.observed)
    mean = float(pairing.mean(differences)) if patterns.any(1).all() else float("nan")
    if pairing.count.min() < MIN_SEEDS:
        return Estimate(mean, used_seeds, None, None, {})
    seed, seed_dof = map(float, pairing.of_mean(differences))
    seed *= bootstrap.seed_factor
    groups = len(bootstrap.influence)
    correction = groups / max(groups - 1, 1)  # corrects the bias of a resampled variance
    drawn = by_context(rows, bootstrap.resampled)
    image_variance = float(pairing.mean(drawn).var()) * correction
    residuals = pairing.residuals(drawn - drawn.mean(0))
    residual = (
        float(pairing.variance(np.einsum("bcs,bds->cd", residuals, residuals, optimize=True) / len(residuals)))
        * correction
    )
    total = max(seed + image_variance - residual, seed, image_variance)
    image_dof = float(variance_dof(pairing.mean(by_context(rows, bootstrap.influence))))
    total_dof = float(
        satterthwaite(total, [(seed, seed_dof), (image_variance, image_dof), (residual, seed_dof * image_dof)])
    )
    trainings = interval(mean, seed, seed_dof, level)
    images = widest(trainings, interval(mean, total, total_dof, level)) if groups >= MIN_GROUPS else None
    return Estimate(
        mean, used_seeds, trainings, images, {"seed": seed, "pictures": image_variance, "residual": residual}
    )


def widest(trainings: Interval, images: Interval) -> Interval:
    """Return the wider interval for new images. More degrees of freedom could otherwise make it narrower."""
    wider = trainings if images.high < trainings.high else images
    adjusted = [one.adjusted for one in (trainings, images) if one.adjusted is not None]
    return replace(wider, p=max(trainings.p, images.p), adjusted=max(adjusted, default=None))


def satterthwaite(total: Values, parts: Sequence[tuple[Values, Values]]) -> NDArray[np.float64]:
    """Return the degrees of freedom of a sum of variances, each with its own (Satterthwaite 1946)."""
    scale = np.asarray(sum(np.square(variance) / freedom for variance, freedom in parts))
    least = np.min(np.broadcast_arrays(*(freedom for _, freedom in parts)), axis=0)
    positive = scale > 0
    return np.where(positive, np.maximum(np.square(total) / np.where(positive, scale, 1), least), least)


def variance_dof(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the degrees of freedom of the variance of G values (G, ...): G - 1 for normal values, else fewer.

    A variance of values of kurtosis k varies like chi-square with 2 G / (k - (G - 3) / (G - 1)) degrees of freedom.
    """
    count = len(values)
    if count < MIN_GROUPS:
        return np.ones(values.shape[1:])
    squares = (values - values.mean(0)) ** 2
    mean = squares.mean(0)
    positive = mean > 0
    kurtosis = (squares**2).mean(0) / np.where(positive, mean, 1) ** 2
    dof = 2 * count / np.where(positive, kurtosis - (count - 3) / (count - 1), 1)
    return np.where(positive, dof.clip(1, count - 1), count - 1.0)


def interval(mean: float, variance: float, dof: float, level: float) -> Interval:
    """Return Student's t interval."""
    error = float(np.sqrt(variance))
    half = float(stats.t.ppf(0.5 + level / 2, dof)) * error
    p = two_sided(mean, error, dof)
    return Interval(mean - half, mean + half, error, float(dof), p)


def two_sided(mean: float, error: float, dof: float) -> float:
    """Return the two-sided p of a mean. With a standard error of 0: 0 for a difference and 1 for none."""
    if error == 0:
        return float(mean == 0)
    return float(2 * stats.t.sf(abs(mean) / error, dof))


def holm_adjusted(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each p adjusted for their number (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted


def holm(intervals: Sequence[Interval | None]) -> list[Interval | None]:
    """Return the intervals with p adjusted for their number (Holm 1979); the bounds are not changed."""
    each = iter(holm_adjusted(np.array([one.p for one in intervals if one is not None])).tolist())
    return [None if one is None else replace(one, adjusted=next(each)) for one in intervals]


def simultaneous(
    means: Sequence[float], intervals: Sequence[Interval | None], correlation: float, *, level: float = 0.95
) -> list[Interval | None]:
    """Return intervals that hold simultaneously with probability ``level``, by the largest ``|t|`` (Dunnett 1955).

    The largest is drawn with normal numerators that all have one ``correlation``, each over a standard error of its own
    degrees of freedom. If the degrees differ, the smallest p is drawn instead.
    """
    known = [one for one in intervals if one is not None]
    if not known:
        return list(intervals)
    smallest = smallest_of(tuple(one.dof for one in known), correlation)
    critical = float(np.quantile(smallest, 1 - level))

    def widened(mean: float, one: Interval) -> Interval:
        half = float(stats.t.ppf(1 - critical / 2, one.dof)) * one.standard_error
        adjusted = max(float((smallest <= one.p).mean()), one.p)
        return replace(one, low=mean - half, high=mean + half, adjusted=adjusted)

    return [None if one is None else widened(mean, one) for mean, one in zip(means, intervals, strict=True)]


@lru_cache(maxsize=128)
def smallest_of(freedom: tuple[float, ...], correlation: float) -> NDArray[np.float64]:
    """Draw the smallest two-sided p of t statistics without any difference, (DRAWS,) times."""
    dofs = np.array(freedom)
    random = np.random.default_rng(0)
    common = random.standard_normal((DRAWS, 1))
    independent = random.standard_normal((DRAWS, len(dofs)))
    t = (np.sqrt(correlation) * common + np.sqrt(1 - correlation) * independent) / np.sqrt(
        random.chisquare(dofs, (DRAWS, len(dofs))) / dofs
    )
    equal = (dofs == dofs[0]).all()  # equal degrees: the largest |t| has the smallest p
    return np.asarray(2 * (stats.t.sf(np.abs(t).max(1), dofs[0]) if equal else stats.t.sf(np.abs(t), dofs).min(1)))


def common_correlation(covariance: NDArray[np.float64]) -> float:
    """Return the mean off-diagonal correlation of covariances (K, K), from 0 to 0.95.

    Few seeds allow no finer estimate.
    """
    deviation = np.sqrt(np.diag(covariance))
    kept = deviation > 0
    if kept.sum() < 2:
        return 0.0
    correlations = (covariance / np.outer(deviation, deviation).clip(min=1e-300))[np.ix_(kept, kept)]
    return float(np.clip(correlations[~np.eye(len(correlations), dtype=bool)].mean(), 0, 0.95))


def seeds_needed(deviation: float, difference: float, *, alpha: float, power: float = 0.8) -> int | None:
    """Return the seeds with which a paired t test detects a true ``difference`` with probability ``power``.

    deviation: standard deviation of the paired differences over seeds. Returns None beyond MOST_SEEDS.
    """
    if difference == 0:
        return None
    if deviation == 0:
        return MIN_SEEDS
    effect = abs(difference) / deviation

    def enough(count: int) -> bool:
        critical = stats.t.isf(alpha / 2, count - 1)
        return bool(
            stats.nct.sf(critical, count - 1, effect * np.sqrt(count)) >= power
        )  # only differences with the correct sign count

    counts = range(MIN_SEEDS, MOST_SEEDS + 1)
    index = bisect_left(counts, True, key=enough)
    return counts[index] if index < len(counts) else None
