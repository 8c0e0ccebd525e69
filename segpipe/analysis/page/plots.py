"""Figures of a factorial design: heat map, lines over a quantity, forest plot of differences."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from segpipe.analysis.bounds import Bound
from segpipe.analysis.factors import Factor, Level, labels, named
from segpipe.analysis.formatting import DASH, MINUS, format_mean_std, format_score, join_words
from segpipe.analysis.network_results import FactorGrid, NetworkResult
from segpipe.analysis.page import figures
from segpipe.analysis.page.figures import INK, Figure, Panel
from segpipe.analysis.scores import ReportScore
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.contrasts import CELL
from segpipe.analysis.statistics.intervals import Interval

REFERENCE = (
    " Lines without markers: the score of a perfect map of that stride after fixed upsampling, on the same images "
    "(segpipe.bound): a reference, not a limit."
)


def colour_limits(grids: Sequence[FactorGrid]) -> tuple[float, float]:
    """Return the lowest and the highest score of all grids: the ends of the page's one colour scale."""
    scores = [result.test for grid in grids for result in grid.results.values()]
    return min(scores), max(scores)


def heat_maps(grid: FactorGrid, limits: tuple[float, float]) -> Figure:
    """Return heat maps of the first factor x the second, one for each combination of the others.

    limits: the scores at the ends of the colour scale.
    """
    shown, others = grid.factors[:2], grid.factors[2:]
    rows, columns = grid.combinations(shown[:1]), grid.combinations(shown[1:])  # one empty column without a second
    low, high = limits
    score = grid.score
    column_names, row_names = [level_text(one) for one in columns], [level_text(one) for one in rows]
    column_labels, row_labels = figures.shorten_all(column_names, 12), figures.shorten_all(row_names, 14)
    column_width = 90 + 7 * figures.excess(column_labels, 12)
    used = [panel for panel in grid.combinations(others) if grid.at_all(panel)]
    titles = [named(panel, others) for panel in used]

    def draw(axes: Axes, panel: Mapping[str, Level]) -> None:
        axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xticks(np.arange(len(columns)) + 0.5, column_labels)
        axes.set_yticks(np.arange(len(rows)) + 0.5, row_labels)
        axes.xaxis.tick_top()
        for row, row_levels in enumerate(rows):
            for column, column_levels in enumerate(columns):
                result = grid.at(row_levels, column_levels, panel)
                if result is None:
                    axes.text(column + 0.5, row + 0.5, DASH, ha="center", va="center")
                    continue
                back, ink = figures.colour_of(result.test, low, high)
                x, y = [column + 0.02, column + 0.98], [row + 0.03, row + 0.97]
                axes.fill([*x, *reversed(x)], [y[0], y[0], y[1], y[1]], facecolor=back, edgecolor="none")
                text = format_mean_std(result.test, result.std, score)
                text += f" ({result.letter})" if result.letter else ""
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink)
        axes.set_title(named(panel, others), pad=22)

    panels = [
        figures.panel(
            f"{panel_label(grid, panel, others)}: mean test {score.label} by {join_words(labels(shown))}",
            partial(draw, panel=panel),
            width=max(
                110 + column_width * len(columns) + 7 * figures.excess(row_labels, 14),
                60 + 8 * max(map(len, titles), default=0),
            ),
            height=62 + 30 * len(rows),
        )
        for panel in used
    ]
    best, worst = max(grid.results.values(), key=by_test), min(grid.results.values(), key=by_test)
    letters_text = "; cells with the same letter are the same network, trained once" if any_merged(grid) else ""
    return Figure(
        panels,
        f"Test {score.label} {score.in_unit}, mean ± standard deviation over seeds{letters_text}. "
        f"Highest: {best.network.label}, "
        f"{format_score(best.test, score)}; lowest: {worst.network.label}, {format_score(worst.test, score)}.",
        [],
    )


def level_text(levels: Mapping[str, Level]) -> str:
    """Return the single level of a row or a column; empty without a factor."""
    return "".join(map(str, levels.values()))


def panel_label(grid: FactorGrid, levels: Mapping[str, Level], factors: Sequence[Factor]) -> str:
    """Return the stratum and the levels of a panel."""
    return ", ".join(filter(None, [grid.label, named(levels, factors)]))


