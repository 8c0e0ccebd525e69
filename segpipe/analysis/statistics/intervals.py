"""How surely a difference is known: with new trainings on these pictures, and with new pictures too."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from segpipe.analysis.statistics.pairing import Pairing, by_context
from segpipe.analysis.statistics.resample import BootstrapScores

MIN_SEEDS = 3  # below, a t interval says next to nothing
MIN_GROUPS = 3  # of pictures, likewise
DRAWS = 10_000  # of the largest |t|
MOST_SEEDS = 1000  # nobody trains more

Values = float | NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Of a difference: bounds, standard error, degrees of freedom, p of "no difference".

    adjusted: p once it is taken into account that many differences were looked at; None before.
    """

    low: float
    high: float
    standard_error: float
    dof: float
    p: float
    adjusted: float | None = None


@dataclass(frozen=True)
class Estimate:
    """A difference, the mean over contexts of means over seeds. seeds: all that a context has.

    trainings: the interval for *these pictures, new trainings*; pictures: for *new pictures too*, never narrower.
    None with fewer than MIN_SEEDS seeds in a context, or MIN_GROUPS groups of pictures.
    variance_components: variances of the mean by what they come from: seed, pictures, residual.
    """

    difference: float
    seeds: tuple[int, ...]
    trainings: Interval | None
    pictures: Interval | None
    variance_components: dict[str, float]


def estimate(
    found: BootstrapScores, weights: NDArray[np.float64], seeds: Sequence[int], *, level: float = 0.95
) -> Estimate:
    """The contrast ``weights`` (N,) of the networks' scores, or the mean of several contexts', (C, N); paired by seed.

    A context is taken from the seeds at which every network that has a weight in it was trained. Seeds and pictures
    are crossed: each training was tested on the same pictures. So the variance of the mean is that of seeds, plus that
    of pictures, less what both count: chance of a single training on single pictures.
    """
    rows = np.atleast_2d(weights)
    if not len(rows):
        return Estimate(float("nan"), (), None, None, {})
    there = np.isfinite(by_context(rows, found.found))  # (C, S)
    names = tuple(seeds[int(place)] for place in np.flatnonzero(there.any(0)))
    patterns, of, times = np.unique(there, axis=0, return_inverse=True, return_counts=True)
    rows = np.stack([rows[of.ravel() == number].mean(0) for number in range(len(patterns))])  # of the same seeds
    pairing = Pairing(patterns, times / times.sum())
    scores = by_context(rows, found.found)
    mean = float(pairing.mean(scores)) if patterns.any(1).all() else float("nan")
    if pairing.count.min() < MIN_SEEDS:
        return Estimate(mean, names, None, None, {})
    seed, degrees = map(float, pairing.of_mean(scores))
    groups = len(found.influence)
    small = groups / max(groups - 1, 1)  # a resampled variance is too small by this
    drawn = by_context(rows, found.resampled)
    pictures = float(pairing.mean(drawn).var()) * small
    left = pairing.residuals(drawn - drawn.mean(0))
    residual = float(pairing.variance(np.einsum("bcs,bds->cd", left, left, optimize=True) / len(left))) * small
    both = max(seed + pictures - residual, seed, pictures)
    own = float(variance_freedom(pairing.mean(by_context(rows, found.influence))))
    freedom = float(satterthwaite(both, [(seed, degrees), (pictures, own), (residual, degrees * own)]))
    here = interval(mean, seed, degrees, level)
    everywhere = widest(here, interval(mean, both, freedom, level)) if groups >= MIN_GROUPS else None
    return Estimate(mean, names, here, everywhere, {"seed": seed, "pictures": pictures, "residual": residual})


def widest(here: Interval, everywhere: Interval) -> Interval:
    """Nobody is surer of more: more degrees of freedom may outweigh more variance, and are not to."""
    kept = here if everywhere.high < here.high else everywhere
    adjusted = [one.adjusted for one in (here, everywhere) if one.adjusted is not None]
    return replace(kept, p=max(here.p, everywhere.p), adjusted=max(adjusted, default=None))


def satterthwaite(total: Values, parts: Sequence[tuple[Values, Values]]) -> NDArray[np.float64]:
    """Degrees of freedom of a sum of variances, each with its own (Satterthwaite 1946)."""
    spread = np.asarray(sum(np.square(variance) / freedom for variance, freedom in parts))
    least = np.min(np.broadcast_arrays(*(freedom for _, freedom in parts)), axis=0)
    some = spread > 0
    return np.where(some, np.maximum(np.square(total) / np.where(some, spread, 1), least), least)


