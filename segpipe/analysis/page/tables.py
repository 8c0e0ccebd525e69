"""The tables of the page, with the values by which they are sorted."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from segpipe.analysis.collection import Collection
from segpipe.analysis.factors import Level, labels
from segpipe.analysis.formatting import (
    DASH,
    MINUS,
    format_difference,
    format_interval,
    format_number,
    format_p,
    format_score,
    format_seed_count,
)
from segpipe.analysis.network_results import COSTS, FactorGrid, NetworkResult, number_of, stratum_label
from segpipe.analysis.ordering import as_positive
from segpipe.analysis.scores import MIOU, ReportScore
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.contrasts import Contrast
from segpipe.analysis.statistics.effects import Analysis
from segpipe.analysis.statistics.intervals import Interval
from segpipe.analysis.tuned import Tuned
from segpipe.runs.labels import UNMATCHED


class Cell(NamedTuple):
    """A cell. text: as shown. sort: the sort value if it is not the text; None is sorted last. link: of the text."""

    text: str
    sort: float | None = None
    link: str = ""


class Table(NamedTuple):
    """A table. columns: headings. numeric: the number of columns with numbers, which are the last ones."""

    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    numeric: int
    kind: str = "table"


def number_cell(value: float | None, digits: int = 1) -> Cell:
    """Return a number, or a dash."""
    known = value is not None and math.isfinite(value)
    return Cell(format_number(value, digits), value if known else None)


def small_share_cell(value: float) -> Cell:
    """Return a share over many orders of magnitude; below 1e-11 it is rounding, shown as 0; a dash for NaN."""
    if not math.isfinite(value):
        return Cell(DASH)
    return Cell("0" if value < 1e-11 else f"{value:.3f}" if value >= 1e-2 else f"{value:.1e}", value)


def score_cell(value: float | None, score: ReportScore = MIOU) -> Cell:
    """Return a score in its unit, or a dash."""
    known = value is not None and math.isfinite(value)
    return Cell(format_score(value, score), value if known else None)


def differences(family: Sequence[Comparison], *, interaction: bool = False) -> Table:
    """Return a table of differences or interactions, each with a non-negative sign."""
    several = len({one.contrast.stratum for one in family}) > 1
    rows = []
    for one in map(as_positive, family):
        estimate, contrast = one.estimate, one.contrast
        rows.append(
            [
                Cell(interaction_text(contrast) if interaction else f"{contrast.a} {MINUS} {contrast.b}"),
                Cell(contrast.factor),
                *([Cell(stratum_label(one.contrast.stratum) if one.contrast.stratum else "")] if several else []),
                Cell(significance_text(one)),
                difference_cell(one, more=1),
                interval_cell(estimate.trainings, one.score),
                p_cell(one, "trainings"),
                interval_cell(estimate.images, one.score),
                p_cell(one, "images"),
                pair_cell(contrast),
                Cell(str(len(estimate.seeds)), len(estimate.seeds)),
                *([] if interaction else [seed_cell(one, one.seeds_needed), seed_cell(one, one.seeds_needed_for())]),
            ]
        )
    columns = [
        "difference", "factor", *(["networks"] if several else []), "significant?", "points",
        "95 % interval, new trainings", "p (Holm)", "95 % interval, new trainings and images", "p (Holm)",
        "pairs", "seeds",
        *([] if interaction else ["seeds to detect it", "seeds to detect 1 point"]),
    ]  # fmt: skip
    kind = (
        "Interactions: the difference between two levels of a factor at one level of another factor, minus that "
        "difference at the other level"
        if interaction
        else "Differences between two levels of a factor: means over pairs of networks that differ in nothing else"
    )
    caption = (
        f"{kind}, in points of test {family[0].score.label}. Pairs with fewer than three seeds in common are excluded. "
        f"p is adjusted for all rows of the table; the intervals are not."
    )
    return Table(caption, columns, rows, 7 if interaction else 9)


def difference_cell(one: Comparison, *, more: int = 0) -> Cell:
    """Return a difference in points, or a dash. more: decimals beyond the usual ones."""
    difference = one.estimate.difference
    known = math.isfinite(difference)
    return Cell(format_difference(difference, one.score, more=more) if known else DASH, difference if known else None)


def pair_cell(contrast: Contrast) -> Cell:
    """Return the number of pairs in a mean, and the total number if some pairs lack runs."""
    total = f" of {contrast.contexts + len(contrast.dropped)}" if contrast.dropped else ""
    return Cell(f"{contrast.contexts}{total}", contrast.contexts)


def interaction_text(contrast: Contrast) -> str:
    """Return an interaction in words."""
    a, b, level, other_level = contrast.square or ("", "", "", "")
    return f"{a} {MINUS} {b}, at {level} minus at {other_level}"


def significance_text(one: Comparison) -> str:
    """Return whether a difference is significant: yes (for new images too), on these images, or no."""
    if one.estimate.trainings is None:
        return "too few seeds"
    return (
        "yes" if one.significant_on_new_images and one.significant else "on these images" if one.significant else "no"
    )


def best_text(one: Comparison) -> str:
    """Return whether a network may be the best, by its difference from the best of the others."""
    if one.estimate.trainings is None:
        return "too few seeds"
    return "yes" if not one.significant else "no" if one.significant_on_new_images else "not on these images"


def interval_cell(bounds: Interval | None, score: ReportScore) -> Cell:
    """Return an interval, sorted by its lower bound."""
    return Cell(format_interval(bounds, score, more=1), bounds.low if bounds else None)


def p_cell(one: Comparison, which: str) -> Cell:
    """Return the adjusted p. which: trainings or images."""
    adjusted = getattr(getattr(one.estimate, which), "adjusted", None)
    return Cell(format_p(adjusted), adjusted)


def seed_cell(one: Comparison, count: int | None) -> Cell:
    """Return a number of seeds; None stands for more than 1,000."""
    if one.estimate.trainings is None:
        return Cell(DASH)
    return Cell("> 1,000" if count is None else format_seed_count(count), 1001 if count is None else count)


def networks(
    results: Sequence[NetworkResult],
    analysis: Analysis,
    flags: Mapping[int, str] | None = None,
    links: Mapping[int, str] | None = None,
) -> Table:
    """Return a table of all networks: scores, difference from the reference or from the best of the others, cost.

    flags: what is degenerate about runs, by network. links: to the page of segpipe.inspect, by network.
    """
    with_checkerboard = any(math.isfinite(result.checkerboard) for result in results)
    by_name = {one.contrast.a: one for one in analysis.single_networks}
    judge = best_text if analysis.reference is None else significance_text
    score = analysis.score
    rows = []
    for result in sorted(results, key=lambda one: -one.val):
        one = by_name.get(result.network.label)
        trainings = one.estimate.trainings if one else None
        images = one.estimate.images if one else None
        letter = f" ({result.letter})" if result.letter else ""
        is_reference = result.number == analysis.reference
        rows.append(
            [
                Cell(result.network.label + letter, link=(links or {}).get(result.number, "")),
                Cell("reference" if is_reference else judge(one) if one else DASH),
                *([Cell(flags.get(result.number, ""))] if flags else []),
                score_cell(result.val, score.ranking),
                score_cell(result.test, score),
                score_cell(result.std, score),
                Cell(str(result.seeds), result.seeds),
                difference_cell(one) if one else Cell(DASH),
                Cell(format_interval(trainings, score), trainings.low) if trainings else Cell(DASH),
                Cell(format_interval(images, score), images.low) if images else Cell(DASH),
                *(number_cell(result.cost[name] / scale, digits) for name, (_, scale, _, digits) in COSTS.items()),
                *([small_share_cell(result.checkerboard)] if with_checkerboard else []),
            ]
        )
    heads = [f"{what}, {unit}" for what, _, unit, _ in COSTS.values()]
    heads += ["checkerboard"] if with_checkerboard else []
    of_best = analysis.reference is None
    columns = ["network", "may be the best?" if of_best else "significant?",
               *(["flags"] if flags else []), f"val {score.ranking.label}",
               f"test {score.label}", "std over seeds", "seeds",
               "minus the best other" if of_best else "minus the reference", "95 % interval, new trainings",
               "95 % interval, new trainings and images",
               *heads]  # fmt: skip
    caption = (
        f"Networks, ranked by validation. Scores {score.in_unit}: mean over seeds, with the standard deviation of the "
        f"test score. Differences in points of test {score.label}, with simultaneous intervals. Cost: median over "
        f"seeds."
    )
    if with_checkerboard:
        caption += (
            " Checkerboard: phase share of the logits on a constant image (docs/lab.md), 0 without a pattern, median "
            "over seeds."
        )
    if links:
        caption += " Names with a link lead to the page of segpipe.inspect of the lowest seed that has one."
    return Table(caption, columns, rows, len(columns) - 2 - bool(flags))


def chosen_levels(tuned: Tuned) -> Table:
    """Return a table of the chosen level of each cell, with the mean validation mIoU of every level."""
    rows = []
    for one in tuned.cells:
        choice = one.choice
        share = choice.other if choice is not None and math.isfinite(choice.other) else None
        rows.append(
            [
                Cell(one.label),
                Cell(tuned.text(choice.level) if choice else DASH),
                Cell("yes" if one.edge else "no" if choice else DASH),
                *(score_cell(one.means.get(level)) for level in tuned.levels),
                number_cell(None if share is None else 100 * share, 0),
                score_cell(choice.regret if choice else None),
                Cell(f"{one.changes} of {len(one.by_seed)}", one.changes),
            ]
        )
    levels = [f"val mIoU, {tuned.name} {tuned.text(level)}" for level in tuned.levels]
    columns = ["cell", "chosen", "edge?", *levels, "resamples that change it, %", "regret", "seeds at another level"]
    caption = (
        f"The level of {tuned.name} that was chosen for each cell, and the validation mIoU in percent of each level, "
        f"mean over the seeds that choose. edge: the smallest or the largest number that was tested. regret: the mIoU "
        f"of each seed's best level minus that of the chosen one, in points, mean over seeds."
    )
    return Table(caption, columns, rows, len(tuned.levels) + 3)


def by_class(results: Sequence[NetworkResult], collection: Collection) -> Table:
    """Return a table of the mean IoU of each class."""

    def ious(result: NetworkResult) -> list[float | None]:
        runs = result.network.runs.values()
        return [mean([number_of(run, "test", "per_class_iou", name) for run in runs]) for name in collection.classes]

    rows = [
        [
            Cell(result.network.label),
            score_cell(result.test, result.score),
            *(score_cell(v) for v in ious(result)),
        ]
        for result in sorted(results, key=lambda one: -one.val)
    ]
    best = max(results, key=lambda one: one.val)
    known = {name: value for name, value in zip(collection.classes, ious(best), strict=True) if value is not None}
    weakest = f" Lowest for {best.network.label}: {min(known, key=lambda name: known[name])}." if known else ""
    caption = (
        f"Test IoU of each class in percent, mean over seeds.{weakest} A dash: the class is not in the test masks."
    )
    return Table(caption, ["network", collection.score.label, *collection.classes], rows, 1 + len(collection.classes))


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the numbers among the values; None without one."""
    known = [value for value in values if isinstance(value, int | float)]
    return float(np.mean(known)) if known else None


