"""Small example images that each run predicts and stores; a report shows them side by side."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from segpipe.data.dataset import IGNORE_INDEX, Image, Mask
from segpipe.data.resize import resize_image, resize_mask
from segpipe.data.visualise import IGNORED, Colour
from segpipe.runs.storage import atomic_write

SIDE = 320  # longest side in pixels


def save_examples(
    folder: Path,
    *,
    names: Sequence[str],
    images: Sequence[Image],
    truths: Sequence[Mask],
    predictions: Sequence[Mask],
    palette: Sequence[Colour],
) -> None:
    """Write NAME.jpg, NAME.truth.png and NAME.png for each image; masks are palette images of class indices."""
    for name, image, truth, prediction in zip(file_names(names), images, truths, predictions, strict=True):
        size = shown_size(image.shape)
        save_image(PIL.Image.fromarray(resize_image(image, size)), folder / f"{name}.jpg", "JPEG")
        for mask, ending in ((truth, "truth.png"), (prediction, "png")):
            save_image(to_palette(resize_mask(mask, size), palette), folder / f"{name}.{ending}", "PNG")


def file_names(names: Sequence[str]) -> list[str]:
    """Return unique file names for the samples, of letters, digits, underscores and dashes."""
    unique: list[str] = []
    for name in names:
        safe = re.sub(r"[^A-Za-z0-9_-]+", "-", name.replace("/", "-")).strip("-")[:80] or "picture"
        unique.append(safe if safe not in unique else f"{safe}-{len(unique) + 1}")
    return unique


def shown_size(shape: Sequence[int], longest: int = SIDE) -> tuple[int, int]:
    """Return the height and width with at most ``longest`` as the longest side; smaller images keep their size."""
    height, width = shape[:2]
    share = min(1.0, longest / max(height, width))
    return max(1, round(height * share)), max(1, round(width * share))


def to_palette(mask: Mask, palette: Sequence[Colour]) -> PIL.Image.Image:
    """Return class indices (H, W) as a Pillow palette image."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    colours[IGNORE_INDEX] = IGNORED
    picture = PIL.Image.fromarray(mask.astype(np.uint8))
    picture.putpalette(colours.tobytes())
    return picture


def save_image(picture: PIL.Image.Image, path: Path, kind: str) -> None:
    """Write an image in the format ``kind``, atomically."""
    options = {"quality": 85} if kind == "JPEG" else {"optimize": True}
    atomic_write(path, lambda temporary: picture.save(temporary, format=kind, **options))
