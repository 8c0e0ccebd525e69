"""Figures of the climb as PNG files: runs side by side, and the panels of one run as in Fig. 4 of DeconvNet."""

import math
from collections.abc import Sequence
from string import ascii_lowercase

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from segpipe.data.dataset import Image
from segpipe.data.visualise import GAP, INK, PAPER, colour_mask, enlarge
from segpipe.lab.climb import Rung, deconvnet_panels
from segpipe.lab.colours import map_to_rgb, photo
from segpipe.lab.facts import Inspection, RunFacts

HEIGHT = 150  # of an image in a figure, in pixels
LINE = 20  # of text


def climb_figure(inspection: Inspection, number: int) -> PIL.Image.Image:
    """Return one image through all runs: a row for each run, a column for each stride, then the prediction.

    Of each step the last map is shown, after fusion and refinement; a stride that a run does not compute stays empty.
    """
    runs = [run for run in inspection.runs if not run.reason]
    strides = sorted({rung.stride for run in runs for rung in run.images[number].rungs}, reverse=True)
    shown = inspection.images[number]
    rows, texts = [], []
    for run in runs:
        facts = run.images[number]
        last = {rung.stride: rung for rung in facts.rungs}  # the last of each stride
        cells: list[Image | None] = [photo(shown.image)]
        cells += [map_to_rgb(last[stride].values) if stride in last else None for stride in strides]
        rows.append([*cells, colour_mask(facts.prediction, inspection.palette)])  # type: ignore[arg-type]
        texts.append(run.label)
    headings = ["image", *(f"stride {stride}" for stride in strides), "prediction"]
    return grid(rows, headings, texts)


def panels_figure(inspection: Inspection, run: RunFacts, number: int, *, columns: int = 5) -> PIL.Image.Image:
    """Return the panels (a), (b), ... of one run as in Fig. 4 of DeconvNet: the image, then from coarse to fine."""
    rungs = deconvnet_panels(run.images[number].rungs)
    cells: list[Image | None] = [photo(inspection.images[number].image), *(map_to_rgb(rung.values) for rung in rungs)]
    texts = ["image", *(panel_text(rung) for rung in rungs)]
    labels = [f"({ascii_lowercase[place % 26]}) {text}" for place, text in enumerate(texts)]
    count = math.ceil(len(cells) / columns)
    cells += [None] * (count * columns - len(cells))
    labels += [""] * (count * columns - len(labels))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return grid(rows, None, [run.label] + [""] * (count - 1), labels=labels)


def panel_text(rung: Rung) -> str:
    """Return the size of a map and its slot."""
    return f"{rung.values.shape[0]} x {rung.values.shape[1]}, {rung.slot}"


def sheet(rung: Rung, *, columns: int = 8) -> PIL.Image.Image:
    """Return all channels of a map at its own resolution, row by row; the representative one has a red frame."""
    assert rung.maps is not None
    count, height, width = rung.maps.shape
    rows = math.ceil(count / columns)
    page = PIL.Image.new("RGB", (columns * (width + 2) + 2, rows * (height + 2) + 2), PAPER)
    draw = PIL.ImageDraw.Draw(page)
    for channel, values in enumerate(rung.maps):
        x, y = channel % columns * (width + 2) + 2, channel // columns * (height + 2) + 2
        page.paste(PIL.Image.fromarray(map_to_rgb(values)), (x, y))
        if channel == rung.channel:
            draw.rectangle((x - 1, y - 1, x + width, y + height), outline=(214, 39, 40))
    return page


def grid(
    rows: Sequence[Sequence[Image | None]],
    headings: Sequence[str] | None,
    texts: Sequence[str],
    *,
    labels: Sequence[str] = (),
) -> PIL.Image.Image:
    """Return images in rows of equal height. headings: above the columns. texts: above the rows; "" takes no space.

    labels: one below each image, row by row.
    """
    sized = [[None if cell is None else enlarge(np.ascontiguousarray(cell), HEIGHT) for cell in row] for row in rows]
    font = PIL.ImageFont.load_default(14)
    widths = [
        max([HEIGHT // 2, *(row[column].shape[1] for row in sized if row[column] is not None)])  # type: ignore[union-attr]
        for column in range(len(sized[0]))
    ]
    beside = [int(max(font.getlength(text) for text in labels)) + 4] if labels else [0]
    widths = [max(width, *beside) for width in widths]
    below = LINE if labels else 0
    height = GAP + (LINE if headings else 0) + sum(HEIGHT + GAP + below + (LINE if text else 0) for text in texts)
    page = PIL.Image.new("RGB", (sum(widths) + GAP * (len(widths) + 1), height), PAPER)
    draw = PIL.ImageDraw.Draw(page)
    lefts = [GAP + sum(widths[:column]) + column * GAP for column in range(len(widths))]
    y = GAP
    for left, heading in zip(lefts, headings or [], strict=False):
        draw.text((left, y), heading, INK, font)
    y += LINE if headings else 0
    for number, (row, text) in enumerate(zip(sized, texts, strict=True)):
        if text:
            draw.text((GAP, y), text, INK, font)
            y += LINE
        for column, (left, cell) in enumerate(zip(lefts, row, strict=True)):
            if cell is not None:
                page.paste(PIL.Image.fromarray(cell), (left, y))
            if labels:
                draw.text((left, y + HEIGHT), labels[number * len(row) + column], INK, font)
        y += HEIGHT + GAP + below
    return page
