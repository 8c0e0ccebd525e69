"""What a caller may give as an image, as an array that a network takes."""

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from segpipe.data.dataset import Image
from segpipe.data.files import check_levels, check_opaque, read_image
from segpipe.errors import UserError


def as_rgb(image: str | Path | PIL.Image.Image | NDArray[np.uint8]) -> Image:
    """Convert an image (path, PIL image or array) to an RGB array (H, W, 3) of uint8.

    Raises UserError for others, and for images that are refused as files: transparent, of floating point numbers, of
    16 bits of which few are used.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, PIL.Image.Image):
        return pil_as_rgb(image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        scale = ""
        if isinstance(image, np.ndarray) and image.dtype.kind == "f":
            scale = " Values in 0..1 become uint8 by (255 * image).round().astype('uint8')."
        raise UserError(
            f"The image is {what}: allowed is a path, a PIL image, or an RGB array of uint8, (height, width, 3).{scale}"
        )
    if not image.size:
        raise UserError(f"The image has no pixels: its shape is {image.shape}. Give at least one pixel.")
    return image


def pil_as_rgb(image: PIL.Image.Image) -> Image:
    """Convert a PIL image, upright, to an RGB array (H, W, 3) of uint8. Raises UserError if that would lose data."""
    image = PIL.ImageOps.exif_transpose(image)
    if not image.width * image.height:
        raise UserError(f"The image has no pixels: its size is {image.size}. Give at least one pixel.")
    if image.mode == "F":
        raise UserError(
            "The image has floating point numbers: scale its values to 0..255, and give an RGB array of uint8."
        )
    if image.mode.startswith("I"):  # Pillow would clip these values, not scale them
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(
                f"The image has values from {values.min()} to {values.max()}; allowed are 0 to 65535. Scale them to "
                f"0..255, and give an RGB array of uint8."
            )
        check_levels(values.astype(np.uint16), "The image")
        image = PIL.Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        check_opaque(np.asarray(image.convert("RGBA"))[..., 3], "The image")
    return np.array(image.convert("RGB"))  # a copy, because torch warns about arrays that are not writable
