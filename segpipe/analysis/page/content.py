"""The content of the page: its sections in order, and the HTML."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from segpipe.analysis.bounds import Bound
from segpipe.analysis.collection import Collection
from segpipe.analysis.factors import Factor, labels
from segpipe.analysis.flags import find_flags, flag_texts
from segpipe.analysis.formatting import join_words, pluralise
from segpipe.analysis.network_results import NetworkResult, compared_costs, grids, stratum_label
from segpipe.analysis.ordering import as_positive, is_known
from segpipe.analysis.page import all_scores, boundaries, curves, examples, notes_section, plots, tables
from segpipe.analysis.page.blocks import Block, Fold, Section, Text
from segpipe.analysis.page.figures import Figure, begin_page
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

DRAWN = 45  # single networks in the figure; the table has all


class Content(NamedTuple):
    """The content of the page and of the Markdown summary."""

    title: str
    subtitle: str
    verdict: list[Paragraph]
    sections: list[Section]


def content(
    collection: Collection,
    analysis: Analysis,
    results: list[NetworkResult],
    *,
    exploratory: Mapping[str, Sequence[Comparison]],
    bound: Bound | None = None,
    command: Sequence[str],
    classes: Classes | None = None,
    out: Path | None = None,
) -> Content:
    """Return the content of the report.

    exploratory: marginal differences of further scores. bound: scores of a perfect map. command: that made the page.
    classes: operators, fusions and refinements by import path; the verdict reads their attributes. out: the folder that
    the page is written to; None leaves out links to other pages.
    """
    begin_page()
    tuned, flags = collection.tuned, find_flags(collection)
    return Content(
        collection.folder.resolve().name,
        subtitle(collection, results),
        verdict(collection, analysis, results, classes, flags),
        [
            score_section(collection, results, bound),
            differences(collection, analysis),
            single_network_section(
                results, analysis, flag_texts(flags, collection.networks), inspect_links(results, out)
            ),
            *([Section("tuned", "Chosen levels", [tables.chosen_levels(tuned)])] if tuned else []),
            all_scores.section(collection, results),
            cost_section(results, compared_costs(collection)),
            learning(results, collection.averaged),
            Section("classes", "Classes", [tables.by_class(results, collection)]),
            boundaries.section(collection, results, exploratory),
            notes_section.seed_section(results, analysis),
            examples.section(collection, results),
            notes_section.missing_section(collection, results),
            notes_section.method(collection, analysis, results, command),
        ],
    )


def subtitle(collection: Collection, results: list[NetworkResult]) -> str:
    """Return the numbers of cells, networks, seeds, runs, images and classes."""
    cells = sum(len(result.network.points) for result in results)
    return (
        f"{pluralise(cells, 'cell')} ({pluralise(len(results), 'distinct network')}), "
        f"{pluralise(len(collection.seeds), 'seed')}, "
        f"{pluralise(len(collection.runs), 'finished run')}; {pluralise(len(collection.images), 'test image')}, "
        f"{pluralise(len(collection.classes), 'class', 'classes')}."
    )


def inspect_links(results: Sequence[NetworkResult], out: Path | None) -> dict[int, str]:
    """Return the relative address of the page of segpipe.inspect of each network, of its lowest seed that has one.

    The page is ``inspect/inspect.html`` in the folder of the run.
    """
    links: dict[int, str] = {}
    if out is None:
        return links
    for result in results:
        for _, run in sorted(result.network.runs.items()):
            if run.run.inspection.is_file():
                relative = os.path.relpath(run.run.inspection.resolve(), out.resolve())
                links.setdefault(result.number, quote(Path(relative).as_posix()))
    return links


def render(page: Content) -> str:
    """Return the page as self-contained HTML."""
    loader = PackageLoader("segpipe.analysis.page", ".")
    environment = Environment(autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html.j2").render(**page._asdict(), explained=EXPLAINED)


def score_section(collection: Collection, results: list[NetworkResult], bound: Bound | None) -> Section:
    """Return the heat maps, and the lines over a quantity."""
    blocks: list[Block] = []
    all_grids = grids(results, collection.averaged)
    limits = plots.colour_limits(all_grids)
    for grid in all_grids:
        blocks.append(Text(grid.label, "heading"))
        blocks.append(plots.heat_maps(grid, limits))
        if (lines := plots.quantity_lines(grid, bound)) is not None:
            blocks.append(lines)
    if (side_by_side := tables.views(all_grids)) is not None:
        blocks.append(side_by_side)
    return Section("cells", f"{collection.score.title} by {join_words(labels(collection.drawn)) or 'network'}", blocks)


def differences(collection: Collection, analysis: Analysis) -> Section:
    """Return the section with the confirmatory family and the interactions."""
    blocks: list[Block] = []
    for stratum in dict.fromkeys(one.contrast.stratum for one in analysis.marginal):
        family = [as_positive(one) for one in analysis.marginal if one.contrast.stratum == stratum and is_known(one)]
        family.sort(key=lambda one: -one.estimate.difference)
        by_factor = [
            (factor, [one for one in family if one.contrast.factor == factor.key])
            for factor in (*collection.factors, *collection.outer)
        ]
        panels = [plots.forest(members, factor.label) for factor, members in by_factor if members]
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


def single_network_section(
    results: list[NetworkResult],
    analysis: Analysis,
    flags: Mapping[int, str] | None = None,
    links: Mapping[int, str] | None = None,
) -> Section:
    """Return the section on single networks: minus the reference, or minus the best of the others.

    flags: what is degenerate about runs, by network. links: to other pages, by network.
    """
    blocks: list[Block] = []
    val = {result.network.label: result.val for result in results}
    ranked = sorted(analysis.single_networks, key=lambda one: -val[one.contrast.a])[:DRAWN]
    if ranked:
        rival = ranked[0].contrast.b
        of_best = analysis.reference is None
        note = (
            "An interval that ends at 0: significantly worse than the best; any other interval: may be the best. "
            if of_best
            else ""
        )
        shown = (
            f" The figure shows the {DRAWN} best of {len(analysis.single_networks)} networks."
            if len(analysis.single_networks) > DRAWN
            else ""
        )
        caption = (
            f"Test {analysis.score.label} of each network minus that of {rival}, in points; the best network on "
            f"validation is at the top. Intervals are simultaneous. {note}"
            f"{plots.forest_caption(ranked)}{shown}"
        )
        blocks.append(Figure([plots.forest(ranked, f"minus {rival}")], caption, []))
    return Section("networks", "Single networks", [*blocks, tables.networks(results, analysis, flags, links)])


def cost_section(results: list[NetworkResult], costs: Sequence[str]) -> Section:
    """Return the section on the score against the costs of networks. costs: those that are drawn."""
    figure = curves.cost_figure(results, costs)
    known = any(math.isfinite(one.cost[name]) for one in results for name in costs)
    message = Text(
        "Only one network has a recorded cost, so there is nothing to compare."
        if known
        else "No run recorded the cost of its network (metrics.json has no cost)."
    )
    return Section("cost", f"{results[0].score.title} against cost", [message if figure is None else figure])


def learning(results: list[NetworkResult], averaged: Sequence[Factor]) -> Section:
    """Return the learning curves of each stratum. averaged: factors that are not drawn."""
    blocks: list[Block] = []
    for grid in grids(results, averaged):
        figure = curves.learning_curves(grid)
        if figure is not None:  # collapsed: a panel for every combination is long
            blocks += [Text(curves.last_epochs(grid)), Fold(f"Learning curves: {grid.label}", [figure])]
    if not blocks:
        has_history = any(run.run.history.is_file() for one in results for run in one.network.runs.values())
        message = f"No history.csv of the runs has val/{results[0].score.ranking.key}, or the files cannot be read."
        blocks.append(Text(message if has_history else "The runs have no history.csv."))
    return Section("learning", "Learning curves", blocks)
