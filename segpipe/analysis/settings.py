"""Configuration keys in which runs of one design point differ although no override sets them.

They become part of the point's setting, so that runs of different trainings are not pooled as seeds.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from pathlib import PurePath
from typing import Any, NamedTuple

from segpipe.analysis.design_points import DesignPoint, PlacedRun, format_setting
from segpipe.analysis.factors import FACTORS, Factor, Level
from segpipe.runs.identity_keys import ADDED_SINCE, IGNORED_IN_IDENTITY

NO_DIFFERENCE = (*IGNORED_IN_IDENTITY, "seed", "model.name", "model.deconv_kernel")
MODEL = "model"  # may differ between design points of a stratum, in addition to the nodes of the factors
DATA_KEYS = {
    "train": "train_data",
    "val": "val_data",
}  # by split: the key of its data fingerprint


class TrainedCell(NamedTuple):
    """The cell of a run's configuration. A run may also stand for other cells that are the same network."""

    model: str
    levels: tuple[Level, ...]
    match: str


class TrainingFacts(NamedTuple):
    """The training of a run.

    values: text by key, for every key that can change the result except the seed.
    """

    cell: TrainedCell
    seed: str
    values: dict[str, str]


def training_facts(
    config: Mapping[str, Any], record: Mapping[str, Any], *, name: str, factors: Sequence[Factor] = FACTORS
) -> TrainingFacts:
    """Return the facts of a run. name: of its folder."""
    match = config.get("match")
    cell = TrainedCell(str(config["model"]["name"]), tuple(factor.level_in(config) for factor in factors), str(match))
    values = {
        key: format_value(key, value)
        for key, value in flatten(config)
        if not is_below(key, NO_DIFFERENCE) and not (key in ADDED_SINCE and value == ADDED_SINCE[key])
    }
    if match:  # the width follows from the budget
        values["budget"] = format_value("budget", config.get("budget"))
        values.pop("model.width", None)
    data = record.get("data_fingerprint")
    if isinstance(data, Mapping):
        values |= {key: str(data.get(split)) for split, key in DATA_KEYS.items()}
    values |= {
        f"{group}.revision": format_value(group, revision) for group, revision in record.get("revisions", {}).items()
    }
    if warm_start := record.get("warm_start") or config.get("warm_start"):  # after a resume, only the record has it
        values["warm_start"] = str(warm_start).rpartition(f"/{name}/")[2]  # for a stage: relative to the run's folder
    if previous := record.get("extended_from"):
        lengths = record.get("max_epochs")
        requested = lengths[:-1] if isinstance(lengths, list) else []
        values["extended_from"] = f"{'+'.join(map(str, requested))}_epochs" if requested else str(previous)
    return TrainingFacts(cell, str(config.get("seed")), values)


