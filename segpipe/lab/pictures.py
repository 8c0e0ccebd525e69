"""Small images as data URIs, for results that are stored as JSON and shown on a page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from segpipe.data.bands import visible
from segpipe.data.dataset import Image, Mask
from segpipe.data.examples import shown_size, to_palette
from segpipe.data.resize import resize_image, resize_mask
from segpipe.data.visualise import RIGHT, Colour

ERROR_COLOURS: tuple[Colour, ...] = ((213, 94, 0), (0, 114, 178), (230, 159, 0), (204, 121, 167))  # Okabe and Ito 2008
ALONE_COLOURS: tuple[Colour, ...] = ((0, 158, 115), (120, 60, 160))  # the first run, the second run


@dataclass(frozen=True)
class Shown:
    """Images of one example as data URIs: the photo as JPEG, maps as PNG. height, width: of all of them, in pixels.

    truth: the classes. errors: of each run, in a colour for each type. alone: where only one run is right.
    """

    height: int
    width: int
    photo: str
    truth: str
    errors: tuple[str, str]
    alone: str


def shown(
    photo: Image, truth: Mask, errors: Sequence[NDArray[np.uint8]], alone: NDArray[np.uint8], palette: Sequence[Colour]
) -> Shown:
    """Return the images of an example, reduced to the size of example images.

    photo: (H, W, 3). truth: (H, W) classes. errors: of each run, (H, W) values of an error map. alone: (H, W), 1 where
    only the first run is right, 2 where only the second is. Ignored pixels are black in the maps.
    """
    size = shown_size(truth.shape)
    ignored = truth == 255
    of_errors, of_alone = (RIGHT, *ERROR_COLOURS), (RIGHT, *ALONE_COLOURS)
    first, second = (map_uri(np.where(ignored, 255, each), of_errors, size) for each in errors)
    return Shown(
        size[0], size[1], photo_uri(photo, size), map_uri(truth, palette, size), (first, second),
        map_uri(np.where(ignored, 255, alone), of_alone, size),
    )  # fmt: skip


def map_uri(labels: NDArray[np.generic], colours: Sequence[Colour], size: tuple[int, int]) -> str:
    """Return a map (H, W) of indices of ``colours`` as a PNG."""
    return uri(to_palette(resize_mask(labels.astype(np.uint8), size), colours), "PNG")


def photo_uri(photo: Image, size: tuple[int, int]) -> str:
    """Return a photo (H, W, 3) as a JPEG."""
    return uri(PIL.Image.fromarray(resize_image(visible(photo), size)), "JPEG")


def uri(image: PIL.Image.Image, kind: str) -> str:
    """Return an image as a data URI. kind: JPEG or PNG."""
    file = io.BytesIO()
    image.save(file, format=kind, **({"quality": 85} if kind == "JPEG" else {"optimize": True}))  # type: ignore[arg-type]
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
