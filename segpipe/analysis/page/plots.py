"""The figures of a factorial: heat map, lines over a quantity, forest of differences."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from segpipe.analysis.bounds import Bound
from segpipe.analysis.factors import Factor, Level, labels, named
from segpipe.analysis.formatting import MINUS, NOTHING, join_words, points, spread
from segpipe.analysis.page import figures
from segpipe.analysis.page.figures import INK, Figure, Panel
from segpipe.analysis.scores import Score
from segpipe.analysis.standings import FactorGrid, NetworkResult
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.contrasts import CELL
from segpipe.analysis.statistics.intervals import Interval

REFERENCE = (
    " Lines without markers: the score of a perfect map of that stride after fixed upsampling, on the same images "
    "(segpipe.bound): a reference, not a limit."
)


def heat_maps(grid: FactorGrid) -> Figure:
    """The first factor x the second, a panel for each combination of the others."""
    shown, others = grid.factors[:2], grid.factors[2:]
    rows, columns = grid.combinations(shown[:1]), grid.combinations(shown[1:])  # one empty column without a second
    scores = [standing.test for standing in grid.of.values()]
    low, high = min(scores), max(scores)
    score = grid.score

    def draw(axes: Axes, panel: Mapping[str, Level]) -> None:
        axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xticks(np.arange(len(columns)) + 0.5, [figures.label(level_of(one), 12) for one in columns])
        axes.set_yticks(np.arange(len(rows)) + 0.5, [figures.label(level_of(one), 14) for one in rows])
        axes.xaxis.tick_top()
        for row, own in enumerate(rows):
            for column, its in enumerate(columns):
                standing = grid.at(own, its, panel)
                if standing is None:
                    axes.text(column + 0.5, row + 0.5, NOTHING, ha="center", va="center")
                    continue
                back, ink = figures.colour_of(standing.test, low, high)
                x, y = [column + 0.02, column + 0.98], [row + 0.03, row + 0.97]
                axes.fill([*x, *reversed(x)], [y[0], y[0], y[1], y[1]], facecolor=back, edgecolor="none")
                text = spread(standing.test, standing.deviation, score)
                text += f" ({standing.mark})" if standing.mark else ""
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink)
        axes.set_title(named(panel, others), pad=22)

    panels = [
        figures.panel(
            f"{place_of(grid, panel, others)}: mean test {score.label} by {join_words(labels(shown))}",
            partial(draw, panel=panel),
            width=110 + 90 * len(columns),
            height=62 + 30 * len(rows),
        )
        for panel in grid.combinations(others)
        if grid.at_all(panel)
    ]
    best, worst = max(grid.of.values(), key=by_test), min(grid.of.values(), key=by_test)
    several = "; cells with the same letter are the same network, trained once" if any_merged(grid) else ""
    return Figure(
        panels,
        f"Test {score.label} {score.in_unit}, mean ± standard deviation over seeds{several}. "
        f"Highest: {best.network.label}, "
        f"{points(best.test, score)}; lowest: {worst.network.label}, {points(worst.test, score)}.",
        [],
    )


def level_of(levels: Mapping[str, Level]) -> str:
    """The one level of a row or a column; empty where there is no factor."""
    return "".join(map(str, levels.values()))


def place_of(grid: FactorGrid, levels: Mapping[str, Level], factors: Sequence[Factor]) -> str:
    """Stratum and levels that a panel is of."""
    return ", ".join(filter(None, [grid.label, named(levels, factors)]))


def by_test(standing: NetworkResult) -> float:
    """To sort by."""
    return standing.test


def any_merged(grid: FactorGrid) -> bool:
    """Whether some cells of a grid are the same network."""
    return len({standing.number for standing in grid.of.values()}) < len(grid.of)


def quantity_lines(grid: FactorGrid, bound: Bound | None = None) -> Figure | None:
    """Score by the first factor that is a quantity, a line for each level of the first other factor.

    There is a panel for each combination of the rest; None without two levels of a quantity. bound: drawn as well,
    where it is of this factor.
    """
    across = next((factor for factor in grid.factors if factor.quantity and len(grid.levels(factor)) > 1), None)
    if across is None:
        return None
    ticks, score, others = grid.levels(across), grid.score, grid.others(across)
    lines, panels_by = grid.combinations(others[:1]), others[1:]
    noise = [float(np.nan_to_num(standing.deviation)) for standing in grid.of.values()]
    lowest = min(standing.test - own for standing, own in zip(grid.of.values(), noise, strict=True))
    highest = max(standing.test + own for standing, own in zip(grid.of.values(), noise, strict=True))
    there = bound is not None and across.has_bound
    perfect = {way: reached(scores, ticks) for way, scores in bound.scores.items()} if bound and there else {}
    highest = max([highest, *(score for line in perfect.values() for score in line.values())])
    margin = 0.04 * (highest - lowest) + 0.002
    limits = score.scale * (lowest - margin), score.scale * (highest + margin)

    def draw(axes: Axes, panel: Mapping[str, Level]) -> None:
        for number, own in enumerate(lines):
            all_of = [(tick, grid.at(own, panel, {across.key: level})) for tick, level in enumerate(ticks)]
            known = [(tick, standing) for tick, standing in all_of if standing is not None]
            x = [tick + 0.05 * (number - (len(lines) - 1) / 2) for tick, _ in known]
            y = [score.scale * standing.test for _, standing in known]
            error = np.nan_to_num([score.scale * standing.deviation for _, standing in known])
            axes.errorbar(x, y, yerr=error, elinewidth=1, capsize=2, **figures.series(number))
        for (_, scores), style in zip(perfect.items(), figures.DASHES, strict=False):
            heights = [score.scale * height for height in scores.values()]
            axes.plot(list(scores), heights, color=INK, linestyle=style, linewidth=1, alpha=0.75)
        axes.set_xticks(range(len(ticks)), map(str, ticks))
        axes.set(ylim=limits, xlim=(-0.3, len(ticks) - 0.7), xlabel=across.label, ylabel=f"test {score.on_axis}")
        axes.set_title(figures.label(named(panel, panels_by), 40))

    there_are = [panel for panel in grid.combinations(panels_by) if grid.at_all(panel)]
    panels = [
        figures.panel(
            f"{place_of(grid, panel, panels_by)}: test {score.label} by {across.label}",
            partial(draw, panel=panel),
            width=350,
            height=270,
        )
        for panel in there_are
    ]
    plural = others[0].plural if others else "networks"
    return Figure(
        panels,
        f"Mean test {score.label} {score.in_unit} over seeds by {across.label}; error bars: one standard deviation "
        f"over seeds. Where lines are parallel, the {plural} differ by the same amount at every {across.label}. Gain "
        f"of the {plural} from {across.named(ticks[0])} to {ticks[-1]}, lowest to highest, in points: "
        f"{gains(grid, across, there_are, panels_by)}.{REFERENCE if perfect else ''}",
        [
            *legend(list(map(level_of, lines)) if others else []),
            *((f"perfect map, {way}", 0, mark) for way, mark in zip(perfect, figures.DASHES.values(), strict=False)),
        ],
    )


def reached(scores: Mapping[int, float], strides: Sequence[Level]) -> dict[int, float]:
    """Scores by the place of their stride on the axis."""
    return {place: scores[int(stride)] for place, stride in enumerate(strides) if stride in scores}


def gains(grid: FactorGrid, across: Factor, panels: Sequence[Mapping[str, Level]], by: Sequence[Factor]) -> str:
    """By how much scores rise from the first level drawn to the last, for each panel."""
    score, parts = grid.score, []
    for panel in panels:
        low, high = gain(grid, across, panel)
        parts.append((panel, f"{points(low, score)} to {points(high, score)}"))
    if len(by) < 2:
        with_level = f"with {by[0].label} " if by else ""
        return with_level + join_words([f"{level_of(panel)} {text}".lstrip() for panel, text in parts])
    return "; ".join(f"with {named(panel, by)}: {text}" for panel, text in parts)


def gain(grid: FactorGrid, across: Factor, panel: Mapping[str, Level]) -> tuple[float, float]:
    """From the first level drawn to the last: of the line that gains least, and most."""
    levels = grid.levels(across)
    first, last = ({**panel, across.key: level} for level in (levels[0], levels[-1]))
    others = [factor for factor in grid.others(across) if factor.key not in panel]
    ends = [(grid.at(own, first), grid.at(own, last)) for own in grid.combinations(others)]
    found = [b.test - a.test for a, b in ends if a is not None and b is not None]
    return (min(found), max(found)) if found else (float("nan"), float("nan"))


def legend(names: Sequence[str]) -> list[tuple[str, int, str]]:
    """Names with their colours' numbers and their marks."""
    glyphs = figures.GLYPHS
    return [(name, number % len(glyphs) + 1, glyphs[number % len(glyphs)]) for number, name in enumerate(names)]


