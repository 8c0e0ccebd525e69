"""Checkerboards: patterns that an upsampling operator draws because its output positions are computed differently.

An enlargement by s computes its s x s output positions (phases) by different weights. On a constant input every
difference between phases is an artefact (Odena et al. 2016, Deconvolution and checkerboard artifacts).
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segpipe.lab.slots import StepMaps, recording
from segpipe.models.network import Network

GRAY = 127.0  # value of the constant image
CELLS = 12  # of the coarsest map in the smallest constant image
GROWTH, LARGEST = 1.5, 1300  # a constant image grows by this factor, up to this side in pixels
BORDER = 1e-12  # a border is not felt where less than this share of the energy is not periodic


class StepPhases(NamedTuple):
    """Phase shares of one step on a constant image: after upsampling and after refinement, at the step's own factor."""

    place: str
    stride: int
    factor: int
    upsampled: float
    refined: float


class Phases(NamedTuple):
    """Phase shares of a network on a constant image. logits: at the coarsest stride, so that all steps count.

    side: of the image, in pixels.
    """

    steps: list[StepPhases]
    logits: float
    side: int


class OnImage(NamedTuple):
    """Measures of one map on a real image, and those of its input after bilinear interpolation, 0 to 1.

    phase: phase share of the whole map. spectral: the same variance over the variance of the map. triplets: share of
    three neighbours in a row or a column of which the middle one is the highest or the lowest (Wojna et al. 2019).
    """

    place: str
    stride: int
    phase: tuple[float, float]
    spectral: tuple[float, float]
    triplets: tuple[float, float]


def inner_third(x: Tensor, factor: int) -> Tensor:
    """Return the middle third of a map (..., H, W), with sides that are multiples of ``factor`` cells.

    It begins at a multiple of ``factor``, so that phases keep their order. Raises ValueError for a map with fewer than
    ``factor`` cells in its inner third.
    """
    for axis in (-2, -1):
        length = x.shape[axis]
        start, count = -(-(length // 3) // factor) * factor, length // 3 // factor * factor
        if not count:
            raise ValueError(f"The inner third of {length} cells has fewer than {factor}: take a larger image.")
        x = x.narrow(axis, start, count)
    return x


def phase_means(x: Tensor, factor: int) -> Tensor:
    """Return the mean of each of the factor x factor sub-positions, (N, C, H, W) to (N, C, factor^2), double.

    The map is cropped to a multiple of ``factor``.
    """
    height, width = (length // factor * factor for length in x.shape[-2:])
    x = x[..., :height, :width].double()
    return F.pixel_unshuffle(x, factor).mean((2, 3)).unflatten(1, (-1, factor**2))


def phase_share(x: Tensor, factor: int) -> float:
    """Return the variance of the phase means over the mean square, summed over images and channels, 0 to 1.

    x: (N, C, H, W). 0 where all phases have one mean, and for a map of zeros.
    """
    square = float(torch.mean(x.double() ** 2, dim=(2, 3)).sum())
    return float(phase_means(x, factor).var(2, correction=0).sum()) / square if square > 0 else 0.0


def spectral_share(x: Tensor, factor: int) -> float:
    """Return the share of the spectrum without its constant term at multiples of 1 / factor, 0 to 1; NaN: 0 / 0.

    By Parseval's theorem the energy at these frequencies is the variance of the phase means, and the energy of all
    frequencies but the constant one is the variance of the map. x: (N, C, H, W).
    """
    variance = float(x.double().var((2, 3), correction=0).sum())
    return float(phase_means(x, factor).var(2, correction=0).sum()) / variance if variance > 0 else float("nan")


def triplet_share(x: Tensor) -> float:
    """Return the share of three neighbours along a row or a column that are not monotone. x: (N, C, H, W)."""
    count = total = 0
    for axis in (-2, -1):
        steps = x.diff(dim=axis)
        turns = steps.narrow(axis, 1, steps.shape[axis] - 1) * steps.narrow(axis, 0, steps.shape[axis] - 1) < 0
        count, total = count + int(turns.sum()), total + turns.numel()
    return count / total if total else float("nan")


def border_share(x: Tensor, period: int) -> float:
    """Return the share of a map's energy, in its inner third, that does not repeat after ``period`` cells.

    On a constant image all maps are periodic but near the borders: the share says whether a border is felt. x: (N, C,
    H, W). Infinity for a map whose inner third has fewer than two periods.
    """
    if min(x.shape[-2:]) // 3 < 2 * period:
        return float("inf")
    x = inner_third(x, period).double()
    square = float((x**2).mean())
    by_rows, by_columns = x[..., period:, :] - x[..., :-period, :], x[..., period:] - x[..., :-period]
    return max(float((one**2).mean()) for one in (by_rows, by_columns)) / square if square > 0 else 0.0


def first_side(network: Network) -> int:
    """Return the side of the smallest constant image: a multiple of three cells of the coarsest map."""
    unit = 3 * network.encoder.coarsest
    return -(-max(CELLS * network.encoder.coarsest, network.encoder.min_size) // unit) * unit


@torch.inference_mode()
def on_constant_image(network: Network, *, side: int | None = None) -> Phases:
    """Measure the phase shares of every step, and of the logits, on the inner third of a constant image.

    side: of the image, a multiple of three cells of the coarsest map; None: the smallest. The image grows until no
    border is felt in its inner third, or until it is as large as LARGEST. The network is measured as it is in
    evaluation; its mode is restored.
    """
    coarsest, training = network.encoder.coarsest, network.training
    unit, side = 3 * coarsest, side or first_side(network)
    device = next(network.parameters()).device
    network.eval()
    try:
        while True:
            with recording(network) as record:
                image = torch.full((1, network.encoder.in_channels, side, side), GRAY, device=device)
                logits = network.forward(image)  # not its compiled form, which has no hooks
            steps = record.steps()
            felt = [border_share(maps.refined, coarsest // maps.place.stride) for maps in steps]
            larger = -(-int(side * GROWTH) // unit) * unit
            if max([*felt, border_share(logits, coarsest)]) < BORDER or larger > max(LARGEST, first_side(network)):
                break
            side = larger
    finally:
        network.train(training)
    shares = [step_phases(maps) for maps in steps]
    return Phases(shares, phase_share(inner_third(logits, coarsest), coarsest), side)


def step_phases(maps: StepMaps) -> StepPhases:
    """Return the phase shares of one step on a constant image."""
    factor = maps.place.factor
    upsampled, refined = (phase_share(inner_third(x, factor), factor) for x in (maps.upsampled, maps.refined))
    return StepPhases(maps.place.label, maps.place.stride, factor, upsampled, refined)


def on_image(steps: list[StepMaps]) -> Iterator[OnImage]:
    """Yield the measures of each step's upsampled map beside bilinear interpolation of the same input."""
    for maps in steps:
        size, factor = maps.upsampled.shape[-2:], maps.place.factor
        beside = F.interpolate(maps.before.float(), size=size, mode="bilinear")
        pair = (maps.upsampled.float(), beside)
        phase, spectral, triplets = (
            (measure(pair[0]), measure(pair[1]))
            for measure in (partial(phase_share, factor=factor), partial(spectral_share, factor=factor), triplet_share)
        )
        yield OnImage(maps.place.label, maps.place.stride, phase, spectral, triplets)
