"""Scores, intervals and p values as text, in the unit of the score."""

import math

from segpipe.analysis.scores import MIOU, ReportScore
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.intervals import Interval
from segpipe.errors import pluralise as pluralise

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def format_number(value: float | None, digits: int = 1) -> str:
    """Return a number with a typographic minus sign, no negative zero, and a dash for None and non-finite values."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:,.{digits}f}"
    return (text[1:] if text.startswith("-") and not float(text.replace(",", "")) else text).replace("-", MINUS)


def format_score(value: float | None, score: ReportScore = MIOU, *, more: int = 0) -> str:
    """Return a score, or a difference of scores, in the score's unit. more: decimals beyond the usual ones."""
    return format_number(None if value is None else score.scale * value, score.digits + more)


def format_with_unit(value: float | None, score: ReportScore = MIOU) -> str:
    """Return a score with its unit."""
    return f"{format_score(value, score)} {score.unit}".rstrip()


def format_difference(difference: float, score: ReportScore = MIOU, *, more: int = 0) -> str:
    """Return a difference with its sign. more: decimals beyond the usual ones."""
    text = format_score(difference, score, more=more)
    return text if text.startswith(MINUS) or text == DASH else f"+{text}"


def format_interval(interval: Interval | None, score: ReportScore = MIOU, *, more: int = 0) -> str:
    """Return the bounds of an interval, or a dash for None."""
    if interval is None:
        return DASH
    return f"{format_score(interval.low, score, more=more)} to {format_score(interval.high, score, more=more)}"


def format_mean_std(mean: float, deviation: float, score: ReportScore = MIOU) -> str:
    """Return mean and standard deviation; the mean alone if the deviation is not finite."""
    return format_score(mean, score) + (f" ± {format_score(deviation, score)}" if math.isfinite(deviation) else "")


def format_p(p: float | None) -> str:
    """Return a p value."""
    if p is None or not math.isfinite(p):
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def format_seed_count(count: int | None) -> str:
    """Return a number of seeds; None stands for more than 1,000."""
    return "more than 1,000" if count is None else f"{count:,}"


def extra_digits(comparison: Comparison) -> int:
    """Return 1 if a bound of a significant difference would be rounded to 0, else 0."""
    interval, score = comparison.estimate.trainings, comparison.score
    if interval is None:
        return 0
    nearest = min(abs(interval.low), abs(interval.high))
    return int(comparison.significant and nearest < 10**-score.digits / score.scale)


def join_words(words: list[str], last: str = "and") -> str:
    """Return words as a list: ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def count_of(count: int, total: int, noun: str) -> str:
    """Return the subject and verb of a share: ``1 of 3 differences is``, ``0 of 1 difference is``, ``2 of 3 ... are``.

    noun: the singular.
    """
    return f"{count:,} of {pluralise(total, noun)} {'is' if count == 1 or total == 1 else 'are'}"