def forest(comparisons: Sequence[Comparison], title: str) -> Panel:
    """Differences, one under the other: thick for these pictures, thin for new pictures too; hollow: not declared."""
    score = comparisons[0].score

    def draw(axes: Axes) -> None:
        names = []
        for row, one in enumerate(comparisons):
            found = one.estimate
            names.append(
                f"{one.contrast.a} {MINUS} {one.contrast.b}" if one.contrast.factor != CELL else one.contrast.a
            )
            line(axes, row, found.pictures, 1.0, 4, score)
            line(axes, row, found.trainings, 3.2, 0, score)
            face = INK if one.significant else figures.PAPER
            axes.plot(
                score.scale * found.difference, row, "o", color=INK, markerfacecolor=face, markersize=5.5, zorder=3
            )
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(names)), [figures.label(name) for name in names])
        axes.set(ylim=(len(names) - 0.4, -0.6), xlabel=f"difference in points of {score.label}")
        axes.set_title(figures.label(title, 40))
        axes.locator_params(axis="x", nbins=6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)

    return figures.panel(title, draw, width=400, height=78 + 19 * len(comparisons))


def line(axes: Axes, row: int, interval: Interval | None, width: float, cap: int, score: Score) -> None:
    """An interval."""
    if interval is not None:
        ends = [score.scale * interval.low, score.scale * interval.high]
        axes.plot(ends, [row, row], "-", color=figures.SERIES[0] if cap == 0 else INK, linewidth=width)
        if cap:
            axes.plot(ends, [row, row], "|", color=INK, markersize=6)


def forest_caption(comparisons: Sequence[Comparison]) -> str:
    """What to see in it."""
    real = sum(one.significant for one in comparisons)
    both = [(one.estimate.pictures, one.estimate.trainings) for one in comparisons]
    wide = [(more.high - more.low) / (own.high - own.low) for more, own in both if more and own and own.high > own.low]
    share = ""
    if wide:
        times = float(np.median(wide))
        added = f"{times:.2f} times as wide (median)" if times >= 1.05 else "hardly wider here"
        share = f" The intervals for new trainings and images are {added}."
    if not any(own for _, own in both):
        return "Observed differences; there are too few seeds for intervals."
    return (
        f"Thick lines: 95 % intervals for new trainings; thin lines with end marks: for new trainings and images. "
        f"Filled dots: significant differences ({real} of {len(comparisons)}); hollow dots: not significant.{share}"
    )
