"""Test-time augmentation: the mean of the probabilities of an image that is mirrored and resized."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segpipe.models.network import resize_logits

Flips = Literal["none", "mirror", "flips"]
AXES: dict[str, list[tuple[int, ...]]] = {"none": [()], "mirror": [(), (3,)], "flips": [(), (3,), (2,), (2, 3)]}


def averaged(
    network: Callable[[Tensor], Tensor],
    *,
    flips: Flips = "none",
    scales: Sequence[float] = (1.0,),
    smallest: int = 1,
) -> Callable[[Tensor], Tensor]:
    """Return a function from images (N, C, H, W) to the logarithms of mean probabilities (N, K, H, W).

    The mean is over all flips at all scales. ``mirror``: the image and its left-right mirror image; ``flips``: also
    upside down, and both. scales: factors of height and width. smallest: side of the smallest image that the network
    takes. Without flips and scales, the network itself is returned.
    """
    if flips == "none" and list(scales) == [1.0]:
        return network

    def mean(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        total: Tensor | float = 0.0
        for scale in scales:
            size = [max(smallest, round(scale * side)) for side in (height, width)]
            scaled = image if size == [height, width] else resize_image(image, size)
            for axes in AXES[flips]:
                logits = network(scaled.flip(axes) if axes else scaled).float()
                total = total + resize_logits(logits.flip(axes), (height, width)).softmax(1)
        number = len(scales) * len(AXES[flips])
        return (total / number).clamp(min=torch.finfo(torch.float32).tiny).log()  # type: ignore[union-attr]

    return mean


def resize_image(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resize images (N, C, H, W) to ``size``, (H, W): bilinear, with a larger support along axes that shrink."""
    return F.interpolate(image.float(), size=tuple(size), mode="bilinear", antialias=True)
