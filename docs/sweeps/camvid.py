"""Write what docs/results.md says of the sweeps on CamVid: ``python docs/sweeps/camvid.py``.

Every number is computed here from the archives of STUDIES: a sweep on photographs, each cell at the learning rate that
validation chose on the tuning seeds, and one on drawn scenes that it is compared with, at the strides and fusions that
both have.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sections
from sections import HERE, PAGE, Kept, differences, names, open_text, points, read, score, state, table

from segpipe.analysis.collection import FinishedRun
from segpipe.analysis.factors import KNOWN
from segpipe.analysis.formatting import DASH, format_p, format_score, join_words, pluralise
from segpipe.analysis.ordering import exchanged
from segpipe.analysis.page.boundaries import exploratory
from segpipe.analysis.restriction import levels_of
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.tuned import Levels, Tuned, TunedCell

STUDIES = {"sweep_camvid": "sweep_ladder", "sweep_operators_camvid": "sweep_operators"}
TUNED = "optimizer.lr"
CONTEXTS = ("stride", "fusion")  # keys whose levels the two sweeps of a comparison have in common
FUSIONS = ("none", "sum", "concat")  # in the order of the tables
WITH_SKIPS = FUSIONS[1:]
LARGEST = 5  # interactions that are listed
RARE = 0.02  # classes with a smaller share of the labelled test pixels
SCORES = {"boundary_f": "boundary F", "band_miou_2": "mIoU within 2 pixels of true boundaries"}


def section(name: str, folder: Path = HERE) -> str:
    """Return what is said of one of STUDIES, in Markdown."""
    kept = read(name, folder, tuned=[TUNED])
    if kept is None:
        return open_text(name)
    of_drawn = f"`{STUDIES[name]}`, stride {join_words(kept.levels('stride'))}"
    drawn = read(STUDIES[name], folder, only={key: levels_of(kept.collection, KNOWN[key]) for key in CONTEXTS})
    parts = [state(name, kept), verdict(kept, drawn, of_drawn), differences_table(kept, drawn, of_drawn)]
    parts += [scores_table(kept), dependence(kept), rates(kept), boundaries(kept), classes(kept)]
    return "\n".join(part for part in parts if part)


def same_pairs(kept: Kept, drawn: Kept | None) -> list[tuple[Comparison, Comparison | None]]:
    """Return the differences, the better level first, each with that of the drawn scenes in the same direction."""
    others = differences(drawn.analysis.marginal) if drawn else {}
    found = differences(kept.analysis.marginal)
    pairs = [(one, others.get(pair)) for pair, one in found.items() if one.estimate.difference >= 0]
    return sorted(pairs, key=lambda pair: -pair[0].estimate.difference)


def in_words(one: Comparison) -> str:
    """Return the two levels of a difference."""
    return f"`{one.contrast.a}` over `{one.contrast.b}`"


def verdict(kept: Kept, drawn: Kept | None, of_drawn: str) -> str:
    """Return which differences are significant, and whether those of the drawn scenes hold.

    of_drawn: the sweep of drawn scenes, and its strides, in words.
    """
    pairs = same_pairs(kept, drawn)
    found = [f"{in_words(one)} by {points(one, bold=False)}" for one, _ in pairs if one.significant]
    text = "**Verdict.** " + (
        f"Significant differences, in points of test mIoU: {join_words(found)}.\n"
        if found
        else "No difference is significant.\n"
    )
    if both := [(one, other) for one, other in pairs if other and other.significant]:
        open_pairs = [in_words(one) for one, _ in both if not one.significant]
        agree = [one for one, other in both if one.significant and other.estimate.difference > 0]
        against = [in_words(one) for one, other in both if one.significant and other.estimate.difference < 0]
        text += (
            f"Of {'this' if len(pairs) == 1 else 'these'} {pluralise(len(pairs), 'difference')}, {len(both)} "
            f"{'is' if len(both) == 1 else 'are'} significant on drawn scenes ({of_drawn}); {len(agree)} of them "
            f"{'is' if len(agree) == 1 else 'are'} significant on photographs too, with the same sign"
            + (f"; not resolved there: {join_words(open_pairs)}" if open_pairs else "")
            + (f"; the sign is the opposite for {join_words(against)}" if against else "")
            + ".\n"
        )
    return text


def differences_table(kept: Kept, drawn: Kept | None, of_drawn: str) -> str:
    """Return a row for each difference: on CamVid, Holm's p, and on drawn scenes."""
    lines = [["difference", "CamVid", "Holm's p", f"drawn scenes ({of_drawn})"]]
    for one, other in same_pairs(kept, drawn):
        adjusted = one.estimate.trainings.adjusted if one.estimate.trainings else None
        p = DASH if adjusted is None else format_p(adjusted)
        lines.append([in_words(one), points(one), p, points(other) if other else DASH])
    return table(lines)


