"""Labels of the cells of a sweep: the levels of the swept keys, in the shortest form in which no two labels are equal.

The progress view, the table of a sweep, ``segpipe.tune`` and the report all use these labels.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import yaml

from segpipe.runs.identity_keys import CHOSEN, CONTENT_IN_IDENTITY, NO_EFFECT

Level = str | int | float
NOT_SET = "not set"  # the level of a cell whose configuration lacks the key
MODEL, STRIDE, DECODER, FUSION, VIEW = "model", "stride", "decoder", "fusion", "view"
CHOICES = (MODEL, STRIDE, DECODER, FUSION)  # keys of a cell's choices; VIEW follows from ``match`` and the smoothing
OWN_OVERRIDES = {MODEL: {MODEL}, STRIDE: {MODEL, "model.stride"}, DECODER: {DECODER}, FUSION: {FUSION}}
GLOBAL = ("model", "experiment", "debug")  # groups whose files may set keys of any other group
PLAIN = ("seed", "match", "budget", "stages", "warm_start", "resume", "run_dir", "trust")  # no groups
IN_CHOICES = ("seed", "model", "model.stride", "decoder", "fusion", "decoder.smooth")  # overrides behind the choices
UNMATCHED, SMOOTHED = "unmodified operators", "every operator smoothed"
MATCHED = {"params": "equal parameters", "multiply_adds": "equal multiply-adds"}
VIEW_WORDS = {UNMATCHED: "", SMOOTHED: "smoothed"}
FCN = re.compile(r"fcn\d+s")  # models that differ only in the stride
UNCLEAR = ("none", "null", "default", "true", "false", NOT_SET)  # levels that say nothing without their key


class Labelled(Protocol):
    """What a label is made of: the overrides, choices and run of a ``cells.Cell``."""

    @property
    def overrides(self) -> list[str]:
        """The overrides of the cell."""

    @property
    def choices(self) -> dict[str, Any]:
        """Its model, stride, decoder, fusion, match and seed."""

    @property
    def run(self) -> str | None:
        """The name of its run's folder."""


def override_values(overrides: Iterable[str]) -> dict[str, str]:
    """Return the values of overrides by key."""
    return {key.lstrip("+~"): value for key, _, value in (override.partition("=") for override in overrides)}


def override_levels(overrides: Iterable[str]) -> dict[str, Level]:
    """Return the levels of overrides that may change a result and are none of the choices of every cell, by key."""
    return {
        key: content_level(parse_level(value)) if is_content(key) else parse_level(value)
        for key, value in override_values(overrides).items()
        if key not in (*IN_CHOICES, *CHOSEN) and has_effect(key)
    }


def is_below(key: str, paths: Iterable[str]) -> bool:
    """Return whether a key equals one of the paths or is below it."""
    return any(key == path or key.startswith(f"{path}.") for path in paths)


@cache
def has_effect(key: str) -> bool:
    """Return whether a key may change a result, or is a choice of a cell, such as ``match``."""
    return not is_below(key, NO_EFFECT)


def is_content(key: str) -> bool:
    """Return whether the content that a key leads to decides the result, not its value."""
    return is_below(key, CONTENT_IN_IDENTITY)


def content_level(level: Level) -> Level:
    """Return the level of a key of content. Of an absolute path, it is the last part, as in an archive of a sweep."""
    return level.rstrip("/").rpartition("/")[2] if isinstance(level, str) and level.startswith("/") else level


def is_group(key: str) -> bool:
    """Return whether a key is a config group, so that its level is the name of a choice."""
    return "." not in key and key not in PLAIN


def is_finite(number: float) -> bool:
    """Return whether a number is finite, and no whole number that is too large for a float."""
    return abs(number) <= sys.float_info.max


