"""Degenerate runs: trainings that ended in a state which says more about the training than about the network."""

import math
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from segpipe.analysis.collection import Collection, FinishedRun, TrainedNetwork
from segpipe.analysis.findings import STATED, Finding, and_more
from segpipe.analysis.formatting import join_words, pluralise
from segpipe.analysis.ordering import order
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.effects import Analysis, analyse
from segpipe.runs.storage import read_history

FIRST, LAST = "best epoch is the first", "best epoch is the last"
ONE_CLASS, LOSS = "one class predicted", "loss not finite"
UNFINISHED = {  # words for the kinds of problems that leave a cell without a finished run
    "missing": "not started", "running": "in progress", "interrupted": "interrupted", "failed": "failed",
    "damaged": "damaged",
}  # fmt: skip
RESAMPLES = 100  # without flagged runs, only the order of means and its significance on these images is needed


class Flag(NamedTuple):
    """What is degenerate about a run. network: its index. reason: as in the table; detail: further words."""

    network: int
    seed: int
    reason: str
    detail: str = ""


def find_flags(collection: Collection) -> list[Flag]:
    """Return the flags of all runs that are used, in the order of networks and seeds."""
    flags: list[Flag] = []
    digests: dict[bytes, tuple[int, int]] = {}
    for number, network in enumerate(collection.networks):
        for seed, run in sorted(network.runs.items()):
            flags += [Flag(number, seed, reason) for reason in reasons_of(run)]
            digest = blake2b(np.ascontiguousarray(run.matrices).tobytes(), digest_size=16).digest()
            first = digests.setdefault(digest, (number, seed))
            if first[0] != number and not predicts_one_class(run):
                other = collection.networks[first[0]].label
                flags.append(Flag(number, seed, "predictions equal another network's", f"{other}, seed {first[1]}"))
    return flags


def reasons_of(run: FinishedRun) -> list[str]:
    """Return what is degenerate about a single run."""
    reasons = [ONE_CLASS] if predicts_one_class(run) else []
    if not loss_is_finite(run):
        reasons.append(LOSS)
    best, epochs = run.metrics.get("best_epoch"), (run.metrics.get("training") or {}).get("epochs")
    if isinstance(best, int) and isinstance(epochs, int | float) and epochs > 1:
        reasons += [FIRST] if best == 0 else [LAST] if best + 1 >= epochs else []
    return reasons


def predicts_one_class(run: FinishedRun) -> bool:
    """Return whether the predictions of all test images are one class, although the truth has several."""
    total = run.matrices.sum(0, dtype=np.int64)
    return int((total.sum(0) > 0).sum()) == 1 and int((total.sum(1) > 0).sum()) > 1


def loss_is_finite(run: FinishedRun) -> bool:
    """Return whether the recorded losses, in training and evaluation, are finite. A run without losses passes."""
    for split in ("val", "test"):
        scores = run.metrics.get(split) or {}
        if "loss" in scores and not (isinstance(scores["loss"], int | float) and math.isfinite(scores["loss"])):
            return False
    try:
        rows = read_history(run.run.history)
    except (OSError, ValueError, KeyError):
        return True
    return all(math.isfinite(row[key]) for row in rows for key in ("train/loss", "val/loss") if key in row)


def flag_texts(flags: Sequence[Flag], networks: Sequence[TrainedNetwork]) -> dict[int, str]:
    """Return the flags of each flagged network as text for the table, with the number of its runs."""
    texts: dict[int, list[str]] = {}
    for number, reason in dict.fromkeys((one.network, one.reason) for one in flags):
        seeds = {one.seed for one in flags if one.network == number and one.reason == reason}
        texts.setdefault(number, []).append(f"{reason} ({len(seeds)} of {len(networks[number].runs)})")
    return {number: "; ".join(parts) for number, parts in texts.items()}


