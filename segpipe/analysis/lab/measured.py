"""What the sections on a split share: what was measured on, scores with intervals, runs without numbers."""

from collections.abc import Sequence

from segpipe.analysis.formatting import format_number, join_words, pluralise
from segpipe.analysis.page.blocks import Block, Items, Text
from segpipe.analysis.page.tables import Cell
from segpipe.lab.split import RunMeasures, SplitMeasures
from segpipe.metrics.bootstrap import Estimate


def measured_runs(measures: SplitMeasures) -> list[RunMeasures]:
    """Return the runs that have numbers."""
    return [run for run in measures.runs if not run.reason]


def data_text(*runs: RunMeasures) -> str:
    """Return which images were measured: ``40 of 200 images of shapes (test)``."""
    texts = []
    for run in runs:
        number = f"{run.images:,} of " if run.images < run.total else ""
        texts.append(f"{number}{pluralise(run.total, 'image')} of {run.data} ({run.split})")
    return join_words(list(dict.fromkeys(texts)))


def interval_text(run: RunMeasures) -> str:
    """Return how the intervals were made, and what they do not say."""
    text = "Brackets: 95 % percentile intervals of the bootstrap (Efron 1979), with "
    if run.resampled == "groups" and run.groups < run.images:
        return f"{text}{run.groups} groups of images (clips) resampled."
    if run.groups < run.images:
        return (
            f"{text}images resampled. The images are of {pluralise(run.groups, 'group')} (clips), too few to be "
            f"resampled: intervals for images of new clips are wider."
        )
    return f"{text}images resampled; fewer than three images give none."


def reasons(measures: SplitMeasures) -> list[Block]:
    """Return a list of the runs without numbers, if there are any."""
    texts = [f"{run.name}: {run.reason}" for run in measures.runs if run.reason]
    return [Text("Not measured:"), Items(texts)] if texts else []


def points(estimate: Estimate | None, *, digits: int = 1) -> Cell:
    """Return a share or a difference of shares in percent or points, with its interval; a dash for None."""
    value = None if estimate is None or estimate.value is None else 100 * estimate.value
    text = format_number(value, digits)
    if estimate is not None and value is not None and estimate.low is not None and estimate.high is not None:
        text += f" ({format_number(100 * estimate.low, digits)} to {format_number(100 * estimate.high, digits)})"
    return Cell(text, value)


def with_interval(estimate: Estimate, digits: int) -> Cell:
    """Return a number with its interval; a dash where it is not defined."""
    text = format_number(estimate.value, digits)
    if estimate.low is not None and estimate.high is not None:
        text += f" ({format_number(estimate.low, digits)} to {format_number(estimate.high, digits)})"
    return Cell(text, estimate.value)


def dashes(count: int) -> list[Cell]:
    """Return empty cells."""
    return [points(None) for _ in range(count)]


def bounds_of(estimates: Sequence[Estimate]) -> tuple[list[float], list[float], list[float]]:
    """Return values, and their distances to the lower and upper bounds, in percent; 0 without a bound."""
    numbers = [(one.value or 0.0, one.low, one.high) for one in estimates]
    below = [0.0 if low is None else max(100 * (value - low), 0.0) for value, low, _ in numbers]
    above = [0.0 if high is None else max(100 * (high - value), 0.0) for value, _, high in numbers]
    return [100 * value for value, _, _ in numbers], below, above
