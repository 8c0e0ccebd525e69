"""The mean of differences over contexts with different seeds, and its variance over seeds."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def by_context(weights: Floats, scores: NDArray[Any]) -> Floats:
    """Return differences (..., C, S) of scores (..., N, S), one for each row of ``weights`` (C, N); NaN without a run.

    A network with weight 0 in a row is not used there, so it may be missing.
    """
    rows = []
    for row in weights:
        used = np.flatnonzero(row)
        rows.append(np.einsum("n,...ns->...s", row[used], scores[..., used, :], optimize=True))
    return np.stack(rows, axis=-2)


class Pairing:
    """The seeds ``has_run`` (..., C, S) of each of C contexts, and the ``share`` (..., C) of each context in the mean.

    The mean is taken within each context first, over its seeds. So a missing run changes only the weights within its
    own context. Contexts with a share have at least two seeds. Leading axes are independent designs.
    """

    def __init__(self, has_run: NDArray[np.bool_], share: Floats) -> None:
        self.has_run = has_run.astype(np.float64)
        self.count = self.has_run.sum(-1)  # (..., C)
        self.weight = share / np.maximum(self.count, 1)  # (..., C), the weight of each score of a context
        common = self.has_run @ self.has_run.swapaxes(-1, -2)  # (..., C, C) seeds in common
        counts = np.maximum(self.count, 1)
        one, two = counts[..., :, None], counts[..., None, :]
        # The expected sum of products of residuals, for a covariance of 1.
        expected = common * (1 - 1 / one - 1 / two + common / (one * two))
        used = (self.weight[..., :, None] * self.weight[..., None, :] > 0) & (expected > 1e-9)
        self.to_covariance = np.where(used, 1 / np.where(used, expected, 1), 0.0)
        self.products = self.weight[..., :, None] * self.weight[..., None, :]
        self.shared = common

    def mean(self, scores: Floats) -> Floats:
        """Return the means (...) of scores (..., C, S)."""
        return (np.where(self.has_run > 0, scores, 0).sum(-1) * self.weight).sum(-1)

    def residuals(self, scores: Floats) -> Floats:
        """Return the scores minus the mean of their context; 0 without a run."""
        known = np.where(self.has_run > 0, scores, 0)
        means = known.sum(-1) / np.maximum(self.count, 1)
        return np.where(self.has_run > 0, known - means[..., None], 0)

    def variance(self, products: Floats) -> Floats:
        """Return the variance of the mean, unbiased for any missing runs.

        products: (..., C, C) sums over seeds of products of residuals. The covariance of two contexts is estimated from
        the seeds that they share, and its weight is the number of these seeds.
        """
        return (self.products * self.shared * self.to_covariance * products).sum((-1, -2))

    def of_mean(self, scores: Floats) -> tuple[Floats, Floats]:
        """Return the variance of the mean over seeds, and its degrees of freedom.

        Each seed contributes a variance to that of the mean, through the contexts that have it. The degrees of freedom
        are the number of these variances, counted as by Satterthwaite, minus one: S - 1 if nothing is missing, and that
        of a single context if this one contributes nearly all of the variance.
        """
        residuals = self.residuals(scores)
        products = residuals @ residuals.swapaxes(-1, -2)
        lower_bound = ((self.weight[..., None] * residuals).sum(-2) ** 2).sum(
            -1
        )  # biased downwards, but never negative
        variance = np.maximum(self.variance(products), lower_bound)
        of_seed = np.einsum(
            "...cd,...cs,...ds->...s",
            self.products * self.to_covariance * products,
            self.has_run,
            self.has_run,
            optimize=True,
        ).clip(min=0)
        kept = self.weight > 0
        fewest = np.where(kept, self.count, np.inf).min(-1)
        most = ((self.has_run > 0) & kept[..., None]).any(-2).sum(-1)
        squares = (of_seed**2).sum(-1)
        effective = np.where(squares > 0, of_seed.sum(-1) ** 2 / np.where(squares > 0, squares, 1), most)
        return variance, np.clip(effective, fewest, most) - 1
