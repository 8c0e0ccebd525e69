"""The kernels of an upsampling operator: its response to a single value, and its distance from fixed operators."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.lab.slots import StepMaps

CELLS = 7  # side of the map with the single value; a kernel reaches at most three cells to each side
BATCH = 2**24  # values of the responses that are computed at a time
FIXED = ("bilinear", "nearest", "unpooling")


class Kernels(NamedTuple):
    """The kernels of an operator. weight: (in_channels, out_channels, side, side). factor: of the enlargement.

    The middle of a kernel lies on the middle of the cell that it spreads.
    """

    weight: Tensor
    factor: int


def is_linear(upsample: nn.Module) -> bool:
    """Return whether an operator has kernels: it is a linear function of its input for every source."""
    return bool(getattr(upsample, "linear", False))


@torch.inference_mode()
def kernels(upsample: nn.Module, *, in_channels: int, source_channels: int, factor: int) -> Kernels:
    """Return the kernels of a linear operator, from its responses to a single value in each input channel.

    Nothing is read from the operator's parameters, so that it holds for transposed convolutions, sub-pixel
    convolutions, interpolation with a 1x1 convolution, and chains of layers. The response to zeros (the bias) is
    subtracted. Kernels are cropped to the smallest even side around the cell's middle.
    Raises ValueError for an operator that is not linear.
    """
    if not is_linear(upsample):
        raise ValueError(f"{type(upsample).__name__} is not linear in its input: it has no kernels.")
    parameter = next(upsample.parameters(), torch.zeros(1))
    side = CELLS * factor
    source = parameter.new_zeros(1, source_channels, side, side)
    rest = upsample(parameter.new_zeros(1, in_channels, CELLS, CELLS), source)
    count = max(1, BATCH // rest.numel())
    parts = []
    for first in range(0, in_channels, count):
        chosen = range(first, min(first + count, in_channels))
        x = parameter.new_zeros(len(chosen), in_channels, CELLS, CELLS)
        x[range(len(chosen)), chosen, CELLS // 2, CELLS // 2] = 1
        response = upsample(x, source.expand(len(chosen), -1, -1, -1)) - rest
        parts.append(response.float().cpu())
    return Kernels(crop_to_support(torch.cat(parts), factor), factor)


def of_step(maps: StepMaps) -> Kernels | None:
    """Return the kernels of a step that has run; None where its operator is not linear."""
    operator = maps.place.upsample
    if not is_linear(operator):
        return None
    return kernels(
        operator, in_channels=maps.before.shape[1], source_channels=maps.source.shape[1], factor=maps.place.factor
    )


def crop_to_support(responses: Tensor, factor: int) -> Tensor:
    """Crop (in, out, H, W) to the smallest centred square of even side, at least the cell, with all that is not 0."""
    offset = (
        torch.arange(responses.shape[-1]) + 0.5 - responses.shape[-1] / 2
    ).abs() + 0.5  # of each row from the middle
    reached = responses.abs().amax((0, 1))
    distance = torch.maximum(offset[:, None], offset[None, :])
    half = max(int(distance[reached > 0].max().ceil()) if bool((reached > 0).any()) else 0, -(-factor // 2))
    middle = responses.shape[-1] // 2
    return responses[..., middle - half : middle + half, middle - half : middle + half].contiguous()


def fixed_kernel(name: str, side: int, factor: int) -> Tensor:
    """Return the kernel of a fixed operator in a square of ``side``, (1, side, side).

    name: one of FIXED. Unpooling puts the value on one position of its cell, which the switches choose: it has one
    kernel for each, (factor^2, side, side).
    """
    if name == "unpooling":
        cell = torch.eye(factor**2).view(factor**2, factor, factor)
        margin = (side - factor) // 2
        return F.pad(cell, (margin, side - factor - margin) * 2)
    x = torch.zeros(1, 1, CELLS, CELLS)
    x[..., CELLS // 2, CELLS // 2] = 1
    large = F.interpolate(x, scale_factor=factor, mode=name)[0]
    margin = (side - large.shape[-1]) // 2
    return F.pad(large, (margin, side - large.shape[-1] - margin) * 2)


def distances(found: Kernels) -> dict[str, float]:
    """Return the distance of an operator's kernels from each fixed operator's kernel, 0 to 1.

    It is the root of the share of the kernels' energy that is not along the fixed kernel: ``sqrt(1 - sum <W_io, t>^2 /
    sum |W_io|^2)``, over all pairs of an input channel i and an output channel o, where t is the fixed kernel with norm
    1. It is 0 if every kernel is a multiple of the fixed one, and does not depend on scale or on how channels are
    mixed. For unpooling, each pair takes the nearest position of its cell. NaN where all kernels are zero.
    """
    weight = found.weight.double().flatten(2)
    total = float((weight**2).sum())
    result = {}
    for name in FIXED:
        side = max(found.weight.shape[-1], 2 * found.factor)
        target = fixed_kernel(name, side + side % 2, found.factor).double()
        target = target / target.flatten(1).norm(dim=1)[:, None, None]
        crop = (target.shape[-1] - found.weight.shape[-1]) // 2
        end = crop + found.weight.shape[-1]
        along = weight @ target[:, crop:end, crop:end].flatten(1).T  # (in, out, 1 or factor^2)
        share = float((along**2).amax(-1).sum()) / total if total > 0 else float("nan")
        result[name] = max(0.0, 1 - share) ** 0.5 if share == share else share
    return result


def change(found: Kernels, start: Kernels) -> float:
    """Return how far the kernels moved from their start: ``|W - W0| / |W0|``. NaN where the start is zero."""
    side = max(found.weight.shape[-1], start.weight.shape[-1])
    now, before = (pad_to(one.weight.double(), side) for one in (found, start))
    norm = float(before.norm())
    return float((now - before).norm()) / norm if norm > 0 else float("nan")


def pad_to(weight: Tensor, side: int) -> Tensor:
    """Pad (..., k, k) with zeros to (..., side, side), equally on all sides."""
    margin = (side - weight.shape[-1]) // 2
    return F.pad(weight, (margin,) * 4)


def strongest(found: Kernels, count: int) -> list[tuple[int, int]]:
    """Return the pairs (input channel, output channel) of the kernels with the most energy, the strongest first."""
    energies = (found.weight.double() ** 2).sum((2, 3))
    order = energies.flatten().argsort(descending=True, stable=True)[:count]
    return [divmod(int(one), energies.shape[1]) for one in order]
