"""Scores as a reader wants them: percentage points, intervals, p values, as text."""

import math

from segpipe.analysis.comparison import Comparison
from segpipe.analysis.intervals import Interval

NOTHING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 1) -> str:
    """With a proper minus sign, and none before a zero; a dash for what is not there."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:,.{digits}f}"
    return (text[1:] if text.startswith("-") and not float(text.replace(",", "")) else text).replace("-", MINUS)


def points(share: float | None, digits: int = 1) -> str:
    """A share from 0 to 1 in percentage points."""
    return number(None if share is None else 100 * share, digits)


def signed(share: float, digits: int = 1) -> str:
    """A difference in percentage points."""
    text = points(share, digits)
    return text if text.startswith(MINUS) or text == NOTHING else f"+{text}"


def bounds(interval: Interval | None, digits: int = 1) -> str:
    """An interval in percentage points."""
    return NOTHING if interval is None else f"{points(interval.low, digits)} to {points(interval.high, digits)}"


def spread(mean: float, deviation: float, digits: int = 1) -> str:
    """Mean and standard deviation in percentage points."""
    return points(mean, digits) + (f" ± {points(deviation, digits)}" if math.isfinite(deviation) else "")


def probability(p: float | None) -> str:
    """A p value."""
    if p is None or not math.isfinite(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def seeds(count: int | None) -> str:
    """How many seeds a test would need."""
    return "more than 1,000" if count is None else f"{count:,}"


def digits_of(comparison: Comparison) -> int:
    """One decimal, or two where a declared difference would otherwise seem to be none."""
    interval = comparison.estimate.trainings
    if interval is None:
        return 1
    nearest = min(abs(interval.low), abs(interval.high))
    return 2 if comparison.declared and nearest < 0.001 else 1


def listed(words: list[str], last: str = "and") -> str:
    """a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def counted(count: int, one: str, many: str | None = None) -> str:
    """1 seed, 5 seeds."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
