"""The page: its sections in order, put into the template."""

from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from segpipe.analysis import plots, tables
from segpipe.analysis.blocks import Block, Fold, Section, Text
from segpipe.analysis.collect import Collection
from segpipe.analysis.contrasts import FACTORS
from segpipe.analysis.effects import Analysis
from segpipe.analysis.ordering import upward
from segpipe.analysis.points import counted
from segpipe.analysis.standings import Standing, grids
from segpipe.analysis.verdict import Paragraph, verdict

EXPLAINED = (
    "Real: the difference would be found again with new trainings on these pictures, all differences that were looked "
    "at considered (Holm, 5 %). New pictures too: also with other pictures of the same kind. Intervals in brackets are "
    "95 %. > stands for a real difference, ≈ for two levels that cannot be told apart. The ranking is by validation; "
    "all differences and intervals are of the test."
)


class Content(NamedTuple):
    """What the page and the summary are made of."""

    title: str
    subtitle: str
    verdict: list[Paragraph]
    sections: list[Section]


def content(collection: Collection, analysis: Analysis, found: list[Standing]) -> Content:
    """Everything that is said."""
    sections = [heat(found), differences(analysis), singles(found, analysis)]
    return Content(
        collection.folder.resolve().name,
        subtitle(collection, found),
        verdict(collection, analysis, found),
        [section for section in sections if section.blocks],
    )


def subtitle(collection: Collection, found: list[Standing]) -> str:
    """How much was compared."""
    cells = sum(len(standing.network.places) for standing in found)
    return (
        f"{counted(cells, 'cell')} that are {counted(len(found), 'network')}, {counted(len(collection.seeds), 'seed')}, "
        f"{counted(len(collection.runs), 'finished run')}; {counted(len(collection.pictures), 'test picture')}, "
        f"{counted(len(collection.classes), 'class', 'classes')}."
    )


def render(page: Content) -> str:
    """As HTML, with everything in it."""
    loader = PackageLoader("segpipe.analysis", ".")
    environment = Environment(autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html.j2").render(**page._asdict(), explained=EXPLAINED)


def heat(found: list[Standing]) -> Section:
    """Heat maps, and lines over the stride."""
    blocks: list[Block] = []
    for grid in grids(found):
        blocks.append(Text(grid.said, "heading"))
        blocks.append(plots.heat_maps(grid))
        if (lines := plots.stride_lines(grid)) is not None:
            blocks.append(lines)
    if (side_by_side := tables.views(grids(found))) is not None:
        blocks.append(side_by_side)
    return Section("cells", "mIoU by decoder, fusion and stride", blocks)


def differences(analysis: Analysis) -> Section:
    """The confirmatory family, and interactions."""
    blocks: list[Block] = []
    for stratum in dict.fromkeys(one.contrast.stratum for one in analysis.marginal):
        family = [upward(one) for one in analysis.marginal if one.contrast.stratum == stratum]
        family.sort(key=lambda one: (FACTORS.index(one.contrast.factor), -one.estimate.difference))
        panels = []
        for factor in FACTORS:
            of_factor = [one for one in family if one.contrast.factor == factor]
            if of_factor:
                panels.append(plots.forest(of_factor, f"{factor}"))
        blocks.append(plots.Figure(panels, plots.forest_caption(family), []))
    if analysis.marginal:
        blocks.append(tables.differences(analysis.marginal))
    if analysis.interactions:
        blocks.append(Fold("Interactions", [tables.differences(analysis.interactions, interaction=True)]))
    return Section("differences", "Differences", blocks)


def singles(found: list[Standing], analysis: Analysis) -> Section:
    """Every network."""
    return Section("networks", "Networks", [tables.networks(found, analysis)])
