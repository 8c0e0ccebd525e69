"""The cells of a map and the pixels of the image: which classes a cell covers, and scores of cells at full size.

Cell i of n lies where ``Encoder.forward`` says, also where an encoder does not pad (AlexNet). An image is padded to a
multiple of the coarsest stride; the padding belongs to no class.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segpipe.data.dataset import IGNORE_INDEX, Image, Mask
from segpipe.data.resize import class_fractions, resize_mask
from segpipe.data.samples import as_tensor
from segpipe.metrics.contours import contours, fill_ignored
from segpipe.models.network import Network, resize_logits
from segpipe.models.upsample import crop_or_pad_to


def as_batch(image: Image, network: Network) -> Tensor:
    """Return an image (H, W, 3) as a batch (1, 3, H, W) of uint8 on the network's device."""
    return as_tensor(image).to(next(network.parameters()).device)


def padded_size(network: Network, size: Sequence[int]) -> tuple[int, int]:
    """Return the height and width (H, W) of an image after the network's padding."""
    stride = network.encoder.coarsest
    return -(-size[0] // stride) * stride, -(-size[1] // stride) * stride


def cell_fractions(
    mask: Mask, *, stride: int, shape: Sequence[int], size: Sequence[int], padded: Sequence[int], num_classes: int
) -> NDArray[np.float32]:
    """Return the fraction of each cell's pixels that belong to each class, (C, h, w) for a map of ``shape`` (h, w).

    mask: of any size. size, padded: (H, W) of the network's input before and after padding. Ignored pixels belong to no
    class, so fractions may sum to less than 1.
    """
    mask = mask if mask.shape == tuple(size) else resize_mask(mask, size)
    canvas = np.full((shape[0] * stride, shape[1] * stride), IGNORE_INDEX, np.uint8)
    top, left = ((whole - side) // 2 for whole, side in zip(padded, canvas.shape, strict=True))
    inside = mask[max(top, 0) :, max(left, 0) :][: canvas.shape[0] - max(-top, 0), : canvas.shape[1] - max(-left, 0)]
    canvas[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]] = inside
    return class_fractions(canvas, stride, num_classes)


def image_extent(size: Sequence[int], *, padded: Sequence[int], shape: Sequence[int]) -> tuple[float, float]:
    """Return the height and width of the image in cells of a map of ``shape`` (h, w); the other cells are padding.

    size, padded: (H, W) of the network's input before and after padding, which is at the bottom and at the right.
    """
    return size[0] * shape[0] / padded[0], size[1] * shape[1] / padded[1]


def contours_of_map(labels: Mask, *, padded: Sequence[int], shape: Sequence[int]) -> NDArray[np.uint8]:
    """Return the contours of a mask at the size of a map, (1, h', w'): of the cells that lie on the image.

    labels: (H, W) class indices of the network's input, ``IGNORE_INDEX`` where unknown. padded: its size after padding;
    the mask is extended by its edge, as the image is. shape: (h, w) of the map; of it the first h' rows and w' columns
    are on the image, the last ones possibly in part. See ``metrics.contours``.
    """
    whole = np.pad(labels, ((0, padded[0] - labels.shape[0]), (0, padded[1] - labels.shape[1])), mode="edge")
    small = resize_mask(whole, shape)[None]
    height, width = image_extent(labels.shape, padded=padded, shape=shape)
    return contours(fill_ignored(small, small).truth)[:, : math.ceil(height), : math.ceil(width)]


def enlarge(
    scores: Tensor, *, stride: int, size: Sequence[int], padded: Sequence[int], full: Sequence[int]
) -> NDArray[np.uint8]:
    """Return the class with the highest score of each pixel, ``full`` (H, W), by bilinear interpolation.

    scores: (1, K, h, w) of the cells of a map. size, padded: as for ``cell_fractions``. Ties give the lowest class.
    """
    if stride > 1:
        scores = F.interpolate(scores, scale_factor=stride, mode="bilinear", align_corners=False)
    return predicted_classes(crop_or_pad_to(scores, padded)[..., : size[0], : size[1]], full)


def predicted_classes(logits: Tensor, full: Sequence[int]) -> NDArray[np.uint8]:
    """Return the class indices (H, W) of logits (1, K, h, w) after resizing to ``full`` (H, W)."""
    return resize_logits(logits.float(), full)[0].argmax(0).byte().cpu().numpy()
