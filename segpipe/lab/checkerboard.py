"""Checkerboards: patterns that an upsampling operator draws because its output positions are computed differently.

An enlargement by s computes its s x s output positions (phases) by different weights. On a constant input every
difference between phases is an artefact (Odena et al. 2016, Deconvolution and checkerboard artifacts).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segpipe.lab.slots import StepMaps, places, recording
from segpipe.models.network import IMAGE_CHANNELS, Network

GRAY = (64.0, 192.0)  # values of the constant images
SIDE, CELLS = 360, 12  # of a constant image: at least so many pixels, and so many cells of the coarsest map


class StepPhases(NamedTuple):
    """Phase shares of one step on constant images: after upsampling and after refinement, at the step's own factor."""

    place: str
    stride: int
    factor: int
    upsampled: float
    refined: float


class Phases(NamedTuple):
    """Phase shares of a network on constant images. logits: at the coarsest stride, so that all steps count."""

    steps: list[StepPhases]
    logits: float


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


def constant_images(network: Network) -> Tensor:
    """Return gray images (2, 3, side, side) that are large enough: borders do not reach their inner third."""
    coarsest = network.encoder.coarsest
    cells = max(CELLS, -(-SIDE // coarsest))
    side = -(-max(cells * coarsest, network.encoder.min_size) // (3 * coarsest)) * 3 * coarsest
    return torch.tensor(GRAY).view(-1, 1, 1, 1).expand(-1, IMAGE_CHANNELS, side, side).contiguous()


@torch.inference_mode()
def on_constant_images(network: Network) -> Phases:
    """Measure the phase shares of every step, and of the logits, on the inner third of constant images.

    The network is measured as it is in evaluation; its mode is restored.
    """
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    try:
        with recording(network) as record:
            logits = network.forward(constant_images(network).to(device))  # not its compiled form, which has no hooks
    finally:
        network.train(training)
    steps = [
        StepPhases(
            place.label,
            place.stride,
            place.factor,
            *(phase_share(inner_third(x, place.factor), place.factor) for x in (maps.upsampled, maps.refined)),
        )
        for place, maps in zip(places(network), record.steps(), strict=True)
    ]
    coarsest = network.encoder.coarsest
    return Phases(steps, phase_share(inner_third(logits, coarsest), coarsest))


def on_image(steps: list[StepMaps]) -> Iterator[OnImage]:
    """Yield the measures of each step's upsampled map beside bilinear interpolation of the same input."""
    for maps in steps:
        size, factor = maps.upsampled.shape[-2:], maps.place.factor
        beside = F.interpolate(maps.before.float(), size=size, mode="bilinear")
        pair = (maps.upsampled.float(), beside)
        yield OnImage(
            maps.place.label,
            maps.place.stride,
            *(
                (measure(pair[0]), measure(pair[1]))
                for measure in (
                    lambda x, factor=factor: phase_share(x, factor),
                    lambda x, factor=factor: spectral_share(x, factor),
                    triplet_share,
                )
            ),
        )
