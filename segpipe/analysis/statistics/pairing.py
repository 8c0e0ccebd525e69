"""The mean of differences over contexts that need not have the same seeds, and its variance over seeds."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def by_context(weights: Floats, scores: NDArray[Any]) -> Floats:
    """Differences (..., C, S) of scores (..., N, S), one for each row of ``weights`` (C, N); NaN without a run.

    A network without a weight in a row is not looked at there, so it may be missing.
    """
    rows = []
    for row in weights:
        used = np.flatnonzero(row)
        rows.append(np.einsum("n,...ns->...s", row[used], scores[..., used, :], optimize=True))
    return np.stack(rows, axis=-2)


class Pairing:
    """Which seed each of C contexts has, ``there`` (..., C, S), and the ``share`` (..., C) of each in the mean.

    The mean is taken within each context first, over the seeds that it has. So a missing run changes the weight of
    nothing but its own context. Contexts with a share have at least two seeds. Leading axes are independent designs.
    """

    def __init__(self, there: NDArray[np.bool_], share: Floats) -> None:
        self.there = there.astype(np.float64)
        self.count = self.there.sum(-1)  # (..., C)
        self.weight = share / np.maximum(self.count, 1)  # (..., C), of each of a context's scores
        both = self.there @ self.there.swapaxes(-1, -2)  # (..., C, C) seeds in common
        counts = np.maximum(self.count, 1)
        one, two = counts[..., :, None], counts[..., None, :]
        # The expected sum of products of residuals, for a covariance of 1.
        expected = both * (1 - 1 / one - 1 / two + both / (one * two))
        used = (self.weight[..., :, None] * self.weight[..., None, :] > 0) & (expected > 1e-9)
        self.to_covariance = np.where(used, 1 / np.where(used, expected, 1), 0.0)
        self.products = self.weight[..., :, None] * self.weight[..., None, :]
        self.shared = both

    def mean(self, scores: Floats) -> Floats:
        """Of scores (..., C, S)."""
        return (np.where(self.there > 0, scores, 0).sum(-1) * self.weight).sum(-1)

    def residuals(self, scores: Floats) -> Floats:
        """Scores less the mean of their context; 0 where there is none."""
        found = np.where(self.there > 0, scores, 0)
        means = found.sum(-1) / np.maximum(self.count, 1)
        return np.where(self.there > 0, found - means[..., None], 0)

    def variance(self, products: Floats) -> Floats:
        """Of the mean, from sums over seeds of products of residuals (..., C, C): unbiased for any missing runs.

        The covariance of two contexts comes of the seeds that they share, and counts as often as they share seeds.
        """
        return (self.products * self.shared * self.to_covariance * products).sum((-1, -2))

    def of_mean(self, scores: Floats) -> tuple[Floats, Floats]:
        """The variance of the mean over seeds, and its degrees of freedom.

        Each seed adds a variance of its own to that of the mean, by the contexts that have it. Their number, counted
        as Satterthwaite counts variances, less one: S - 1 where nothing is missing, and that of a single context where
        this one makes nearly all of the variance.
        """
        left = self.residuals(scores)
        products = left @ left.swapaxes(-1, -2)
        together = ((self.weight[..., None] * left).sum(-2) ** 2).sum(-1)  # too small, but never negative
        variance = np.maximum(self.variance(products), together)
        each = np.einsum(
            "...cd,...cs,...ds->...s",
            self.products * self.to_covariance * products,
            self.there,
            self.there,
            optimize=True,
        ).clip(min=0)
        kept = self.weight > 0
        fewest = np.where(kept, self.count, np.inf).min(-1)
        most = ((self.there > 0) & kept[..., None]).any(-2).sum(-1)
        squares = (each**2).sum(-1)
        effective = np.where(squares > 0, each.sum(-1) ** 2 / np.where(squares > 0, squares, 1), most)
        return variance, np.clip(effective, fewest, most) - 1
