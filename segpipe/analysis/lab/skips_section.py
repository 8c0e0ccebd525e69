"""The sections on skips and on effective receptive fields."""

from collections.abc import Callable
from functools import partial
from operator import attrgetter

from matplotlib.axes import Axes

from segpipe.analysis.formatting import DASH
from segpipe.analysis.lab.measured import (
    bounds_of,
    dashes,
    data_text,
    interval_text,
    measured_runs,
    points,
    reasons,
)
from segpipe.analysis.page import figures
from segpipe.analysis.page.blocks import Block, Fold, Section, Text
from segpipe.analysis.page.figures import INK, Figure
from segpipe.analysis.page.plots import legend
from segpipe.analysis.page.tables import Cell, Table
from segpipe.lab.receptive_field import SHARE, ReceptiveField
from segpipe.lab.skips import BLUR, REPLACEMENTS, Loss, Skip
from segpipe.lab.split import RunMeasures, SplitMeasures
from segpipe.metrics.bootstrap import Estimate

TITLE = "What a skip carries"
INTRODUCTION = (
    "A skip joins a map of the encoder (fine, knows where) with the decoder's upsampled map (coarse, knows what). Here "
    "each skip is replaced in the trained network, one at a time, and nothing is trained again. A network can only "
    "lose what it has learned to use, and a replaced map is one that it has never seen: the replacements need not "
    "agree, so all are shown."
)
REPLACED = (
    f"Replaced by: zero; mean, each channel's mean over all images and cells; shuffled, the skip of another of the "
    f"images; blurred, the same skip after a Gaussian window with a standard deviation of {BLUR:g} cells."
)


def section(measures: SplitMeasures) -> Section:
    """Return the section on skips: figure, tables, and the losses of each class."""
    runs = measured_runs(measures)
    if not runs:
        return Section("skips", TITLE, reasons(measures))
    blocks: list[Block] = [Text(INTRODUCTION), *reasons(measures)]
    without = [run.name for run in runs if run.skips is not None and not run.skips.skips]
    if without:
        blocks.append(Text(f"Without skips, so nothing to replace: {', '.join(without)}."))
    figure = losses_figure([run for run in runs if skips_of(run)])
    blocks += [figure] if figure else []
    blocks += [losses_table(measures), energy_table(measures)]
    for run in runs:
        if skips_of(run):
            tables = [
                class_table(run, key, name) for key, name in (("class_iou", "IoU"), ("class_boundary_f", "Boundary F"))
            ]
            blocks.append(Fold(f"{run.name}: losses of each class", [*tables]))
    return Section("skips", TITLE, blocks)


def skips_of(run: RunMeasures) -> list[Skip]:
    """Return the skips of a run, coarse to fine; empty without numbers."""
    return run.skips.skips if run.skips else []


def losses_figure(runs: list[RunMeasures]) -> Figure | None:
    """Return what each run loses in mIoU and boundary F, by skip and replacement; None without a skip."""
    if not runs:
        return None

    def draw(axes: Axes, run: RunMeasures, of: Callable[[Loss], Estimate], name: str) -> None:
        found = skips_of(run)
        axes.axhline(0, color=INK, linewidth=0.8)
        for index, replacement in enumerate(REPLACEMENTS):
            losses = [
                (at, of(loss))
                for at, skip in enumerate(found)
                for loss in skip.losses
                if loss.replacement == replacement
            ]
            known = [(at, one) for at, one in losses if one.value is not None]
            if not known:
                continue
            x = [at + 0.14 * (index - 1.5) for at, _ in known]
            values, below, above = bounds_of([one for _, one in known])
            style = figures.line_style(index) | {"linestyle": "none"}
            axes.errorbar(x, values, yerr=[below, above], **style, elinewidth=1.2)
        axes.set_xticks(range(len(found)), [str(skip.stride) for skip in found])
        axes.set(xlabel="stride of the skip", ylabel=f"{name} lost (points)", xlim=(-0.6, len(found) - 0.4))
        axes.set_title(figures.shorten(run.name, 40), fontsize=figures.FONT - 0.5)

    panels = [
        figures.panel(f"{run.name}: {name} lost by skip", partial(draw, run=run, of=attrgetter(key), name=name))
        for run in runs
        for key, name in (("miou", "mIoU"), ("boundary_f", "boundary F"))
    ]
    caption = (
        f"Points of mIoU and of boundary F that the network loses when the skip of one stride is replaced at test "
        f"time, on {data_text(*runs)}; above 0: the skip helps. {REPLACED} Vertical lines: 95 % intervals over images."
    )
    return Figure(panels, caption, legend(list(REPLACEMENTS)))


