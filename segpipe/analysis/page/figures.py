"""Figures as SVG with the colours of the page's theme."""

import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Canvas

INK, GRID, PAPER = "#010203", "#040506", "#070809"  # the theme's: no drawing has these colours otherwise
SERIES = [f"#0a0b{number:02x}" for number in range(1, 9)]  # so are these: the style sheet gives each a light and a dark
MARKERS = "osD^vPX*"
GLYPHS = "\u25cf\u25a0\u25c6\u25b2\u25bc\u271a\u2716\u2605"  # the markers as text
NUMBERS = [itertools.count()]  # of the panels of a page: names inside an SVG have to be unique on it
DASHES = {":": "\u00b7\u00b7\u00b7", "-.": "-\u00b7-", "--": "- -"}  # line styles of references, with their text
FONT = 11.5  # pixels, in a panel of its original size
THEME = {INK: "currentColor", GRID: "var(--grid)", PAPER: "var(--paper)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)
}
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # part of matplotlib; the page's font is narrower, so that text fits
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
    "text.parse_math": False,  # names may contain dollar signs
}


class Panel(NamedTuple):
    """One drawing. svg: inserted into the page unchanged. title: the text for screen readers."""

    svg: str
    title: str


class Figure(NamedTuple):
    """Panels with a common caption. legend: names with the numbers of their colours and with their markers."""

    panels: list[Panel]
    caption: str
    legend: list[tuple[str, int, str]]
    kind: str = "figure"


def begin_page() -> None:
    """Number the panels from zero, so that a page does not depend on those that this process drew before."""
    NUMBERS[0] = itertools.count()


def panel(title: str, draw: Callable[[Axes], None], *, width: int = 380, height: int = 240) -> Panel:
    """Draw on one pair of axes. width, height: pixels."""
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": f"panel {next(NUMBERS[0])}"}):
        canvas = Canvas(figsize=(width / 72, height / 72), layout="constrained")
        canvas.patch.set_alpha(0)
        axes = canvas.subplots()
        axes.patch.set_alpha(0)
        draw(axes)
        file = io.StringIO()
        FigureCanvasSVG(canvas).print_svg(file, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Panel(apply_theme(file.getvalue(), width, height), title)


def apply_theme(svg: str, width: int, height: int) -> str:
    """Return the SVG element with the theme's colours and the page's font."""
    svg = svg[svg.index("<svg") :]
    begin = f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true">'
    svg = re.sub(r"<svg[^>]*>", begin, svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", svg)  # unused, and ids have to be unique on the page
    svg = re.sub(r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1system-ui, sans-serif", svg)
    svg = svg.replace("xlink:href", "href")
    for colour, variable in THEME.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), svg)
    return re.sub(r"\n\s*", "\n", svg).strip()


def shorten(name: str, longest: int = 28) -> str:
    """Return a name, shortened to the space of an axis."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def shorten_all(names: Sequence[str], longest: int) -> list[str]:
    """Return names shortened to the space of an axis, but never so that two different names read alike."""
    distinct = len(set(names))
    for length in range(longest, max(map(len, names), default=longest) + 1):
        short = [shorten(name, length) for name in names]
        if len(set(short)) == distinct:
            return short
    return [*names]


def excess(names: Sequence[str], longest: int) -> int:
    """Return by how many characters the longest name exceeds the usual space."""
    return max(0, max(map(len, names), default=0) - longest)


def colour_of(value: float, low: float, high: float) -> tuple[str, str]:
    """Return the colours of a heat map's cell and of the text on it.

    The scale has even lightness (colour-blind safe).
    """
    share = 0.5 if high <= low else (value - low) / (high - low)
    red, green, blue, _ = matplotlib.colormaps["cividis"](share)
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.42
    return to_hex((red, green, blue)), "#111111" if light else "#fefefe"


def line_style(number: int) -> dict[str, Any]:
    """Return the style of a line by its number. Lines differ in marker and dashes as well as in colour."""
    return {
        "color": SERIES[number % len(SERIES)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": ["-", "--", ":"][number // len(SERIES) % 3],
    }
