"""Switches: where in each cell of 2 x 2 the encoder had its maximum, and what unpooling makes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from segpipe.data.dataset import Sample
from segpipe.data.resize import resize_mask
from segpipe.lab.cells import as_batch, contours_of_map, padded_size
from segpipe.lab.slots import Place, StepMaps, places, recording
from segpipe.metrics.bootstrap import Estimate, as_estimates, estimate
from segpipe.metrics.contours import NO_CONTOUR
from segpipe.models.network import Network


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
    for name, output in (
        ("smooth", maps.smoothed),
        ("fuse", maps.fused),
        ("attention", maps.attended),
        ("refine", maps.refined),
    ):
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
    and width of the padded image; cells in the padding do not count. A boundary pixel has a pixel of another class
    among its eight neighbours.
    """
    lines = contours_of_map(mask, padded=size, shape=shares.shape)[0]
    shares = shares[: lines.shape[0], : lines.shape[1]]
    boundary = cells_of((lines != NO_CONTOUR).astype(np.float64))  # (cells, 4)
    mixed = (boundary.sum(1) > 0) & (boundary.sum(1) < 4)
    hits = (cells_of(shares.astype(np.float64)) * boundary)[mixed].sum()
    return Agreement(int(mixed.sum()), float(hits), float(boundary[mixed].mean(1).sum()))


def cells_of(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 2 x 2 cells of a map, (H, W) to (cells, 4); a last odd row or column is left out."""
    height, width = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    return x[:height, :width].reshape(height // 2, 2, width // 2, 2).transpose(0, 2, 1, 3).reshape(-1, 4)


@dataclass(frozen=True)
class SwitchMeasures:
    """The switches of one step over the images of a split, shares 0 to 1.

    cells: of all images, with boundary pixels and others. observed: mean share of switches on boundary pixels; chance:
    mean share of boundary pixels; ratio: the first over the second. zeros: share of zeros after unpooling; zeros_later:
    after the last slot of the step that changes the map, None where none does.
    """

    place: str
    stride: int
    cells: int
    observed: Estimate
    chance: Estimate
    ratio: Estimate
    zeros: float
    zeros_later: float | None


def passes(network: Network, images: int) -> float:
    """Return the number of forward passes of ``measure_switches``."""
    return images if any(uses_switches(place.upsample) for place in places(network)) else 0


@torch.inference_mode()
def measure_switches(
    network: Network, samples: Sequence[Sample], *, groups: Sequence[str], advance: Callable[[float], None]
) -> list[SwitchMeasures]:
    """Return the switches of each step with unpooling, coarse to fine. An image is one forward pass.

    groups: one for each sample, see ``metrics.bootstrap.units``. Boundaries are those of the masks.
    """
    steps = [place for place in places(network) if uses_switches(place.upsample)]
    if not steps:
        return []
    found: list[list[Agreement]] = [[] for _ in steps]
    zero_shares: list[list[tuple[float, float]]] = [[] for _ in steps]
    for sample in samples:
        size = sample.image.shape[:2]
        with recording(network) as record:
            network(as_batch(sample.image, network))
        labels = resize_mask(sample.mask, size)
        for number, maps in enumerate(map(record.maps, steps)):
            shares = switch_shares(maps.source)[0].float().cpu().numpy()
            found[number].append(agreement(shares, labels, padded_size(network, size)))
            sparse = sparsity(maps)
            zero_shares[number].append((sparse.upsampled, list(sparse.later.values())[-1] if sparse.later else np.nan))
        advance(1)
    return [
        step_measures(place, agreements, np.mean(shares, axis=0), groups)
        for place, agreements, shares in zip(steps, found, zero_shares, strict=True)
    ]


def step_measures(
    place: Place, agreements: Sequence[Agreement], zero_shares: NDArray[np.float64], groups: Sequence[str]
) -> SwitchMeasures:
    """Return the measures of one step from those of its images."""
    counts = np.array(agreements, np.float64)  # (I, 3): cells, hits, chance

    def score(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        cells, hits, chance = (weights @ counts).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([hits / cells, chance / cells, hits / chance], axis=1)

    observed, by_chance, ratio = as_estimates(*estimate(score, groups))
    later = float(zero_shares[1])
    return SwitchMeasures(
        place.label,
        place.stride,
        int(counts[:, 0].sum()),
        observed,
        by_chance,
        ratio,
        float(zero_shares[0]),
        later if np.isfinite(later) else None,
    )
