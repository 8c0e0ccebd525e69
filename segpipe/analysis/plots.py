"""The figures of a factorial: heat map, lines over the stride, forest of differences."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from segpipe.analysis import figures
from segpipe.analysis.bounds import Bound
from segpipe.analysis.comparison import Comparison
from segpipe.analysis.figures import INK, Figure, Panel
from segpipe.analysis.intervals import Interval
from segpipe.analysis.points import MINUS, NOTHING, listed, points, spread
from segpipe.analysis.standings import Grid, Standing

REFERENCE = (
    " Lines without marks: what fixed upsampling of a perfect map of that stride scores on these pictures "
    "(segpipe.bound): a reference, not a limit."
)


def heat_maps(grid: Grid) -> Figure:
    """Decoder x fusion, a panel a stride."""
    scores = [standing.test for standing in grid.of.values()]
    low, high = min(scores), max(scores)

    def draw(axes: Axes, stride: int) -> None:
        axes.set(xlim=(0, len(grid.fusions)), ylim=(len(grid.decoders), 0))
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xticks(np.arange(len(grid.fusions)) + 0.5, [figures.label(name, 12) for name in grid.fusions])
        axes.set_yticks(np.arange(len(grid.decoders)) + 0.5, [figures.label(name, 14) for name in grid.decoders])
        axes.xaxis.tick_top()
        for row, decoder in enumerate(grid.decoders):
            for column, fusion in enumerate(grid.fusions):
                standing = grid.of.get((decoder, fusion, stride))
                if standing is None:
                    axes.text(column + 0.5, row + 0.5, NOTHING, ha="center", va="center")
                    continue
                back, ink = figures.colour_of(standing.test, low, high)
                x, y = [column + 0.02, column + 0.98], [row + 0.03, row + 0.97]
                axes.fill([*x, *reversed(x)], [y[0], y[0], y[1], y[1]], facecolor=back, edgecolor="none")
                text = spread(standing.test, standing.deviation) + (f" ({standing.mark})" if standing.mark else "")
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink)
        axes.set_title(f"stride {stride}", pad=22)

    panels = [
        figures.panel(
            f"{grid.said}, stride {stride}: mean test mIoU by decoder and fusion",
            lambda axes, stride=stride: draw(axes, stride),  # type: ignore[misc]
            width=110 + 90 * len(grid.fusions),
            height=62 + 30 * len(grid.decoders),
        )
        for stride in grid.strides
    ]
    best, worst = max(grid.of.values(), key=by_test), min(grid.of.values(), key=by_test)
    several = "; cells with the same letter are the same network, trained once" if any_merged(grid) else ""
    return Figure(
        panels,
        f"Test mIoU in percent, mean ± standard deviation over seeds{several}. Highest: {best.network.said}, "
        f"{points(best.test)}; lowest: {worst.network.said}, {points(worst.test)}.",
        [],
    )


def by_test(standing: Standing) -> float:
    """To sort by."""
    return standing.test


def any_merged(grid: Grid) -> bool:
    """Whether some cells of a grid are the same network."""
    return len({standing.number for standing in grid.of.values()}) < len(grid.of)


def stride_lines(grid: Grid, bound: Bound | None = None) -> Figure | None:
    """Score by stride, a line a decoder, a panel a fusion; None with a single stride. bound: drawn as well."""
    if len(grid.strides) < 2:
        return None
    noise = [float(np.nan_to_num(standing.deviation)) for standing in grid.of.values()]
    lowest = min(standing.test - own for standing, own in zip(grid.of.values(), noise, strict=True))
    highest = max(standing.test + own for standing, own in zip(grid.of.values(), noise, strict=True))
    perfect = {} if bound is None else {way: reached(bound.miou[way], grid.strides) for way in bound.miou}
    highest = max([highest, *(score for line in perfect.values() for score in line.values())])
    margin = 0.04 * (highest - lowest) + 0.002
    limits = 100 * (lowest - margin), 100 * (highest + margin)

    def draw(axes: Axes, fusion: str) -> None:
        for number, decoder in enumerate(grid.decoders):
            there = [(stride, grid.of[key]) for stride in grid.strides if (key := (decoder, fusion, stride)) in grid.of]
            x = [grid.strides.index(stride) + 0.05 * (number - (len(grid.decoders) - 1) / 2) for stride, _ in there]
            y = [100 * standing.test for _, standing in there]
            error = np.nan_to_num([100 * standing.deviation for _, standing in there])
            axes.errorbar(x, y, yerr=error, elinewidth=1, capsize=2, **figures.series(number))
        for (_, scores), style in zip(perfect.items(), figures.DASHES, strict=False):
            heights = [100 * score for score in scores.values()]
            axes.plot(list(scores), heights, color=INK, linestyle=style, linewidth=1, alpha=0.75)
        axes.set_xticks(range(len(grid.strides)), map(str, grid.strides))
        axes.set(ylim=limits, xlim=(-0.3, len(grid.strides) - 0.7), xlabel="stride", ylabel="test mIoU (%)")
        axes.set_title(figures.label(f"fusion {fusion}", 40))

    panels = [
        figures.panel(
            f"{grid.said}, fusion {fusion}: test mIoU by stride",
            lambda axes, fusion=fusion: draw(axes, fusion),  # type: ignore[misc]
            width=350,
            height=270,
        )
        for fusion in grid.fusions
    ]
    finer = [(fusion, *gain(grid, fusion)) for fusion in grid.fusions]
    gains = listed([f"{fusion} {points(low)} to {points(high)}" for fusion, low, high in finer])
    return Figure(
        panels,
        f"Mean test mIoU; whiskers are one standard deviation over seeds. Lines that run side by side: the decoders "
        f"differ alike at every stride. From stride {grid.strides[0]} to {grid.strides[-1]} the decoders gain, in "
        f"points, with fusion {gains}.{REFERENCE if perfect else ''}",
        [
            *legend(grid.decoders),
            *((f"perfect map, {way}", 0, mark) for way, mark in zip(perfect, figures.DASHES.values(), strict=False)),
        ],
    )


def reached(scores: dict[int, float], strides: Sequence[int]) -> dict[int, float]:
    """Scores by the place of their stride on the axis."""
    return {place: scores[stride] for place, stride in enumerate(strides) if stride in scores}


def gain(grid: Grid, fusion: str) -> tuple[float, float]:
    """From the coarsest stride to the finest: of the decoder that gains least, and most."""
    found = [
        grid.of[decoder, fusion, grid.strides[-1]].test - grid.of[decoder, fusion, grid.strides[0]].test
        for decoder in grid.decoders
        if all((decoder, fusion, stride) in grid.of for stride in (grid.strides[0], grid.strides[-1]))
    ]
    return (min(found), max(found)) if found else (float("nan"), float("nan"))


def legend(names: Sequence[str]) -> list[tuple[str, int, str]]:
    """Names with their colours' numbers and their marks."""
    glyphs = figures.GLYPHS
    return [(name, number % len(glyphs) + 1, glyphs[number % len(glyphs)]) for number, name in enumerate(names)]


