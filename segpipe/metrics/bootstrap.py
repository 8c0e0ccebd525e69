"""The bootstrap over images: weights of resampled images, and intervals of scores of sums of counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segpipe.metrics.confusion import RatioCounts

MIN_UNITS = 3  # fewer groups, or images, give no interval
RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A number with its interval over images. None: not defined, or too few images for an interval."""

    value: float | None
    low: float | None = None
    high: float | None = None


def weights(groups: Sequence[str], *, resamples: int, seed: int = 0) -> NDArray[np.float64]:
    """Draw how often each image occurs, (B, I): whole groups, with replacement (Efron 1979)."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return drawn[:, member].astype(np.float64)


def units(groups: Sequence[str]) -> list[str]:
    """Return what is resampled, one name for each image: its group, or the image where there are under three groups.

    Images of one group (frames of a clip) are alike. If images are resampled although they have groups, an interval is
    that of new images of these groups, and too narrow for new groups.
    """
    return list(groups) if len(set(groups)) >= MIN_UNITS else [str(index) for index in range(len(groups))]


def estimate(
    score: Callable[[NDArray[np.float64]], NDArray[np.float64]], groups: Sequence[str], *, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return a score of all images, and the lower and upper bounds of its percentile interval (Efron 1979).

    score: from weights (B, I) of the images to values (B, ...); NaN where a value is not defined for the images drawn.
    Differences are paired: a score may be the difference of two scores of the same images. groups: see ``units``.
    Bounds are NaN with fewer than MIN_UNITS images.
    """
    observed = score(np.ones((1, len(groups))))[0]
    low = high = np.full(observed.shape, np.nan)
    if len(groups) >= MIN_UNITS:
        drawn = np.asarray(score(weights(units(groups), resamples=RESAMPLES)))
        known = np.isfinite(drawn)
        filled = np.where(known.any(0), drawn, 0.0)
        low, high = np.nanquantile(filled, [0.5 - level / 2, 0.5 + level / 2], axis=0)
        low, high = (np.where(np.isfinite(observed), bound, np.nan) for bound in (low, high))
    return observed, low, high


def as_estimates(value: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> list[Estimate]:
    """Return an Estimate for each entry of the three results of ``estimate``, in the order of the flat arrays."""
    known = [[finite(number) for number in array.ravel().tolist()] for array in (value, low, high)]
    return [Estimate(*numbers) for numbers in zip(*known, strict=True)]


def finite(value: float) -> float | None:
    """Return a number, or None where it is NaN or infinite."""
    return value if np.isfinite(value) else None


def class_ratios(counts: RatioCounts, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ratio of the weighted sums of each class, (B, V, C), for V predictions of the same images.

    counts: numerator and denominator (V, I, C); present (I, C), or (V, I, C). weights: (B, I). NaN where a class is
    absent from the images drawn.
    """
    numerator, denominator, present = (np.tensordot(weights, np.moveaxis(each, -2, 0), 1) for each in counts)
    present = present if present.ndim == numerator.ndim else present[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((present > 0) & (denominator > 0), numerator / denominator, np.nan)


def mean_of_classes(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean (...) over the classes that are not NaN in (..., C); NaN without one."""
    known = np.isfinite(ratios)
    with np.errstate(invalid="ignore"):
        return np.where(known, ratios, 0.0).sum(-1) / known.sum(-1)
