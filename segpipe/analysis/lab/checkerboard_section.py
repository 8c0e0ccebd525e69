"""The section on checkerboards: differences between the positions that an operator computes differently."""

from segpipe.analysis.formatting import DASH
from segpipe.analysis.page.blocks import Block, Section, Text
from segpipe.analysis.page.tables import Cell, Table, small_share_cell
from segpipe.lab.checkerboard import Phases
from segpipe.lab.facts import Inspection, RunFacts

CONSTANT = (
    "On a large image of one gray, of which only the inner third counts, every difference between neighbouring pixels "
    "is an artefact. Phase share: an enlargement by s computes s x s positions of each cell by different weights; it "
    "is the variance of the means of these positions over the mean square of the map, summed over channels. 0: no "
    "pattern. 1: nothing but pattern. Start: before training. The logits count the pattern of all steps together. "
    "Unpooling draws a full pattern on a constant image by its nature: equal values have their maximum at the first "
    "position."
)
ON_IMAGE = (
    "The same on the images above, beside bilinear interpolation of the same input, since an image has structure of "
    "its own: only a difference from bilinear is the operator's. Phase: as above. Spectral: the same variance over the "
    "variance of the map, the share of the spectrum without its constant term at multiples of 1/s (Odena et al. 2016); "
    "0 / 0 on constant maps. Turns: share of three neighbours in a row or a column of which the middle one is highest "
    "or lowest (Wojna et al. 2019); convolutions after bilinear interpolation draw some, too. Large maps tell more "
    "than small ones."
)


def section(inspection: Inspection) -> Section:
    """Return the tables of phase shares."""
    runs = [run for run in inspection.runs if not run.reason]
    blocks: list[Block] = [Text(CONSTANT), constant_table(runs)]
    if inspection.images:
        blocks += [Text(ON_IMAGE), image_table(inspection, runs)]
    return Section("checkerboards", "Checkerboards", blocks)


def constant_table(runs: list[RunFacts]) -> Table:
    """Return the phase shares on a constant image before and after training."""
    rows = []
    for run in runs:
        if run.phases is None:
            continue
        start: Phases = run.start_phases or run.phases
        names = {facts.place: facts.operator for facts in run.operators}
        for before, now in zip(start.steps, run.phases.steps, strict=True):
            shares = (before.upsampled, now.upsampled, before.refined, now.refined)
            row = [Cell(run.label), Cell(now.place), Cell(names[now.place]), Cell(f"{now.factor} x {now.factor}")]
            rows.append([*row, *map(small_share_cell, shares)])
        both = map(small_share_cell, (start.logits, run.phases.logits))
        rows.append([Cell(run.label), Cell("logits"), Cell(""), Cell(""), *[Cell(DASH, None)] * 2, *both])
    columns = [
        "run",
        "step",
        "operator",
        "positions",
        "upsampled, start",
        "upsampled, now",
        "refined, start",
        "refined, now",
    ]
    return Table(
        "Phase share on a constant image; for the logits, in the columns of the refined maps.", columns, rows, 4
    )


def image_table(inspection: Inspection, runs: list[RunFacts]) -> Table:
    """Return the measures on real images beside bilinear interpolation."""
    rows = []
    for run in runs:
        for image, facts in zip(inspection.images, run.images, strict=True):
            for one in facts.on_image:
                pairs = (*one.phase, *one.spectral, *one.triplets)
                rows.append([Cell(run.label), Cell(image.name), Cell(one.place), *map(small_share_cell, pairs)])
    names = [f"{name}, {which}" for name in ("phase", "spectral", "turns") for which in ("operator", "bilinear")]
    return Table("Measures on real images, of the map after upsampling.", ["run", "image", "step", *names], rows, 6)
