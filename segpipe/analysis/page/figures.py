"""Drawings as SVG that takes its ink from the page it stands in."""

import io
import itertools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Canvas

INK, GRID, PAPER = "#010203", "#040506", "#070809"  # the theme's: no drawing has these colours otherwise
SERIES = [f"#0a0b{number:02x}" for number in range(1, 9)]  # so are these: the style sheet gives each a light and a dark
MARKERS = "osD^vPX*"
GLYPHS = "\u25cf\u25a0\u25c6\u25b2\u25bc\u271a\u2716\u2605"  # the same, in text
NUMBERS = itertools.count()  # of panels: what an SVG refers to by name is to be its own
DASHES = {":": "\u00b7\u00b7\u00b7", "-.": "-\u00b7-", "--": "- -"}  # of references, with the same in text
FONT = 11.5  # pixels, in a panel that is shown at its own size
THEME = {INK: "currentColor", GRID: "var(--grid)", PAPER: "var(--paper)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)
}
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib; the page's own is narrower, so that all fits
    "font.size": FONT,
    "axes.titlesize": FONT + 0.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": FONT,
    "xtick.labelsize": FONT - 0.5,
    "ytick.labelsize": FONT - 0.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "path.simplify": True,
    "text.parse_math": False,  # a name with two dollars in it is a name
}


class Panel(NamedTuple):
    """One drawing. svg: is put into the page as it is. title: what a screen reader says."""

    svg: str
    title: str


class Figure(NamedTuple):
    """Panels that belong together, and what to see in them. legend: names with their colours' numbers and marks."""

    panels: list[Panel]
    caption: str
    legend: list[tuple[str, int, str]]
    kind: str = "figure"


def panel(title: str, draw: Callable[[Axes], None], *, width: int = 380, height: int = 240) -> Panel:
    """Draw on one pair of axes; width, height: pixels."""
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": f"panel {next(NUMBERS)}"}):
        canvas = Canvas(figsize=(width / 72, height / 72), layout="constrained")
        canvas.patch.set_alpha(0)
        axes = canvas.subplots()
        axes.patch.set_alpha(0)
        draw(axes)
        file = io.StringIO()
        FigureCanvasSVG(canvas).print_svg(file, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Panel(themed(file.getvalue(), width, height), title)


def themed(svg: str, width: int, height: int) -> str:
    """The drawing's element alone, in the theme's colours and the page's font."""
    svg = svg[svg.index("<svg") :]
    begin = f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true">'
    svg = re.sub(r"<svg[^>]*>", begin, svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", svg)  # nothing refers to them, and a page has each only once
    svg = re.sub(r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1system-ui, sans-serif", svg)
    svg = svg.replace("xlink:href", "href")
    for colour, variable in THEME.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg)
    return re.sub(r"\n\s*", "\n", svg).strip()


def label(name: str, longest: int = 28) -> str:
    """A name as an axis has room for."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def colour_of(value: float, low: float, high: float) -> tuple[str, str]:
    """Of a heat map's cell, and of the text on it: a scale of even lightness, the same to colour-blind readers."""
    share = 0.5 if high <= low else (value - low) / (high - low)
    red, green, blue, _ = matplotlib.colormaps["cividis"](share)
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.42
    return to_hex((red, green, blue)), "#111111" if light else "#fefefe"


def series(number: int) -> dict[str, Any]:
    """How the line of a number looks; they differ in more than colour."""
    return {
        "color": SERIES[number % len(SERIES)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": ["-", "--", ":"][number // len(SERIES) % 3],
    }
