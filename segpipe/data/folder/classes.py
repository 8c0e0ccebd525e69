"""The classes that the user names: ``classes.json``, and the lists that other tools write.

``classes.json`` has one of these forms: a list of names, in the order of the masks' indices, ``["background",
"cell"]``; names with values, ``{"background": 0, "cell": 128}``, or values with names; names with colours,
``{"background": [0, 0, 0], "cell": [255, 0, 0]}``; a list of objects with ``name``, ``color`` and ``id``; or an object
with ``classes`` in one of these forms, and if wanted ``colours``, ``ignore`` and ``merge``. The name
``ignored`` is not a class: loss and scores leave out pixels of its value or colour. Lists of other tools are
``labelmap.txt`` of CVAT and CSV files, as ``class_dict.csv``.
"""

import colorsys
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from segpipe.data.files import read_text
from segpipe.errors import UserError

IGNORED = "ignored"
MOST_CLASSES = 254
ALLOWED = (
    'a list of names, ["background", "cell"], or names with values, {"background": 0, "cell": 255}, or names with '
    'colours, {"background": [0, 0, 0], "cell": [255, 0, 0]}; "ignored" is the name for pixels to ignore'
)
CLASS_FILES = ("classes.json", "labelmap.txt", "class_dict.csv", "classes.csv", "_classes.csv")
KEYS = {  # what other tools call the parts of their lists
    "classes": ("classes", "names", "labels", "categories", "id2label", "label2id"),
    "colours": ("colours", "colors", "palette", "colormap", "color_map"),
    "ignore": ("ignore", "ignored", "ignore_index", "ignore_label"),
    "name": ("name", "label", "title", "class", "class_name", "category"),
    "colour": ("colour", "color", "rgb"),
    "value": ("value", "id", "index", "class_id", "label_id", "pixel value", "pixel_value", "trainid"),
}


class Classes(NamedTuple):
    """Names in the order of their indices, and the values or colours that represent them in the masks.

    by: ``index`` (the value is the class index), ``value`` or ``colour``. codes: one value or 0xRRGGBB for each name.
    ignored: the value or colour of ignored pixels. colours: of ``index`` and ``value``, to display them; masks in
    colours have these. merge: see ``encoding.merged``.
    """

    names: list[str]
    by: Literal["index", "value", "colour"]
    codes: list[int]
    ignored: int | None = None
    colours: list[int] | None = None
    merge: Mapping[str, str] = {}


class Entry(NamedTuple):
    """A class in a list: its name, and its value and its colour, as they are written; None where there is none."""

    name: Any
    value: Any = None
    colour: Any = None


def from_names(names: list[str], where: str) -> Classes:
    """Return classes of which only the names are given. Raises UserError for invalid or repeated names."""
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f"{where}: {numbers(names) or 'nothing'}; allowed is {ALLOWED}.")
    if IGNORED in names:
        raise UserError(f"{where}: 'ignored' is not a class; pixels of value 255 are ignored. Leave it out.")
    if len(set(names)) < len(names) or len(names) > MOST_CLASSES:
        raise UserError(
            f"{where}: {len(names)} names ({numbers(names)}); allowed are up to {MOST_CLASSES} different names."
        )
    return Classes(list(names), "index", list(range(len(names))))


def read_classes(path: Path) -> Classes:
    """Read a list of classes, of a name in CLASS_FILES. Raises UserError if it does not have one of the known forms."""
    if path.suffix != ".json":
        try:
            text = read_text(path)
            entries = labelmap(text) if path.suffix == ".txt" else table(text)
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(
                f"{path}: cannot be read as a list of classes ({error}). Allowed are lines of name,r,g,b under these "
                f"words (or name,value); of labelmap.txt, lines name:r,g,b::. Or write classes.json: {ALLOWED}."
            ) from error
        return from_entries(entries, str(path))
    try:
        content = json.loads(read_text(path), object_pairs_hook=without_twins)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}). Allowed is {ALLOWED}.") from error
    return from_json(content, str(path))


def from_json(content: Any, where: str) -> Classes:
    """Return the classes of the content of ``classes.json``. Raises UserError as ``read_classes``."""
    if not isinstance(content, list | dict) or not content:
        raise UserError(f"{where}: contains {str(content)[:80]}; allowed is {ALLOWED}.")
    key = wrapper(content)
    if key is None or isinstance(content, list):
        return from_entries(entries_of(content, where), where)
    entries = entries_of(content[key], where)
    colours = first(content, "colours")
    if isinstance(colours, dict):
        colours = [colours.get(entry.name, colours.get(str(index))) for index, entry in enumerate(entries)]
    if colours is not None:
        if isinstance(colours, list) and len(colours) == 3 * len(entries) and type(colours[0]) is int:
            colours = [colours[start : start + 3] for start in range(0, len(colours), 3)]
        if not isinstance(colours, list) or len(colours) != len(entries):
            raise UserError(f"{where}: {len(entries)} classes, but the colours are {str(colours)[:80]}; give each one.")
        entries = [entry._replace(colour=colour) for entry, colour in zip(entries, colours, strict=True)]
    merge = content.get("merge") or {}
    if not isinstance(merge, dict) or not all(isinstance(name, str) for name in merge.values()):
        raise UserError(f'{where}: merge is {str(merge)[:80]}; allowed are names of classes: {{"car": "vehicle"}}.')
    return with_ignored(from_entries(entries, where), first(content, "ignore"), merge, where)