def by_test(result: NetworkResult) -> float:
    """Return the sort key: the test score."""
    return result.test


def any_merged(grid: FactorGrid) -> bool:
    """Return whether some cells of a grid are the same network."""
    return len({result.number for result in grid.results.values()}) < len(grid.results)


def quantity_lines(grid: FactorGrid, bound: Bound | None = None) -> Figure | None:
    """Return the score by the first factor that is a quantity, a line for each level of the first other factor.

    There is a panel for each combination of the rest. None without a quantity of two levels. bound: is drawn if the
    quantity has one.
    """
    across = next((factor for factor in grid.factors if factor.quantity and len(grid.levels(factor)) > 1), None)
    if across is None:
        return None
    ticks, score, others = grid.levels(across), grid.score, grid.others(across)
    lines, panels_by = grid.combinations(others[:1]), others[1:]
    references = bound.scores if bound is not None and across.has_bound else {}
    perfect = {resampler: by_position(scores, ticks) for resampler, scores in references.items()}
    limits = axis_limits(grid, [height for heights in perfect.values() for height in heights.values()])

    def draw(axes: Axes, panel: Mapping[str, Level]) -> None:
        for number, line_levels in enumerate(lines):
            at_ticks = [(tick, grid.at(line_levels, panel, {across.key: level})) for tick, level in enumerate(ticks)]
            known = [(tick, result) for tick, result in at_ticks if result is not None]
            x = [tick + 0.05 * (number - (len(lines) - 1) / 2) for tick, _ in known]
            y = [score.scale * result.test for _, result in known]
            error = np.nan_to_num([score.scale * result.std for _, result in known])
            axes.errorbar(x, y, yerr=error, elinewidth=1, capsize=2, **figures.line_style(number))
        for (_, scores), style in zip(perfect.items(), figures.DASHES, strict=False):
            heights = [score.scale * height for height in scores.values()]
            axes.plot(list(scores), heights, color=INK, linestyle=style, linewidth=1, alpha=0.75)
        axes.set_xticks(range(len(ticks)), map(str, ticks))
        axes.set(ylim=limits, xlim=(-0.3, len(ticks) - 0.7), xlabel=across.label, ylabel=f"test {score.on_axis}")
        axes.set_title(titles[used_panels.index(dict(panel))])

    used_panels = [panel for panel in grid.combinations(panels_by) if grid.at_all(panel)]
    titles = figures.shorten_all([named(panel, panels_by) for panel in used_panels], 40)
    panels = [
        figures.panel(
            f"{panel_label(grid, panel, panels_by)}: test {score.label} by {across.label}",
            partial(draw, panel=panel),
            width=350 + 7 * figures.excess(titles, 40),
            height=270,
        )
        for panel in used_panels
    ]
    plural = others[0].plural if others else "networks"
    return Figure(
        panels,
        f"Mean test {score.label} {score.in_unit} over seeds by {across.label}; error bars: one standard deviation "
        f"over seeds. Where lines are parallel, the {plural} differ by the same amount at every {across.label}. Gain "
        f"of the {plural} from {across.named(ticks[0])} to {ticks[-1]}, lowest to highest, in points: "
        f"{gains(grid, across, used_panels, panels_by)}.{REFERENCE if perfect else ''}",
        [
            *legend(list(map(level_text, lines)) if others else []),
            *(
                (f"perfect map, {resampler}", 0, mark)
                for resampler, mark in zip(perfect, figures.DASHES.values(), strict=False)
            ),
        ],
    )


def axis_limits(grid: FactorGrid, references: Sequence[float]) -> tuple[float, float]:
    """Return the limits of a score axis, in the score's unit, with room for error bars and for the references."""
    bars = [(result.test, float(np.nan_to_num(result.std))) for result in grid.results.values()]
    lowest = min(test - std for test, std in bars)
    highest = max([*(test + std for test, std in bars), *references])
    margin = 0.04 * (highest - lowest) + 0.002
    return grid.score.scale * (lowest - margin), grid.score.scale * (highest + margin)


def by_position(scores: Mapping[int, float], strides: Sequence[Level]) -> dict[int, float]:
    """Return scores by the position of their stride on the axis."""
    return {position: scores[int(stride)] for position, stride in enumerate(strides) if stride in scores}


