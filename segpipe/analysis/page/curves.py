"""Figures of the score against cost, of learning curves, and of scores by distance from a boundary."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from segpipe.analysis.collection import FinishedRun
from segpipe.analysis.factors import Factor, Level, named
from segpipe.analysis.formatting import format_number, format_with_unit, join_words
from segpipe.analysis.network_results import COSTS, FactorGrid, NetworkResult, metric, number_of
from segpipe.analysis.page import figures
from segpipe.analysis.page.figures import INK, Figure
from segpipe.analysis.page.plots import legend, level_text, panel_label
from segpipe.analysis.scores import ReportScore
from segpipe.runs.storage import read_history

Curve = tuple[list[int], list[float], list[float], list[float]]  # x, mean, lowest, highest


def cost_figure(results: Sequence[NetworkResult], costs: Sequence[str]) -> Figure | None:
    """Return the test score against each cost, with the Pareto front; a colour for each level of the first factor.

    costs: keys of COSTS. None if no cost was measured.
    """
    score, factor = results[0].score, results[0].point.factors[0]
    levels = factor.drawn(result.point.levels[0] for result in results)
    measured = [name for name in costs if sum(np.isfinite(result.cost[name]) for result in results) > 1]

    def draw(axes: Axes, name: str) -> None:
        what, scale, unit, _ = COSTS[name]
        front = sorted((one.cost[name] / scale, score.scale * one.test) for one in results if name in one.pareto)
        for (x, y), (next_x, next_y) in pairwise(front):
            axes.plot([x, next_x, next_x], [y, y, next_y], "-", color=INK, linewidth=0.9)
        for index, level in enumerate(levels):
            of_level = [one for one in results if one.point.levels[0] == level]
            style = figures.line_style(index) | {"linestyle": "none"}
            axes.plot(
                [one.cost[name] / scale for one in of_level], [score.scale * one.test for one in of_level], **style
            )
        ends = [point[0] for point in front], [point[1] for point in front]
        axes.plot(*ends, "o", color=INK, markerfacecolor="none", markersize=10, linestyle="none")
        costs = [one.cost[name] / scale for one in results if np.isfinite(one.cost[name])]
        if max(costs) > 20 * min(costs) > 0:
            axes.set_xscale("log")
        axes.set(xlabel=f"{what} ({unit})", ylabel=f"test {score.on_axis}")

    if not measured:
        return None
    panels = [
        figures.panel(
            f"test {score.label} against {COSTS[name][0]}",
            partial(draw, name=name),
            width=350,
            height=260,
        )
        for name in measured
    ]
    return Figure(panels, cost_caption(results, measured), legend(list(map(str, levels))))


def cost_caption(results: Sequence[NetworkResult], drawn: Sequence[str]) -> str:
    """Return the caption. drawn: the costs; the Pareto front of the first one is listed."""
    key = drawn[0]
    name, scale, unit, _ = COSTS[key]
    memory = "; memory is the peak memory of the training process" if "peak_memory_mib" in drawn else ""
    front = sorted((one for one in results if key in one.pareto), key=lambda one: one.cost[key])
    texts = [
        f"{one.network.label} ({format_number(one.cost[key] / scale, 2)} {unit}, "
        f"{format_with_unit(one.test, one.score)})"
        for one in front
    ]
    devices = {str(metric(run, "cost", "device")) for one in results for run in one.network.runs.values()}
    return (
        f"Test {results[0].score.label} {results[0].score.in_unit} against the cost of the network. Each marker is a "
        f"network, mean over seeds. Circled and connected: the Pareto front, networks that are better on validation "
        f"than every cheaper one, by more than the noise of trainings (95 % interval of the difference, paired by "
        f"seed); of equally expensive networks, those within noise of the best. The front for {name}: "
        f"{join_words(texts[:8])}{' and more' if len(texts) > 8 else ''}. Multiply-adds and latency are for one "
        f"image{memory}. Measured on: {join_words(sorted(devices))}; other processes may have run at the same time."
    )


def small_multiples(
    grid: FactorGrid,
    curve: Callable[[NetworkResult], Curve | None],
    *,
    xlabel: str,
    ylabel: str,
    caption: str,
    log: bool = False,
) -> Figure | None:
    """Return a panel for each combination of the other factors, with a line for each level of the first factor.

    Bands show the range over seeds. None without any curve.
    """
    lines, others = grid.combinations(grid.factors[:1]), grid.factors[:0:-1]
    curves = {result.number: curve(result) for result in grid.results.values()}
    known = [one for one in curves.values() if one is not None]
    if not known:
        return None
    low = min(min(lowest) for _, _, lowest, _ in known)
    high = max(max(highest) for _, _, _, highest in known)

    def draw(axes: Axes, panel: Mapping[str, Level]) -> None:
        for index, line in enumerate(lines):
            result = grid.at(line, panel)
            one = curves[result.number] if result else None
            if one is None:
                continue
            x, mean, lowest, highest = one
            style = figures.line_style(index)
            axes.fill_between(x, lowest, highest, color=style["color"], alpha=0.22, linewidth=0)
            axes.plot(x, mean, **style | {"marker": style["marker"] if len(x) < 13 else ""}, markersize=4)
        if log:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set(ylim=(low - 0.03 * (high - low) - 0.1, high + 0.03 * (high - low) + 0.1), xlabel=xlabel, ylabel=ylabel)

    panels = []
    members = panels_of(grid, others)
    titles = figures.shorten_all(
        [f"{named(panel, others)}{''.join(f' = {other}' for other in also)}" for panel, also in members], 42
    )
    for (panel, also), name in zip(members, titles, strict=True):
        more = "".join(f" = {other}" for other in also)

        def drawn(axes: Axes, panel: Mapping[str, Level] = panel, name: str = name) -> None:
            draw(axes, panel)
            axes.set_title(name, fontsize=figures.FONT - 0.5)

        title = f"{panel_label(grid, panel, others)}{more}: {ylabel}"
        panels.append(figures.panel(title, drawn, width=310 + 7 * figures.excess([name], 42), height=215))
    return Figure(panels, caption, legend(list(map(level_text, lines))))


def panels_of(grid: FactorGrid, others: Sequence[Factor]) -> list[tuple[dict[str, Level], list[str]]]:
    """Return the combinations of levels with distinct networks, each with the names of those with the same networks."""
    panels: dict[tuple[int, ...], tuple[dict[str, Level], list[str]]] = {}
    lines = grid.combinations(grid.factors[:1])
    for panel in grid.combinations(others):
        line_results = (grid.at(line, panel) for line in lines)
        numbers = tuple(result.number for result in line_results if result is not None)
        if not numbers:
            continue
        if numbers not in panels:
            panels[numbers] = panel, []
        else:
            first, equal = panels[numbers]
            equal.append(panel_suffix(first, panel, others))
    return list(panels.values())


def panel_suffix(first: Mapping[str, Level], panel: Mapping[str, Level], others: Sequence[Factor]) -> str:
    """Return the name of a panel with the same networks as the first, as it is added to the title of the first."""
    outer, *inner = (factor.key for factor in others)
    suffix = " ".join(str(panel[key]) for key in inner)
    if not suffix or panel[outer] == first[outer]:
        return suffix or str(panel[outer])
    return f"{suffix} at {panel[outer]}"


def learning(result: NetworkResult) -> Curve | None:
    """Return the validation score of a network, in the score's unit, by epoch."""
    return over_seeds([history(run, result.score) for run in result.network.runs.values()])