def level_of_value(value: Any) -> Level:
    """Return a value of a configuration as a level: a number, or a compact text."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float) and is_finite(value):
        return value
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def parse_level(text: str) -> Level:
    """Return the value of an override as a level: ``1e-3`` and ``0.001`` are equal, as are ``[1, 2]`` and ``[1,2]``."""
    text = text.strip()
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if is_finite(number) else text
    if text.lower() in ("null", "true", "false"):
        return text.lower()
    if text[:1] == "[":
        try:
            return level_of_value(typed(yaml.safe_load(text)))
        except (yaml.YAMLError, ValueError, TypeError, RecursionError):  # TypeError: a key that JSON does not have
            return text
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def typed(value: Any) -> Any:
    """Return the content of a list with numbers that YAML takes for texts (``1e-3``) as numbers."""
    if isinstance(value, list):
        return [typed(one) for one in value]
    return parse_level(value) if isinstance(value, str) else value


def value_at(config: Mapping[str, Any], key: str) -> Level | None:
    """Return the level at a dotted key; for a group, its name. None if the configuration has neither."""
    node: Any = config
    for part in (*key.split("."), *(["name"] if is_group(key) else [])):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return level_of_value(node)


def view_of(cell: Labelled, config: Mapping[str, Any]) -> str:
    """Return how operators and sizes are matched. A run may be two cells, matched and not matched."""
    overrides, choices = override_values(cell.overrides), cell.choices
    match = choices["match"] if "match" in choices else config.get("match") if config else overrides.get("match")
    smoothed = overrides.get("decoder.smooth", "null") != "null"  # unpool's default smoothing is part of the operator
    return MATCHED.get(str(match), SMOOTHED if smoothed else UNMATCHED)


def swept_levels(
    cells: Sequence[Labelled], configs: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, list[Level]]:
    """Return the level of every cell for each key that varies between cells, except the seed.

    configs: configurations of runs by name; they give the level of a cell without an override of the key. Without
    them, that is NOT_SET. The order of keys is that of labels: model, stride, decoder, fusion, view, then overrides.
    A key of content, such as ``data.root``, varies where it distinguishes cells that no other key does: data may also
    be moved.
    """
    known = configs or {}
    of_cells = [known.get(str(cell.run), {}) for cell in cells]
    overrides = [override_values(cell.overrides) for cell in cells]
    names = dict.fromkeys(key for one in overrides for key in one)
    views = [view_of(cell, config) for cell, config in zip(cells, of_cells, strict=True)]
    columns: dict[str, list[Level]] = {}
    for key in names:
        matched = key == "budget" and any(view in MATCHED.values() for view in views)
        if key in IN_CHOICES or not has_effect(key) or (key in ("match", "budget") and not matched):
            continue
        columns[key] = [
            parse_level(one[key]) if key in one else found if (found := value_at(config, key)) is not None else NOT_SET
            for one, config in zip(overrides, of_cells, strict=True)
        ]
        if matched:  # without matching, a budget has no effect
            columns[key] = [
                level if view in MATCHED.values() else NOT_SET for level, view in zip(columns[key], views, strict=True)
            ]
    columns = {key: levels for key, levels in columns.items() if len(set(levels)) > 1}
    content = {key: [*map(content_level, columns.pop(key))] for key in [*columns] if is_content(key)}
    choices = {key: levels for key, levels in choice_levels(cells).items() if len(set(levels)) > 1}
    causes = {key: levels for key, levels in columns.items() if key in GLOBAL}
    for key in [*choices]:  # a choice that the file of a swept model or experiment makes is no key of its own
        if OWN_OVERRIDES[key] & names.keys():
            causes |= {MODEL: choices[key]} if key == MODEL else {}
        elif causes and follows(choices[key], [*causes.values()]):
            del choices[key]
    if len(set(views)) > 1:
        choices[VIEW] = [*views]
    return choices | columns | distinguishing(cells, choices | columns, content)


def alike(cells: Sequence[Labelled], columns: Mapping[str, Sequence[Level]]) -> list[list[int]]:
    """Return the indices of cells that are equal in all columns and in their seed, but are not one run."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, cell in enumerate(cells):
        levels = (*(column[index] for column in columns.values()), repr(cell.choices.get("seed")))
        groups.setdefault(levels, []).append(index)
    runs = {key: [cells[index].run for index in rows] for key, rows in groups.items()}
    return [rows for key, rows in groups.items() if len(rows) > 1 and (None in runs[key] or len(set(runs[key])) > 1)]


def distinguishing(
    cells: Sequence[Labelled], columns: Mapping[str, Sequence[Level]], content: Mapping[str, list[Level]]
) -> dict[str, list[Level]]:
    """Return the keys of content, with their levels, in which cells differ that are ``alike`` in the other columns."""
    groups = alike(cells, columns)
    return {
        key: levels for key, levels in content.items() if any(len({levels[row] for row in rows}) > 1 for rows in groups)
    }


def follows(column: Sequence[Any], others: Sequence[Sequence[Any]]) -> bool:
    """Return whether the values of a column follow from those of other columns."""
    values: dict[tuple[Any, ...], set[Any]] = {}
    for index, value in enumerate(column):
        values.setdefault(tuple(other[index] for other in others), set()).add(value)
    return all(len(one) == 1 for one in values.values())


def choice_levels(cells: Sequence[Labelled]) -> dict[str, list[Level]]:
    """Return model, stride, decoder and fusion of every cell.

    The model and the stride are two columns if some models have a stride in common; else the model's name includes the
    stride, and there is no column of strides.
    """
    columns = {
        key: [level_of_value(choice) if (choice := cell.choices.get(key)) is not None else NOT_SET for cell in cells]
        for key in CHOICES
    }
    names, strides = columns[MODEL], columns[STRIDE]
    bases = [base_model(str(name)) for name in names]
    by_base: dict[str, set[Level]] = {}
    for base, stride in zip(bases, strides, strict=True):
        by_base.setdefault(base, set()).add(stride)
    crossed = sum(map(len, by_base.values())) > len(set(strides)) and any(len(one) > 1 for one in by_base.values())
    if len(by_base) == 1 or crossed:
        return columns | {MODEL: list(bases)}
    joined: list[Level] = [
        str(name) if FCN.fullmatch(str(name)) or len(by_base[base]) == 1 else f"{base}{stride}"
        for name, base, stride in zip(names, bases, strides, strict=True)
    ]
    return {key: levels for key, levels in columns.items() if key != STRIDE} | {MODEL: joined}


