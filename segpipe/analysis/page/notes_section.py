"""The sections on noise, on missing runs, and on the method."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from segpipe.analysis.collection import Collection
from segpipe.analysis.factors import labels
from segpipe.analysis.findings import STATED, and_more
from segpipe.analysis.formatting import format_score, join_words, pluralise
from segpipe.analysis.network_results import NetworkResult, metric
from segpipe.analysis.page.blocks import Block, Fold, Items, Section, Text
from segpipe.analysis.page.tables import Cell, Table, score_cell
from segpipe.analysis.statistics.effects import Analysis
from segpipe.analysis.statistics.intervals import MIN_SEEDS
from segpipe.runs.run import shell_line

SHOWN = 20  # problems of a kind; the others are collapsed
KINDS = {  # headings of the lists of problems, by kind
    "missing": "Cells without a run", "running": "Runs in progress", "interrupted": "Interrupted runs",
    "failed": "Failed runs", "refused": "Invalid cells, which are not trained", "damaged": "Damaged runs, excluded",
    "foreign": "Folders that are no runs of this sweep, excluded", "mixed": "Runs tested on other data, excluded",
    "tuning": "Runs of tuning seeds (segpipe.tune), excluded from all comparisons",
    "tuned": "Runs at other levels than the chosen one, and of the seeds that chose it, excluded",
    "duplicate": "Second runs of the same configuration and seed, excluded",
    "extended": "Runs resumed for more epochs than the cell requests, included with their setting",
}  # fmt: skip
QUESTIONS = [
    "New trainings: would the difference occur again if the networks were trained again and tested on the same "
    "images? Runs with the same seed are compared (same batches, same initial weights where the networks have the "
    "same layers). The interval is Student's t over these paired differences.",
    "New trainings and images: would it also occur on other test images of the same kind? The variance is that over "
    "seeds plus that over images, minus the residual that both contain, with Satterthwaite's degrees of freedom. "
    "Images are resampled in complete groups, with the same weights for all networks and seeds, and {score} is "
    "computed from the resampled sums.",
]

LEFT_OUT = (
    "Chosen levels: each seed is judged at the level that the other seeds choose. Any two of these choices share most "
    "of their seeds, so the scores of seeds are correlated. The variance over seeds is multiplied by 1 + S / (S - 1) "
    "for S seeds (Nadeau and Bengio 2003). Tuning seeds (sweep.tuning_seeds) need no correction."
)
SKEWED = (  # python -m benchmarks.coverage --part best
    "Noise: the intervals assume that the noise of a training is symmetric about its mean. In simulations the error "
    "is at most 6 % for normal and heavy-tailed noise, with equal or unequal variances. For skewed noise (log-normal, "
    "one operator ten times as noisy), equal networks were called significantly worse in 5.6, 6.6 and 10.1 % of "
    "sweeps with 3, 5 and 10 seeds. More seeds do not correct this, but ten seeds are recommended: they show whether "
    "noise is skewed."
)


def seed_section(results: Sequence[NetworkResult], analysis: Analysis) -> Section:
    """Return the section on the standard deviation over seeds, and on the seeds needed to detect one point."""
    deviations = [one.std for one in results if np.isfinite(one.std)]
    if not deviations:
        return Section("seeds", "Seeds", [Text("With one seed, the variation between seeds is unknown.")])
    score = analysis.score
    noisiest = max((one for one in results if np.isfinite(one.std)), key=lambda one: one.std)
    text = (
        f"The standard deviation of test {score.label} over seeds is "
        f"{format_score(float(np.median(deviations)), score)} points in the median over networks, and at most "
        f"{format_score(noisiest.std, score)} points ({noisiest.network.label}). Mean differences are more precise: "
        f"they compare runs with the same seed, and average over several pairs of networks."
    )
    blocks: list[Block] = [Text(text), by_level(results)]
    points_needed = [one.seeds_needed_for() for one in analysis.marginal if one.estimate.trainings is not None]
    if points_needed:
        finite = [count for count in points_needed if count is not None]
        most = "more than 1,000" if len(finite) < len(points_needed) else str(max(finite))
        least = str(min(finite)) if finite else most
        needed = "1 seed" if most == "1" else f"{most} seeds" if least == most else f"{least} to {most} seeds"
        blocks.append(
            Text(
                f"To detect a true difference of one point with probability 0.8, the marginal comparisons need "
                f"{needed}, at the significance level of one of "
                f"{pluralise(len(analysis.marginal), 'comparison')}. The table of differences has the number for each."
            )
        )
    return Section("seeds", "Seeds", blocks)


def by_level(results: Sequence[NetworkResult]) -> Table:
    """Return a table of the standard deviation over seeds by the level of the first factor."""
    rows, factor, score = [], results[0].point.factors[0], results[0].score
    for level in factor.ordered(one.point.levels[0] for one in results):
        deviations = [one.std for one in results if one.point.levels[0] == level and np.isfinite(one.std)]
        if deviations:
            median = float(np.median(deviations))
            rows.append(
                [
                    Cell(str(level)),
                    Cell(str(len(deviations)), len(deviations)),
                    *(score_cell(v, score) for v in (median, max(deviations))),
                ]
            )
    caption = f"Standard deviation of test {score.label} over seeds, in points: median and maximum over networks."
    return Table(caption, [factor.label, "networks", "median", "largest"], rows, 3)


def missing_section(collection: Collection, results: Sequence[NetworkResult]) -> Section:
    """Return the section on excluded runs, identical cells, and conditions that differ between runs."""
    blocks: list[Block] = []
    for kind in dict.fromkeys([*KINDS, *(problem.kind for problem in collection.problems)]):
        items = [f"{one.label}: {one.reason}" for one in collection.problems if one.kind == kind]
        if items:
            blocks.append(Text(f"{KINDS.get(kind, kind.capitalize())}: {len(items)}", "heading"))
            blocks += shorten_list(items)
    if not blocks:
        complete = "Nothing is missing: every requested cell has a finished run."
        blocks.append(
            Text(complete if collection.has_cell_list else "Every run in this folder is finished and included.")
        )
    blocks += separating_keys(collection)
    blocks += networks_with_fewer_seeds(collection, results)
    same = [one for one in results if len(one.network.points) > 1]
    if same:
        rows = [[Cell(one.letter), Cell("; ".join(point.label for point in one.network.points))] for one in same]
        caption = "Cells that are the same network: trained once per seed, shown in each of their cells, counted once."
        blocks.append(Table(caption, ["letter", "cells"], rows, 0))
    return Section("missing", "Missing runs and identical cells", blocks + differing_conditions(collection))


def separating_keys(collection: Collection) -> list[Block]:
    """Return the keys in which runs of one cell differ although no override sets them."""
    if not collection.separating:
        return []
    items = []
    for key, count in collection.separating.items():
        parts = [f"{value} ({pluralise(times, 'run')})" for value, times in count.most_common(STATED)]
        items.append(f"{key}: {join_words(parts)}{and_more(list(count))}")
    text = "Keys in which runs of one cell differ although no override sets them. Such runs are not pooled as seeds."
    return [Text(text), Items(items)]


def networks_with_fewer_seeds(collection: Collection, results: Sequence[NetworkResult]) -> list[Block]:
    """Return the networks that lack seeds which other networks have."""
    lacking = [one for one in results if len(one.network.runs) < len(collection.seeds)]
    if not lacking:
        return []
    texts = [f"{one.network.label}: {join_words([str(seed) for seed in sorted(one.network.runs)])}" for one in lacking]
    return [Text("Networks that lack seeds which other networks have, with their seeds:"), *shorten_list(texts)]


def shorten_list(items: list[str]) -> list[Block]:
    """Return a list whose items after the first SHOWN are collapsed."""
    rest = items[SHOWN:]
    return [Items(items[:SHOWN]), *([Fold(f"{len(rest)} more", [Items(rest)])] if rest else [])]


def differing_conditions(collection: Collection) -> list[Block]:
    """Return versions, devices and training data that differ between runs."""
    values: dict[str, Counter[str]] = {}
    for run in collection.runs:
        record: dict[str, Any] = run.run.record
        entries_of_record = record.get("versions"), record.get("data_fingerprint")
        versions, data = (entry if isinstance(entry, dict) else {} for entry in entries_of_record)
        entries = {f"version of {name}": value for name, value in versions.items()}
        entries |= {"Python": record.get("python"), "code commit": short_commit(record.get("git"))}
        entries |= {f"data of {split}": data.get(split) for split in ("train", "val")} | {
            "device": metric(run, "cost", "device")
        }
        for name, value in entries.items():
            text = value if isinstance(value, str) else "not recorded" if value is None else json.dumps(value)
            values.setdefault(name, Counter())[text] += 1
    items = []
    for name, count in values.items():
        if len(count) > 1:
            parts = [f"{value} ({pluralise(times, 'run')})" for value, times in count.most_common(STATED)]
            items.append(f"{name}: {join_words(parts)}{and_more(list(count))}")
    if not items:
        return [Text("All runs used the same versions, the same data and the same kind of device.")]
    return [Text("The runs differ in these values. Check whether this affects the comparison."), Items(items)]


def short_commit(commit: object) -> object:
    """Return a commit with ten digits; the note on changed files is kept."""
    return re.sub(r"^([0-9a-f]{10})[0-9a-f]{30}", r"\1", commit) if isinstance(commit, str) else commit


def single_network_method(analysis: Analysis, results: Sequence[NetworkResult]) -> str:
    """Return the sentence on what single networks are compared with, and by which method."""
    many = pluralise(len(analysis.single_networks), "single network")
    if analysis.reference is None:
        return (
            f"Exploratory: {many}, each minus the best of the others (Hsu's multiple comparisons with the best, paired "
            f"by seed, each pair with its own standard error, Bonferroni's bound). The intervals are simultaneous. "
            f"With a probability of 95 %, no network that is the best, or as good as the best, is called significantly "
            f"worse (Holm)."
        )
    name = next(one.network.label for one in results if one.number == analysis.reference)
    return (
        f"Exploratory: {many} minus {name}, which was given with --reference, with simultaneous intervals by the "
        f"largest |t| (Dunnett). They are valid only if the reference was chosen without looking at the test scores."
    )


def method(
    collection: Collection, analysis: Analysis, results: Sequence[NetworkResult], command: Sequence[str]
) -> Section:
    """Return the section on the method, with the command that generates the report."""
    seeds, score = join_words([str(seed) for seed in collection.seeds]), analysis.score
    factors = join_words(labels([*collection.factors, *collection.outer]))
    items = [
        f"Score: {score.label} {score.definition}; {score.units}.",
        f"Seeds: {seeds}. With fewer than {MIN_SEEDS} seeds in common there is no interval.",
        *(question.format(score=score.label) for question in QUESTIONS),
        f"{pluralise(analysis.resamples, 'resample')} of {pluralise(len(set(collection.groups)), 'group')} with "
        f"{pluralise(len(collection.images), 'test image')}.",
        f"Confirmatory: {pluralise(len(analysis.marginal), 'marginal difference')} of "
        f"{factors}, each the mean over pairs of networks that differ in nothing else, "
        f"with each pair counted once; pairs with fewer than {MIN_SEEDS} seeds in common are excluded. p is corrected "
        f"by Holm's method, with 5 % for the family. Interactions ({len(analysis.interactions)}) are a separate "
        f"family.",
        single_network_method(analysis, results),
        SKEWED,
        "The ranking uses validation scores; all differences and intervals use test scores.",
        "docs/statistics.md defines the terms and shows how the method was validated; docs/report.md describes each "
        "section. results.csv and comparisons.csv, in the folder of this page, hold all numbers, as fractions from 0 "
        "to 1.",
    ]
    if collection.tuned is not None and not collection.tuned.seeds:
        items.insert(2, LEFT_OUT)
    return Section("method", "Method", [Items(items), *command_blocks(command)])


def command_blocks(command: Sequence[str]) -> list[Block]:
    """Return the command that generates the page."""
    return [Text("The command that generates this report:"), Text(shell_line(command), "command")]