def variance_freedom(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Degrees of freedom of the variance of G values (G, ...): G - 1 for normal ones, fewer where few make most of it.

    A variance of values of kurtosis k scatters as chi-square with 2 G / (k - (G - 3) / (G - 1)) degrees does.
    """
    count = len(values)
    if count < MIN_GROUPS:
        return np.ones(values.shape[1:])
    squares = (values - values.mean(0)) ** 2
    mean = squares.mean(0)
    some = mean > 0
    kurtosis = (squares**2).mean(0) / np.where(some, mean, 1) ** 2
    freedom = 2 * count / np.where(some, kurtosis - (count - 3) / (count - 1), 1)
    return np.where(some, freedom.clip(1, count - 1), count - 1.0)


def interval(mean: float, variance: float, freedom: float, level: float) -> Interval:
    """Student's t."""
    error = float(np.sqrt(variance))
    half = float(stats.t.ppf(0.5 + level / 2, freedom)) * error
    p = two_sided(mean, error, freedom)
    return Interval(mean - half, mean + half, error, float(freedom), p)


def two_sided(mean: float, error: float, freedom: float) -> float:
    """The p of a mean as far from 0 as this one; without any spread, 0 for a difference and 1 for none."""
    if error == 0:
        return float(mean == 0)
    return float(2 * stats.t.sf(abs(mean) / error, freedom))


def holm_adjusted(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each p adjusted for their number (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted


def holm(intervals: Sequence[Interval | None]) -> list[Interval | None]:
    """The same intervals with p adjusted for their number (Holm 1979); bounds stay each difference's own."""
    each = iter(holm_adjusted(np.array([one.p for one in intervals if one is not None])).tolist())
    return [None if one is None else replace(one, adjusted=next(each)) for one in intervals]


def simultaneous(
    means: Sequence[float], intervals: Sequence[Interval | None], correlation: float, *, level: float = 0.95
) -> list[Interval | None]:
    """Intervals that all hold at once with probability ``level``, by the largest ``|t|`` (Dunnett 1955).

    The largest is drawn with normal numerators that all have one ``correlation``, each over a standard error of its
    own degrees of freedom. Where those differ, it is the smallest p that is drawn.
    """
    there = [one for one in intervals if one is not None]
    if not there:
        return list(intervals)
    smallest = smallest_of(tuple(one.dof for one in there), correlation)
    critical = float(np.quantile(smallest, 1 - level))

    def widened(mean: float, one: Interval) -> Interval:
        half = float(stats.t.ppf(1 - critical / 2, one.dof)) * one.standard_error
        adjusted = max(float((smallest <= one.p).mean()), one.p)
        return replace(one, low=mean - half, high=mean + half, adjusted=adjusted)

    return [None if one is None else widened(mean, one) for mean, one in zip(means, intervals, strict=True)]


@lru_cache(maxsize=128)
def smallest_of(freedom: tuple[float, ...], correlation: float) -> NDArray[np.float64]:
    """The smallest two-sided p of t statistics without any difference, (DRAWS,) times."""
    degrees = np.array(freedom)
    random = np.random.default_rng(0)
    common = random.standard_normal((DRAWS, 1))
    own = random.standard_normal((DRAWS, len(degrees)))
    t = (np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own) / np.sqrt(
        random.chisquare(degrees, (DRAWS, len(degrees))) / degrees
    )
    equal = (degrees == degrees[0]).all()  # then the largest |t| has the smallest p
    return np.asarray(
        2 * (stats.t.sf(np.abs(t).max(1), degrees[0]) if equal else stats.t.sf(np.abs(t), degrees).min(1))
    )


def common_correlation(covariance: NDArray[np.float64]) -> float:
    """The mean correlation of (K, K) covariances off the diagonal, from 0 to 0.95; five seeds tell no more."""
    deviation = np.sqrt(np.diag(covariance))
    kept = deviation > 0
    if kept.sum() < 2:
        return 0.0
    found = (covariance / np.outer(deviation, deviation).clip(min=1e-300))[np.ix_(kept, kept)]
    return float(np.clip(found[~np.eye(len(found), dtype=bool)].mean(), 0, 0.95))


def seeds_needed(deviation: float, difference: float, *, alpha: float, power: float = 0.8) -> int | None:
    """Seeds for which a paired t test finds a true ``difference`` with probability ``power``; None beyond MOST_SEEDS.

    deviation: of the paired differences, over seeds.
    """
    if difference == 0:
        return None
    if deviation == 0:
        return MIN_SEEDS
    effect = abs(difference) / deviation

    def enough(count: int) -> bool:
        critical = stats.t.isf(alpha / 2, count - 1)
        return bool(stats.nct.sf(critical, count - 1, effect * np.sqrt(count)) >= power)  # the wrong sign never counts

    counts = range(MIN_SEEDS, MOST_SEEDS + 1)
    place = bisect_left(counts, True, key=enough)
    return counts[place] if place < len(counts) else None