def fusions_of(kept: Kept) -> list[str]:
    """Return the fusions of a sweep in the order of the tables."""
    return [fusion for fusion in FUSIONS if fusion in kept.levels("fusion")]


def scores_table(kept: Kept) -> str:
    """Return test mIoU by operator and fusion."""
    fusions = fusions_of(kept)
    lines = [["test mIoU", *fusions]]
    for name in kept.levels("decoder"):
        lines.append([f"`{name}`", *(score(kept.at(decoder=name, fusion=fusion)) for fusion in fusions)])
    return table(lines)


def dependence(kept: Kept) -> str:
    """Return whether the differences of the operators depend on the fusion; empty with one fusion."""
    tested = [one for one in kept.analysis.interactions if one.estimate.trainings is not None]
    found = sorted((one for one in tested if one.significant), key=lambda one: -abs(one.estimate.difference))
    if not tested:
        return ""
    text = (
        f"**Does it depend on the skips?** Of {pluralise(len(tested), 'interaction')} of operator and fusion, "
        f"{len(found) or 'none'} {'is' if len(found) < 2 else 'are'} significant"
    )
    return text + (f". The largest: {'; '.join(map(interaction, found[:LARGEST]))}.\n" if found else ".\n")


def interaction(one: Comparison) -> str:
    """Return an interaction in words, turned so that its difference is positive."""
    turned = one if one.estimate.difference >= 0 else exchanged(one)
    assert turned.contrast.square is not None
    a, b, c, d = turned.contrast.square
    return f"`{a}` minus `{b}` is {points(turned, bold=False)} points higher with `{c}` than with `{d}`"


def rates(kept: Kept) -> str:
    """Return which learning rates were chosen, and what one rate for all cells costs on validation."""
    tuned = kept.collection.tuned
    assert tuned is not None
    chosen = [cell for cell in tuned.cells if cell.choice]
    counts = Counter(cell.choice.level for cell in chosen if cell.choice)
    lines = [["validation mIoU, tuning seeds", *(tuned.text(level) for level in tuned.levels)]]
    for cell in tuned.cells:
        row = [f"**{format_score(cell.means[level])}**" if cell.choice and level == cell.choice.level
               else format_score(cell.means.get(level)) for level in tuned.levels]  # fmt: skip
        lines.append([cell.label, *row])
    uses = [f"{tuned.text(level)} for {counts[level]}" for level in tuned.levels if counts[level]]
    common, lost = cost_of_one_rate(tuned, chosen)
    one_rate = join_words(list(dict.fromkeys(map(tuned.text, common))))
    worst = int(np.argmax(lost))
    return (
        f"**Is one learning rate fair?** Of {pluralise(len(chosen), 'cell')}, validation chose {join_words(uses)}. If "
        f"one tuning seed chooses the rates and another one is measured, a common rate ({one_rate}) loses "
        f"{format_score(float(lost.mean()))} points of validation mIoU against the rate of each cell, in the mean over "
        f"cells. {chosen[worst].label} loses most, {format_score(float(lost[worst]))} points.\n\n" + table(lines)
    )


