"""Maps in colours."""

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.data.bands import visible
from segpipe.data.dataset import Image
from segpipe.data.resize import resize_image

BLUE, WHITE, RED = np.array([33, 102, 172]), np.array([247, 247, 247]), np.array([178, 24, 43])
CLIPPED = 99.5  # percentile of the absolute values that gets the last colour
LARGEST = 480  # longest side in pixels of a photo on the page; maps keep their size


def map_to_rgb(values: NDArray[np.floating]) -> Image:
    """Return a map (h, w) in colours, (h, w, 3).

    With negative values: blue, white (0), red. Without: black (0) to bright yellow. The last colour is that of the
    99.5th percentile of the absolute values. A map of zeros is black.
    """
    size = np.abs(values)
    high = float(np.percentile(size, CLIPPED)) or float(size.max()) or 1.0
    share = np.clip(values / high, -1, 1)[..., None]
    if not (values < 0).any():
        return share_to_rgb(share[..., 0])
    mixed = np.where(share < 0, WHITE + (BLUE - WHITE) * -share, WHITE + (RED - WHITE) * share)
    return mixed.round().astype(np.uint8)


def share_to_rgb(values: NDArray[np.floating]) -> Image:
    """Return shares (h, w), 0 to 1, in colours from black (0) to bright yellow (1), (h, w, 3)."""
    levels = (255 * np.clip(values, 0, 1)).round().astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1].copy()  # type: ignore[return-value]


def photo(image: Image) -> Image:
    """Return an image (H, W, C) as RGB, reduced to at most LARGEST pixels at its longest side."""
    scale = min(1.0, LARGEST / max(image.shape[:2]))
    return resize_image(visible(image), (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))))