def base_model(name: str) -> str:
    """Return the name of a model without its stride: ``fcn`` for ``fcn8s``."""
    return "fcn" if FCN.fullmatch(name) else name


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Return the shortest end of each dotted key that no other key has: ``lr`` for ``optimizer.lr``."""
    all_keys = list(dict.fromkeys(keys))

    def is_unique(end: str, key: str) -> bool:
        others = (other for other in all_keys if other != key)
        return not end.isdigit() and not any(f".{other}".endswith(f".{end}") for other in others)

    ends = {key: [key.split(".", count)[-1] for count in reversed(range(key.count(".") + 1))] for key in all_keys}
    return {key: next((end for end in ends[key] if is_unique(end, key)), key) for key in all_keys}


class Namer:
    """Makes the labels of cells from their levels by key. Two cells with different levels never get the same label.

    levels: for each key that varies, the levels of all cells. base: the model's name if it does not vary.
    """

    def __init__(self, levels: Mapping[str, Sequence[Level]], base: str = "") -> None:
        self.keys, self.base = [*levels], base
        self.short = short_keys(levels)
        self.bare = {DECODER, FUSION, MODEL, VIEW} & {*levels}
        taken = {str(level) for key in self.bare for level in levels[key]}
        for key in levels:
            names = {str(level) for level in levels[key]}
            if is_group(key) and key not in (*self.bare, STRIDE) and not names & {*taken, *UNCLEAR}:
                self.bare.add(key)
                taken |= names
        self.views = VIEW_WORDS if len(levels) > 1 else {}  # alone, each view is named
        self.joined = True  # model and stride are one word
        cells = list(dict.fromkeys(zip(*levels.values(), strict=True)))
        if len({self.label(dict(zip(levels, cell, strict=True))) for cell in cells}) < len(cells):
            self.joined, self.bare, self.short = False, {VIEW} & self.bare, {key: key for key in levels}

    def word(self, key: str, level: Level) -> str:
        """Return the word of one level; empty for a key that the cell does not set."""
        if level == NOT_SET:
            return ""
        if key == VIEW:
            return self.views.get(str(level), str(level))
        return str(level) if key in self.bare else f"{self.short.get(key, key)}={level}"

    def label(self, levels: Mapping[str, Level]) -> str:
        """Return the label of a cell with these levels."""
        words = [self.word(key, level) for key, level in levels.items() if key not in (MODEL, STRIDE)]
        model = str(levels.get(MODEL, self.base))
        if levels.get(STRIDE, NOT_SET) == NOT_SET:
            first = [self.word(MODEL, levels[MODEL])] if MODEL in levels else []
        elif self.joined:
            first = [model_with_stride(model, levels[STRIDE])]
        else:
            first = [f"model={model}"] * bool(model) + [f"stride={levels[STRIDE]}"]
        return " ".join(filter(None, [*first, *words]))


def model_with_stride(model: str, stride: Level) -> str:
    """Return a model's name with its stride: ``fcn8s``, ``ladder8``."""
    return f"fcn{stride}s" if model == "fcn" else f"{model}{stride}"


def full_name(choices: Mapping[str, Any]) -> str:
    """Return model, stride, decoder and fusion of a cell: the label of a cell that differs from no other one."""
    model, stride = str(choices.get(MODEL) or ""), choices.get(STRIDE)
    first = model if not stride or FCN.fullmatch(model) else f"{model}{stride}"
    words = [first, *(str(choices[key]) for key in (DECODER, FUSION) if choices.get(key) is not None)]
    return " ".join(filter(None, words)) or "the only cell"


def labels(cells: Sequence[Labelled], *, without: Iterable[str] = (), with_seed: bool = True) -> list[str]:
    """Return the label of each cell of a sweep.

    without: keys that are left out. with_seed: end each label with the seed, if there are several. The labels of runs
    that differ in no swept key end with their identities.
    """
    left_out = {*without}
    every = swept_levels(cells)
    columns = {key: levels for key, levels in every.items() if key not in left_out}
    unclear = {index for rows in alike(cells, every) for index in rows}
    base = base_model(str(cells[0].choices.get(MODEL) or "")) if cells else ""
    namer = Namer(columns, base)
    seeds = [cell.choices.get("seed") for cell in cells]
    result = []
    for index, cell in enumerate(cells):
        name = namer.label({key: levels[index] for key, levels in columns.items()}) if columns else ""
        seed = f"seed={seeds[index]}" if with_seed and len(set(seeds)) > 1 else ""
        identity = str(cell.run or "").rpartition("-")[2] if index in unclear else ""
        result.append(" ".join(filter(None, [name or full_name(cell.choices), seed, identity])))
    return result
