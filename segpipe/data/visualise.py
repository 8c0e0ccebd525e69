"""Draw masks: colours, overlays, and grids of image, ground truth, prediction and errors."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

from segpipe.data.bands import visible
from segpipe.data.dataset import IGNORE_INDEX, Image, Mask
from segpipe.runs.storage import atomic_write

Colour = tuple[int, int, int]
IGNORED: Colour = (0, 0, 0)
WRONG, RIGHT = (214, 39, 40), (235, 235, 235)
INK, PAPER = (30, 30, 30), (255, 255, 255)
GAP = 6
LABEL = 24  # pixels of the text above a row
WIDEST = 8  # largest ratio of width to height of an image in a grid


def colour_mask(mask: Mask, palette: Sequence[Colour]) -> Image:
    """Convert class indices (H, W) to RGB (H, W, 3); ignored pixels are black."""
    table = np.zeros((256, 1, 3), np.uint8)
    table[: len(palette), 0] = palette
    table[IGNORE_INDEX] = IGNORED
    return cv2.LUT(cv2.merge([mask] * 3), table)  # type: ignore[return-value]


def overlay(image: Image, mask: Mask, palette: Sequence[Colour], *, share: float = 0.55) -> Image:
    """Blend the image (H, W, C), values 0 to 255, with the colours of the mask (H, W).

    share: weight of the colours, 0 to 1.
    """
    return cv2.addWeighted(visible(image), 1 - share, colour_mask(mask, palette), share, 0)  # type: ignore[return-value]


@lru_cache(maxsize=64)
def legend(classes: tuple[str, ...], palette: tuple[Colour, ...], indices: tuple[int, ...], width: int) -> Image:
    """Return the names and colours of some classes, (h, width, 3), to be put below an image. indices: the classes."""
    font = PIL.ImageFont.load_default(15)
    rows = legend_rows([classes[index] for index in indices], font, width)
    page = PIL.Image.new("RGB", (width, 26 * len(rows) + 4), PAPER)
    draw = PIL.ImageDraw.Draw(page)
    for number, entries in enumerate(rows):
        for x, place in entries:
            draw_entry(draw, x, 2 + 26 * number, classes[indices[place]], palette[indices[place]], font)
    return np.asarray(page)


def draw_entry(
    draw: PIL.ImageDraw.ImageDraw,
    x: int,
    y: int,
    name: str,
    colour: Colour,
    font: PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont,
) -> None:
    """Draw one entry of a legend: a square of the colour and the name."""
    draw.rectangle((x, y + 2, x + 16, y + 18), fill=tuple(colour), outline=INK)
    draw.text((x + 22, y + 1), name, INK, font)


def error_map(truth: Mask, prediction: Mask) -> Image:
    """Return (H, W, 3): red where the prediction is wrong, light gray where it is right, black where it is ignored."""
    picture = np.where((truth == prediction)[..., None], np.array(RIGHT, np.uint8), np.array(WRONG, np.uint8))
    picture[truth == IGNORE_INDEX] = IGNORED
    return picture.astype(np.uint8)


def prediction_grid(
    images: Sequence[Image],
    truths: Sequence[Mask],
    predictions: Sequence[Mask],
    *,
    classes: Sequence[str],
    palette: Sequence[Colour],
    title: str,
    height: int = 180,
    labels: Sequence[str] = (),
) -> PIL.Image.Image:
    """Return a grid with one row per image: image, ground truth, prediction, errors.

    The title is above the rows, the colours of the classes below. height: of each row, in pixels. labels: a text above
    each row; none if it is empty.
    """
    rows = []
    for image, truth, prediction in zip(images, truths, predictions, strict=True):
        cells = [image, colour_mask(truth, palette), colour_mask(prediction, palette), error_map(truth, prediction)]
        rows.append([enlarge(cell, height) for cell in cells])
    widths = [max(row[column].shape[1] for row in rows) for column in range(4)]
    font, small = PIL.ImageFont.load_default(17), PIL.ImageFont.load_default(15)
    width = sum(widths) + 5 * GAP
    legend = legend_rows(classes, small, width)
    above = LABEL if labels else 0
    step = height + GAP + above
    top = 58
    page = PIL.Image.new("RGB", (width, top + len(rows) * step + 26 * len(legend) + 10), PAPER)
    draw = PIL.ImageDraw.Draw(page)
    draw.text((GAP, 6), fitted(title, font, width - 2 * GAP), INK, font)
    lefts = [GAP + sum(widths[:column]) + column * GAP for column in range(4)]
    for left, heading in zip(lefts, ("image", "ground truth", "prediction", "errors"), strict=True):
        draw.text((left, top - 22), heading, INK, small)
    for number, row in enumerate(rows):
        if labels:
            label = fitted(labels[number], small, width - 2 * GAP)
            draw.text((GAP, top + number * step + 2), label, INK, small)
        for left, cell in zip(lefts, row, strict=True):
            page.paste(PIL.Image.fromarray(cell), (left, top + number * step + above))
    for number, entries in enumerate(legend):
        y = top + len(rows) * step + 4 + 26 * number
        for x, index in entries:
            draw_entry(draw, x, y, classes[index], palette[index], small)
    return page


def fitted(text: str, font: PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont, width: int) -> str:
    """Return a text, cut in its middle where it is wider than ``width`` pixels: names often differ at their ends."""
    if font.getlength(text) <= width:
        return text
    kept = len(text) - 1
    while kept > 2 and font.getlength(f"{text[: kept // 2]}…{text[-kept // 2 :]}") > width:
        kept -= 1
    return f"{text[: kept // 2]}…{text[-kept // 2 :]}"


def legend_rows(
    classes: Sequence[str], font: PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont, width: int
) -> list[list[tuple[int, int]]]:
    """Return lines of (x, class) for the legend, with a line break where the next entry would not fit."""
    lines: list[list[tuple[int, int]]] = [[]]
    x = GAP
    for index, name in enumerate(classes):
        needs = 22 + int(font.getlength(name)) + 18
        if x + needs > width and lines[-1]:
            lines.append([])
            x = GAP
        lines[-1].append((x, index))
        x += needs
    return lines


def enlarge(image: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """Resize to a height. Enlargement repeats pixels, so that each pixel is visible.

    The result is at least one pixel wide. If it would be wider than WIDEST times the height, it is lower instead.
    """
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    if width > WIDEST * height:
        width, height = WIDEST * height, max(1, round(image.shape[0] * WIDEST * height / image.shape[1]))
    how = cv2.INTER_NEAREST if height >= image.shape[0] else cv2.INTER_AREA
    return cv2.resize(image, (width, height), interpolation=how)  # type: ignore[return-value]


def save_image(picture: PIL.Image.Image | Image, path: Path) -> None:
    """Write an image as PNG, atomically."""
    drawn = picture if isinstance(picture, PIL.Image.Image) else PIL.Image.fromarray(picture)
    atomic_write(path, lambda temporary: drawn.save(temporary, format="PNG"))