def flag_finding(collection: Collection, analysis: Analysis, flags: Sequence[Flag]) -> Finding | None:
    """Return the finding on degenerate runs: how many, which, and whether the verdict changes without them."""
    if not flags:
        return None
    by_reason: dict[str, list[Flag]] = {}
    for one in flags:
        by_reason.setdefault(one.reason, []).append(one)
    runs = {(one.network, one.seed) for one in flags}
    parts = []
    for reason, members in by_reason.items():
        names = [flag_name(one, collection) for one in members]
        shown = f": {'; '.join(names[:STATED])}{and_more(names)}" if reason != LAST else ""
        parts.append(f"{reason.capitalize()} in {pluralise(len(members), 'run')}{shown}.")
    excluded = runs
    note = "Without the flagged runs"
    if 2 * len(runs) > len(collection.runs):  # too few would remain
        excluded = {(one.network, one.seed) for one in flags if one.reason != LAST}
        note = "Without the runs flagged for another reason than the last epoch"
    effect = (
        without_text(collection, analysis, excluded, note)
        if excluded
        else ("Most runs are flagged, so the verdict is not repeated without them: train longer.")
    )
    headline = f"{len(runs)} of {pluralise(len(collection.runs), 'run')}"
    return Finding("Flagged runs", headline, " ".join([*parts, effect]))


def flag_name(one: Flag, collection: Collection) -> str:
    """Return the network and the seed of a flag."""
    detail = f", as {one.detail}" if one.detail else ""
    return f"{collection.networks[one.network].label} (seed {one.seed}{detail})"


def without_text(collection: Collection, analysis: Analysis, excluded: set[tuple[int, int]], note: str) -> str:
    """Return the sentence on whether the verdict is the same without some runs, by network and seed."""
    networks = [
        TrainedNetwork(
            network.points, {seed: run for seed, run in network.runs.items() if (number, seed) not in excluded}
        )
        for number, network in enumerate(collection.networks)
    ]
    seeds = sorted({seed for network in networks for seed in network.runs})
    if not seeds:
        return f"{note}, no run is left."
    rest = replace(collection, networks=networks, seeds=seeds)
    before, after = headlines(collection, analysis), headlines(rest, analyse(rest, resamples=RESAMPLES))
    changes = [
        f"{name}: {after.get(name, 'not ordered')} (with them: {text})"
        for name, text in before.items()
        if after.get(name) != text
    ]
    if not changes:
        return f"{note}, the verdict is the same."
    return f"{note}, the verdict changes. {'; '.join(changes[:STATED])}{and_more(changes)}."


def headlines(collection: Collection, analysis: Analysis) -> dict[str, str]:
    """Return the order of each factor in each stratum, and the networks that may be the best."""
    labels = {factor.key: factor.title for factor in (*collection.factors, *collection.outer)}
    families: dict[tuple[object, str], list[Comparison]] = {}
    for one in analysis.marginal:
        families.setdefault((one.contrast.stratum, one.contrast.factor), []).append(one)
    several = len({stratum for stratum, _ in families}) > 1
    lines = {}
    for (stratum, factor), family in families.items():
        where = ", ".join(filter(None, map(str, stratum))) if isinstance(stratum, tuple) and several else ""
        lines[f"{labels.get(factor, factor)} ({where})" if where else labels.get(factor, factor)] = order(family).label
    tested = [one for one in analysis.single_networks if one.estimate.trainings is not None]
    if tested and analysis.reference is None:
        best = sorted(one.contrast.a for one in tested if not one.significant)
        lines["Networks that may be the best"] = f"{join_words(best[:STATED])}{and_more(best)}"
    return lines


def unfinished(collection: Collection) -> dict[str, int]:
    """Return the number of requested runs that are not finished, by kind; see UNFINISHED."""
    return {kind: sum(one.kind == kind for one in collection.problems) for kind in UNFINISHED}


def state_finding(collection: Collection) -> Finding | None:
    """Return the finding on requested runs that are not finished; None if all are."""
    counts = unfinished(collection)
    open_runs = sum(counts.values())
    if not open_runs:
        return None
    parts = [f"{count:,} {UNFINISHED[kind]}" for kind, count in counts.items() if count]
    headline = f"Unfinished: {open_runs:,} of {pluralise(open_runs + len(collection.runs), 'run')} " + (
        "is missing" if open_runs == 1 else "are missing"
    )
    text = f"{join_words(parts)}. The numbers below are those of the finished runs, and may change."
    return Finding("State", headline, text[0].upper() + text[1:])
