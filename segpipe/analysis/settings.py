"""What runs of one place differ in though no override tells: it goes into the place's setting, so nothing is pooled."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from pathlib import PurePath
from typing import Any, NamedTuple

from segpipe.analysis.design_points import DesignPoint, Spot, format_setting
from segpipe.analysis.factors import FACTORS, Factor, Level
from segpipe.runs.identity_keys import ADDED_SINCE, IGNORED_IN_IDENTITY

NO_DIFFERENCE = (*IGNORED_IN_IDENTITY, "seed", "model.name", "model.deconv_kernel")
OF_THE_MODEL = "model"  # what may differ from place to place of one stratum, beside what the factors own
RECORDED = {"train": "train_data", "val": "val_data"}  # a split whose data a record tells, and what that is called here


class Own(NamedTuple):
    """The cell that a run's configuration is of. A run may stand in other places too, where they are one network."""

    model: str
    levels: tuple[Level, ...]
    match: str


class Facts(NamedTuple):
    """What a run was trained as. values: text by key, of all that can change the result but the seed."""

    own: Own
    seed: str
    values: dict[str, str]


def facts(
    config: Mapping[str, Any], record: Mapping[str, Any], *, name: str, factors: Sequence[Factor] = FACTORS
) -> Facts:
    """Of a run. name: its folder's."""
    match = config.get("match")
    own = Own(str(config["model"]["name"]), tuple(factor.level_in(config) for factor in factors), str(match))
    values = {
        key: text(key, value)
        for key, value in flat(config)
        if not is_below(key, NO_DIFFERENCE) and not (key in ADDED_SINCE and value == ADDED_SINCE[key])
    }
    if match:  # the width follows from it
        values["budget"] = text("budget", config.get("budget"))
        values.pop("model.width", None)
    data = record.get("data_fingerprint")
    if isinstance(data, Mapping):
        values |= {key: str(data.get(split)) for split, key in RECORDED.items()}
    values |= {f"{group}.revision": text(group, revision) for group, revision in record.get("revisions", {}).items()}
    if warm_start := record.get("warm_start") or config.get("warm_start"):  # a resume leaves it to the record alone
        values["warm_start"] = str(warm_start).rpartition(f"/{name}/")[2]  # of a stage: from the run's own folder
    if before := record.get("extended_from"):
        lengths = record.get("max_epochs")
        asked = lengths[:-1] if isinstance(lengths, list) else []
        values["extended_from"] = f"{'+'.join(map(str, asked))}_epochs" if asked else str(before)
    return Facts(own, str(config.get("seed")), values)


def flat(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by dotted key, as on the command line; a list of plain values is one."""
    if isinstance(content, Mapping):
        items: Iterable[tuple[Any, Any]] = content.items()
    elif isinstance(content, list) and any(isinstance(value, Mapping | list) for value in content):
        items = enumerate(content)
    else:
        yield path, content
        return
    for key, value in items:
        yield from flat(value, f"{path}.{key}" if path else str(key))


def text(key: str, value: Any) -> str:
    """A value as on the command line; of a file of weights the name, wherever it lies."""
    if isinstance(value, str):
        return PurePath(value).name if key == "encoder.weights" else value
    return json.dumps(value, separators=(",", ":"), default=str)


def is_below(key: str, paths: Iterable[str]) -> bool:
    """Whether a key is one of some, or lies below one."""
    return any(key == path or key.startswith(f"{path}.") for path in paths)


def apart(
    spots: Iterable[Spot], known: Mapping[str, Facts], factors: Sequence[Factor] = FACTORS
) -> dict[str, dict[str, str]]:
    """Of every finished run, by name, the values of the keys in which runs differ that ought to be one training.

    Those are the runs of one place, whatever their seeds; and the runs of one stratum, in what the cells of a design
    share: all but the model and the factors. What a place knows from overrides is no such difference.
    """
    of_a_place = [OF_THE_MODEL, *(factor.node for factor in factors)]
    strata: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    places: dict[DesignPoint, set[str]] = defaultdict(set)
    told: dict[DesignPoint, set[str]] = defaultdict(set)
    for spot in spots:
        if spot.run in known:
            strata[spot.place.stratum].add(spot.run)
            places[spot.place].add(spot.run)
            told[spot.place] |= spot.told
    found: set[str] = set()
    for runs in strata.values():
        found |= {key for key in differing([known[run] for run in runs]) if not is_below(key, of_a_place)}
    for place, runs in places.items():
        found |= within_place([known[run] for run in runs], factors) - told[place]
    keys = needed(found, list(known.values()))
    return {
        run: {key.removesuffix(".name"): one.values[key] for key in keys if key in one.values}
        for run, one in known.items()
    }


def differing(runs: Sequence[Facts]) -> set[str]:
    """Keys that not all have, or not all with the same value; but for a seed, of the data say, that is the run's."""
    first = runs[0].values.items()
    keys = {key for one in runs for key, _ in one.values.items() ^ first}
    if len({one.values["budget"] for one in runs if "budget" in one.values}) < 2:
        keys.discard("budget")  # a run that meets one as it is does not say so
    return {key for key in keys if not (key.endswith(".seed") and follow_the_seed(key, runs))}


def follow_the_seed(key: str, runs: Sequence[Facts]) -> bool:
    """Whether a key has the run's seed everywhere."""
    return all(one.values.get(key) == one.seed for one in runs)


def within_place(runs: list[Facts], factors: Sequence[Factor]) -> set[str]:
    """Keys in which the runs of one place differ, but for what may differ in cells of one network."""
    of: dict[Own, list[Facts]] = defaultdict(list)
    for run in runs:
        of[run.own].append(run)
    found: set[str] = set()
    for one, other in combinations_with_replacement(of, 2):
        unlike = may_differ(one, other, factors)
        found |= {key for key in differing([*of[one], *of[other]]) if not is_below(key, unlike)}
    return found


def may_differ(one: Own, other: Own, factors: Sequence[Factor]) -> list[str]:
    """Keys that may differ in cells that are one network: what ``identity.canonical`` makes equal."""
    keys: list[str] = []
    for factor, level, its in zip(factors, one.levels, other.levels, strict=True):
        keys += factor.merged_keys if level != its else ()
    if one.match != other.match:
        keys += ["model.width", "budget"]
    return [*keys, "decoder.smooth"] if keys else []


def needed(keys: set[str], runs: Sequence[Facts]) -> list[str]:
    """Less those that follow from others: a group's from its name, the data from what the configuration says."""

    def follows(key: str, others: list[str]) -> bool:
        by: dict[tuple[str | None, ...], set[str | None]] = defaultdict(set)
        for one in runs:
            by[tuple(one.values.get(other) for other in others)].add(one.values.get(key))
        return all(len(values) == 1 for values in by.values())

    kept = []
    for key in sorted(keys):
        if key in RECORDED.values():
            others = sorted(other for other in runs[0].values if other.startswith("data."))
        else:
            others = [name] if (name := f"{key.partition('.')[0]}.name") in keys - {key} else []
        if not (others and follows(key, others)):
            kept.append(key)
    return kept


def settled(spot: Spot, own: Mapping[str, str]) -> DesignPoint:
    """A run's place, with what tells it apart from others in the setting. own: of ``apart``."""
    return spot.place._replace(setting=format_setting({**own, **spot.setting}))
