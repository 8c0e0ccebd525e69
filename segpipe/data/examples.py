"""A few pictures that every run predicts, small enough to be kept: what a report shows side by side."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from segpipe.data.dataset import IGNORE_INDEX, Image, Mask
from segpipe.data.resize import resize_image, resize_mask
from segpipe.data.visualise import IGNORED, Colour
from segpipe.runs.storage import atomic_write

SIDE = 320  # pixels, the longest side


def save_examples(
    folder: Path,
    *,
    names: Sequence[str],
    images: Sequence[Image],
    truths: Sequence[Mask],
    predictions: Sequence[Mask],
    palette: Sequence[Colour],
) -> None:
    """Write NAME.jpg, NAME.truth.png and NAME.png for each; masks are indices of classes, with their colours."""
    for name, image, truth, prediction in zip(file_names(names), images, truths, predictions, strict=True):
        size = shown_size(image.shape)
        save_image(PIL.Image.fromarray(resize_image(image, size)), folder / f"{name}.jpg", "JPEG")
        for mask, ending in ((truth, "truth.png"), (prediction, "png")):
            save_image(to_palette(resize_mask(mask, size), palette), folder / f"{name}.{ending}", "PNG")


def file_names(names: Sequence[str]) -> list[str]:
    """The same names, each once, of letters, digits, dots and dashes: a data set's may hold anything."""
    found: list[str] = []
    for name in names:
        safe = re.sub(r"[^A-Za-z0-9_-]+", "-", name.replace("/", "-")).strip("-")[:80] or "picture"
        found.append(safe if safe not in found else f"{safe}-{len(found) + 1}")
    return found


def shown_size(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width with SIDE as the longest side; what is smaller stays."""
    height, width = shape[:2]
    share = min(1.0, SIDE / max(height, width))
    return max(1, round(height * share)), max(1, round(width * share))


def to_palette(mask: Mask, palette: Sequence[Colour]) -> PIL.Image.Image:
    """Indices with a palette."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    colours[IGNORE_INDEX] = IGNORED
    picture = PIL.Image.fromarray(mask.astype(np.uint8))
    picture.putpalette(colours.tobytes())
    return picture


def save_image(picture: PIL.Image.Image, path: Path, kind: str) -> None:
    """Write it, whole."""
    options = {"quality": 85} if kind == "JPEG" else {"optimize": True}
    atomic_write(path, lambda temporary: picture.save(temporary, format=kind, **options))
