"""What a reader has to know about the numbers: noise, what is missing, how they were made."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from segpipe.analysis.collect import Collection
from segpipe.analysis.factors import labels
from segpipe.analysis.findings import STATED, and_more
from segpipe.analysis.formatting import join_words, pluralise, points
from segpipe.analysis.page.blocks import Block, Fold, Items, Section, Text
from segpipe.analysis.page.tables import Cell, Table, scored
from segpipe.analysis.standings import NetworkResult, metric
from segpipe.analysis.statistics.effects import Analysis
from segpipe.analysis.statistics.intervals import MIN_SEEDS

SHOWN = 20  # problems of a kind, before the rest is folded away
KINDS = {
    "missing": "have no run yet", "running": "are still at work", "interrupted": "were interrupted", "failed": "failed",
    "refused": "were refused, since the combination means nothing", "damaged": "are damaged, and left out",
    "foreign": "are no part of it, and left out", "mixed": "were tested on other data, and left out",
    "tuning": "are of seeds that chose a level (segpipe.tune), and left out of every comparison",
    "duplicate": "are second runs of one training, and left out",
    "extended": "were trained longer than asked for, and are in the numbers as that",
}  # fmt: skip
QUESTIONS = [
    "These pictures, new trainings: would the difference be found again if the networks were trained anew and tested "
    "on "
    "the same pictures? Trainings of one seed are compared with each other (same batches, same first weights where the "
    "networks agree), and the interval is Student's t over these differences.",
    "New pictures too: would it also be found on other test pictures of the same kind? To the variance over seeds "
    "comes "
    "that over pictures, less what both count, with Satterthwaite's degrees of freedom; pictures are resampled in "
    "whole "
    "groups, with the same weights for all networks and seeds, and {score} is computed anew from the sums.",
]

SKEWED = (  # python -m benchmarks.coverage --part best
    "Noise: intervals take a training's noise for symmetric about its mean. Simulated, errors stay within 6 % for "
    "normal and heavy-tailed noise, equal or unequal. For skewed noise (log-normal, one operator ten times as noisy) "
    "equal networks were called worse in 5.6, 6.6 and 10.1 % of sweeps with 3, 5 and 10 seeds. More seeds do not "
    "repair that, but ten are recommended: they show whether noise is skewed."
)


def noise(found: Sequence[NetworkResult], analysis: Analysis) -> Section:
    """How much a score moves from seed to seed, and how many seeds would show what is not sure."""
    known = [one.deviation for one in found if np.isfinite(one.deviation)]
    if not known:
        return Section(
            "seeds", "Seeds", [Text("With one seed, how much a score moves from seed to seed is not known.")]
        )
    score = analysis.score
    noisiest = max((one for one in found if np.isfinite(one.deviation)), key=lambda one: one.deviation)
    text = (
        f"The same network, trained again with another seed, moves by {points(float(np.median(known)), score)} points "
        f"of test {score.label} "
        f"(standard deviation, median over networks), and by {points(noisiest.deviation, score)} where it moves most, "
        f"{noisiest.network.label}. Differences of means are surer than that: they are of the same seeds, and of "
        f"several "
        f"pairs of networks."
    )
    blocks: list[Block] = [Text(text), by_level(found)]
    points_needed = [one.seeds_needed_for() for one in analysis.marginal if one.estimate.trainings is not None]
    if points_needed:
        there = [count for count in points_needed if count is not None]
        most = "more than 1,000" if len(there) < len(points_needed) else str(max(there))
        blocks.append(
            Text(
                f"To show a true difference of one point with probability 0.8, the marginal comparisons would need "
                f"{min(there) if there else 'more than 1,000'} to {most} seeds, each at the level that it has as one "
                f"of "
                f"{len(analysis.marginal)}; how many each needs stands in the table of differences."
            )
        )
    return Section("seeds", "Seeds", blocks)


def by_level(found: Sequence[NetworkResult]) -> Table:
    """Noise by the level of the first factor."""
    rows, factor, score = [], found[0].place.factors[0], found[0].score
    for level in factor.ordered(one.place.levels[0] for one in found):
        own = [one.deviation for one in found if one.place.levels[0] == level and np.isfinite(one.deviation)]
        if own:
            median = float(np.median(own))
            rows.append(
                [Cell(str(level)), Cell(str(len(own)), len(own)), *(scored(v, score) for v in (median, max(own)))]
            )
    caption = f"Standard deviation of test {score.label} over seeds, in points."
    return Table(caption, [factor.label, "networks", "median", "largest"], rows, 3)


def left_out(collection: Collection, found: Sequence[NetworkResult]) -> Section:
    """What is not in the numbers, what is in them once for several cells, and what runs do not share."""
    blocks: list[Block] = []
    for kind in dict.fromkeys([*KINDS, *(problem.kind for problem in collection.problems)]):
        items = [f"{one.what}: {one.why}" for one in collection.problems if one.kind == kind]
        if items:
            blocks.append(
                Text(f"{kind.capitalize()}: {len(items)} {KINDS.get(kind, '')}.".replace(" .", "."), "heading")
            )
            blocks += shortened(items)
    if not blocks:
        whole = "Nothing is missing: every cell that was asked for has a finished run."
        blocks.append(Text(whole if collection.asked else "Every run in this folder is finished and in the numbers."))
    blocks += told_apart(collection)
    blocks += unequal_seeds(collection, found)
    same = [one for one in found if len(one.network.places) > 1]
    if same:
        rows = [[Cell(one.mark), Cell("; ".join(place.label for place in one.network.places))] for one in same]
        caption = "Cells that are the same network: trained once a seed, shown in each place, counted once."
        blocks.append(Table(caption, ["letter", "cells"], rows, 0))
    return Section("missing", "What is missing, and what is the same", blocks + mixed(collection))


def told_apart(collection: Collection) -> list[Block]:
    """Keys in which runs differ though no override tells."""
    if not collection.apart:
        return []
    items = []
    for key, count in collection.apart.items():
        parts = [f"{value} ({pluralise(times, 'run')})" for value, times in count.most_common(STATED)]
        items.append(f"{key}: {join_words(parts)}{and_more(list(count))}")
    text = "Not one training, though no override tells: so these runs are no seeds of one another, and stand apart."
    return [Text(text), Items(items)]


def unequal_seeds(collection: Collection, found: Sequence[NetworkResult]) -> list[Block]:
    """Networks that lack seeds which others have."""
    less = [one for one in found if len(one.network.runs) < len(collection.seeds)]
    if not less:
        return []
    said = [f"{one.network.label}: seed {join_words([str(seed) for seed in sorted(one.network.runs)])}" for one in less]
    return [Text("Networks that lack seeds which others have:"), *shortened(said)]


def shortened(items: list[str]) -> list[Block]:
    """A list, whose end is folded away where it is long."""
    rest = items[SHOWN:]
    return [Items(items[:SHOWN]), *([Fold(f"{len(rest)} more", [Items(rest)])] if rest else [])]


def mixed(collection: Collection) -> list[Block]:
    """Versions, devices and training data that are not the same for all runs."""
    values: dict[str, Counter[str]] = {}
    for run in collection.runs:
        record: dict[str, Any] = run.run.record
        both = record.get("versions"), record.get("data_fingerprint")
        versions, data = (entry if isinstance(entry, dict) else {} for entry in both)
        entries = {f"version of {name}": value for name, value in versions.items()}
        entries |= {"Python": record.get("python"), "the code's commit": short(record.get("git"))}
        entries |= {f"data of {split}": data.get(split) for split in ("train", "val")} | {
            "device": metric(run, "cost", "device")
        }
        for name, value in entries.items():
            said = value if isinstance(value, str) else "not recorded" if value is None else json.dumps(value)
            values.setdefault(name, Counter())[said] += 1
    items = []
    for name, count in values.items():
        if len(count) > 1:
            parts = [f"{value} ({pluralise(times, 'run')})" for value, times in count.most_common(STATED)]
            items.append(f"{name}: {join_words(parts)}{and_more(list(count))}")
    if not items:
        return [Text("All runs were made with the same versions, on the same data, on the same kind of device.")]
    return [Text("Mixed: not all runs share these. Whether that matters is yours to judge."), Items(items)]


def short(commit: object) -> object:
    """A commit as one says it; that files differed stays."""
    return re.sub(r"^([0-9a-f]{10})[0-9a-f]{30}", r"\1", commit) if isinstance(commit, str) else commit


def of_single_networks(analysis: Analysis, found: Sequence[NetworkResult]) -> str:
    """With what they are compared, and how."""
    many = pluralise(len(analysis.cells), "single network")
    if analysis.reference is None:
        return (
            f"Exploratory: {many}, each less the best of the others (Hsu's multiple comparisons with the best, paired "
            f"by seed, each pair with its own standard error, Bonferroni's bound). The intervals hold all at once; no "
            f"network that is the best, or as good as the best, is called really worse, with 95 % (Holm)."
        )
    name = next(one.network.label for one in found if one.number == analysis.reference)
    return (
        f"Exploratory: {many} against {name}, given with --reference; intervals that all hold at once, by the largest "
        f"|t| (Dunnett). That holds for a reference that was named before the test was looked at."
    )


def method(
    collection: Collection, analysis: Analysis, found: Sequence[NetworkResult], command: Sequence[str]
) -> Section:
    """How it was computed, and the command that makes it again."""
    seeds, score = join_words([str(seed) for seed in collection.seeds]), analysis.score
    items = [
        f"Score: {score.label} {score.definition}; {score.units}.",
        f"Seeds: {seeds}. Fewer than {MIN_SEEDS} in common: no interval.",
        *(question.format(score=score.label) for question in QUESTIONS),
        f"{pluralise(analysis.resamples, 'resample')} of {pluralise(len(set(collection.groups)), 'group')} of "
        f"{pluralise(len(collection.pictures), 'test picture')}.",
        f"Confirmatory: the {len(analysis.marginal)} marginal differences of {join_words(labels(collection.factors))}, "
        f"each the mean over pairs of networks that differ in nothing else, each network counted once; pairs with "
        f"fewer than {MIN_SEEDS} seeds in common are left out. p by Holm, 5 % for all together. "
        f"The {len(analysis.interactions)} interactions are a family of their own.",
        of_single_networks(analysis, found),
        SKEWED,
        "The ranking uses validation; every difference and interval is of the test.",
        "What the words mean and how the method was checked: docs/statistics.md. What each part shows: docs/report.md. "
        "All numbers: results.csv and comparisons.csv, beside this page, as shares from 0 to 1.",
    ]
    again: list[Block] = [Text("Made with, and to be made again with:"), Text(shlex.join(command), "command")]
    return Section("method", "How it was computed", [Items(items), *again])
