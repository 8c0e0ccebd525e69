"""A few pictures that every run predicts, small enough to be kept: what a report shows side by side."""

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from segpipe.data.dataset import IGNORE_INDEX, Image, Mask
from segpipe.pictures import IGNORED, Colour
from segpipe.storage import write_whole

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
        save(PIL.Image.fromarray(reduced(image, cv2.INTER_AREA)), folder / f"{name}.jpg", "JPEG")
        for mask, ending in ((truth, "truth.png"), (prediction, "png")):
            save(in_colours(reduced(mask, cv2.INTER_NEAREST), palette), folder / f"{name}.{ending}", "PNG")


def file_names(names: Sequence[str]) -> list[str]:
    """The same names, each once, of letters, digits, dots and dashes: a data set's may hold anything."""
    found: list[str] = []
    for name in names:
        safe = re.sub(r"[^A-Za-z0-9_-]+", "-", name.replace("/", "-")).strip("-")[:80] or "picture"
        found.append(safe if safe not in found else f"{safe}-{len(found) + 1}")
    return found


def reduced(picture: Image | Mask, how: int) -> Image:
    """To the longest side; what is smaller stays."""
    height, width = picture.shape[:2]
    share = SIDE / max(height, width)
    if share >= 1:
        return picture
    size = max(1, round(width * share)), max(1, round(height * share))
    return cv2.resize(picture, size, interpolation=how).astype(np.uint8)


def in_colours(mask: Mask, palette: Sequence[Colour]) -> PIL.Image.Image:
    """Indices with a palette."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    colours[IGNORE_INDEX] = IGNORED
    picture = PIL.Image.fromarray(mask.astype(np.uint8))
    picture.putpalette(colours.tobytes())
    return picture


def save(picture: PIL.Image.Image, path: Path, kind: str) -> None:
    """Write it, whole."""
    options = {"quality": 85} if kind == "JPEG" else {"optimize": True}
    write_whole(path, lambda temporary: picture.save(temporary, format=kind, **options))
