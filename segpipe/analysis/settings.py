"""Configuration keys in which runs of one cell differ although no override sets them.

They become factors, so that runs of different trainings are not pooled as seeds.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from pathlib import PurePath
from typing import Any, NamedTuple

from segpipe.analysis.design_points import CellLevels
from segpipe.analysis.factors import FACTORS, KNOWN
from segpipe.runs.identity_keys import ADDED_SINCE, IGNORED_IN_IDENTITY
from segpipe.runs.labels import GLOBAL, NOT_SET, Level, follows, is_below, is_group, override_values, parse_level

NO_DIFFERENCE = (*IGNORED_IN_IDENTITY, "seed", "model.name", "model.deconv_kernel")
MODEL = "model"  # may differ between cells, in addition to the nodes of the factors
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


def training_facts(config: Mapping[str, Any], record: Mapping[str, Any], *, name: str) -> TrainingFacts:
    """Return the facts of a run. name: of its folder."""
    match = config.get("match")
    cell = TrainedCell(str(config["model"]["name"]), tuple(factor.level_in(config) for factor in FACTORS), str(match))
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


def hidden_keys(design: CellLevels, facts: Mapping[str, TrainingFacts]) -> list[str]:
    """Return the keys in which finished runs differ although no swept key explains it. Each is a factor.

    These are keys that differ between runs of one cell, whatever their seeds; and keys outside the model and the swept
    groups that differ between cells, unless they may follow from a swept model or experiment, or are copies of a swept
    value (``augment.crop`` of ``data.crop``). So a difference between two operators is never due to another option.
    """
    rows = [index for index, cell in enumerate(design.cells) if str(cell.run) in facts]
    nodes = [MODEL, *(factor.node for factor in design.factors.values())]
    runs_of_cells: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    runs_of_causes: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for index in rows:
        levels = {key: column[index] for key, column in design.columns.items()}
        run = str(design.cells[index].run)
        runs_of_cells[tuple(levels.values())].add(run)
        runs_of_causes[tuple(levels.get(key) for key in (*GLOBAL, "view"))].add(run)
    keys: set[str] = set()
    for runs in runs_of_causes.values():
        keys |= {
            key
            for key in differing([facts[run] for run in sorted(runs)])
            if not is_below(key, nodes) and not is_derived(key, design, rows, facts)
        }
    values = {key for key in design.columns if not is_group(key)}
    overridden = {"decoder.smooth", "budget"} & {
        key for index in rows for key in override_values(design.cells[index].overrides)
    }
    for runs in runs_of_cells.values():
        keys |= differing_at_point([facts[run] for run in sorted(runs)]) - overridden - values
    return independent_keys(keys, list(facts.values()))


def drop_without_effect(design: CellLevels, facts: Mapping[str, TrainingFacts]) -> None:
    """Remove groups whose choice changes nothing that is part of an identity, such as ``trainer=cpu`` and ``gpu``."""
    rows = [index for index, cell in enumerate(design.cells) if str(cell.run) in facts]
    for key in [key for key in design.columns if is_group(key) and key not in KNOWN and key not in GLOBAL]:
        levels = {design.columns[key][index] for index in rows}
        values = [facts[str(design.cells[index].run)].values.items() for index in rows]
        below = {frozenset(item for item in items if is_below(item[0], [key])) for items in values}
        if len(levels) > 1 and len(below) == 1:
            del design.columns[key]
    design.rename()


def is_derived(key: str, design: CellLevels, rows: Sequence[int], facts: Mapping[str, TrainingFacts]) -> bool:
    """Return whether the values of a key are copies of a swept value, or follow from swept ones.

    A revision may follow from its group, and the fingerprint of the data from the keys of the data.
    """
    found = [facts[str(design.cells[index].run)].values.get(key) for index in rows]
    group = key.partition(".")[0]
    columns = {name: [column[index] for index in rows] for name, column in design.columns.items()}
    if any([None if text is None else parse_level(text) for text in found] == column for column in columns.values()):
        return True
    is_data = key in DATA_KEYS.values()
    own = [column for name, column in columns.items() if name.partition(".")[0] == ("data" if is_data else group)]
    return (key.endswith(".revision") or is_data) and bool(own) and follows(found, own)


def add_hidden(design: CellLevels, keys: Sequence[str], facts: Mapping[str, TrainingFacts]) -> dict[str, Counter[str]]:
    """Add hidden keys to a design; return how many runs have each of their values, by key."""
    counts = {}
    for key in keys:
        name = key.removesuffix(".name") if is_group(key.removesuffix(".name")) else key
        texts = {run: one.values.get(key, NOT_SET) for run, one in facts.items()}
        levels = [parse_level(texts[run]) if (run := str(cell.run)) in texts else None for cell in design.cells]
        design.add(name, levels)
        counts[name] = Counter(texts.values())
    return counts


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


def differing_at_point(runs: list[TrainingFacts]) -> set[str]:
    """Return the keys in which runs of one design point differ, except those that may differ in one network."""
    by_cell: dict[TrainedCell, list[TrainingFacts]] = defaultdict(list)
    for run in runs:
        by_cell[run.cell].append(run)
    keys: set[str] = set()
    for one, other in combinations_with_replacement(by_cell, 2):
        allowed = may_differ(one, other)
        keys |= {key for key in differing([*by_cell[one], *by_cell[other]]) if not is_below(key, allowed)}
    return keys


def may_differ(one: TrainedCell, other: TrainedCell) -> list[str]:
    """Return the keys that may differ between cells of one network: ``identity.canonical`` makes them equal."""
    keys: list[str] = []
    for factor, level, other_level in zip(FACTORS, one.levels, other.levels, strict=True):
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