def with_ignored(classes: Classes, ignore: Any, merge: Mapping[str, str], where: str) -> Classes:
    """Return the classes of which some are ignored: by name, or by a value or colour that the masks hold."""
    for entry in ignore if isinstance(ignore, list) and not all(type(part) is int for part in ignore) else [ignore]:
        if isinstance(entry, str) and entry in classes.names:
            merge = {**merge, entry: IGNORED}
        elif entry is not None:
            number = code(entry, by_colour=classes.by == "colour")
            number = code(entry, by_colour=False) if number is None and classes.by == "colour" else number
            if number is None:
                raise UserError(f"{where}: ignore is {str(entry)[:80]}; allowed is one of the classes, or a value.")
            if type(entry) is int and classes.by != "value" and entry >= len(classes.names):
                if entry != 255:  # which is ignored anyway
                    values = list(range(len(classes.names)))
                    colours = classes.codes if classes.by == "colour" else classes.colours
                    classes = classes._replace(by="value", codes=values, ignored=entry, colours=colours)
            elif type(entry) is int and classes.by != "value":
                merge = {**merge, classes.names[entry]: IGNORED}
            elif number in classes.codes:
                merge = {**merge, classes.names[classes.codes.index(number)]: IGNORED}
            else:
                classes = classes._replace(ignored=number)
    return classes._replace(merge=merge)


def wrapper(content: Any) -> str | None:
    """Return the key below which an object has its list of classes, or None."""
    for key in KEYS["classes"] if isinstance(content, dict) else ():
        inner = content.get(key)
        if isinstance(inner, dict) or (isinstance(inner, list) and any(not isinstance(part, int) for part in inner)):
            return key
    return None


def first(content: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key, or of another word for it; None if there is none."""
    lower = {str(name).strip().lower(): value for name, value in content.items()}
    return next((lower[word] for word in KEYS[key] if word in lower), None)


def entries_of(content: Any, where: str) -> list[Entry]:
    """Return the classes of a JSON list or object. Raises UserError for none of the known forms."""
    if isinstance(content, list) and content and all(isinstance(part, dict) for part in content):
        return [Entry(first(part, "name"), first(part, "value"), first(part, "colour")) for part in content]
    if isinstance(content, list):
        return [Entry(name) for name in from_names(content, where).names]
    inverted = all(isinstance(name, str) for name in content.values()) and all(
        spelled(key) is not None for key in content
    )
    entries = []
    for key, value in content.items():
        if isinstance(value, dict):
            entries.append(Entry(first(value, "name") or key, first(value, "value"), first(value, "colour")))
            continue
        name, written = (value, key) if inverted else (key, value)
        parts = spelled(written) if isinstance(written, str) else written
        entries.append(Entry(name, None, written) if isinstance(parts, list) else Entry(name, written))
    return entries


def from_entries(entries: list[Entry], where: str) -> Classes:
    """Return the classes of a list. Raises UserError if one has no valid value or colour, or two have the same."""
    named = [entry.name for entry in entries]
    if twins := [name for name, number in Counter(map(str, named)).items() if number > 1]:
        raise UserError(f"{where}: {twins[0]} occurs twice. Give each class another name; merge makes two classes one.")
    classes = [entry for entry in entries if entry.name != IGNORED] or entries
    valued, coloured = ([entry.name for entry in classes if entry[field] is not None] for field in (1, 2))
    if not valued and not coloured:
        return from_names(named, where)
    by_colour = len(coloured) == len(classes)
    by_value = len(valued) == len(classes) or not by_colour  # the first class without a value is the error
    values = coded(entries, 1, where) if by_value else {}
    colours = coded(entries, 2, where) if by_colour else {}
    codes = values or colours
    ignored = codes.pop(IGNORED, None)
    names = from_names(list(codes), where).names
    shown = [colours[name] for name in names] if values and colours else None
    return Classes(names, "value" if values else "colour", list(codes.values()), ignored, shown)


def coded(entries: list[Entry], field: Literal[1, 2], where: str) -> dict[str, int]:
    """Return the value (field 1) or colour (2) of each name. Raises UserError for an invalid one, or two that equal."""
    codes = {entry.name: code(entry[field], by_colour=field == 2) for entry in entries}
    if wrong := [entry for entry in entries if codes[entry.name] is None]:
        given = next((part for part in (wrong[0][field], *wrong[0][1:]) if part is not None), None)
        raise UserError(
            f"{where}: {wrong[0].name} is {str(given)[:80]}; allowed is one integer from 0 to 255 for every "
            f"class, or three ([red, green, blue]) for every class."
        )
    occurrences = Counter(codes.values())
    if twins := [str(name) for name, number in codes.items() if occurrences[number] > 1]:
        raise UserError(f"{where}: {' and '.join(twins[:2])} have the same value. Give each a different one.")
    return codes  # type: ignore[return-value]


def labelmap(text: str) -> list[Entry]:
    """Return the classes of CVAT's ``labelmap.txt``, lines of ``name:r,g,b:parts:actions``. Raises ValueError."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines or not all(":" in line for line in lines):
        raise ValueError("there is no line name:r,g,b::")
    fields = [line.split(":") for line in lines]
    return [Entry(parts[0], None, spelled(parts[1]) or parts[1] or None) for parts in fields]


def table(text: str) -> list[Entry]:
    """Return the classes of a CSV file with the columns name and r, g, b, or name and value. Raises ValueError."""
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(row)]
    if not rows:
        raise ValueError("it is empty")
    heads = [cell.lower() for cell in rows[0]]

    def column(*words: str) -> int | None:
        return next((heads.index(word) for word in words if word in heads), None)

    name, value = column(*KEYS["name"]), column(*KEYS["value"])
    rgb_columns = [column(*words) for words in (("r", "red"), ("g", "green"), ("b", "blue"))]
    if name is None:  # no line of words
        number = next((index for index, cell in enumerate(heads) if cell.isdecimal()), None)
        name = 1 if number == 0 else 0
        rgb_columns = [1, 2, 3] if len(heads) == 4 and name == 0 else [None] * 3
        value = number if rgb_columns[0] is None else None
    else:
        rows = rows[1:]
    entries = []
    for row in rows:
        if len(row) < len(heads):
            raise ValueError(f"the line '{','.join(row)[:60]}' has {len(row)} cells, the first line {len(heads)}")
        colour = [int(row[index]) for index in rgb_columns if index is not None]
        entries.append(Entry(row[name], None if value is None else int(row[value]), colour or None))
    return entries