def flatten(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a configuration with dotted keys, as on the command line.

    A list of plain values is one leaf.
    """
    if isinstance(content, Mapping):
        items: Iterable[tuple[Any, Any]] = content.items()
    elif isinstance(content, list) and any(isinstance(value, Mapping | list) for value in content):
        items = enumerate(content)
    else:
        yield path, content
        return
    for key, value in items:
        yield from flatten(value, f"{path}.{key}" if path else str(key))


def format_value(key: str, value: Any) -> str:
    """Return a value as on the command line; for a weights file its name, whatever its folder."""
    if isinstance(value, str):
        return PurePath(value).name if key == "encoder.weights" else value
    return json.dumps(value, separators=(",", ":"), default=str)


def is_below(key: str, paths: Iterable[str]) -> bool:
    """Return whether a key equals one of the paths or is below it."""
    return any(key == path or key.startswith(f"{path}.") for path in paths)


def separating_values(
    placed_runs: Iterable[PlacedRun], facts: Mapping[str, TrainingFacts], factors: Sequence[Factor] = FACTORS
) -> dict[str, dict[str, str]]:
    """Return, for each finished run by name, the values of the keys that separate runs which should be one training.

    These are keys that differ between runs of one design point, whatever their seeds; and keys outside the model and
    the factors that differ between runs of one stratum. Keys that overrides of the point set are excluded.
    """
    nodes_of_points = [MODEL, *(factor.node for factor in factors)]
    strata: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    points: dict[DesignPoint, set[str]] = defaultdict(set)
    overridden: dict[DesignPoint, set[str]] = defaultdict(set)
    for placed in placed_runs:
        if placed.run in facts:
            strata[placed.point.stratum].add(placed.run)
            points[placed.point].add(placed.run)
            overridden[placed.point] |= placed.overridden
    keys: set[str] = set()
    for runs in strata.values():
        keys |= {key for key in differing([facts[run] for run in runs]) if not is_below(key, nodes_of_points)}
    for point, runs in points.items():
        keys |= differing_at_point([facts[run] for run in runs], factors) - overridden[point]
    kept = independent_keys(keys, list(facts.values()))
    return {
        run: {key.removesuffix(".name"): one.values[key] for key in kept if key in one.values}
        for run, one in facts.items()
    }


def differing(runs: Sequence[TrainingFacts]) -> set[str]:
    """Return the keys that differ between runs or that some runs lack, except seeds that equal the run's seed."""
    first = runs[0].values.items()
    keys = {key for one in runs for key, _ in one.values.items() ^ first}
    if len({one.values["budget"] for one in runs if "budget" in one.values}) < 2:
        keys.discard("budget")  # a run that meets a budget without a change does not record it
    return {key for key in keys if not (key.endswith(".seed") and follow_the_seed(key, runs))}


def follow_the_seed(key: str, runs: Sequence[TrainingFacts]) -> bool:
    """Return whether a key equals the run's seed in every run."""
    return all(one.values.get(key) == one.seed for one in runs)


def differing_at_point(runs: list[TrainingFacts], factors: Sequence[Factor]) -> set[str]:
    """Return the keys in which runs of one design point differ, except those that may differ in one network."""
    by_cell: dict[TrainedCell, list[TrainingFacts]] = defaultdict(list)
    for run in runs:
        by_cell[run.cell].append(run)
    keys: set[str] = set()
    for one, other in combinations_with_replacement(by_cell, 2):
        allowed = may_differ(one, other, factors)
        keys |= {key for key in differing([*by_cell[one], *by_cell[other]]) if not is_below(key, allowed)}
    return keys


def may_differ(one: TrainedCell, other: TrainedCell, factors: Sequence[Factor]) -> list[str]:
    """Return the keys that may differ between cells of one network: ``identity.canonical`` makes them equal."""
    keys: list[str] = []
    for factor, level, other_level in zip(factors, one.levels, other.levels, strict=True):
        keys += factor.merged_keys if level != other_level else ()
    if one.match != other.match:
        keys += ["model.width", "budget"]
    return [*keys, "decoder.smooth"] if keys else []


def independent_keys(keys: set[str], runs: Sequence[TrainingFacts]) -> list[str]:
    """Return the keys that do not follow from others.

    A group's keys may follow from its name, and the data's fingerprint from the data's configuration.
    """

    def follows(key: str, others: list[str]) -> bool:
        values_by_others: dict[tuple[str | None, ...], set[str | None]] = defaultdict(set)
        for one in runs:
            values_by_others[tuple(one.values.get(other) for other in others)].add(one.values.get(key))
        return all(len(values) == 1 for values in values_by_others.values())

    kept = []
    for key in sorted(keys):
        if key in DATA_KEYS.values():
            others = sorted(other for other in runs[0].values if other.startswith("data."))
        else:
            others = [name] if (name := f"{key.partition('.')[0]}.name") in keys - {key} else []
        if not (others and follows(key, others)):
            kept.append(key)
    return kept


def point_with_setting(placed: PlacedRun, separating: Mapping[str, str]) -> DesignPoint:
    """Return a run's design point, with its separating values in the setting.

    separating: from ``separating_values``.
    """
    return placed.point._replace(setting=format_setting({**separating, **placed.setting}))
