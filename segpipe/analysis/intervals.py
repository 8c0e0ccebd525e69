"""How surely a difference is known: with new trainings on these pictures, and with new pictures too."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from segpipe.analysis.resample import Scored

LEAST_SEEDS = 3  # below, a t interval says next to nothing
LEAST_GROUPS = 3  # of pictures, likewise
DRAWS = 10_000  # of the largest |t|
MOST_SEEDS = 1000  # nobody trains more


@dataclass(frozen=True)
class Interval:
    """Of a difference: bounds, standard error, degrees of freedom, p of "no difference".

    adjusted: p once it is taken into account that many differences were looked at; None before.
    """

    low: float
    high: float
    error: float
    freedom: float
    p: float
    adjusted: float | None = None


@dataclass(frozen=True)
class Estimate:
    """A difference of means over seeds. by_seed: of each seed it was taken from.

    trainings: the interval for *these pictures, new trainings*; pictures: for *new pictures too*, never narrower.
    None with fewer than LEAST_SEEDS seeds, or LEAST_GROUPS groups of pictures.
    parts: variances of the mean by what they come from: seed, pictures, residual.
    """

    difference: float
    seeds: tuple[int, ...]
    by_seed: tuple[float, ...]
    trainings: Interval | None
    pictures: Interval | None
    parts: dict[str, float]


def estimate(found: Scored, weights: NDArray[np.float64], seeds: Sequence[int], *, level: float = 0.95) -> Estimate:
    """The contrast ``weights`` (N,) of the networks' scores, paired by seed.

    It is taken from the seeds at which every network that has a weight was trained. Seeds and pictures are crossed:
    each training was tested on the same pictures. So the variance of the mean is that of seeds, plus that of pictures,
    less what both count: chance of a single training on single pictures.
    """
    used = np.flatnonzero(weights)
    there = np.flatnonzero(np.isfinite(found.found[used]).all(axis=0))
    by_seed = weights[used] @ found.found[np.ix_(used, there)]  # (S,)
    count = len(by_seed)
    names = tuple(seeds[int(place)] for place in there)
    mean = float(by_seed.mean()) if count else float("nan")
    if count < LEAST_SEEDS:
        return Estimate(mean, names, tuple(map(float, by_seed)), None, None, {})
    drawn = np.einsum("n,bns->bs", weights[used], found.resampled[:, used][:, :, there], optimize=True)
    groups = len(found.influence)
    small = groups / max(groups - 1, 1)  # a resampled variance is too small by this
    moved = drawn.mean(1)
    seed = float(by_seed.var(ddof=1)) / count
    pictures = float(moved.var()) * small
    residual = float((drawn - moved[:, None]).var(0).sum()) * small / (count * (count - 1))
    both = max(seed + pictures - residual, seed, pictures)
    own = variance_freedom(np.einsum("n,gns->g", weights[used], found.influence[:, used][:, :, there]))
    freedom = satterthwaite(both, [(seed, count - 1), (pictures, own), (residual, (count - 1) * own)])
    here = interval(mean, seed, count - 1, level)
    everywhere = wider(here, interval(mean, both, freedom, level)) if groups >= LEAST_GROUPS else None
    parts = {"seed": seed, "pictures": pictures, "residual": residual}
    return Estimate(mean, names, tuple(map(float, by_seed)), here, everywhere, parts)


def wider(here: Interval, everywhere: Interval) -> Interval:
    """Nobody is surer of more: more degrees of freedom may outweigh more variance, and are not to."""
    kept = here if everywhere.high < here.high else everywhere
    adjusted = [one.adjusted for one in (here, everywhere) if one.adjusted is not None]
    return replace(kept, p=max(here.p, everywhere.p), adjusted=max(adjusted, default=None))


def satterthwaite(total: float, parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances, each with its own (Satterthwaite 1946)."""
    spread = sum(variance**2 / freedom for variance, freedom in parts)
    least = min(freedom for _, freedom in parts)
    return max(total**2 / spread, least) if spread else least


def variance_freedom(values: NDArray[np.float64]) -> float:
    """Degrees of freedom of the variance of G values: G - 1 for normal ones, fewer where a few of them make most of it.

    A variance of values of kurtosis k scatters as chi-square with 2 G / (k - (G - 3) / (G - 1)) degrees does.
    """
    count = len(values)
    if count < LEAST_GROUPS:
        return 1.0
    squares = (values - values.mean()) ** 2
    if not squares.any():
        return count - 1.0
    kurtosis = float((squares**2).mean() / squares.mean() ** 2)
    return float(np.clip(2 * count / (kurtosis - (count - 3) / (count - 1)), 1, count - 1))


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


def holm(intervals: Sequence[Interval | None]) -> list[Interval | None]:
    """The same intervals with p adjusted for their number (Holm 1979); bounds stay each difference's own."""
    there = np.array([one.p for one in intervals if one is not None])
    order = np.argsort(there)
    adjusted = np.empty(len(there))
    adjusted[order] = np.maximum.accumulate(there[order] * np.arange(len(there), 0, -1)).clip(max=1)
    each = iter(adjusted.tolist())
    return [None if one is None else replace(one, adjusted=next(each)) for one in intervals]


def simultaneous(
    means: Sequence[float], intervals: Sequence[Interval | None], correlation: float, *, level: float = 0.95
) -> list[Interval | None]:
    """Intervals that all hold at once with probability ``level``, by the largest |t| (Dunnett 1955).

    The largest is drawn with normal numerators that all have one ``correlation``, each over a standard error of its
    own degrees of freedom. Where those differ, it is the smallest p that is drawn.
    """
    there = [one for one in intervals if one is not None]
    if not there:
        return list(intervals)
    freedom = np.array([one.freedom for one in there])
    random = np.random.default_rng(0)
    common = random.standard_normal((DRAWS, 1))
    own = random.standard_normal((DRAWS, len(there)))
    t = (np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own) / np.sqrt(
        random.chisquare(freedom, (DRAWS, len(there))) / freedom
    )
    equal = (freedom == freedom[0]).all()  # then the largest |t| has the smallest p
    smallest = 2 * (stats.t.sf(np.abs(t).max(1), freedom[0]) if equal else stats.t.sf(np.abs(t), freedom).min(1))
    critical = float(np.quantile(smallest, 1 - level))

    def widened(mean: float, one: Interval) -> Interval:
        half = float(stats.t.ppf(1 - critical / 2, one.freedom)) * one.error
        adjusted = max(float((smallest <= one.p).mean()), one.p)
        return replace(one, low=mean - half, high=mean + half, adjusted=adjusted)

    return [None if one is None else widened(mean, one) for mean, one in zip(means, intervals, strict=True)]


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
        return LEAST_SEEDS
    effect = abs(difference) / deviation

    def enough(count: int) -> bool:
        critical = stats.t.isf(alpha / 2, count - 1)
        return bool(stats.nct.sf(critical, count - 1, effect * np.sqrt(count)) >= power)  # the wrong sign never counts

    counts = range(LEAST_SEEDS, MOST_SEEDS + 1)
    place = bisect_left(counts, True, key=enough)
    return counts[place] if place < len(counts) else None
