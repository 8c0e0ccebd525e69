"""The section on linear probes: what each map of a network knows, and where."""

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter

from matplotlib.axes import Axes

from segpipe.analysis.formatting import DASH, format_number
from segpipe.analysis.lab.measured import bounds_of, dashes, data_text, interval_text, measured_runs, points, reasons
from segpipe.analysis.page import figures
from segpipe.analysis.page.blocks import Block, Section, Text
from segpipe.analysis.page.figures import Figure
from segpipe.analysis.page.plots import legend
from segpipe.analysis.page.tables import Cell, Table, number_cell
from segpipe.lab.probes import RIDGE, Probe
from segpipe.lab.split import RunMeasures, SplitMeasures
from segpipe.metrics.bootstrap import Estimate

TITLE = "Deep against shallow: what each map knows"
PARTS = ("encoder", "decoder", "untrained encoder")  # drawn; the neck is in the table
INTRODUCTION = (
    "A linear probe reads the classes from one map of the trained network: a ridge regression from the channels of a "
    "cell to its classes, solved exactly, then bilinear interpolation to full size. A coarse map cannot draw a fine "
    "boundary however much it knows, so plain mIoU mixes what it knows with where. The two are shown apart: what, as a "
    "share of the mIoU of a perfect map of the same cells; where, as the share of the true contours that are found."
)


def section(measures: SplitMeasures) -> Section:
    """Return the section on probes: a figure with what and where, and a table."""
    runs = measured_runs(measures)
    if not runs:
        return Section("probes", TITLE, reasons(measures))
    blocks: list[Block] = [Text(INTRODUCTION), *reasons(measures), probes_figure(runs), probes_table(measures)]
    return Section("probes", TITLE, blocks)


def recall(probe: Probe) -> Estimate:
    """Return the contour recall."""
    return Estimate(probe.scores.recall)


def probes_figure(runs: Sequence[RunMeasures]) -> Figure:
    """Return two panels for each run: what each map knows, and where."""

    def draw(axes: Axes, run: RunMeasures, of: Callable[[Probe], Estimate], name: str) -> None:
        strides = set()
        for index, part in enumerate(PARTS):
            found = [(one.stride, of(one)) for one in probes_of(run) if one.part == part and of(one).value is not None]
            found.sort(key=lambda one: one[0])
            values, below, above = bounds_of([one for _, one in found])
            x = [stride for stride, _ in found]
            axes.errorbar(x, values, yerr=[below, above], **figures.line_style(index), elinewidth=1)
            strides.update(x)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(strides), [str(stride) for stride in sorted(strides)])
        axes.minorticks_off()
        axes.set(xlabel="stride of the map", ylabel=name, ylim=(0, 105))
        axes.set_title(figures.shorten(run.name, 40), fontsize=figures.FONT - 0.5)

    kinds: tuple[tuple[Callable[[Probe], Estimate], str], ...] = (
        (attrgetter("share"), "what: share of the ceiling (%)"),
        (recall, "where: contour recall (%)"),
    )
    panels = [
        figures.panel(f"{run.name}, {name}", partial(draw, run=run, of=of, name=name))
        for run in runs
        for of, name in kinds
    ]
    caption = (
        f"Linear probes of the encoder's maps, of the decoder's maps after each step, and of the same encoder before "
        f"training, on {data_text(*runs)}. What: mIoU of the probe as a share of that of a perfect map of the same "
        f"stride. Where: share of the true contour pixels with a predicted contour within one pixel; read it with the "
        f"precision in the table, because noise finds every contour. In a network as FCN describes it, what rises and "
        f"where falls towards coarse strides, and the decoder joins both. Vertical lines: 95 % intervals over images."
    )
    return Figure(panels, caption, legend(list(PARTS)))


def probes_of(run: RunMeasures) -> list[Probe]:
    """Return the probes of a run; empty without numbers."""
    return run.probes.probes if run.probes else []


def probes_table(measures: SplitMeasures) -> Table:
    """Return a row for each probe."""
    several = len(measures.runs) > 1
    columns = [
        *(["run"] if several else []), "map", "stride", "channels", "cells", "mIoU", "ceiling", "share of the ceiling",
        "contour recall", "contour precision", "recall of the ceiling", "regions right", "regions right, ceiling",
    ]  # fmt: skip
    rows = []
    for run in measures.runs:
        first = [Cell(run.name)] if several else []
        rows += [[*first, *probe_row(run, probe)] for probe in probes_of(run)] or [[*first, Cell(DASH), *dashes(11)]]
    runs = measured_runs(measures)
    run = runs[0]
    fitted = run.probes.fitted_on if run.probes else 0
    caption = (
        f"Linear probes, in percent: fitted on {fitted:,} images of the {run.fit_split} split, scored on "
        f"{data_text(run)}. Ridge regression on channels of unit variance with the penalty {RIDGE:g}. Cells: of the "
        f"map of one image. Ceiling: mIoU of a perfect map, which holds the fraction of each class in each cell "
        f"(area+bilinear of segpipe.bound): a reference, not a limit. Contour recall and precision: at one pixel, of "
        f"any class. Regions right: connected regions of the truth of which most pixels get the right class, as a "
        f"count, because a coarse map has few cells. {interval_text(run)}"
    )
    return Table(caption, columns, rows, 11)


def probe_row(run: RunMeasures, probe: Probe) -> list[Cell]:
    """Return the cells of a probe's row."""
    total = run.probes.regions if run.probes else 0
    scores, ceiling = probe.scores, probe.ceiling
    known = scores.miou.value is not None
    return [
        Cell(probe.label),
        number_cell(probe.stride, 0),
        number_cell(probe.channels, 0),
        number_cell(probe.cells, 0),
        points(scores.miou),
        points(Estimate(ceiling.miou.value)),
        points(probe.share),
        points(Estimate(scores.recall)),
        points(Estimate(scores.precision)),
        points(Estimate(ceiling.recall)),
        Cell(f"{scores.regions:,} of {total:,}", scores.regions) if known else Cell(format_number(None)),
        Cell(f"{ceiling.regions:,} of {total:,}", ceiling.regions),
    ]