def gains(grid: FactorGrid, across: Factor, panels: Sequence[Mapping[str, Level]], by: Sequence[Factor]) -> str:
    """Return the range of the gains from the first drawn level to the last, for each panel."""
    score, parts = grid.score, []
    for panel in panels:
        low, high = gain(grid, across, panel)
        parts.append((panel, f"{format_score(low, score)} to {format_score(high, score)}"))
    if len(by) < 2:
        with_level = f"with {by[0].label} " if by else ""
        return with_level + join_words([f"{level_text(panel)} {text}".lstrip() for panel, text in parts])
    return "; ".join(f"with {named(panel, by)}: {text}" for panel, text in parts)


def gain(grid: FactorGrid, across: Factor, panel: Mapping[str, Level]) -> tuple[float, float]:
    """Return the smallest and the largest gain of a line, from the first drawn level to the last."""
    levels = grid.levels(across)
    first, last = ({**panel, across.key: level} for level in (levels[0], levels[-1]))
    others = [factor for factor in grid.others(across) if factor.key not in panel]
    ends = [(grid.at(levels, first), grid.at(levels, last)) for levels in grid.combinations(others)]
    gains = [b.test - a.test for a, b in ends if a is not None and b is not None]
    return (min(gains), max(gains)) if gains else (float("nan"), float("nan"))


def legend(names: Sequence[str]) -> list[tuple[str, int, str]]:
    """Return names with the numbers of their colours and their markers."""
    glyphs = figures.GLYPHS
    return [(name, number % len(glyphs) + 1, glyphs[number % len(glyphs)]) for number, name in enumerate(names)]


def forest(comparisons: Sequence[Comparison], title: str) -> Panel:
    """Return a forest plot: thick lines for new trainings, thin for new images too; hollow dots are not significant."""
    score = comparisons[0].score
    names = [
        f"{one.contrast.a} {MINUS} {one.contrast.b}" if one.contrast.factor != CELL else one.contrast.a
        for one in comparisons
    ]
    row_labels = figures.shorten_all(names, 28)

    def draw(axes: Axes) -> None:
        for row, one in enumerate(comparisons):
            estimate = one.estimate
            draw_interval(axes, row, estimate.images, 1.0, 4, score)
            draw_interval(axes, row, estimate.trainings, 3.2, 0, score)
            face = INK if one.significant else figures.PAPER
            axes.plot(
                score.scale * estimate.difference, row, "o", color=INK, markerfacecolor=face, markersize=5.5, zorder=3
            )
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(names)), row_labels)
        axes.set(ylim=(len(names) - 0.4, -0.6), xlabel=f"difference in points of {score.label}")
        axes.set_title(figures.shorten(title, 40))
        axes.locator_params(axis="x", nbins=6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)

    return figures.panel(title, draw, width=400 + 7 * figures.excess(row_labels, 28), height=78 + 19 * len(comparisons))


def draw_interval(axes: Axes, row: int, interval: Interval | None, width: float, cap: int, score: ReportScore) -> None:
    """Draw an interval as a line. cap: 0 for the line of new trainings, else the size of the end marks."""
    if interval is not None:
        ends = [score.scale * interval.low, score.scale * interval.high]
        axes.plot(ends, [row, row], "-", color=figures.SERIES[0] if cap == 0 else INK, linewidth=width)
        if cap:
            axes.plot(ends, [row, row], "|", color=INK, markersize=6)


def forest_caption(comparisons: Sequence[Comparison]) -> str:
    """Return the caption of a forest plot."""
    significant = sum(one.significant for one in comparisons)
    pairs = [(one.estimate.images, one.estimate.trainings) for one in comparisons]
    widths = [
        (images.high - images.low) / (trainings.high - trainings.low)
        for images, trainings in pairs
        if images and trainings and trainings.high > trainings.low
    ]
    share = ""
    if widths:
        times = float(np.median(widths))
        added = f"{times:.2f} times as wide (median)" if times >= 1.05 else "hardly wider here"
        share = f" The intervals for new trainings and images are {added}."
    if not any(trainings for _, trainings in pairs):
        return "Observed differences; there are too few seeds for intervals."
    return (
        f"Thick lines: 95 % intervals for new trainings; thin lines with end marks: for new trainings and images. "
        f"Filled dots: significant differences ({significant} of {len(comparisons)}); hollow dots: not "
        f"significant.{share}"
    )
