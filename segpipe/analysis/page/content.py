"""The page: its sections in order, put into the template."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from segpipe.analysis.bounds import Bound
from segpipe.analysis.collect import Collection
from segpipe.analysis.factors import labels
from segpipe.analysis.formatting import join_words, pluralise
from segpipe.analysis.ordering import as_positive, known
from segpipe.analysis.page import all_scores, boundaries, curves, examples, notes_section, plots, tables
from segpipe.analysis.page.blocks import Block, Fold, Section, Text
from segpipe.analysis.page.figures import Figure
from segpipe.analysis.standings import NetworkResult, grids, stratum_label
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.effects import Analysis
from segpipe.analysis.verdict import Classes, Paragraph, verdict

EXPLAINED = (
    "Significant: for new trainings tested on the same images, the difference is not zero (adjusted p below 5 %, by "
    "Holm's method for all differences of the family). For new images: the same for new trainings tested on other "
    "images of the same kind. Intervals in brackets are 95 % intervals. > marks a significant difference, ≈ two "
    "levels that are not significantly different. Networks are ranked by validation; all differences and intervals "
    "use test scores."
)

DRAWN = 45  # single networks; the table has all


class Content(NamedTuple):
    """What the page and the summary are made of."""

    title: str
    subtitle: str
    verdict: list[Paragraph]
    sections: list[Section]


def content(
    collection: Collection,
    analysis: Analysis,
    found: list[NetworkResult],
    *,
    exploratory: Mapping[str, Sequence[Comparison]],
    bound: Bound | None = None,
    command: Sequence[str],
    classes: Classes | None = None,
) -> Content:
    """Everything that is said.

    exploratory: marginal differences of further scores. bound: of a perfect map. command: that made the page.
    classes: of operators, fusions and refinements by their import path; the verdict reads what they say they are.
    """
    return Content(
        collection.folder.resolve().name,
        subtitle(collection, found),
        verdict(collection, analysis, found, classes),
        [
            heat(collection, found, bound),
            differences(collection, analysis),
            singles(found, analysis),
            all_scores.section(collection, found),
            costs(found),
            learning(found),
            Section("classes", "Classes", [tables.by_class(found, collection)]),
            boundaries.section(collection, found, exploratory),
            notes_section.noise(found, analysis),
            examples.section(collection, found),
            notes_section.left_out(collection, found),
            notes_section.method(collection, analysis, found, command),
        ],
    )


def subtitle(collection: Collection, found: list[NetworkResult]) -> str:
    """How much was compared."""
    cells = sum(len(standing.network.places) for standing in found)
    return (
        f"{pluralise(cells, 'cell')} ({pluralise(len(found), 'distinct network')}), "
        f"{pluralise(len(collection.seeds), 'seed')}, "
        f"{pluralise(len(collection.runs), 'finished run')}; {pluralise(len(collection.pictures), 'test image')}, "
        f"{pluralise(len(collection.classes), 'class', 'classes')}."
    )


def render(page: Content) -> str:
    """As HTML, with everything in it."""
    loader = PackageLoader("segpipe.analysis.page", ".")
    environment = Environment(autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html.j2").render(**page._asdict(), explained=EXPLAINED)


def heat(collection: Collection, found: list[NetworkResult], bound: Bound | None) -> Section:
    """Heat maps, and lines over a quantity."""
    blocks: list[Block] = []
    for grid in grids(found):
        blocks.append(Text(grid.label, "heading"))
        blocks.append(plots.heat_maps(grid))
        if (lines := plots.quantity_lines(grid, bound)) is not None:
            blocks.append(lines)
    if (side_by_side := tables.views(grids(found))) is not None:
        blocks.append(side_by_side)
    return Section("cells", f"{collection.score.title} by {join_words(labels(collection.factors))}", blocks)


def differences(collection: Collection, analysis: Analysis) -> Section:
    """The confirmatory family, and interactions."""
    blocks: list[Block] = []
    for stratum in dict.fromkeys(one.contrast.stratum for one in analysis.marginal):
        family = [as_positive(one) for one in analysis.marginal if one.contrast.stratum == stratum and known(one)]
        family.sort(key=lambda one: -one.estimate.difference)
        of = [(factor, [one for one in family if one.contrast.factor == factor.key]) for factor in collection.factors]
        panels = [plots.forest(some, factor.label) for factor, some in of if some]
        blocks.append(Text(stratum_label(stratum) if stratum else "", "heading"))
        if panels:
            blocks.append(Figure(panels, plots.forest_caption(family), []))
    if analysis.marginal:
        blocks.append(tables.differences(analysis.marginal))
    else:
        blocks.append(Text("No two networks differ in exactly one factor."))
    if analysis.interactions:
        summary = (
            f"Interactions ({len(analysis.interactions)}): how a difference depends on the level of another factor"
        )
        blocks.append(Fold(summary, [tables.differences(analysis.interactions, interaction=True)]))
    return Section("differences", "Differences", blocks)


def singles(found: list[NetworkResult], analysis: Analysis) -> Section:
    """Every network, and how surely it differs from the reference, or may be the best."""
    blocks: list[Block] = []
    val = {standing.network.label: standing.val for standing in found}
    ranked = sorted(analysis.cells, key=lambda one: -val[one.contrast.a])[:DRAWN]
    if ranked:
        name = ranked[0].contrast.b
        of_best = analysis.reference is None
        full = (
            "An interval that ends at 0: significantly worse than the best; any other interval: may be the best. "
            if of_best
            else ""
        )
        more = (
            f" The figure shows the {DRAWN} best of {len(analysis.cells)} networks."
            if len(analysis.cells) > DRAWN
            else ""
        )
        caption = (
            f"Test {analysis.score.label} of each network minus that of {name}, in points; the best network on "
            f"validation is at the top. Intervals are simultaneous. {full}"
            f"{plots.forest_caption(ranked)}{more}"
        )
        blocks.append(Figure([plots.forest(ranked, f"minus {name}")], caption, []))
    return Section("networks", "Single networks", [*blocks, tables.networks(found, analysis)])


def costs(found: list[NetworkResult]) -> Section:
    """The score against what networks cost."""
    drawn = curves.cost_figure(found)
    none = Text("No run recorded the cost of its network (metrics.json has no cost).")
    return Section("cost", f"{found[0].score.title} against cost", [none if drawn is None else drawn])


def learning(found: list[NetworkResult]) -> Section:
    """Learning curves, by stratum."""
    blocks: list[Block] = []
    for grid in grids(found):
        drawn = curves.learning_curves(grid)
        if drawn is not None:  # a panel for every combination would bury what follows
            blocks += [Text(curves.last_epochs(grid)), Fold(f"Learning curves: {grid.label}", [drawn])]
    if not blocks:
        there = any(run.run.history.is_file() for one in found for run in one.network.runs.values())
        none = f"No history.csv of the runs has val/{found[0].score.key}, or the files cannot be read."
        blocks.append(Text(none if there else "The runs have no history.csv."))
    return Section("learning", "Learning curves", blocks)