def spelled(text: Any) -> int | list[int] | None:
    """Return the value or colour that a text spells: ``7``, ``255,0,0``, ``[255, 0, 0]``, ``#ff0000``; else None."""
    text = str(text).strip()
    if re.fullmatch(r"#[0-9a-fA-F]{6}(?:[fF]{2})?", text):
        return [int(text[start : start + 2], 16) for start in (1, 3, 5)]
    if re.fullmatch(r"[\[(]?\s*\d{1,3}(?:[\s,;]+\d{1,3}){2}\s*[\])]?", text):
        return [int(part) for part in re.findall(r"\d+", text)]
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None


def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict. Raises ValueError for a repeated name; a dict would keep only the last."""
    for name, number in Counter(name for name, _ in pairs).items():
        if number > 1:
            raise ValueError(f"{name!r} occurs twice")
    return dict(pairs)


def code(value: Any, *, by_colour: bool) -> int | None:
    """Return a value, or a colour as 0xRRGGBB; None if the value is invalid."""
    value = spelled(value) if isinstance(value, str) else value
    parts = value if by_colour and isinstance(value, list) else [value]
    parts = parts[:3] if len(parts) == 4 and parts[3] == 255 else parts  # opaque
    if len(parts) != (3 if by_colour else 1) or not all(type(part) is int and 0 <= part <= 255 for part in parts):
        return None
    return (parts[0] << 16) + (parts[1] << 8) + parts[2] if by_colour else parts[0]


def colours_for(number: int) -> list[tuple[int, int, int]]:
    """Return display colours of classes, if none are given: gray for the first, then hues far from one another."""
    hues = [colorsys.hsv_to_rgb(0.08 + index * 0.618034 % 1, 0.7 - 0.25 * (index % 2), 0.9) for index in range(number)]
    return [(60, 60, 60), *(tuple(round(255 * part) for part in hue) for hue in hues)][:number]  # type: ignore[return-value]


def rgb(code: int) -> tuple[int, int, int]:
    """Return 0xRRGGBB as three numbers, 0 to 255."""
    return code >> 16, code >> 8 & 255, code & 255


def shown(codes: Sequence[int], *, colour: bool = False) -> str:
    """Return values or colours as text for a message."""
    kind = "colour" if colour else "value"
    return f"{kind}{'s' if len(codes) > 1 else ''} {numbers([list(rgb(code)) if colour else code for code in codes])}"


def numbers(entries: Sequence[object]) -> str:
    """Return the first six entries as text, and the number of the others."""
    more = f" and {len(entries) - 6} more" if len(entries) > 6 else ""
    return f"{', '.join(map(str, entries[:6]))}{more}"
