"""Tables of the page: what stands in them, and by what they are sorted."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from segpipe.analysis.collect import Collection
from segpipe.analysis.design_points import UNMATCHED
from segpipe.analysis.factors import Level, labels
from segpipe.analysis.formatting import MINUS, NOTHING, bounds, number, points, probability, seeds, signed
from segpipe.analysis.ordering import as_positive
from segpipe.analysis.scores import MIOU, Score
from segpipe.analysis.standings import COSTS, FactorGrid, NetworkResult, number_of, stratum_label
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.contrasts import Contrast
from segpipe.analysis.statistics.effects import Analysis
from segpipe.analysis.statistics.intervals import Interval


class Cell(NamedTuple):
    """text: as shown. sort: what it is sorted by, where that is not the text; None goes last."""

    text: str
    sort: float | None = None


class Table(NamedTuple):
    """columns: headings; numeric: how many of the last ones hold numbers. caption: what to see in it."""

    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    numeric: int
    kind: str = "table"


def figure(value: float | None, digits: int = 1) -> Cell:
    """A number, or a dash."""
    there = value is not None and math.isfinite(value)
    return Cell(number(value, digits), value if there else None)


def scored(value: float | None, score: Score = MIOU) -> Cell:
    """A score in its unit, or a dash."""
    there = value is not None and math.isfinite(value)
    return Cell(points(value, score), value if there else None)


def differences(family: Sequence[Comparison], *, interaction: bool = False) -> Table:
    """The confirmatory family, or the interactions: each difference turned so that it is not negative."""
    several = len({one.contrast.stratum for one in family}) > 1
    rows = []
    for one in map(as_positive, family):
        found, contrast = one.estimate, one.contrast
        rows.append(
            [
                Cell(changing(contrast) if interaction else f"{contrast.a} {MINUS} {contrast.b}"),
                Cell(contrast.factor),
                *([Cell(stratum_label(one.contrast.stratum) if one.contrast.stratum else "")] if several else []),
                Cell(real(one)),
                gap(one, more=1),
                interval(found.trainings, one.score),
                p_of(one, "trainings"),
                interval(found.pictures, one.score),
                p_of(one, "pictures"),
                pairs(contrast),
                Cell(str(len(found.seeds)), len(found.seeds)),
                *([] if interaction else [needed(one, one.seeds_needed), needed(one, one.seeds_needed_for())]),
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


def gap(one: Comparison, *, more: int = 0) -> Cell:
    """A difference in points, or a dash. more: decimals."""
    difference = one.estimate.difference
    there = math.isfinite(difference)
    return Cell(signed(difference, one.score, more=more) if there else NOTHING, difference if there else None)


def pairs(contrast: Contrast) -> Cell:
    """How many a mean is of; and of how many, where some lack runs."""
    whole = f" of {contrast.contexts + len(contrast.dropped)}" if contrast.dropped else ""
    return Cell(f"{contrast.contexts}{whole}", contrast.contexts)


def changing(contrast: Contrast) -> str:
    """An interaction in words."""
    a, b, there, elsewhere = contrast.square or ("", "", "", "")
    return f"{a} {MINUS} {b}, at {there} minus at {elsewhere}"


def real(one: Comparison) -> str:
    """What is sure of it."""
    if one.estimate.trainings is None:
        return "too few seeds"
    return (
        "yes" if one.significant_on_new_images and one.significant else "on these images" if one.significant else "no"
    )


def may_be_best(one: Comparison) -> str:
    """Of a network less the best of the others."""
    if one.estimate.trainings is None:
        return "too few seeds"
    return "yes" if not one.significant else "no" if one.significant_on_new_images else "not on these images"


def interval(found: Interval | None, score: Score) -> Cell:
    """Sorted by the lower bound."""
    return Cell(bounds(found, score, more=1), found.low if found else None)


def p_of(one: Comparison, which: str) -> Cell:
    """Adjusted."""
    adjusted = getattr(getattr(one.estimate, which), "adjusted", None)
    return Cell(probability(adjusted), adjusted)


def needed(one: Comparison, count: int | None) -> Cell:
    """Seeds."""
    if one.estimate.trainings is None:
        return Cell(NOTHING)
    return Cell("> 1,000" if count is None else seeds(count), 1001 if count is None else count)


def networks(found: Sequence[NetworkResult], analysis: Analysis) -> Table:
    """Every network: scores, difference from the reference or from the best of the others, cost."""
    by_name = {one.contrast.a: one for one in analysis.cells}
    judge = may_be_best if analysis.reference is None else real
    score = analysis.score
    rows = []
    for standing in sorted(found, key=lambda one: -one.val):
        one = by_name.get(standing.network.label)
        narrow = one.estimate.trainings if one else None
        wider = one.estimate.pictures if one else None
        same = f" ({standing.mark})" if standing.mark else ""
        own = standing.number == analysis.reference
        rows.append(
            [
                Cell(standing.network.label + same),
                Cell("reference" if own else judge(one) if one else NOTHING),
                scored(standing.val, score),
                scored(standing.test, score),
                scored(standing.deviation, score),
                Cell(str(standing.seeds), standing.seeds),
                gap(one) if one else Cell(NOTHING),
                Cell(bounds(narrow, score), narrow.low) if narrow else Cell(NOTHING),
                Cell(bounds(wider, score), wider.low) if wider else Cell(NOTHING),
                *(figure(standing.cost[name] / scale, digits) for name, (_, scale, _, digits) in COSTS.items()),
            ]
        )
    heads = [f"{what}, {unit}" for what, _, unit, _ in COSTS.values()]
    of_best = analysis.reference is None
    columns = ["network", "may be the best?" if of_best else "significant?", f"val {score.label}",
               f"test {score.label}", "std over seeds", "seeds",
               "minus the best other" if of_best else "minus the reference", "95 % interval, new trainings",
               "95 % interval, new trainings and images",
               *heads]  # fmt: skip
    caption = (
        f"Networks, ranked by validation. Scores {score.in_unit}: mean over seeds, with the standard deviation of the "
        f"test score. Differences in points of test {score.label}, with simultaneous intervals. Cost: median over "
        f"seeds."
    )
    return Table(caption, columns, rows, len(columns) - 2)


def by_class(found: Sequence[NetworkResult], collection: Collection) -> Table:
    """Mean IoU of every class."""

    def ious(standing: NetworkResult) -> list[float | None]:
        runs = standing.network.runs.values()
        return [mean([number_of(run, "test", "per_class_iou", name) for run in runs]) for name in collection.classes]

    rows = [
        [
            Cell(standing.network.label),
            scored(standing.test, standing.score),
            *(scored(v) for v in ious(standing)),
        ]
        for standing in sorted(found, key=lambda one: -one.val)
    ]
    best = max(found, key=lambda one: one.val)
    known = {name: value for name, value in zip(collection.classes, ious(best), strict=True) if value is not None}
    weakest = f" Lowest for {best.network.label}: {min(known, key=lambda name: known[name])}." if known else ""
    caption = (
        f"Test IoU of each class in percent, mean over seeds.{weakest} A dash: the class is not in the test masks."
    )
    return Table(caption, ["network", collection.score.label, *collection.classes], rows, 1 + len(collection.classes))


def mean(values: Sequence[float | None]) -> float | None:
    """Of what is there."""
    kept = [value for value in values if isinstance(value, int | float)]
    return float(np.mean(kept)) if kept else None


def scores(
    found: Sequence[NetworkResult], names: Sequence[str], of: Callable[[NetworkResult, str], float | None], caption: str
) -> Table:
    """Further scores, a column each."""
    rows = [
        [Cell(standing.network.label), *(scored(of(standing, name)) for name in names)]
        for standing in sorted(found, key=lambda one: -one.val)
    ]
    return Table(caption, ["network", *names], rows, len(names))


def views(grids: Sequence[FactorGrid]) -> Table | None:
    """Raw and matched side by side: of every place score, parameters and multiply-adds by view; None with one view."""
    names = sorted(dict.fromkeys(grid.stratum[1] for grid in grids), key=lambda name: name != UNMATCHED)
    if len(names) < 2:
        return None
    factors, score = grids[0].factors, grids[0].score
    found = {
        (place.setting, place.model, place.levels, place.view): standing
        for grid in grids
        for standing in grid.of.values()
        for place in standing.network.places
    }
    rows = []
    for setting, model, levels in dict.fromkeys(key[:3] for key in found):
        here = [found.get((setting, model, levels, name)) for name in names]
        row = [Cell(" ".join(filter(None, [model, setting]))), *(Cell(str(level), size_of(level)) for level in levels)]
        row += [scored(one.test if one else None, score) for one in here]
        row += [figure(one.cost["parameters"] / 1e6 if one else None, 3) for one in here]
        row += [figure(1000 * one.cost["gmac"] if one else None, 1) for one in here]
        rows.append(row)
    columns = ["networks", *labels(factors), *(f"{score.label}, {name}" for name in names)]
    columns += [f"M parameters, {name}" for name in names] + [f"M multiply-adds, {name}" for name in names]
    caption = f"Test {score.label} {score.in_unit}, mean over seeds, and the cost of each network, by view."
    numeric = 3 * len(names) + (1 if factors[-1].quantity else 0)
    return Table(caption, columns, rows, numeric)


def size_of(level: Level) -> float | None:
    """A level to sort by, where it is a number."""
    return level if isinstance(level, int | float) else None
