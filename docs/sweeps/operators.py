"""Write "Do newer operators matter?" of docs/results.md from the kept sweeps: ``python docs/sweeps/operators.py``.

Every number of the section is computed here from ``sweep_operators.zip``, ``operators_fusions.zip`` and
``operators_matched.zip``; what is not kept yet is said to be open. The operators of the second part are those with the
highest validation mIoU of the first, which ``python docs/sweeps/operators.py --best 3 outputs/sweeps/sweep_operators``
prints, joined by commas.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import sections
from sections import HERE, PAGE, REFERENCE, Kept, cost_text, names, open_text, points, read, score, state, table

from segpipe.analysis.collect import collect
from segpipe.analysis.formatting import DASH, format_p, format_score, pluralise
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.runs import cells

FIRST, FUSIONS, MATCHED = "sweep_operators", "operators_fusions", "operators_matched"
LIMITS = """\
**What this cannot say.** The scenes are drawn, 64 x 64 in training, and the network is small: a `ladder` to stride 4
on an encoder of 8 to 64 channels, from scratch. A job has 625 steps, and one learning rate for all operators, which was
chosen for none of them. All operators start as interpolation or within 3 % of it, except `additive`, `eucb` and
`unpool`; published starts were not compared. The papers' gains are on photographs, with pretrained encoders of hundreds
of channels and longer trainings. So a difference that is found here exists for this network; one that is not found may
exist elsewhere. The last step, from stride 4 to full size, is bilinear for content-aware operators, as in their papers,
and the operator's own for the others.
"""


def section(folder: Path = HERE) -> str:
    """Return the section, in Markdown."""
    first, fusions, matched = (read(name, folder) for name in (FIRST, FUSIONS, MATCHED))
    if first is None:
        return "Open: the sweep is not finished.\n"
    parts = [state(FIRST, first), verdict(first), operators_table(first)]
    parts += [open_text(FUSIONS)] if fusions is None else [state(FUSIONS, fusions), fusions_table(first, fusions)]
    parts += [open_text(MATCHED)] if matched is None else [state(MATCHED, matched), matched_table(first, matched)]
    return "\n".join([*parts, LIMITS])


def verdict(kept: Kept) -> str:
    """Return which operators differ from REFERENCE."""
    compared = kept.over_reference()
    known = {name: one for name, one in compared.items() if one.estimate.trainings is not None}
    if not known:
        return f"Fewer than three seeds: no difference to `{REFERENCE}` has an interval.\n"
    better = [name for name, one in known.items() if one.significant and one.estimate.difference > 0]
    worse = [name for name, one in known.items() if one.significant and one.estimate.difference < 0]
    rest = [name for name in known if name not in (*better, *worse)]
    found = {"above": better, "below": worse}
    parts = [f"significantly {side} `{REFERENCE}`: {names(which)}" for side, which in found.items() if which]
    parts += [f"not resolved: {names(rest)}"] if rest else []
    family = next(iter(known.values())).family
    sizes = [one.estimate.difference for one in known.values()]
    text = (
        f"**Verdict.** Of {len(known)} operators, {'; '.join(parts)}. The observed differences to `{REFERENCE}` are "
        f"{format_score(min(sizes))} to {format_score(max(sizes))} "
        f"points of test mIoU. Differences are means over sum and concatenation; significance is by Holm's p over the "
        f"{family} differences of the sweep, for new trainings on these images. In the tables, scores are test mIoU in "
        f"percent, mean ± standard deviation over seeds; differences have 95 % intervals, and significant ones are "
        f"bold.\n"
    )
    return text + fusion_text(kept)


def fusion_text(kept: Kept) -> str:
    """Return the difference of the two fusions, and whether it depends on the operator."""
    found = [one for one in kept.analysis.marginal if one.contrast.factor == "fusion"]
    said = [
        f"{one.contrast.a} minus {one.contrast.b} is {points(one)}" + ("" if one.significant else " (not significant)")
        for one in found
    ]
    text = f"\nOver all operators, in points: {'; '.join(said)}.\n" if said else ""
    interactions = [one for one in kept.analysis.interactions if one.estimate.trainings is not None]
    if interactions:
        significant = [one for one in interactions if one.significant]
        text += (
            f"Of {len(interactions)} interactions of operator and fusion, {len(significant) or 'none'} "
            f"{'are' if len(significant) > 1 else 'is'} significant{in_common(significant)}.\n"
        )
    return text


def in_common(interactions: Sequence[Comparison]) -> str:
    """Return the levels that all interactions have in common, as the end of a sentence; nothing without any."""
    squares = [one.contrast.square for one in interactions if one.contrast.square is not None]
    shared = [level for level in squares[0] if all(level in square for square in squares)] if squares else []
    return f"; each of them involves {names(shared)}" if shared and len(squares) > 1 else ""


def family_text(kept: Kept) -> str:
    """Return the number of differences that Holm's p of a sweep is over."""
    known = [one for one in kept.over_reference().values() if one.estimate.trainings is not None]
    return f"Significance is by Holm's p over the {known[0].family} differences of this sweep.\n\n" if known else ""


