"""Scores as a reader wants them: in the unit of the score, with intervals and p values, as text."""

import math

from segpipe.analysis.scores import MIOU, Score
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.intervals import Interval

NOTHING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 1) -> str:
    """With a proper minus sign, and none before a zero; a dash for what is not there."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:,.{digits}f}"
    return (text[1:] if text.startswith("-") and not float(text.replace(",", "")) else text).replace("-", MINUS)


def points(value: float | None, score: Score = MIOU, *, more: int = 0) -> str:
    """A score, or a difference of scores, in the score's unit. more: decimals beyond the usual ones."""
    return number(None if value is None else score.scale * value, score.digits + more)


def with_unit(value: float | None, score: Score = MIOU) -> str:
    """A score with its unit."""
    return f"{points(value, score)} {score.unit}".rstrip()


def signed(difference: float, score: Score = MIOU, *, more: int = 0) -> str:
    """A difference with its sign."""
    text = points(difference, score, more=more)
    return text if text.startswith(MINUS) or text == NOTHING else f"+{text}"


def bounds(interval: Interval | None, score: Score = MIOU, *, more: int = 0) -> str:
    """An interval."""
    if interval is None:
        return NOTHING
    return f"{points(interval.low, score, more=more)} to {points(interval.high, score, more=more)}"


def spread(mean: float, deviation: float, score: Score = MIOU) -> str:
    """Mean and standard deviation."""
    return points(mean, score) + (f" ± {points(deviation, score)}" if math.isfinite(deviation) else "")


def probability(p: float | None) -> str:
    """A p value."""
    if p is None or not math.isfinite(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def seeds(count: int | None) -> str:
    """How many seeds a test would need."""
    return "more than 1,000" if count is None else f"{count:,}"


def more_digits(comparison: Comparison) -> int:
    """One decimal more where a declared difference would otherwise seem to be none."""
    interval, score = comparison.estimate.trainings, comparison.score
    if interval is None:
        return 0
    nearest = min(abs(interval.low), abs(interval.high))
    return int(comparison.significant and nearest < 10**-score.digits / score.scale)


def join_words(words: list[str], last: str = "and") -> str:
    """a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def pluralise(count: int, one: str, many: str | None = None) -> str:
    """1 seed, 5 seeds."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def count_of(count: int, total: int, noun: str) -> str:
    """Return the subject and verb of a share: ``1 of 3 differences is``, ``0 of 1 difference is``, ``2 of 3 ... are``.

    noun: the singular.
    """
    return f"{count:,} of {pluralise(total, noun)} {'is' if count == 1 or total == 1 else 'are'}"