def losses_table(measures: SplitMeasures) -> Table:
    """Return the losses of all runs, one row for each skip and replacement."""
    rows = []
    for run in measures.runs:
        of_run = [
            [
                Cell(run.name),
                Cell(f"stride {skip.stride}", -skip.stride),
                Cell(loss.replacement),
                points(loss.miou, digits=2),
                points(loss.boundary_f, digits=2),
            ]
            for skip in skips_of(run)
            for loss in skip.losses
        ]
        rows += of_run or [[Cell(run.name), Cell(DASH), Cell(DASH), *dashes(2)]]
    runs = measured_runs(measures)
    caption = (
        f"Points of mIoU and of boundary F (docs/boundaries.md) lost on {data_text(*runs)}: the score of the network "
        f"minus its score with the skip replaced. {REPLACED} {interval_text(runs[0])} The same images are drawn for "
        f"both scores."
    )
    return Table(caption, ["run", "skip", "replaced by", "mIoU lost", "boundary F lost"], rows, 2)


def energy_table(measures: SplitMeasures) -> Table:
    """Return the share of the fused map's energy that is the skip's, one row for each skip."""
    runs = measured_runs(measures)
    classes = list(dict.fromkeys(name for run in runs for name in run.classes))
    rows = []
    for run in measures.runs:
        of_run = []
        for skip in skips_of(run):
            by_class = dict(zip(run.classes, skip.class_energy, strict=True))
            cells = [points(by_class.get(name)) for name in classes]
            of_run.append([Cell(run.name), Cell(f"stride {skip.stride}", -skip.stride), points(skip.energy), *cells])
        rows += of_run or [[Cell(run.name), Cell(DASH), *dashes(1 + len(classes))]]
    caption = (
        f"The skip's share of the energy of the fused map, in percent, in the whole map and in the cells of each "
        f"class, on {data_text(*runs)}. With f the fusion, x the upsampled map and s the skip, it is A / (A + B), "
        f"where A is the sum of squares of f(x, s) - f(x, 0) and B that of f(x, 0). For sum and concatenation A is the "
        f"energy of the lateral's output and B that of the upsampled map. A large share alone does not say that the "
        f"network needs the skip. {interval_text(runs[0])}"
    )
    return Table(caption, ["run", "skip", "all", *classes], rows, 1 + len(classes))


def class_table(run: RunMeasures, key: str, name: str) -> Table:
    """Return the losses of each class of a run. key: attribute of Loss; name: of the score."""
    rows = [
        [Cell(f"stride {skip.stride}", -skip.stride), Cell(loss.replacement), *map(points, getattr(loss, key))]
        for skip in skips_of(run)
        for loss in skip.losses
    ]
    caption = (
        f"{name} of each class that {run.name} loses, in points, on {data_text(run)}. {interval_text(run)} A dash: the "
        f"class is not in the images."
    )
    return Table(caption, ["skip", "replaced by", *run.classes], rows, len(run.classes))


def fields_section(measures: SplitMeasures) -> Section:
    """Return the section on effective receptive fields: a curve for each step of each run, and a table of sides."""
    title = "Where each step looks"
    runs = [run for run in measured_runs(measures) if run.fields]
    if not runs:
        return Section("receptive-fields", title, reasons(measures))

    strides = {one.label: one.stride for run in runs for one in run.fields}
    labels = sorted(strides, key=lambda label: -strides[label])  # one colour for a step in all panels

    def draw(axes: Axes, run: RunMeasures) -> None:
        axes.axhline(100 * SHARE, color=INK, linewidth=0.8, linestyle=":")
        for one in run.fields:
            style = figures.line_style(labels.index(one.label))
            axes.plot(one.sides, [100 * share for share in one.shares], **style, markersize=3.5)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set(xlabel="side of the square (pixels)", ylabel="share of the energy (%)", ylim=(-3, 103))
        axes.set_title(figures.shorten(run.name, 40), fontsize=figures.FONT - 0.5)

    panels = [figures.panel(f"{run.name}: effective receptive fields", partial(draw, run=run)) for run in runs]
    caption = (
        f"Effective receptive field (Luo et al. 2016) of the map after each decoder step: the share of the energy of "
        f"the gradient of the cell at the image's centre, with respect to the image, that lies in a square around the "
        f"cell's centre. Dotted: {100 * SHARE:.0f} %. A curve further to the right looks at more of the image. Mean "
        f"over the first images; the sign of each channel is random, so that channels do not cancel."
    )
    names = legend(labels)
    return Section(
        "receptive-fields", title, [*reasons(measures), Figure(panels, caption, names), fields_table(measures)]
    )


def fields_table(measures: SplitMeasures) -> Table:
    """Return the side of the square with most of the energy, for each step."""
    rows = []
    for run in measures.runs:
        of_run = [[Cell(run.name), Cell(one.label, -one.stride), side_cell(one)] for one in run.fields]
        rows += of_run or [[Cell(run.name), Cell(DASH), Cell(DASH)]]
    caption = (
        f"Side of the smallest square around the cell's centre with {100 * SHARE:.0f} % of the gradient's energy, in "
        f"pixels of the network's input. It is cut off by the image: > marks a square that is not inside all images. A "
        f"dash: the gradient is zero."
    )
    return Table(caption, ["run", "after the step to", "side (pixels)"], rows, 1)


def side_cell(one: ReceptiveField) -> Cell:
    """Return the side of a field."""
    if one.side is None:
        return Cell(DASH)
    return Cell(f"{'> ' if one.side > one.image_side else ''}{one.side:,}", one.side)