def forest(comparisons: Sequence[Comparison], title: str) -> Panel:
    """Differences, one under the other: thick for these pictures, thin for new pictures too; hollow: not declared."""

    def draw(axes: Axes) -> None:
        names = []
        for row, one in enumerate(comparisons):
            found = one.estimate
            names.append(
                f"{one.contrast.a} {MINUS} {one.contrast.b}" if one.contrast.factor != "cell" else one.contrast.a
            )
            line(axes, row, found.pictures, 1.0, 4)
            line(axes, row, found.trainings, 3.2, 0)
            face = INK if one.declared else figures.PAPER
            axes.plot(100 * found.difference, row, "o", color=INK, markerfacecolor=face, markersize=5.5, zorder=3)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(names)), [figures.label(name) for name in names])
        axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="difference in points of mIoU")
        axes.set_title(figures.label(title, 40))
        axes.locator_params(axis="x", nbins=6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)

    return figures.panel(title, draw, width=400, height=78 + 19 * len(comparisons))


def line(axes: Axes, row: int, interval: Interval | None, width: float, cap: int) -> None:
    """An interval."""
    if interval is not None:
        ends = [100 * interval.low, 100 * interval.high]
        axes.plot(ends, [row, row], "-", color=figures.SERIES[0] if cap == 0 else INK, linewidth=width)
        if cap:
            axes.plot(ends, [row, row], "|", color=INK, markersize=6)


def forest_caption(comparisons: Sequence[Comparison]) -> str:
    """What to see in it."""
    real = sum(one.declared for one in comparisons)
    both = [(one.estimate.pictures, one.estimate.trainings) for one in comparisons]
    wide = [(more.high - more.low) / (own.high - own.low) for more, own in both if more and own and own.high > own.low]
    share = ""
    if wide:
        times = float(np.median(wide))
        added = f"make an interval {times:.2f} times as wide (median)" if times >= 1.05 else "add next to nothing here"
        share = f" New pictures {added}."
    if not any(own for _, own in both):
        return "Differences as found: with so few seeds there are no intervals."
    return (
        f"Thick: 95 % interval for these pictures, new trainings; thin with ends: new pictures too. Full dots are "
        f"differences that were declared, {real} of {len(comparisons)}; hollow ones were not.{share}"
    )