def scores(
    results: Sequence[NetworkResult],
    names: Sequence[str],
    of: Callable[[NetworkResult, str], float | None],
    caption: str,
) -> Table:
    """Return a table of further scores, one column for each."""
    rows = [
        [Cell(result.network.label), *(score_cell(of(result, name)) for name in names)]
        for result in sorted(results, key=lambda one: -one.val)
    ]
    return Table(caption, ["network", *names], rows, len(names))


def views(grids: Sequence[FactorGrid]) -> Table | None:
    """Return a table of scores, parameters and multiply-adds side by side by view; None with one view."""
    names = sorted(dict.fromkeys(grid.stratum[1] for grid in grids), key=lambda name: name != UNMATCHED)
    if len(names) < 2:
        return None
    factors, score = grids[0].factors, grids[0].score
    by_cell = {
        (setting, model, levels, view): result
        for grid in grids
        for setting, view, model in [grid.stratum]
        for levels, result in grid.results.items()
    }
    rows = []
    for setting, model, levels in dict.fromkeys(key[:3] for key in by_cell):
        by_view = [by_cell.get((setting, model, levels, name)) for name in names]
        row = [Cell(" ".join(filter(None, [model, setting]))), *(Cell(str(level), size_of(level)) for level in levels)]
        row += [score_cell(one.test if one else None, score) for one in by_view]
        row += [number_cell(one.cost["parameters"] / 1e6 if one else None, 3) for one in by_view]
        row += [number_cell(1000 * one.cost["gmac"] if one else None, 1) for one in by_view]
        rows.append(row)
    columns = ["networks", *labels(factors), *(f"{score.label}, {name}" for name in names)]
    columns += [f"M parameters, {name}" for name in names] + [f"M multiply-adds, {name}" for name in names]
    caption = f"Test {score.label} {score.in_unit}, mean over seeds, and the cost of each network, by view."
    numeric = 3 * len(names) + (1 if factors[-1].quantity else 0)
    return Table(caption, columns, rows, numeric)


def size_of(level: Level) -> float | None:
    """Return a level as a sort value if it is a number, else None."""
    return level if isinstance(level, int | float) else None
