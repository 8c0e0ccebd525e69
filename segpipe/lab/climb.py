"""The climb: a decoder's maps from the coarsest to the finest, as in Fig. 4 of DeconvNet (Noh et al. 2015)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from segpipe.lab.slots import StepMaps
from segpipe.models.network import Network

AFTER_UPSAMPLING, AFTER_SMOOTHING = "after upsampling", "after smoothing"
AFTER_FUSION, AFTER_ATTENTION, AFTER_REFINEMENT = "after fusion", "after attention", "after refinement"


class Rung(NamedTuple):
    """One map of a decoder, for one image.

    place: the label of the step. stride: relative to the input. slot: after which slot of the step. values: (h, w),
    float32, the representative channel. channel: its index. channels: how many the map has. share: that of the channel
    in the map's energy on the area, 0 to 1. maps: (C, h, w), all channels, where they were asked for.
    """

    place: str
    stride: int
    slot: str
    values: NDArray[np.float32]
    channel: int
    channels: int
    share: float
    maps: NDArray[np.float32] | None = None


def climb(steps: Sequence[StepMaps], area: Tensor, *, all_channels: bool = False) -> list[Rung]:
    """Return the maps of all steps for a batch of one image, coarse to fine.

    A slot that returns its input unchanged has none. area: (H, W) of bool, see ``object_area``; H and W are those of
    the padded image.
    """
    rungs = []
    for step in steps:
        outputs = [(AFTER_UPSAMPLING, step.upsampled), (AFTER_SMOOTHING, step.smoothed)]
        outputs += [(AFTER_FUSION, step.fused), (AFTER_ATTENTION, step.attended), (AFTER_REFINEMENT, step.refined)]
        before = None
        for slot, output in outputs:
            if output is not before:
                maps = output[0].detach().float()
                channel, share = representative_channel(maps, area)
                values = maps[channel].cpu().numpy()
                place, everything = step.place, maps.cpu().numpy() if all_channels else None
                rungs.append(Rung(place.label, place.stride, slot, values, channel, len(maps), share, everything))
            before = output
    return rungs


def object_area(prediction: Tensor, size: Sequence[int]) -> Tensor:
    """Return where an image is predicted as another class than its most frequent one, (H, W) of bool.

    prediction: (h, w) class indices. size: height and width of the padded image; padding is not part of the area. If
    the image has one predicted class, the area is the image.
    """
    area = torch.zeros(tuple(size), dtype=torch.bool)
    most = torch.mode(prediction.flatten()).values
    area[: prediction.shape[0], : prediction.shape[1]] = (prediction != most).cpu()
    if not area.any():
        area[: prediction.shape[0], : prediction.shape[1]] = True
    return area


def representative_channel(maps: Tensor, area: Tensor) -> tuple[int, float]:
    """Return the channel with the highest share of the map's energy on an area, and the share, 0 to 1.

    maps: (C, h, w). area: (H, W) of bool; a cell counts by the share of it that lies in the area. Energy is the squared
    deviation from the channel's mean, so that a channel of one value everywhere has none. The share is 0 where no
    channel has any.
    """
    size = (maps.shape[-2], maps.shape[-1])
    weight = F.adaptive_avg_pool2d(area.to(maps.device, torch.float64)[None, None], size)[0]  # (1, h, w)
    maps = maps.double()
    energies = ((maps - maps.mean((1, 2), keepdim=True)) ** 2 * weight).sum((1, 2))
    total = float(energies.sum())
    channel = int(energies.argmax())
    return channel, float(energies[channel]) / total if total > 0 else 0.0


def deconvnet_panels(rungs: Sequence[Rung]) -> list[Rung]:
    """Return the maps of Fig. 4 of DeconvNet without the image: after the first step, then two for each step.

    The first step is shown after its refinement; every other one after its upsampling and after its refinement. With
    five steps and the image these are the ten panels (a) to (j).
    """
    places = list(dict.fromkeys(rung.place for rung in rungs))
    chosen = []
    for number, place in enumerate(places):
        step = [rung for rung in rungs if rung.place == place]
        chosen += step[-1:] if number == 0 or len(step) == 1 else [step[0], step[-1]]
    return chosen


def decodes_class_scores(network: Network) -> bool:
    """Return whether the decoder's channels are class scores, as in FCN: the head is the identity."""
    return isinstance(network.head, nn.Identity)
