"""What the sections of docs/results.md that are computed from kept sweeps have in common: reading, tables, formats."""

import re
from collections.abc import Collection as Values
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from segpipe.analysis.collect import collect
from segpipe.analysis.collection import Collection
from segpipe.analysis.factors import KNOWN
from segpipe.analysis.flags import unfinished
from segpipe.analysis.formatting import (
    DASH,
    extra_digits,
    format_interval,
    format_mean_std,
    format_number,
    format_score,
    join_words,
    pluralise,
)
from segpipe.analysis.network_results import NetworkResult, network_results
from segpipe.analysis.ordering import exchanged
from segpipe.analysis.restriction import levels_of, restricted
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.effects import Analysis, analyse
from segpipe.runs.labels import Level

HERE = Path(__file__).parent
PAGE = HERE.parent / "results.md"
REFERENCE = "bilinear"
RESAMPLES = 10_000


class Kept(NamedTuple):
    """A sweep that is kept: its runs, the comparisons, and the result of each network."""

    collection: Collection
    analysis: Analysis
    results: list[NetworkResult]

    def at(self, **levels: str) -> NetworkResult | None:
        """Return the result at levels; None without one."""
        for result in self.results:
            if all(str(result.network.level(KNOWN[key])) == level for key, level in levels.items()):
                return result
        return None

    def levels(self, key: str) -> list[str]:
        """Return the levels of a key that have results, in the order of the sweep; one if it is no factor."""
        return [*map(str, levels_of(self.collection, KNOWN[key]))]

    def over_reference(self) -> dict[str, Comparison]:
        """Return each operator's difference to REFERENCE, over all pairs that differ in nothing else."""
        return {a: one for (a, b), one in differences(self.analysis.marginal).items() if b == REFERENCE}


def read(
    name: str, folder: Path = HERE, *, tuned: Sequence[str] = (), only: Mapping[str, Values[Level]] | None = None
) -> Kept | None:
    """Return a kept sweep; None where there is none.

    tuned: keys whose level was chosen for each cell. only: the levels of keys that are compared; None: all.
    """
    path = folder / f"{name}.zip"
    if not path.is_file():
        return None
    collection = collect(path, tuned=tuned)
    if only:
        collection = restricted(collection, {KNOWN[key]: levels for key, levels in only.items()})
    analysis = analyse(collection, resamples=RESAMPLES)
    return Kept(collection, analysis, network_results(collection, analysis))


def differences(comparisons: Sequence[Comparison]) -> dict[tuple[str, str], Comparison]:
    """Return the differences of operators and of fusions by their two levels, in both directions."""
    found = {}
    for one in comparisons:
        if one.contrast.factor in ("decoder", "fusion"):
            for turned in (one, exchanged(one)):
                found[str(turned.contrast.a), str(turned.contrast.b)] = turned
    return found


def state(name: str, kept: Kept) -> str:
    """Return which runs the numbers are of."""
    runs, seeds = len(kept.collection.runs), len(kept.collection.seeds)
    missing = sum(unfinished(kept.collection).values())
    many = f"{runs} of {runs + missing} runs; the others are not finished. They are" if missing else f"{runs} runs"
    return (
        f"[{name}](sweeps/{name}.md): {many} of {pluralise(len(kept.results), 'network')}, "
        f"{pluralise(seeds, 'seed')}. [Report](reports/{name}/report.html).\n"
    )


def open_text(name: str) -> str:
    """Return the sentence on a sweep that is not kept yet."""
    return f"Open: `{name}` is not finished.\n"


def score(result: NetworkResult | None) -> str:
    """Return test mIoU in percent, mean and standard deviation over seeds."""
    if result is None:
        return DASH
    return format_mean_std(result.test, result.std)


def points(one: Comparison, *, bold: bool = True) -> str:
    """Return a difference in points with its 95 % interval for new trainings. bold: where it is significant."""
    more = extra_digits(one)
    text = format_score(one.estimate.difference, more=more)
    if one.estimate.trainings is not None:
        text += f" ({format_interval(one.estimate.trainings, more=more)})"
    return f"**{text}**" if one.significant and bold else text


def names(levels: Sequence[str]) -> str:
    """Return operators as a list of code words."""
    return join_words([f"`{level}`" for level in levels])


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = [f"| {' | '.join(row)} |\n" for row in lines]
    return "".join([rows[0], "|---" * len(lines[0]) + "|\n", *rows[1:]])


def cost_text(results: Sequence[NetworkResult | None], name: str, unit: float, digits: int) -> str:
    """Return a cost, or the range of several."""
    values = sorted({format_number(one.cost[name] / unit, digits) for one in results if one is not None})
    return " to ".join(dict.fromkeys([values[0], values[-1]])) if values else DASH


def written(page: str, script: str, section: str) -> str:
    """Return the page with the section of a script, between the marks that name it.

    script: its name, and that of the sweep where it writes several sections.
    """
    marks = f"<!-- written by docs/sweeps/{script} -->\n", "<!-- end -->\n"
    new, count = re.subn(
        f"({re.escape(marks[0])}).*?({re.escape(marks[1])})", lambda m: m[1] + section + m[2], page, flags=re.DOTALL
    )
    assert count == 1, f"{PAGE} has no place for the section of {script}"
    return new
