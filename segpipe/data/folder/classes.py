"""``classes.json``: the names of the classes, and the values or colours that represent them in the masks.

It has one of three forms: a list of names, in the order of the masks' indices, ``["background", "cell"]``; names with
values, ``{"background": 0, "cell": 128}``; names with colours, ``{"background": [0, 0, 0], "cell": [255, 0, 0]}``.
The name ``ignored`` is not a class: loss and scores leave out pixels of its value or colour.
"""

import colorsys
import json
from collections import Counter
from collections.abc import Sequence
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


class Classes(NamedTuple):
    """Names in the order of their indices, and the values or colours that represent them in the masks.

    by: ``index`` (the value is the class index), ``value`` or ``colour``. codes: one value or 0xRRGGBB for each name.
    ignored: the value or colour of ignored pixels.
    """

    names: list[str]
    by: Literal["index", "value", "colour"]
    codes: list[int]
    ignored: int | None = None


def from_names(names: list[str], where: str) -> Classes:
    """Return classes of which only the names are given. Raises UserError for invalid or repeated names."""
    if not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{where}: {numbers(names) or 'nothing'}; allowed is {ALLOWED}.")
    if IGNORED in names:
        raise UserError(f"{where}: 'ignored' is not a class; pixels of value 255 are ignored. Leave it out.")
    if len(set(names)) < len(names) or len(names) > MOST_CLASSES:
        raise UserError(
            f"{where}: {len(names)} names ({numbers(names)}); allowed are up to {MOST_CLASSES} different names."
        )
    return Classes(list(names), "index", list(range(len(names))))


def read_classes(path: Path) -> Classes:
    """Read a ``classes.json``. Raises UserError if it does not have one of the forms described above."""
    try:
        content = json.loads(read_text(path), object_pairs_hook=without_twins)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}). Allowed is {ALLOWED}.") from error
    if isinstance(content, list):
        return from_names(content, str(path))
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: contains {str(content)[:80]}; allowed is {ALLOWED}.")
    by_colour = all(isinstance(value, list) for value in content.values())
    codes = {name: code(value, by_colour=by_colour) for name, value in content.items()}
    if wrong := [name for name, number in codes.items() if number is None]:
        raise UserError(
            f"{path}: {wrong[0]} is {str(content[wrong[0]])[:80]}; allowed is one integer from 0 to 255 for every "
            f"class, or three ([red, green, blue]) for every class."
        )
    occurrences = Counter(codes.values())
    if twins := [name for name, number in codes.items() if occurrences[number] > 1]:
        raise UserError(f"{path}: {' and '.join(twins[:2])} have the same value. Give each a different one.")
    ignored = codes.pop(IGNORED, None)
    from_names(list(codes), str(path))
    return Classes(list(codes), "colour" if by_colour else "value", list(codes.values()), ignored)  # type: ignore[arg-type]


def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict. Raises ValueError for a repeated name; a dict would keep only the last."""
    for name, number in Counter(name for name, _ in pairs).items():
        if number > 1:
            raise ValueError(f"{name!r} occurs twice")
    return dict(pairs)


def code(value: Any, *, by_colour: bool) -> int | None:
    """Return a value, or a colour as 0xRRGGBB; None if the value is invalid."""
    parts = value if by_colour else [value]
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
