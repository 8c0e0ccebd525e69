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
    variance_dof,
)
from segpipe.analysis.statistics.resample import BootstrapScores

Floats = NDArray[np.float64]


class PairedErrors(NamedTuple):
    """Standard errors (K, K) and degrees of freedom (K, K) of all paired differences between K networks."""

    standard_error: Floats
    dof: Floats


class BestBounds(NamedTuple):
    """Bounds of each of K networks' score minus the best of the others, and p of "it is the best, or as good as it".

    p: from the comparison with the network that gives the strongest evidence against it, ``rival``; adjusted: for all
    K.
    """

    low: Floats
    high: Floats
    p: Floats
    adjusted: Floats
    rival: NDArray[np.intp]


def candidates(has_run: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the indices of networks of which every two have MIN_SEEDS seeds in common.

    has_run: (N, S). The network that lacks the most is removed first.
    """
    kept = np.flatnonzero(has_run.sum(1) >= MIN_SEEDS)
    while True:
        runs = has_run[kept].astype(int)
        lacking = (runs @ runs.T < MIN_SEEDS).sum(1)
        if not lacking.any():
            return kept
        kept = np.delete(kept, np.flatnonzero(lacking == lacking.max())[-1])


def paired(scores: Floats, seed_factor: float = 1.0) -> tuple[Floats, PairedErrors]:
    """Return the differences of means (K, K), row minus column, over the seeds that both networks have.

    scores: (K, S), NaN without a run. seed_factor: see ``BootstrapScores``.
    """
    has_run = np.isfinite(scores)
    runs = has_run.astype(np.float64)
    means = np.nanmean(scores, axis=1)
    residuals = np.where(has_run, scores - means[:, None], 0)
    count = runs @ runs.T
    total = residuals @ runs.T
    offset = (total - total.T) / count
    squares = residuals**2 @ runs.T
    squared_residuals = squares + squares.T - 2 * residuals @ residuals.T - count * offset**2
    error = np.sqrt(seed_factor * squared_residuals.clip(min=0) / (count - 1) / count)
    return means[:, None] - means + offset, PairedErrors(error, count - 1)


def with_images(scores: BootstrapScores, rows: NDArray[np.intp], seeds: PairedErrors) -> PairedErrors | None:
    """Return the errors of the differences over new seeds and new images.

    None with fewer than MIN_GROUPS image groups.
    """
    groups = len(scores.influence)
    if groups < MIN_GROUPS:
        return None
    has_run = np.isfinite(scores.observed[rows])
    common = has_run[:, None] & has_run
    error, dof = np.zeros_like(seeds.standard_error), np.ones_like(seeds.standard_error)
    for mask in np.unique(common.reshape(-1, common.shape[-1]), axis=0):
        members = np.flatnonzero(has_run[:, mask].all(1))
        block = np.ix_(members, members)
        part = errors_of_seeds(scores, rows[members], mask, PairedErrors(seeds.standard_error[block], seeds.dof[block]))
        same_seeds = (common[block] == mask).all(-1)
        error[block] = np.where(same_seeds, part.standard_error, error[block])
        dof[block] = np.where(same_seeds, part.dof, dof[block])
    return PairedErrors(error, dof)


def errors_of_seeds(
    scores: BootstrapScores, rows: NDArray[np.intp], mask: NDArray[np.bool_], seeds: PairedErrors
) -> PairedErrors:
    """Return the errors of all pairs of networks that share the seeds of ``mask``, as in ``intervals.estimate``."""
    groups, count = len(scores.influence), int(mask.sum())
    correction = groups / (groups - 1)
    drawn = scores.resampled[:, rows][:, :, mask]
    drawn = drawn - drawn.mean(0)
    means = drawn.mean(2)
    images = difference_variances(means) * correction
    residuals = (drawn - means[..., None]).transpose(0, 2, 1).reshape(-1, len(rows))
    residual = difference_variances(residuals) * correction / (count - 1)
    effect = scores.influence[:, rows][:, :, mask].mean(2)  # (G, K)
    image_dof = np.stack([variance_dof(effect[:, [number]] - effect) for number in range(len(rows))])
    seed = seeds.standard_error**2
    total = np.maximum(np.maximum(seed + images - residual, seed), images)
    parts = [(seed, seeds.dof), (images, image_dof), (residual, seeds.dof * image_dof)]
    return PairedErrors(np.sqrt(total), satterthwaite(total, parts))


def difference_variances(values: Floats) -> Floats:
    """Return the mean squares (K, K) of the differences of columns (..., K)."""
    products = values.T @ values / len(values)
    squares = np.diag(products)
    return np.asarray((squares[:, None] + squares - 2 * products).clip(min=0))


def best_of(difference: Floats, spreads: list[PairedErrors], *, level: float = 0.95) -> BestBounds:
    """Return the bounds of differences (K, K), row minus column, of at least two networks.

    spreads: errors of the differences; for each bound the widest is used.
    Networks with an adjusted p of at least 1 - level may be the best. Upper bounds use the level at which this set was
    found, so that they are above 0 in the set and 0 outside. Lower bounds consider only networks of the set.
    """
    count, alpha = len(difference), 1 - level
    itself = np.eye(count, dtype=bool)
    p = np.max([below(difference, one) for one in spreads], axis=0)
    p[itself] = 1
    smallest = p.min(1)
    bonferroni = np.minimum(1, (count - 1) * smallest)
    adjusted = holm_adjusted(bonferroni)
    may_be_best = adjusted >= alpha
    upper = difference + half(spreads, alpha / (count - 1) / max(may_be_best.sum(), 1))
    lower = difference - half(spreads, alpha / (count - 1))
    upper[itself] = lower[itself] = np.inf
    high = np.where(may_be_best, upper.min(1).clip(min=0), 0.0)
    low = np.where(may_be_best, lower, np.inf).min(1)
    low = np.where(np.isfinite(low), low, 0.0).clip(max=0)  # a single network has no rival
    return BestBounds(low, high, smallest, adjusted, p.argmin(1))


def below(difference: Floats, errors: PairedErrors) -> Floats:
    """Return the one-sided p of a difference as far below 0. With a standard error of 0: 0 below 0, else 1."""
    no_error = errors.standard_error == 0
    t = difference / np.where(no_error, 1, errors.standard_error)
    return np.where(no_error, (difference >= 0).astype(np.float64), stdtr(errors.dof, t))


def half(spreads: list[PairedErrors], alpha: float) -> Floats:
    """Return the distance of a bound with the error ``alpha``."""
    return np.asarray(np.max([stdtrit(one.dof, 1 - alpha) * one.standard_error for one in spreads], axis=0))
