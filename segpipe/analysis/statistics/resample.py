"""Scores under resampled images, with one set of weights for all networks and seeds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segpipe.metrics.bootstrap import weights as weights

STEP = 1e-4  # change of a weight, for a numerical derivative
CHUNK = 2_000_000  # ratios per batch; larger batches exceed the processor's cache


class ScoreCounts(NamedTuple):
    """The counts of a score, (N networks, S seeds, I images, C classes); NaN for a missing run.

    The score is the mean, over the classes present, of sums over images of ``numerator`` divided by those of
    ``denominator``. present: (I, C), above 0 where the class is in the ground truth of the image.
    """

    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]
    present: NDArray[np.float64]


class Matrices(NamedTuple):
    """Confusion matrices (I, C, C) of each run, by the indices of its network and seed; ``shape`` is (N, S).

    score: from matrices (..., C, C) to scores (...). For scores that are not a mean of ratios as in ``ScoreCounts``.
    """

    runs: Mapping[tuple[int, int], NDArray[Any]]
    shape: tuple[int, int]
    score: Callable[[NDArray[np.float64]], Any]


class BootstrapScores(NamedTuple):
    """The score of every run.

    observed: (N, S), NaN without a run. resampled: (B, N, S), with images resampled. influence: (G, N, S), the change
    of the score per unit of weight of each of G groups of images. seed_factor: the variance of a mean over seeds, as a
    multiple of that of independent seeds; above 1 if each seed is judged at a level that the others choose.
    """

    observed: NDArray[np.float64]
    resampled: NDArray[np.float64]
    influence: NDArray[np.float64]
    seed_factor: float = 1.0


def score_and_resample(
    counts: ScoreCounts | Matrices, groups: Sequence[str], *, resamples: int, seed: int = 0
) -> BootstrapScores:
    """Return the score of every run, on the original and on resampled images."""
    drawn = weights(groups, resamples=resamples, seed=seed)
    observed = scores_under(counts, np.ones((1, len(groups))))
    member = (np.unique(np.asarray(groups))[:, None] == np.asarray(groups)).astype(np.float64)  # (G, I)
    shifted = scores_under(counts, 1 + STEP * member)
    return BootstrapScores(observed[0], scores_under(counts, drawn), (shifted - observed) / STEP)


def scores_under(counts: ScoreCounts | Matrices, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the score (B, N, S) of every run under weights (B, I) of the images; NaN without a run."""
    return ratios(counts, weights) if isinstance(counts, ScoreCounts) else scores_of_sums(counts, weights)


def scores_of_sums(matrices: Matrices, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the same for any function of a confusion matrix: matrices are resampled and summed, run by run."""
    scores = np.full((len(weights), *matrices.shape), np.nan)
    for (network, seed), counts in matrices.runs.items():
        flat = counts.reshape(len(counts), -1).astype(np.float64)
        step = max(1, CHUNK // flat.shape[1])
        for start in range(0, len(weights), step):
            sums = weights[start : start + step] @ flat
            scores[start : start + step, network, seed] = matrices.score(sums.reshape(-1, *counts.shape[1:]))
    return scores


def ratios(counts: ScoreCounts, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the score (B, N, S) of every run under weights (B, I) of the images.

    Sums are resampled, not scores: the mIoU of a set of images is not the mean of their mIoU.
    """
    runs = counts.numerator.shape[:2]
    num_images = len(counts.present)
    present = counts.present.sum(0) > 0
    numerators, denominators = (
        np.moveaxis(array[..., present], 2, 0).reshape(num_images, -1)
        for array in (counts.numerator, counts.denominator)
    )
    num_classes = int(present.sum())
    scores = np.empty((len(weights), numerators.shape[1] // num_classes))
    step = max(1, CHUNK // numerators.shape[1])
    for start in range(0, len(weights), step):
        batch = weights[start : start + step]
        drawn = (batch @ counts.present[:, present])[:, None, :] > 0  # (b, 1, C)
        sums = (batch @ denominators).reshape(len(batch), -1, num_classes)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = (batch @ numerators).reshape(sums.shape)
            np.divide(values, sums, out=values)
        if drawn.all():
            scores[start : start + step] = values.mean(-1)
        else:
            scores[start : start + step] = np.where(drawn, values, 0).sum(-1) / drawn.sum(-1)
    return scores.reshape(len(weights), *runs)
