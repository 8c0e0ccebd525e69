"""The effective receptive field of each decoder step: where in the image its centre looks (Luo et al. 2016)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from segpipe.data.dataset import Sample
from segpipe.lab.cells import as_batch, padded_size
from segpipe.lab.skips import Advance
from segpipe.lab.slots import places, recording
from segpipe.metrics.bootstrap import finite
from segpipe.models.network import Network

IMAGES = 8  # at most; more change the shares in the second digit
SIDES_SHOWN = 24
SHARE = 0.95  # of the energy, in the square whose side is given


@dataclass(frozen=True)
class ReceptiveField:
    """The effective receptive field of one step.

    side: of the smallest square around the cell's centre with SHARE of the gradient's energy, in pixels of the
    network's input; None where the gradient is zero. sides, shares: the share of the energy in squares of these sides,
    at most SIDES_SHOWN of them. image_side: the shorter side of the smallest image.
    """

    label: str
    stride: int
    side: int | None
    sides: list[int]
    shares: list[float]
    image_side: int


def passes(network: Network, images: int) -> int:
    """Return the number of forward passes that ``measure_fields`` reports for a number of images."""
    return min(images, IMAGES) * (1 + len(places(network)))


def measure_fields(
    network: Network, samples: Sequence[Sample], *, advance: Advance, seed: int = 0
) -> list[ReceptiveField]:
    """Return the effective receptive field of each step, coarse to fine, from the first IMAGES images.

    The gradient is that of a score: the sum over the channels of the cell nearest to the image's centre, each with a
    random sign. The expected square of this gradient is the sum over channels of the squared gradients (Hutchinson
    1990), so that channels do not cancel.
    """
    steps = places(network)
    energies: list[NDArray[np.float64]] = [np.zeros(0) for _ in steps]
    generator = torch.Generator().manual_seed(seed)
    image_side = min((min(sample.image.shape[:2]) for sample in samples[:IMAGES]), default=0)
    for sample in samples[:IMAGES]:
        image = as_batch(sample.image, network).float().requires_grad_()
        size = sample.image.shape[:2]
        with torch.enable_grad(), recording(network) as record:
            network(image)
        advance(1)
        for number, maps in enumerate(record.steps()):
            cells = [
                centre_cell(side, whole, maps.place.stride, count)
                for side, whole, count in zip(size, padded_size(network, size), maps.refined.shape[-2:], strict=True)
            ]
            (row, y), (column, x) = cells
            signs = torch.randint(0, 2, (maps.refined.shape[1],), generator=generator) * 2.0 - 1
            score = (maps.refined[0, :, row, column] * signs.to(maps.refined)).sum()
            (gradient,) = torch.autograd.grad(score, image, retain_graph=True)
            by_side = energy_by_side(gradient[0].double().cpu().numpy(), y, x)
            energies[number] = add_padded(energies[number], by_side)
            advance(1)
    return [
        field_of(place.label, place.stride, by_side, image_side) for place, by_side in zip(steps, energies, strict=True)
    ]


def centre_cell(side: int, padded: int, stride: int, count: int) -> tuple[int, float]:
    """Return the index of the cell nearest to the image's centre, along one axis, and the position of its centre.

    side, padded: of the image, in pixels. count: number of cells of the map. Positions count pixels as areas.
    """
    positions = padded / 2 + stride * (np.arange(count) - (count - 1) / 2)
    index = int(np.abs(positions - side / 2).argmin())
    return index, float(positions[index])


def energy_by_side(gradient: NDArray[np.float64], y: float, x: float) -> NDArray[np.float64]:
    """Return the energy of a gradient (3, H, W) by the side of the smallest square around (y, x) that has the pixel."""
    rows, columns = (np.abs(np.arange(side) + 0.5 - at) for side, at in zip(gradient.shape[1:], (y, x), strict=True))
    sides = np.rint(2 * np.maximum(rows[:, None], columns[None]) + 1).astype(np.int64)
    return np.bincount(sides.ravel(), (gradient**2).sum(0).ravel()).astype(np.float64)


def add_padded(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of two arrays; the shorter one continues with zeros."""
    total = np.zeros(max(len(first), len(second)))
    total[: len(first)] += first
    total[: len(second)] += second
    return total


def field_of(label: str, stride: int, by_side: NDArray[np.float64], image_side: int) -> ReceptiveField:
    """Return the field of a step from the energy by side of the square."""
    total = float(by_side.sum())
    if not total or finite(total) is None:
        return ReceptiveField(label, stride, None, [], [], image_side)
    shares = by_side.cumsum() / total
    side = int((shares >= SHARE - 1e-12).argmax())
    shown = np.unique(np.rint(np.geomspace(1, len(by_side) - 1, SIDES_SHOWN)).astype(int))
    return ReceptiveField(label, stride, side, shown.tolist(), shares[shown].tolist(), image_side)
