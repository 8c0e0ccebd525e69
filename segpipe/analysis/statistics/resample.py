"""Scores under resampled pictures: one set of weights, shared by all networks and seeds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

STEP = 1e-4  # of a weight, to see what it moves
CHUNK = 2_000_000  # ratios computed at once; larger ones leave the processor's cache


class ScoreCounts(NamedTuple):
    """A score's counts, N networks x S seeds x I pictures x C classes; a missing run's are NaN.

    The score is the mean, over classes present, of sums over pictures of ``over`` divided by those of ``under``.
    present: (I, C), above 0 where the class is in the picture's truth.
    """

    over: NDArray[np.float64]
    under: NDArray[np.float64]
    present: NDArray[np.float64]


class Matrices(NamedTuple):
    """Confusion matrices (I, C, C) of each run, by the numbers of its network and seed, (N, S) = ``shape`` in all.

    of: the score (...) of matrices (..., C, C). For scores that are no mean of ratios, as ``ScoreCounts`` are.
    """

    runs: Mapping[tuple[int, int], NDArray[Any]]
    shape: tuple[int, int]
    of: Callable[[NDArray[np.float64]], Any]


class BootstrapScores(NamedTuple):
    """A score of every run: (N, S) as found, NaN where there is no run; (B, N, S) with pictures resampled.

    influence: (G, N, S), by how much the score moves per unit of weight of each of G groups of pictures.
    """

    found: NDArray[np.float64]
    resampled: NDArray[np.float64]
    influence: NDArray[np.float64]


def weights(groups: Sequence[str], *, resamples: int, seed: int = 0) -> NDArray[np.float64]:
    """How often each picture is drawn, (B, I): as many groups as there are, with replacement, whole (Efron 1979)."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return drawn[:, member].astype(np.float64)


def score_and_resample(
    counts: ScoreCounts | Matrices, groups: Sequence[str], *, resamples: int, seed: int = 0
) -> BootstrapScores:
    """Score every run, on the pictures as they are and on resampled ones."""
    drawn = weights(groups, resamples=resamples, seed=seed)
    as_they_are = under(counts, np.ones((1, len(groups))))
    member = (np.unique(np.asarray(groups))[:, None] == np.asarray(groups)).astype(np.float64)  # (G, I)
    moved = under(counts, 1 + STEP * member)
    return BootstrapScores(as_they_are[0], under(counts, drawn), (moved - as_they_are) / STEP)


def under(counts: ScoreCounts | Matrices, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The score (B, N, S) of every run under weights (B, I) of the pictures; NaN where there is no run."""
    return ratios(counts, weights) if isinstance(counts, ScoreCounts) else of_sums(counts, weights)


def of_sums(matrices: Matrices, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same, of any function of a confusion matrix: the matrices are resampled and added up, run by run."""
    found = np.full((len(weights), *matrices.shape), np.nan)
    for (network, seed), counts in matrices.runs.items():
        flat = counts.reshape(len(counts), -1).astype(np.float64)
        step = max(1, CHUNK // flat.shape[1])
        for start in range(0, len(weights), step):
            sums = weights[start : start + step] @ flat
            found[start : start + step, network, seed] = matrices.of(sums.reshape(-1, *counts.shape[1:]))
    return found


def ratios(tallies: ScoreCounts, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The score (B, N, S) of every run under weights (B, I) of the pictures.

    Sums are resampled, never scores: the mIoU of many pictures is no mean of theirs.
    """
    runs = tallies.over.shape[:2]
    pictures = len(tallies.present)
    there = tallies.present.sum(0) > 0
    over, under = (
        np.moveaxis(counts[..., there], 2, 0).reshape(pictures, -1) for counts in (tallies.over, tallies.under)
    )
    kept = int(there.sum())
    found = np.empty((len(weights), over.shape[1] // kept))
    step = max(1, CHUNK // over.shape[1])
    for start in range(0, len(weights), step):
        part = weights[start : start + step]
        drawn = (part @ tallies.present[:, there])[:, None, :] > 0  # (b, 1, C)
        sums = (part @ under).reshape(len(part), -1, kept)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = (part @ over).reshape(sums.shape)
            np.divide(share, sums, out=share)
        if drawn.all():
            found[start : start + step] = share.mean(-1)
        else:
            found[start : start + step] = np.where(drawn, share, 0).sum(-1) / drawn.sum(-1)
    return found.reshape(len(weights), *runs)