def operators_table(kept: Kept) -> str:
    """Return a row for each operator: cost, score by fusion, difference to REFERENCE; best difference first."""
    compared, fusions = kept.over_reference(), kept.levels("fusion")
    lines = [
        ["operator", "M parameters", "M multiply-adds", *fusions, f"minus `{REFERENCE}`", "Holm's p"],
    ]
    ordered = sorted(
        kept.levels("decoder"), key=lambda name: -compared[name].estimate.difference if name in compared else 0.0
    )
    for name in ordered:
        results = [kept.at(decoder=name, fusion=fusion) for fusion in fusions]
        one = compared.get(name)
        adjusted = one.estimate.trainings.adjusted if one and one.estimate.trainings else None
        costs = [cost_text(results, "parameters", 1e6, 3), cost_text(results, "gmac", 1e-3, 1)]
        lines.append(
            [f"`{name}`", *costs, *map(score, results), points(one) if one else DASH,
             DASH if adjusted is None else format_p(adjusted)]
        )  # fmt: skip
    return table(lines)


def fusions_table(first: Kept, kept: Kept) -> str:
    """Return test mIoU by operator and fusion; of sum and concatenation, those of the first sweep."""
    old, new = first.levels("fusion"), kept.levels("fusion")
    difference = f"minus `{REFERENCE}`, over {pluralise(len(new), 'fusion')}"
    lines = [["operator", *(f"{name} (first sweep)" for name in old), *new, difference]]
    compared = kept.over_reference()
    for name in kept.levels("decoder"):
        results = [first.at(decoder=name, fusion=fusion) for fusion in old]
        results += [kept.at(decoder=name, fusion=fusion) for fusion in new]
        lines.append([f"`{name}`", *map(score, results), points(compared[name]) if name in compared else DASH])
    return family_text(kept) + table(lines) + fusion_text(kept)


def matched_table(first: Kept, kept: Kept) -> str:
    """Return parameters and test mIoU as they are and with equal parameters."""
    fusions = kept.levels("fusion")
    compared, before = kept.over_reference(), first.over_reference()
    lines = [
        [
            "operator", *(f"{fusion}, M parameters" for fusion in fusions), *fusions,
            f"minus `{REFERENCE}`", "the same as they are",
        ]
    ]  # fmt: skip
    for name in kept.levels("decoder"):
        results = [kept.at(decoder=name, fusion=fusion) for fusion in fusions]
        costs = [cost_text([result], "parameters", 1e6, 3) for result in results]
        gaps = [points(found[name]) if name in found else DASH for found in (compared, before)]
        lines.append([f"`{name}`", *costs, *map(score, results), *gaps])
    return (
        "With `match=params`. Compare within the table only: a width other than the encoder's puts 1x1 convolutions "
        "with random initial weights before the skips. " + family_text(kept) + table(lines)
    )


def best(sweep: Path, count: int) -> list[str]:
    """Return the operators with the highest mean validation mIoU over all finished cells, without REFERENCE.

    Ends the program where cells of the sweep are not finished: operators would be compared on different seeds.
    """
    listed = cells.read(sweep)
    if missing := sum(cells.status(sweep, cell) not in ("finished", "refused") for cell in listed):
        sys.exit(f"{sweep}: {missing} of {len(listed)} cells are not finished. Finish the sweep first.")
    values: dict[str, list[float]] = {}
    for network in collect(sweep).networks:
        for point in network.points:
            values.setdefault(str(point.level("decoder")), []).append(network.val)
    means = {name: statistics.mean(scores) for name, scores in values.items() if name != REFERENCE}
    return sorted(means, key=lambda name: (-means[name], name))[:count]


def written(page: str, folder: Path = HERE) -> str:
    """Return the page with the present section."""
    return sections.written(page, Path(__file__).name, section(folder))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, nargs="?", help="with --best: the folder of the first sweep")
    parser.add_argument("--best", type=int, metavar="COUNT", help="print the best operators by validation mIoU")
    given = parser.parse_args()
    if given.best and given.sweep:
        print(",".join(best(given.sweep, given.best)))
    elif given.best or given.sweep:
        sys.exit("Give --best COUNT and the folder of a sweep, or nothing, to write docs/results.md.")
    else:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        print(PAGE)
