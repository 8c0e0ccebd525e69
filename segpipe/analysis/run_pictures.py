"""Pictures of one run as PNG: its learning curves, and the confusion matrix of its test."""

import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from segpipe.analysis.page.figures import shorten_all
from segpipe.errors import printable

DPI = 100
WIDTH = 980  # pixels, about: of the learning curves, and at most of a confusion matrix
BLUE, ORANGE, GREEN, INK, GRID = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#222222",
    "#dddddd",
)  # Okabe and Ito: colour-blind safe
MOST_CLASSES = 40  # in a confusion matrix: those with the most pixels
MOST_NUMBERS = 24  # classes up to which each cell has its number
LONGEST = 24  # characters of a class name on an axis
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # part of matplotlib
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "legend.frameon": False,
    "text.parse_math": False,  # names may contain dollar signs
}


def render(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file. Letters that the font lacks are boxes, without a warning."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        canvas = FigureCanvasAgg(figure)
        canvas.print_figure(file, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.1)
    return file.getvalue()


def column(rows: Sequence[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Return the epochs, from 1, in which a column of history.csv has a finite value, and these values."""
    known = [(row["epoch"] + 1, row[name]) for row in rows if name in row and math.isfinite(row[name])]
    return [epoch for epoch, _ in known], [value for _, value in known]


def learning_curves(rows: Sequence[dict[str, float]], *, title: str) -> bytes:
    """Draw loss, validation mIoU and learning rate by epoch. rows: of history.csv. Returns the bytes of a PNG file."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / DPI, 3.6), dpi=DPI, layout="constrained")
        figure.suptitle(printable(title), x=0.01, ha="left", fontsize=11)
        loss, miou, rate = figure.subplots(1, 3)
        draw_line(loss, rows, "train/loss", BLUE, "o-", "training")
        draw_line(loss, rows, "val/loss", ORANGE, "s--", "validation")
        loss.set_title("loss")
        if loss.get_legend_handles_labels()[0]:
            loss.legend()
        draw_line(miou, rows, "val/miou", ORANGE, "s-", "_")  # not in the legend
        miou.set_title("validation mIoU")
        epochs, scores = column(rows, "val/miou")
        if scores:
            best = int(np.argmax(scores))
            label = f"best: {scores[best]:.3f} at epoch {epochs[best]:.0f}"
            miou.plot(epochs[best], scores[best], "o", ms=11, mfc="none", mec=INK, mew=1.4, ls="", label=label)
            miou.legend()
        draw_line(rate, rows, "lr", GREEN, "^-", "learning rate")
        rate.set_title("learning rate")
        rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        for axes in (loss, miou, rate):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
            axes.grid(visible=True, axis="y")
            axes.margins(y=0.12)
        return render(figure)


def draw_line(axes: Axes, rows: Sequence[dict[str, float]], name: str, colour: str, style: str, label: str) -> None:
    """Draw a column of history.csv by epoch. Many epochs get no markers."""
    epochs, values = column(rows, name)
    if values:
        axes.plot(epochs, values, style, color=colour, label=label, lw=1.8, ms=4.5 if len(values) <= 40 else 0)


def confusion_matrix(matrix: NDArray[np.integer], classes: Sequence[str], *, title: str) -> bytes:
    """Draw a confusion matrix (C, C) of pixels, rows true, columns predicted; each row in percent of its pixels.

    Of many classes, the MOST_CLASSES with the most true pixels are drawn. Returns the bytes of a PNG file.
    """
    shown = np.sort(np.argsort(-matrix.sum(1), kind="stable")[:MOST_CLASSES])
    pixels = matrix.sum(1)[shown, None]
    shares = np.where(pixels > 0, 100 * matrix[np.ix_(shown, shown)] / np.maximum(pixels, 1), np.nan)
    number = len(shown)
    names = shorten_all([printable(classes[index]) for index in shown], LONGEST)
    longest = max(map(len, names))
    size = 8 if number > 12 else 10
    cell = min(max(0.42 if number <= MOST_NUMBERS else 0.0, 6.4 / number), 0.9)  # inches
    margin = 0.6 + 0.0092 * size * longest  # inches, of the names
    side = min(number * cell, WIDTH / DPI - margin - 1.2)
    figsize = (max(side + margin + 1.2, 6.4), side + 0.7 * margin + 0.8)
    with matplotlib.rc_context(STYLE | {"axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=figsize, dpi=DPI, layout="constrained")
        axes = figure.subplots()
        colours = matplotlib.colormaps["Blues"].with_extremes(bad="#e4e4e4")
        drawn = axes.imshow(np.ma.masked_invalid(shares), cmap=colours, vmin=0, vmax=100)
        turned: Any = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if longest > 3 else {}
        axes.set_xticks(range(number), names, fontsize=size, **turned)
        axes.set_yticks(range(number), names, fontsize=size)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        for row, of_row in enumerate(shares if number <= MOST_NUMBERS else ()):
            for place, share in enumerate(of_row):
                write_number(axes, place, row, share, colours(share / 100), size)
        bar = figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.02)
        bar.set_label("percent of the pixels of the true class")
        bar.outline.set_visible(False)  # type: ignore[operator]
        more = f" ({number} of {len(matrix)} classes: those with the most pixels)" if number < len(matrix) else ""
        figure.suptitle(printable(title + more), x=0.01, ha="left", fontsize=11, wrap=True)
        return render(figure)


def write_number(axes: Axes, x: int, y: int, share: float, colour: Any, size: int) -> None:
    """Write a percentage into a cell of this colour; a dash where the class has no pixels, nothing below a half."""
    if math.isnan(share):
        axes.text(x, y, "-", ha="center", va="center", fontsize=size, color="#777777")
    elif share >= 0.5:
        red, green, blue = to_rgb(colour)
        light = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5
        axes.text(x, y, f"{share:.0f}", ha="center", va="center", fontsize=size, color=INK if light else "white")
