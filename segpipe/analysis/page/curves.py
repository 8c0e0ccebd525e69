"""Figures of what networks cost, how they learned, and how they do near boundaries."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from segpipe.analysis.collect import FinishedRun
from segpipe.analysis.factors import Factor, Level, named
from segpipe.analysis.formatting import join_words, number, with_unit
from segpipe.analysis.page import figures
from segpipe.analysis.page.figures import INK, Figure
from segpipe.analysis.page.plots import legend, level_of, place_of
from segpipe.analysis.scores import Score
from segpipe.analysis.standings import COSTS, FactorGrid, NetworkResult, metric, number_of
from segpipe.runs.storage import read_history

Curve = tuple[list[int], list[float], list[float], list[float]]  # x, mean, lowest, highest


def cost_figure(found: Sequence[NetworkResult]) -> Figure | None:
    """Test score against each cost, with the Pareto front; a colour for each level of the first factor.

    None where no cost was measured.
    """
    score, factor = found[0].score, found[0].place.factors[0]
    levels = factor.drawn(standing.place.levels[0] for standing in found)
    measured = [name for name in COSTS if sum(np.isfinite(standing.cost[name]) for standing in found) > 1]

    def draw(axes: Axes, name: str) -> None:
        what, scale, unit, _ = COSTS[name]
        front = sorted((one.cost[name] / scale, score.scale * one.test) for one in found if name in one.front)
        for (x, y), (further, above) in pairwise(front):
            axes.plot([x, further, further], [y, y, above], "-", color=INK, linewidth=0.9)
        for place, level in enumerate(levels):
            own = [one for one in found if one.place.levels[0] == level]
            look = figures.series(place) | {"linestyle": "none"}
            axes.plot([one.cost[name] / scale for one in own], [score.scale * one.test for one in own], **look)
        axes.plot(*zip(*front, strict=True), "o", color=INK, markerfacecolor="none", markersize=10, linestyle="none")
        costs = [one.cost[name] / scale for one in found if np.isfinite(one.cost[name])]
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
    return Figure(panels, cost_caption(found, measured[0]), legend(list(map(str, levels))))


def cost_caption(found: Sequence[NetworkResult], name: str) -> str:
    """What to see in it."""
    what, scale, unit, _ = COSTS[name]
    front = sorted((one for one in found if name in one.front), key=lambda one: one.cost[name])
    said = [
        f"{one.network.label} ({number(one.cost[name] / scale, 2)} {unit}, {with_unit(one.test, one.score)})"
        for one in front
    ]
    devices = {str(metric(run, "cost", "device")) for one in found for run in one.network.runs.values()}
    return (
        f"Test {found[0].score.label} {found[0].score.in_unit} against the cost of the network. Each marker is a "
        f"network, mean over seeds. Circled and connected: the Pareto front, the networks for which no other network "
        f"has a better validation score at the same or lower cost. The front for {what}: {join_words(said[:8])}"
        f"{' and more' if len(said) > 8 else ''}. Multiply-adds and latency are for one image; memory is the peak "
        f"memory of the training process. Measured on: {join_words(sorted(devices))}; other processes may have run at "
        f"the same time."
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
    """A line for each level of the first factor, with the range over seeds; a panel for each combination of the others.

    None without any curve.
    """
    lines, others = grid.combinations(grid.factors[:1]), grid.factors[:0:-1]
    curves = {standing.number: curve(standing) for standing in grid.of.values()}
    there = [one for one in curves.values() if one is not None]
    if not there:
        return None
    low = min(min(lowest) for _, _, lowest, _ in there)
    high = max(max(highest) for _, _, _, highest in there)

    def draw(axes: Axes, panel: Mapping[str, Level]) -> None:
        for place, own in enumerate(lines):
            standing = grid.at(own, panel)
            one = curves[standing.number] if standing else None
            if one is None:
                continue
            x, mean, lowest, highest = one
            look = figures.series(place)
            axes.fill_between(x, lowest, highest, color=look["color"], alpha=0.22, linewidth=0)
            axes.plot(x, mean, **look | {"marker": look["marker"] if len(x) < 13 else ""}, markersize=4)
        if log:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set(ylim=(low - 0.03 * (high - low) - 0.1, high + 0.03 * (high - low) + 0.1), xlabel=xlabel, ylabel=ylabel)

    panels = []
    for panel, also in panels_of(grid, others):
        more = "".join(f" = {other}" for other in also)
        name = f"{named(panel, others)}{more}"

        def drawn(axes: Axes, panel: Mapping[str, Level] = panel, name: str = name) -> None:
            draw(axes, panel)
            axes.set_title(figures.label(name, 42), fontsize=figures.FONT - 0.5)

        title = f"{place_of(grid, panel, others)}{more}: {ylabel}"
        panels.append(figures.panel(title, drawn, width=310, height=215))
    return Figure(panels, caption, legend(list(map(level_of, lines))))


def panels_of(grid: FactorGrid, others: Sequence[Factor]) -> list[tuple[dict[str, Level], list[str]]]:
    """Every combination of levels with other networks than those before; and those that have the same networks."""
    found: dict[tuple[int, ...], tuple[dict[str, Level], list[str]]] = {}
    lines = grid.combinations(grid.factors[:1])
    for panel in grid.combinations(others):
        there = (grid.at(own, panel) for own in lines)
        here = tuple(standing.number for standing in there if standing is not None)
        if not here:
            continue
        if here not in found:
            found[here] = panel, []
        else:
            first, also = found[here]
            also.append(beside(first, panel, others))
    return list(found.values())


def beside(first: Mapping[str, Level], panel: Mapping[str, Level], others: Sequence[Factor]) -> str:
    """What a panel of the same networks as the first is called behind it."""
    outer, *inner = (factor.key for factor in others)
    own = " ".join(str(panel[key]) for key in inner)
    if not own or panel[outer] == first[outer]:
        return own or str(panel[outer])
    return f"{own} at {panel[outer]}"


def learning(standing: NetworkResult) -> Curve | None:
    """Validation score, as it is shown, by epoch."""
    return over_seeds([history(run, standing.score) for run in standing.network.runs.values()])


def history(run: FinishedRun, score: Score) -> dict[int, float]:
    """Of one run; nothing where there is no history of the score, or one that is damaged."""
    key = f"val/{score.key}"
    try:
        rows = read_history(run.run.history)
        return {int(row["epoch"]) + 1: score.scale * row[key] for row in rows if np.isfinite(row.get(key, np.nan))}
    except (OSError, ValueError, KeyError):
        return {}


def over_seeds(curves: Sequence[dict[int, float]]) -> Curve | None:
    """Mean and range at every x that any of them has."""
    places = sorted({x for one in curves for x in one})
    values = [[one[x] for one in curves if x in one] for x in places]
    if not places:
        return None
    return places, [float(np.mean(v)) for v in values], [min(v) for v in values], [max(v) for v in values]


def learning_curves(grid: FactorGrid) -> Figure | None:
    """Validation score by epoch."""
    caption = (
        f"Validation {grid.score.label} {grid.score.in_unit} by epoch. Lines: mean over seeds; bands: range over "
        f"seeds. Settings joined by = have the same networks."
    )
    return small_multiples(grid, learning, xlabel="epoch", ylabel=f"val {grid.score.on_axis}", caption=caption)


def last_epochs(grid: FactorGrid) -> str:
    """Whether the trainings were long enough."""
    runs = {id(run): run for one in grid.of.values() for run in one.network.runs.values()}.values()
    ends = [(number_of(run, "best_epoch"), number_of(run, "training", "epochs")) for run in runs]
    still = sum(best is not None and best + 1 == count for best, count in ends)
    longer = (
        ": longer training would probably improve them, perhaps by different amounts" if still > len(ends) / 2 else ""
    )
    share = f"{100 * still / len(ends):.0f} % of the runs had their best validation score in the last epoch"
    return f"{grid.label}: {share}{longer}."
