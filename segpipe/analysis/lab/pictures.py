"""Images of the page."""

import base64
import io
from collections.abc import Sequence
from typing import Literal

import PIL.Image

from segpipe.analysis.page.blocks import ExampleImage
from segpipe.data.dataset import Image, Mask
from segpipe.data.visualise import colour_mask
from segpipe.lab.colours import LARGEST


def mask_to_rgb(mask: Mask, palette: Sequence[tuple[int, ...]]) -> Image:
    """Return a mask (H, W) in the colours of its classes, reduced to the longest side of the page."""
    step = -(-max(mask.shape) // LARGEST)
    return colour_mask(mask[step // 2 :: step, step // 2 :: step], palette)  # type: ignore[arg-type]


def shown(image: Image, label: str, *, note: str = "", kind: Literal["PNG", "JPEG"] = "PNG") -> ExampleImage:
    """Return an image as part of the page. note: the second line. kind: JPEG for photos."""
    file = io.BytesIO()
    options = {"quality": 85} if kind == "JPEG" else {"optimize": True}
    PIL.Image.fromarray(image).save(file, kind, **options)
    uri = f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
    return ExampleImage(label, uri, image.shape[1], image.shape[0], kind == "PNG", note)
