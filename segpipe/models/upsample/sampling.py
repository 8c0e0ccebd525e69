"""Bilinear sampling of a map at given positions."""

import torch
import torch.nn.functional as F
from torch import Tensor


def centres(x: Tensor, factor: int) -> Tensor:
    """The positions of the pixels of ``x``, enlarged by a factor, in pixels of ``x``: (1, 2, s * h, s * w), x then y.

    The first cell of ``x`` reaches from 0 to 1, with its centre at 0.5. Sampling there is bilinear interpolation. The
    type is that of ``x``, or float32 if it has less precision.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    down, right = ((torch.arange(factor * side, device=x.device, dtype=dtype) + 0.5) / factor for side in x.shape[-2:])
    return torch.stack([right.expand(down.shape[0], -1), down[:, None].expand(-1, right.shape[0])])[None]


def sample(x: Tensor, positions: Tensor) -> Tensor:
    """Sample ``x`` (N, C, h, w) bilinearly; outside, its edge is repeated. Returns (N, C, H, W) in the type of ``x``.

    positions: (N, 2, H, W), right then down, in pixels of ``x`` (see ``centres``). The arithmetic has at least single
    precision. The gradient of ``grid_sample`` has no fixed order on a GPU, and raises under deterministic algorithms;
    there the four neighbours are gathered.
    """
    wide = x.to(positions.dtype)
    if torch.are_deterministic_algorithms_enabled():
        return gathered(wide, positions).to(x.dtype)
    height, width = x.shape[-2:]
    grid = torch.stack([2 * positions[:, 0] / width - 1, 2 * positions[:, 1] / height - 1], dim=-1)
    return F.grid_sample(wide, grid, mode="bilinear", padding_mode="border", align_corners=False).to(x.dtype)


def gathered(x: Tensor, positions: Tensor) -> Tensor:
    """See ``sample``: the same from four values of ``x``, by ``gather``."""
    height, width = x.shape[-2:]
    right = (positions[:, :1] - 0.5).clamp(0, width - 1)  # (N, 1, H, W)
    down = (positions[:, 1:] - 0.5).clamp(0, height - 1)
    left, top = (place.detach().nan_to_num().floor() for place in (right, down))  # NaN is no index, and stays a weight
    right, down = right - left, down - top
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for below in (0, 1):
        for beside in (0, 1):
            row, column = (top + below).clamp(max=height - 1), (left + beside).clamp(max=width - 1)
            index = (row * width + column).long().flatten(2).expand(-1, x.shape[1], -1)
            values = x.flatten(2).gather(2, index).unflatten(2, positions.shape[-2:])
            total = total + values * (right if beside else 1 - right) * (down if below else 1 - down)
    return total