def history(run: FinishedRun, score: ReportScore) -> dict[int, float]:
    """Return the validation scores of one run by epoch.

    Empty if its history is missing, damaged, or lacks the score.
    """
    key = f"val/{score.ranking.key}"
    try:
        rows = read_history(run.run.history)
        return {int(row["epoch"]) + 1: score.scale * row[key] for row in rows if np.isfinite(row.get(key, np.nan))}
    except (OSError, ValueError, KeyError):
        return {}


def over_seeds(curves: Sequence[dict[int, float]]) -> Curve | None:
    """Return x, mean, minimum and maximum over the curves, at every x that any of them has; None without a curve."""
    x_values = sorted({x for one in curves for x in one})
    values = [[one[x] for one in curves if x in one] for x in x_values]
    if not x_values:
        return None
    return x_values, [float(np.mean(v)) for v in values], [min(v) for v in values], [max(v) for v in values]


def learning_curves(grid: FactorGrid) -> Figure | None:
    """Return the validation score by epoch for each network."""
    score = grid.score.ranking
    caption = (
        f"Validation {score.label} {score.in_unit} by epoch. Lines: mean over seeds; bands: range over "
        f"seeds. Settings joined by = have the same networks."
    )
    return small_multiples(grid, learning, xlabel="epoch", ylabel=f"val {score.on_axis}", caption=caption)


def last_epochs(grid: FactorGrid) -> str:
    """Return the share of runs whose best validation score is in the last epoch."""
    runs = {id(run): run for one in grid.results.values() for run in one.network.runs.values()}.values()
    ends = [(number_of(run, "best_epoch"), number_of(run, "training", "epochs")) for run in runs]
    in_last = sum(best is not None and best + 1 == count for best, count in ends)
    longer = (
        ": longer training would probably improve them, perhaps by different amounts" if in_last > len(ends) / 2 else ""
    )
    share = f"{100 * in_last / len(ends):.0f} % of the runs had their best validation score in the last epoch"
    return f"{grid.label}: {share}{longer}."
