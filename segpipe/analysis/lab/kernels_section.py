"""The section on kernels: what each linear operator has learned, beside its start and fixed operators."""

from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes

from segpipe.analysis.formatting import DASH
from segpipe.analysis.lab.pictures import shown
from segpipe.analysis.page import figures
from segpipe.analysis.page.blocks import Block, Fold, Pictures, Section, Text
from segpipe.analysis.page.figures import Figure
from segpipe.analysis.page.tables import Cell, Table, number_cell
from segpipe.lab.colours import map_to_rgb
from segpipe.lab.facts import Inspection, OperatorFacts, RunFacts
from segpipe.lab.kernels import FIXED, Kernels, pad_to, strongest
from segpipe.lab.monitor import distance_key

COUNT = 6  # kernels of a step on the page
EXPLAINED = (
    "A linear operator spreads each value of its input by a kernel; the kernels here are measured as the response to a "
    "single value in one channel, so that they hold for transposed convolution, sub-pixel convolution and "
    "interpolation alike. A fixed operator is one kernel: bilinear a pyramid, nearest a block of equal values, "
    "unpooling one position of the block. A transposed convolution can become each of them."
)
DISTANCES = (
    "Distance from a fixed operator: root of the share of the kernels' energy that is not along its kernel, 0 (every "
    "kernel is a multiple of it) to 1 (nothing in common), whatever their scale and whichever channels they join. For "
    "unpooling, each kernel takes its nearest position. Start: before training, drawn from the run's seed. Change: "
    "norm of the difference between the kernels now and at the start, relative to the start. A dash: the operator is "
    "not linear, so it has no kernel."
)


def section(inspection: Inspection) -> Section:
    """Return the kernels of all runs, and their distances from fixed operators."""
    runs = [run for run in inspection.runs if not run.reason]
    blocks: list[Block] = [Text(EXPLAINED), table(runs)]
    for run in runs:
        learned = [pictures(run, facts) for facts in run.operators if facts.kernels is not None and facts.change > 0]
        blocks += [Fold(f"Kernels before training and now: {run.label}", list(learned))] if learned else []
        blocks += history(run)
    return Section("kernels", "Kernels", blocks)


def table(runs: list[RunFacts]) -> Table:
    """Return the distances at the start and now, a line for each run and step."""
    rows = []
    for run in runs:
        for facts in run.operators:
            row = [Cell(run.label), Cell(facts.place), Cell(facts.operator), Cell(f"x {facts.factor}")]
            for name in FIXED:
                for values in (facts.start_distances, facts.distances):
                    row.append(number_cell(values[name], 3) if name in values else Cell(DASH, None))
            rows.append([*row, number_cell(facts.change, 3) if facts.kernels is not None else Cell(DASH, None)])
    headings = [f"{name}, {when}" for name in FIXED for when in ("start", "now")]
    return Table(DISTANCES, ["run", "step", "operator", "factor", *headings, "change"], rows, 7)


def pictures(run: RunFacts, facts: OperatorFacts) -> Pictures:
    """Return the strongest kernels of a step, each beside what it started from."""
    assert facts.kernels is not None
    side = max(one.weight.shape[-1] for one in (facts.kernels, facts.start or facts.kernels))
    images = []
    for source, target in strongest(facts.kernels, COUNT):
        pair = [(values_of(facts.kernels, source, target, side), "now")]
        if facts.start is not None:
            pair.insert(0, (values_of(facts.start, source, target, side), "start"))
        for values, when in pair:
            images.append(shown(map_to_rgb(values), f"channel {source} to {target}, {when}", note=f"{side} x {side}"))
    caption = (
        f"{run.label}, {facts.place}: the {len(images) // 2} kernels with the most energy of {facts.operator}, before "
        f"training and now. Each has its own colour scale: blue below 0, white at 0, red above; black at 0 to bright "
        f"where no value is negative."
    )
    return Pictures(caption, images, small=True)


def values_of(kernels: Kernels, source: int, target: int, side: int) -> np.ndarray:
    """Return one kernel in a square of ``side``."""
    return pad_to(kernels.weight[source, target].to(torch.float64), side).numpy()


def history(run: RunFacts) -> list[Block]:
    """Return the distances over training, which callbacks=inspect writes; empty without."""
    panels = []
    for name in FIXED:
        lines = [
            (facts, [(row["epoch"] + 1, row[key]) for row in run.history if row.get(key) == row.get(key, np.nan)])
            for facts in run.operators
            if (key := distance_key(name, facts.stride)) and any(key in row for row in run.history)
        ]
        if any(points for _, points in lines):
            draw = partial(draw_lines, lines=lines, name=name)
            panels.append(figures.panel(f"{run.label}: distance from {name} by epoch", draw, width=300, height=220))
    if not panels:
        return []
    legend = [
        (facts.place, number % len(figures.SERIES) + 1, figures.GLYPHS[number % len(figures.GLYPHS)])
        for number, facts in enumerate(run.operators)
        if facts.kernels is not None
    ]
    caption = f"{run.label}: distance of each step's kernels from fixed operators at the end of each epoch."
    return [Figure(panels, caption, legend)]


def draw_lines(axes: Axes, *, lines: list[tuple[OperatorFacts, list[tuple[float, float]]]], name: str) -> None:
    """Draw one line for each step."""
    for number, (_, points) in enumerate(lines):
        axes.plot(*np.transpose(points), **figures.line_style(number))
    axes.set(ylim=(0, 1.02), xlabel="epoch", ylabel=f"distance from {name}")
