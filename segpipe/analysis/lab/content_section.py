"""The section on content-aware operators: what they compute at a point, on boundaries and away from them."""

import base64
from collections.abc import Iterator, Sequence

import numpy as np

from segpipe.analysis.lab.measured import data_text, interval_text, measured_runs, with_interval
from segpipe.analysis.lab.pictures import shown
from segpipe.analysis.page.blocks import Block, Clickable, ExampleImage, Layer, Pictures, Section, Text
from segpipe.analysis.page.tables import Cell, Table, number_cell
from segpipe.lab.colours import map_to_rgb, photo, share_to_rgb
from segpipe.lab.content import AWAY, ContentFacts, ContentMeasures, as_square, examples
from segpipe.lab.facts import Inspection, RunFacts
from segpipe.lab.split import SplitMeasures

NONE = "No operator of these networks looks at the content (carafe, fade, sapa, dysample and others do)."
EXPLAINED = (
    "A content-aware operator computes for each pixel of the larger map which cells of the smaller map it mixes: a "
    "kernel of weights, or the offset of the position that it samples. Sharpness of a kernel: the sum of its squared "
    "weights, 1 for a single cell, 1/T for the mean of T cells; bilinear interpolation has 0.39 for an enlargement by "
    "2. Length of an offset: in cells of the smaller map; 0 is bilinear interpolation. DySample has an offset for each "
    "group of channels: the length is the mean over the groups, an arrow shows the mean offset."
)
MEANS = (
    "Mean over the boundary pixels, and over the pixels farther than {away} pixels from any pixel of another class; "
    "ratio: the first over the second. Pixels are those of the larger map that lie on the image. A boundary pixel has "
    "a pixel of another class among its eight neighbours. Boundaries are those of the {source}."
)
GRID = 48  # points along the longer side that can be clicked
POINTS = 3  # kernels on boundaries, and as many away from them


def section(inspection: Inspection) -> Section:
    """Return what the content-aware operators of each run compute for each image."""
    rows: list[list[Cell]] = []
    blocks: list[Block] = []
    for run in inspection.runs:
        for image, facts in zip(inspection.images, run.images, strict=False):
            if not facts.content:
                continue
            layers = list(map(layer, facts.content))
            picture = shown(photo(image.image), image.name, kind="JPEG")
            caption = (
                f"{run.label}: click a point of the image, or move it with the arrow keys, to see what each step "
                f"computes there. A kernel shows the weights of the neighbouring cells, from 0 (dark) to the largest "
                f"one (bright). An offset is an arrow from the position of bilinear interpolation; the circle is one "
                f"cell away. The arrow of a longer offset ends at the frame, 4 cells away."
            )
            blocks += [Clickable(caption, picture, layers), kernels(run, facts.content)]
            rows += [row(run.label, image.name, one) for one in facts.content]
    if not blocks:
        return Section("content", "Content-aware operators", [Text(NONE)])
    columns = ["run", "image", "step", "operator", "number", "on boundaries", "away from them", "ratio"]
    known = all(image.truth is not None for image in inspection.images)
    source = "ground truth" if known else "prediction, where no ground truth was given"
    table = Table(MEANS.format(away=AWAY, source=source), columns, rows, 3)
    return Section("content", "Content-aware operators", [Text(EXPLAINED), table, *blocks])


def split_section(measures: SplitMeasures) -> Section:
    """Return what content-aware operators compute on boundaries and away from them, over the images of a split."""
    runs = [run for run in measured_runs(measures) if run.content]
    if not runs:
        return Section("content-split", "Content-aware operators on the split", [Text(NONE)])
    rows = [
        [
            *(Cell(text) for text in (run.name, one.place, one.operator, number_of(one))),
            *(with_interval(value, 3) for value in (one.on, one.away)),
            with_interval(one.ratio, 2),
            Cell(f"{one.pixels:,}", one.pixels),
        ]
        for run in runs
        for one in run.content
    ]
    columns = ["run", "step", "operator", "number", "on boundaries", "away from them", "ratio", "boundary pixels"]
    means = MEANS.format(away=AWAY, source="ground truth")
    caption = f"{means} {data_text(*runs)}. {interval_text(runs[0])}"
    table = Table(caption, columns, rows, 4)
    return Section("content-split", "Content-aware operators on the split", [Text(EXPLAINED), table])


def number_of(facts: ContentFacts | ContentMeasures) -> str:
    """Return the name of the number."""
    return "sharpness" if facts.kind == "kernel" else "length"


def row(label: str, image: str, facts: ContentFacts) -> list[Cell]:
    """Return a line of the table."""
    texts = [Cell(text) for text in (label, image, facts.place, facts.operator, number_of(facts))]
    ratio = facts.on / facts.away if facts.away else None
    return [*texts, number_cell(facts.on, 3), number_cell(facts.away, 3), number_cell(ratio, 2)]


def kernels(run: RunFacts, content: Sequence[ContentFacts]) -> Pictures:
    """Return the map of strengths of each step, and its kernels at some points."""
    caption = (
        f"{run.label}: the sharpness of the kernels, or the length of the offsets, of each step, and kernels on "
        f"boundaries and away from them, each from 0 (dark) to its largest weight (bright), with the row and column of "
        f"its pixel."
    )
    return Pictures(caption, [picture for facts in content for picture in pictures(facts)], small=True)


def pictures(facts: ContentFacts) -> Iterator[ExampleImage]:
    """Yield the map of strengths, then single kernels."""
    values = facts.strengths
    yield shown(map_to_rgb(values), f"{facts.place}, all", note=f"{values.min():.2f} to {values.max():.2f}")
    if facts.kind != "kernel":
        return
    for down, right, on in examples(facts, POINTS):
        kernel = as_square(facts.values[:, down, right], facts.neighbours)
        where = "boundary" if on else "away"
        yield shown(
            share_to_rgb(kernel / max(float(kernel.max()), 1e-9)), f"{facts.place}, {where}", note=f"{down}, {right}"
        )


def layer(facts: ContentFacts) -> Layer:
    """Return the values of one step at a grid of points, as bytes: weights 0 to 1, offsets -4 to 4 cells.

    Of a longer offset the direction is kept.
    """
    height, width = facts.values.shape[1:]
    step = -(-max(height, width) // GRID)
    values = facts.values[:, step // 2 :: step, step // 2 :: step]
    scaled = values if facts.kind == "kernel" else values / np.maximum(8, 2 * np.abs(values).max(0)) + 0.5
    content = (255 * np.clip(scaled, 0, 1)).round().astype(np.uint8)
    neighbours = " ".join(f"{down},{right}" for down, right in facts.neighbours)
    data = base64.b64encode(content.transpose(1, 2, 0).tobytes()).decode()
    label = f"{facts.place}, {facts.operator}"
    rows, columns = content.shape[1:]
    image = facts.extent[0] / step, facts.extent[1] / step
    return Layer(label, facts.kind, rows, columns, *image, len(content), neighbours, data)
