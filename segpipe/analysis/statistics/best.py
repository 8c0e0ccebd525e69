"""Which networks may be the best of all: Hsu's multiple comparisons with the best, on paired differences.

Each network in turn is compared with all others, as Dunnett compares with a reference, each pair with its own standard
error and degrees of freedom (Hsu 1984; Hsu 1996, chapter 4). Bonferroni's bound stands for Dunnett's: it holds for any
correlation and any variances, which three to ten seeds do not tell.

What is guaranteed, with 95 %: the intervals of "score less the best of the others" hold all at once; and no network
that is the best, or as good as the best, is called worse. For the second the networks are corrected for their number
(Holm). Hsu's set alone keeps one best network; of several that are equal it would call some worse in most sweeps.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from segpipe.analysis.statistics.intervals import (
    MIN_GROUPS,
    MIN_SEEDS,
    holm_adjusted,
    satterthwaite,
    variance_freedom,
)
from segpipe.analysis.statistics.resample import BootstrapScores

Floats = NDArray[np.float64]


class Spread(NamedTuple):
    """Of all paired differences: standard errors (K, K) and degrees of freedom (K, K)."""

    standard_error: Floats
    dof: Floats


class AgainstBest(NamedTuple):
    """Of each of K networks: its score less the best of the others, as bounds; p of "it is the best, or as good".

    p: against the one network that speaks most against it, ``rival``; adjusted: for all that were looked at.
    """

    low: Floats
    high: Floats
    p: Floats
    adjusted: Floats
    rival: NDArray[np.intp]


def candidates(there: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Networks of which every two have MIN_SEEDS seeds in common; ``there`` (N, S). The one that lacks most goes."""
    kept = np.flatnonzero(there.sum(1) >= MIN_SEEDS)
    while True:
        runs = there[kept].astype(int)
        lacking = (runs @ runs.T < MIN_SEEDS).sum(1)
        if not lacking.any():
            return kept
        kept = np.delete(kept, np.flatnonzero(lacking == lacking.max())[-1])


def paired(scores: Floats) -> tuple[Floats, Spread]:
    """Differences of means (K, K), row less column, of scores (K, S), each over the seeds that both have."""
    there = np.isfinite(scores)
    runs = there.astype(np.float64)
    means = np.nanmean(scores, axis=1)
    rest = np.where(there, scores - means[:, None], 0)
    count = runs @ runs.T
    total = rest @ runs.T
    offset = (total - total.T) / count
    squares = rest**2 @ runs.T
    spread = squares + squares.T - 2 * rest @ rest.T - count * offset**2
    error = np.sqrt(spread.clip(min=0) / (count - 1) / count)
    return means[:, None] - means + offset, Spread(error, count - 1)


def with_pictures(found: BootstrapScores, rows: NDArray[np.intp], seeds: Spread) -> Spread | None:
    """The same differences' spread over new seeds and new pictures; None where pictures come in too few groups."""
    groups = len(found.influence)
    if groups < MIN_GROUPS:
        return None
    there = np.isfinite(found.found[rows])
    common = there[:, None] & there
    error, freedom = np.zeros_like(seeds.standard_error), np.ones_like(seeds.standard_error)
    for mask in np.unique(common.reshape(-1, common.shape[-1]), axis=0):
        members = np.flatnonzero(there[:, mask].all(1))
        ours = np.ix_(members, members)
        part = of_seeds(found, rows[members], mask, Spread(seeds.standard_error[ours], seeds.dof[ours]))
        these = (common[ours] == mask).all(-1)
        error[ours] = np.where(these, part.standard_error, error[ours])
        freedom[ours] = np.where(these, part.dof, freedom[ours])
    return Spread(error, freedom)


def of_seeds(found: BootstrapScores, rows: NDArray[np.intp], mask: NDArray[np.bool_], seeds: Spread) -> Spread:
    """As ``intervals.estimate`` has it, for all pairs of networks at once that have the seeds of ``mask``."""
    groups, count = len(found.influence), int(mask.sum())
    small = groups / (groups - 1)
    drawn = found.resampled[:, rows][:, :, mask]
    drawn = drawn - drawn.mean(0)
    moved = drawn.mean(2)
    pictures = of_differences(moved) * small
    left = (drawn - moved[..., None]).transpose(0, 2, 1).reshape(-1, len(rows))
    residual = of_differences(left) * small / (count - 1)
    effect = found.influence[:, rows][:, :, mask].mean(2)  # (G, K)
    own = np.stack([variance_freedom(effect[:, [number]] - effect) for number in range(len(rows))])
    seed = seeds.standard_error**2
    both = np.maximum(np.maximum(seed + pictures - residual, seed), pictures)
    parts = [(seed, seeds.dof), (pictures, own), (residual, seeds.dof * own)]
    return Spread(np.sqrt(both), satterthwaite(both, parts))


def of_differences(values: Floats) -> Floats:
    """Mean squares (K, K) of the differences of columns (..., K)."""
    products = values.T @ values / len(values)
    own = np.diag(products)
    return np.asarray((own[:, None] + own - 2 * products).clip(min=0))


def best_of(difference: Floats, spreads: list[Spread], *, level: float = 0.95) -> AgainstBest:
    """Of differences (K, K), row less column, of two networks at least. Of several spreads the widest counts.

    The set that may be the best: where the adjusted p is 1 - level or more. Upper bounds are at the level that the set
    was found at, so that they are above 0 in it and 0 outside. Lower bounds look only at who may be the best.
    """
    count, alpha = len(difference), 1 - level
    itself = np.eye(count, dtype=bool)
    chance = np.max([below(difference, one) for one in spreads], axis=0)
    chance[itself] = 1
    smallest = chance.min(1)
    own = np.minimum(1, (count - 1) * smallest)
    adjusted = holm_adjusted(own)
    may = adjusted >= alpha
    upper = difference + half(spreads, alpha / (count - 1) / max(may.sum(), 1))
    lower = difference - half(spreads, alpha / (count - 1))
    upper[itself] = lower[itself] = np.inf
    high = np.where(may, upper.min(1).clip(min=0), 0.0)
    low = np.where(may, lower, np.inf).min(1)
    low = np.where(np.isfinite(low), low, 0.0).clip(max=0)  # there is none but itself
    return AgainstBest(low, high, smallest, adjusted, chance.argmin(1))


def below(difference: Floats, spread: Spread) -> Floats:
    """The p, one-sided, of a difference as far below 0; without any spread, 0 below and 1 at 0 or above."""
    sure = spread.standard_error == 0
    t = difference / np.where(sure, 1, spread.standard_error)
    return np.where(sure, (difference >= 0).astype(np.float64), stdtr(spread.dof, t))


def half(spreads: list[Spread], alpha: float) -> Floats:
    """How far a bound with the error ``alpha`` is away."""
    return np.asarray(np.max([stdtrit(one.dof, 1 - alpha) * one.standard_error for one in spreads], axis=0))
