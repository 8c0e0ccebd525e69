"""Several sweeps side by side: their verdicts, the order of each factor in each of them, and the cells they share."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import stats

from segpipe.analysis.collection import Collection
from segpipe.analysis.design_points import Stratum
from segpipe.analysis.factors import Factor, Level, labels
from segpipe.analysis.findings import STATED, Finding, and_more
from segpipe.analysis.formatting import format_number, join_words, pluralise
from segpipe.analysis.network_results import NetworkResult, network_results, stratum_label
from segpipe.analysis.ordering import Order, order
from segpipe.analysis.page.blocks import Block, Items, Section, Text
from segpipe.analysis.page.content import Content
from segpipe.analysis.page.notes_section import command_blocks
from segpipe.analysis.page.tables import Cell, Table, score_cell, size_of
from segpipe.analysis.restriction import levels_of, restricted
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.effects import Analysis, analyse
from segpipe.analysis.verdict import Paragraph

SHARED = (
    "Cells that several sweeps have, by the factors that all of them vary: test {score} {unit}, mean over seeds. What "
    "only one of them varies is taken at the level of the others, or averaged where they have none in common "
    "({several}). A rank of 1 is the highest score of a sweep."
)
Row = dict[str, list[NetworkResult]]  # results by sweep


class Sweep(NamedTuple):
    """The runs of a folder, their comparisons and their page. exploratory: comparisons of further scores."""

    collection: Collection
    analysis: Analysis
    results: list[NetworkResult]
    exploratory: dict[str, list[Comparison]]
    page: Content

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.collection.folder.resolve().name


def side_by_side(sweeps: Sequence[Sweep], command: Sequence[str]) -> Content:
    """Return the page. command: that made the page."""
    names = unique_names(sweeps)
    common = common_factors(sweeps)
    shared = [at_shared_levels(sweep, sweeps, common) for sweep in sweeps]
    rows = shared_cells(shared, names, common)
    paragraphs = [Paragraph("", [*order_findings(shared, names, common), *rank_findings(names, rows)])]
    for name, sweep in zip(names, sweeps, strict=True):
        paragraphs += [
            Paragraph(": ".join(filter(None, [name, part.title])), part.findings) for part in sweep.page.verdict
        ]
    sections = [shared_section(shared, names, common, rows)]
    for name, sweep in zip(names, sweeps, strict=True):
        sections += [
            Section(f"{section.id}-{number_of(names, name)}", f"{name}: {section.title}", section.blocks)
            for section in sweep.page.sections
            if section.id in ("cells", "differences", "networks", "missing")
        ]
    sections.append(Section("method", "Method", method_blocks(sweeps, names, command)))
    subtitle = " ".join(f"{name}: {sweep.page.subtitle}" for name, sweep in zip(names, sweeps, strict=True))
    return Content(" and ".join(names), subtitle, paragraphs, sections)


def number_of(names: Sequence[str], name: str) -> int:
    """Return the number of a sweep, from 1."""
    return names.index(name) + 1


def unique_names(sweeps: Sequence[Sweep]) -> list[str]:
    """Return the names of the folders, with their paths where two are alike."""
    names = [sweep.name for sweep in sweeps]
    return [
        name if names.count(name) == 1 else str(sweep.collection.folder)
        for name, sweep in zip(names, sweeps, strict=True)
    ]


def common_factors(sweeps: Sequence[Sweep]) -> list[Factor]:
    """Return the factors that all sweeps vary, as in the first one."""
    keys = [{factor.key for factor in (*sweep.collection.factors, *sweep.collection.outer)} for sweep in sweeps]
    first = sweeps[0].collection
    return [factor for factor in (*first.factors, *first.outer) if all(factor.key in own for own in keys)]


class Part(NamedTuple):
    """The cells of a sweep at which it is compared with the others. only: the levels of the factors it varies alone."""

    analysis: Analysis
    results: list[NetworkResult]
    only: dict[Factor, list[Level]]
    averaged: list[Factor]

    def __str__(self) -> str:
        """What only this sweep varies: at one level, or averaged."""
        at = [f"{factor.label} {join_words([str(level) for level in levels])}" for factor, levels in self.only.items()]
        return join_words([f"at {one}" for one in at] + [f"mean over {one}" for one in labels(self.averaged)])


def at_shared_levels(sweep: Sweep, sweeps: Sequence[Sweep], common: Sequence[Factor]) -> Part:
    """Return the cells of a sweep at the levels that the others have of the factors that not all of them vary."""
    only: dict[Factor, list[Level]] = {}
    averaged = []
    for factor in (*sweep.collection.factors, *sweep.collection.outer):
        if factor in common:
            continue
        own = levels_of(sweep.collection, factor)
        of_all = [levels_of(one.collection, factor) for one in sweeps]
        both = [level for level in own if all(level in levels for levels in of_all)]
        if both and len(both) < len(own):
            only[factor] = both
        if len(both or own) > 1:
            averaged.append(factor)
    if not only:
        return Part(sweep.analysis, sweep.results, only, averaged)
    part = restricted(sweep.collection, only)
    analysis = analyse(part, resamples=sweep.analysis.resamples)
    return Part(analysis, network_results(part, analysis), only, averaged)


def shared_cells(
    sweeps: Sequence[Part], names: Sequence[str], common: Sequence[Factor]
) -> dict[tuple[Level, ...], Row]:
    """Return the results by the levels of the common factors, and by sweep. Without common factors it is empty."""
    rows: dict[tuple[Level, ...], Row] = {}
    for name, sweep in zip(names, sweeps, strict=True):
        for result in sweep.results if common else []:
            for point in result.network.points:
                levels = tuple(point.level(factor.key) for factor in common)
                of_sweep = rows.setdefault(levels, {}).setdefault(name, [])
                if result not in of_sweep:
                    of_sweep.append(result)
    return rows


def mean_test(results: Sequence[NetworkResult] | None) -> float | None:
    """Return the mean test score of networks; None without any."""
    return float(np.mean([one.test for one in results])) if results else None


def order_findings(sweeps: Sequence[Part], names: Sequence[str], common: Sequence[Factor]) -> list[Finding]:
    """Return a finding for each common factor: its order in each sweep, and whether the orders agree."""
    findings = []
    for factor in common:
        texts, ranked = [], []
        for name, sweep in zip(names, sweeps, strict=True):
            for where, found in orders(sweep, factor):
                within = f" ({sweep})" if str(sweep) else ""
                texts.append(f"{name}{within}{where}: {found.label}.")
                ranked.append(found.levels)
        if len(texts) > 1:
            headline = "The same order of means" if agree(ranked) else "Different orders of means"
            findings.append(Finding(factor.title, headline, " ".join(texts)))
    if not common:
        findings.append(Finding("Factors", "", "The sweeps have no factor in common, so no order is compared."))
    return findings


def orders(sweep: Part, factor: Factor) -> Iterator[tuple[str, Order]]:
    """Yield the order of a factor's levels in each group of a sweep, with the group's name if there are several."""
    families: dict[Stratum, list[Comparison]] = {}
    for one in sweep.analysis.marginal:
        if one.contrast.factor == factor.key and one.contrast.stratum is not None:
            families.setdefault(one.contrast.stratum, []).append(one)
    for stratum, family in families.items():
        yield (f" ({stratum_label(stratum)})" if len(families) > 1 else ""), order(family)


def agree(ranked: Sequence[Sequence[str]]) -> bool:
    """Return whether orders agree in the levels that each two of them have in common."""
    pairs = combinations(ranked, 2)
    return all([level for level in a if level in b] == [level for level in b if level in a] for a, b in pairs)


def rank_findings(names: Sequence[str], rows: dict[tuple[Level, ...], Row]) -> list[Finding]:
    """Return the rank correlation of the shared cells for each two sweeps with at least three cells in common."""
    texts = []
    for a, b in combinations(names, 2):
        pairs = [(mean_test(row[a]), mean_test(row[b])) for row in rows.values() if a in row and b in row]
        if len(pairs) > 2:
            tau = float(stats.kendalltau(*zip(*pairs, strict=True)).statistic)
            texts.append(f"{a} and {b}: {format_number(tau, 2)} over {pluralise(len(pairs), 'cell')}")
    if not texts:
        return []
    text = f"Kendall's tau of the mean test scores, from -1 to 1 (the same order): {'; '.join(texts)}."
    return [Finding("Rank correlation", "", text)]


def shared_section(
    sweeps: Sequence[Part], names: Sequence[str], common: Sequence[Factor], rows: dict[tuple[Level, ...], Row]
) -> Section:
    """Return the section with the scores of all sweeps in one table."""
    title, score = "Side by side", sweeps[0].analysis.score
    if not rows:
        return Section("side-by-side", title, [Text("The sweeps have no factor in common, so they share no cell.")])
    ranks = {name: ranking({levels: mean_test(row.get(name)) for levels, row in rows.items()}) for name in names}
    body = []
    for levels, row in rows.items():
        cells = [Cell(str(level), size_of(level)) for level in levels]
        cells += [score_cell(mean_test(row.get(name)), score) for name in names]
        places = [ranks[name].get(levels) for name in names]
        body.append(cells + [Cell("\N{EN DASH}" if place is None else str(place), place) for place in places])
    several = "; ".join(f"{name}: {str(sweep) or 'nothing'}" for name, sweep in zip(names, sweeps, strict=True))
    caption = SHARED.format(score=score.label, unit=score.in_unit, several=several)
    columns = [*labels(common), *(f"{score.label}, {name}" for name in names), *(f"rank, {name}" for name in names)]
    return Section("side-by-side", title, [Table(caption, columns, body, 2 * len(names))])


def ranking(values: dict[tuple[Level, ...], float | None]) -> dict[tuple[Level, ...], int]:
    """Return the rank of each cell with a score; the highest has rank 1."""
    known = {levels: value for levels, value in values.items() if value is not None}
    ranked = sorted(known, key=lambda levels: -known[levels])
    return {levels: place for place, levels in enumerate(ranked, start=1)}


def method_blocks(sweeps: Sequence[Sweep], names: Sequence[str], command: Sequence[str]) -> list[Block]:
    """Return how the sweeps were compared, with the command that generates the page."""
    images = {tuple(sweep.collection.images) for sweep in sweeps}
    same = (
        "The sweeps were tested on images of the same names. "
        if len(images) == 1
        else "The sweeps were tested on different images, so their scores cannot be compared with each other, only "
        "their orders. "
    )
    items = [
        f"{same}No difference between sweeps is tested: each sweep is analysed alone, with its own families of "
        f"differences (python -m segpipe.report FOLDER shows all of its page). To test a difference between two "
        f"trainings, copy their runs into one folder.",
        f"An order by means is not tested either; > and ≈ within an order are. Sweeps: "
        f"{join_words([str(name) for name in names][:STATED])}{and_more(names)}.",
    ]
    return [Items(items), *command_blocks(command)]
