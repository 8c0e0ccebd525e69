"""The section on switches: where the encoder's maxima were, and what unpooling makes of them."""

from segpipe.analysis.formatting import DASH
from segpipe.analysis.lab.measured import data_text, interval_text, measured_runs, points, with_interval
from segpipe.analysis.lab.pictures import shown
from segpipe.analysis.page.blocks import Block, Pictures, Section, Text
from segpipe.analysis.page.tables import Cell, Table, number_cell
from segpipe.lab.colours import share_to_rgb
from segpipe.lab.facts import Inspection, RunFacts, SwitchFacts
from segpipe.lab.split import SplitMeasures

NONE = "No operator of these networks uses switches (decoder=unpool does)."
EXPLAINED = (
    "Max-pooling keeps the largest of each 2 x 2 cell; the switch is its position. Unpooling puts each value back "
    "there and zeros elsewhere. In the images a pixel is the brighter, the more channels have their maximum there: "
    "black is none, yellow is all; the four pixels of a cell add up to 1, so that without a preference all are equal."
)
AGREEMENT = (
    "Zeros: share of values that are exactly 0, after unpooling and after the last slot of the step. On boundaries: of "
    "the 2 x 2 cells with boundary pixels and others, the share of switches on boundary pixels; by chance: the share "
    "of their pixels that are boundary pixels; ratio: the first over the second, 1 is chance. A boundary pixel has a "
    "pixel of another class among its eight neighbours. Boundaries are those of the {source}."
)


def section(inspection: Inspection) -> Section:
    """Return the switches of every run that has some."""
    runs = [run for run in inspection.runs if any(facts.switches for facts in run.images)]
    if not runs:
        return Section("switches", "Switches", [Text(NONE)])
    blocks: list[Block] = [Text(EXPLAINED)]
    for run in runs:
        for image, facts in zip(inspection.images, run.images, strict=True):
            pictures = [shown(share_to_rgb(one.shares), one.place, note=size(one)) for one in facts.switches]
            blocks.append(Pictures(f"{run.label}: {image.name}, share of channels with the maximum there.", pictures))
    return Section("switches", "Switches", [*blocks, table(inspection, runs)])


def split_section(measures: SplitMeasures) -> Section:
    """Return the agreement of the switches with boundaries over the images of a split."""
    runs = [run for run in measured_runs(measures) if run.switches]
    if not runs:
        return Section("switches-split", "Switches on the split", [Text(NONE)])
    rows = [
        [
            Cell(run.name),
            Cell(one.place),
            *map(points, (one.observed, one.chance)),
            with_interval(one.ratio, 2),
            Cell(f"{one.cells:,}", one.cells),
            number_cell(100 * one.zeros),
            number_cell(None if one.zeros_later is None else 100 * one.zeros_later),
        ]
        for run in runs
        for one in run.switches
    ]
    columns = ["run", "step", "on boundaries, %", "by chance, %", "ratio", "cells", "zeros, %", "zeros later, %"]
    caption = f"{AGREEMENT.format(source='ground truth')} {data_text(*runs)}. {interval_text(runs[0])}"
    return Section("switches-split", "Switches on the split", [Table(caption, columns, rows, 6)])


def size(one: SwitchFacts) -> str:
    """Return the height and the width of a map."""
    return f"{one.shares.shape[0]} x {one.shares.shape[1]}"


def table(inspection: Inspection, runs: list[RunFacts]) -> Table:
    """Return zeros and agreement with boundaries, a line for each run, image and step."""
    rows = []
    for run in runs:
        for image, facts in zip(inspection.images, run.images, strict=True):
            for one in facts.switches:
                later = list(one.sparsity.later.items())
                found = one.agreement
                rows.append(
                    [
                        Cell(run.label),
                        Cell(image.name),
                        Cell(one.place),
                        number_cell(100 * one.sparsity.upsampled),
                        number_cell(100 * later[-1][1]) if later else Cell(DASH, None),
                        number_cell(100 * found.hits / found.cells if found.cells else None),
                        number_cell(100 * found.chance / found.cells if found.cells else None),
                        number_cell(found.ratio, 2),
                        Cell(str(found.cells), found.cells),
                    ]
                )
    known = all(image.truth is not None for image in inspection.images)
    caption = AGREEMENT.format(source="ground truth" if known else "prediction, where no ground truth was given")
    columns = [
        "run",
        "image",
        "step",
        "zeros, %",
        "zeros later, %",
        "on boundaries, %",
        "by chance, %",
        "ratio",
        "cells",
    ]
    return Table(caption, columns, rows, 6)
