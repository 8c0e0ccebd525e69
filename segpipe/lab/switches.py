"""Switches: where in each cell of 2 x 2 the encoder had its maximum, and what unpooling makes of it."""

from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from segpipe.data.resize import resize_mask
from segpipe.lab.slots import StepMaps
from segpipe.metrics.contours import NO_CONTOUR, contours, fill_ignored


class Sparsity(NamedTuple):
    """Shares of values that are exactly zero, 0 to 1: after unpooling, and after each following slot by its name."""

    upsampled: float
    later: dict[str, float]


class Agreement(NamedTuple):
    """How often switches lie on boundaries. All are sums over cells; counts add up over images.

    cells: that have boundary pixels and others. hits: the share of channels whose maximum lies on a boundary pixel,
    summed over these cells. chance: the share of the cell's pixels that are boundary pixels, summed likewise.
    """

    cells: int
    hits: float
    chance: float

    def __add__(self, other: object) -> "Agreement":
        """Add the counts of two images."""
        assert isinstance(other, Agreement)
        return Agreement(self.cells + other.cells, self.hits + other.hits, self.chance + other.chance)

    @property
    def ratio(self) -> float:
        """Observed over chance: 1 is chance; NaN without a mixed cell."""
        return self.hits / self.chance if self.cells else float("nan")


def uses_switches(upsample: nn.Module) -> bool:
    """Return whether an operator puts values where the encoder's maxima were."""
    return bool(getattr(upsample, "needs_pooling", False))


def switch_shares(source: Tensor) -> Tensor:
    """Return for each pixel the share of channels that have the maximum of its 2 x 2 cell there.

    (N, C, H, W) to (N, H, W). The four shares of a cell add up to 1. Values are 0 in a last row or column that belongs
    to no cell. Among equal values the first one, row by row, is the maximum, as in
    ``torch.nn.functional.max_pool2d``.
    """
    pooled, switches = F.max_pool2d(source, 2, return_indices=True)
    flat = source.new_zeros(*source.shape[:2], source.shape[-2] * source.shape[-1])
    ones = pooled.new_ones(pooled.shape).flatten(2)
    return flat.scatter(2, switches.flatten(2), ones).unflatten(2, source.shape[-2:]).mean(1)


def sparsity(maps: StepMaps) -> Sparsity:
    """Return the shares of zeros after unpooling and after each later slot that changes the map."""
    later = {}
    before = maps.upsampled
    for name, output in (("smooth", maps.smoothed), ("fuse", maps.fused), ("refine", maps.refined)):
        if output is not before:
            later[name] = zeros(output)
        before = output
    return Sparsity(zeros(maps.upsampled), later)


def zeros(x: Tensor) -> float:
    """Return the share of values that are exactly zero."""
    return float((x == 0).double().mean())


def agreement(shares: NDArray[np.floating], mask: NDArray[np.uint8], size: tuple[int, int]) -> Agreement:
    """Compare the switches of one image with the boundaries of a mask, in cells that have boundary pixels and others.

    shares: (H/s, W/s), see ``switch_shares``. mask: (h, w) class indices, ``IGNORE_INDEX`` where unknown. size: height
    and width of the padded image; the mask is extended by its edge, as the image is, and reduced to the map. A boundary
    pixel has a pixel of another class among its eight neighbours.
    """
    padded = np.pad(mask, ((0, size[0] - mask.shape[0]), (0, size[1] - mask.shape[1])), mode="edge")
    small = resize_mask(padded, shares.shape)[None]
    filled = fill_ignored(small, small).truth
    boundary = cells_of((contours(filled)[0] != NO_CONTOUR).astype(np.float64))  # (cells, 4)
    mixed = (boundary.sum(1) > 0) & (boundary.sum(1) < 4)
    hits = (cells_of(shares.astype(np.float64)) * boundary)[mixed].sum()
    return Agreement(int(mixed.sum()), float(hits), float(boundary[mixed].mean(1).sum()))


def cells_of(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 2 x 2 cells of a map, (H, W) to (cells, 4); a last odd row or column is left out."""
    height, width = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    return x[:height, :width].reshape(height // 2, 2, width // 2, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