def cost_of_one_rate(tuned: Tuned, cells: Sequence[TunedCell]) -> tuple[list[Levels], np.ndarray]:
    """Return the best common level, and the validation mIoU that each cell loses at it against its own best level.

    Levels are chosen on all tuning seeds but one, and the loss is measured on that one, since a loss on the seeds that
    choose could never be negative. The result has the common level of each seed, and the mean loss over seeds. The
    common level is one that all cells have tried.
    """
    complete = [[level for level, values in cell.scores.items() if len(values) == len(tuned.seeds)] for cell in cells]
    shared = [level for level in tuned.levels if all(level in levels for levels in complete)]
    common, lost = [], []
    for seed in tuned.seeds:
        means = [
            {level: np.mean([cell.scores[level][other] for other in tuned.seeds if other != seed]) for level in levels}
            for cell, levels in zip(cells, complete, strict=True)
        ]
        common.append(max(shared, key=lambda level: sum(of_cell[level] for of_cell in means)))
        own = [max(of_cell, key=lambda level: of_cell[level]) for of_cell in means]
        lost.append(
            [cell.scores[best][seed] - cell.scores[common[-1]][seed] for cell, best in zip(cells, own, strict=True)]
        )
    return common, np.mean(lost, axis=0)


def boundaries(kept: Kept) -> str:
    """Return the differences of the boundary scores; empty where the runs have none."""
    found = exploratory(kept.collection, resamples=sections.RESAMPLES)
    families = {name: differences(found[name]) for name in SCORES if name in found}
    if not families:
        return ""
    lines = [["difference", *(SCORES[name] for name in families)]]
    for one, _ in same_pairs(kept, None):
        pair = str(one.contrast.a), str(one.contrast.b)
        lines.append(
            [in_words(one), *(points(family[pair]) if pair in family else DASH for family in families.values())]
        )
    return (
        "**Boundaries.** Each column is a family of its own, exploratory; significant differences are bold.\n\n"
        + table(lines)
    )


def classes(kept: Kept) -> str:
    """Return test IoU by class for operators (with skips) and for fusions, means over cells and seeds."""
    shares = class_shares(kept)
    order = np.argsort(-shares)
    decoders, fusions = kept.levels("decoder"), fusions_of(kept)
    with_skips = [fusion for fusion in fusions if fusion in WITH_SKIPS]
    columns = {f"`{name}`": [kept.at(decoder=name, fusion=fusion) for fusion in with_skips] for name in decoders}
    columns |= {fusion: [kept.at(decoder=name, fusion=fusion) for name in decoders] for fusion in fusions}
    means = {
        name: np.mean([iou(run) for one in results if one for run in one.network.runs.values()], axis=0)
        for name, results in columns.items()
    }
    lines = [["class", "share of pixels", *means]]
    lines += [
        [
            kept.collection.classes[c],
            f"{100 * shares[c]:.1f} %",
            *(format_score(float(one[c])) for one in means.values()),
        ]
        for c in order
    ]
    if (rare := (shares > 0) & (shares < RARE)).any():
        lines.append(
            [f"mean of the {int(rare.sum())} classes below {RARE:.0%}", f"{100 * shares[rare].sum():.1f} %",
             *(format_score(float(one[rare].mean())) for one in means.values())]
        )  # fmt: skip
    return (
        f"**Classes.** Test IoU in percent, mean over cells and seeds; for the operators, over {names(with_skips)}.\n\n"
        + table(lines)
    )


def iou(run: FinishedRun) -> np.ndarray:
    """The IoU of each class on all test images together, 0 to 1; NaN for a class that no test image has."""
    counts = run.matrices.sum(0, dtype=np.int64)
    hits, truth = counts.diagonal(), counts.sum(1)
    return np.where(truth > 0, hits / np.maximum(counts.sum(0) + truth - hits, 1), np.nan)


def class_shares(kept: Kept) -> np.ndarray:
    """The share of each class in the labelled test pixels."""
    counts = kept.collection.runs[0].matrices.sum(0, dtype=np.int64).sum(1)
    return counts / counts.sum()


def written(page: str, folder: Path = HERE) -> str:
    """Return the page with what is said of each of STUDIES now."""
    for name in STUDIES:
        page = sections.written(page, f"{Path(__file__).name} {name}", section(name, folder))
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
