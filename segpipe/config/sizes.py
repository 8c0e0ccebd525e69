"""Bounds of the numbers in a configuration that decide how much memory and time a network and its images take.

They hold for what is typed, and for a stored configuration, which may come from a stranger: what a training accepts can
be read again.
"""

from collections.abc import Iterator
from typing import Any

from segpipe.errors import UserError

MAX_NUMBER = 65_536  # of widths, kernels, batch sizes, numbers of workers
MAX_LAYERS = 512  # of the entries of LAYERS, and the length of a list
MAX_PIXELS = 250_000_000  # of data.size and data.crop
LAYERS = ("depths", "count", "layers", "blocks", "depth", "kernel", "factor", "stride")
PARTS_WITH_SIZES = ("encoder", "neck", "decoder", "fusion", "model", "task", "data", "augment")


def check_sizes(content: dict[str, Any]) -> None:
    """Raise UserError for a size above its bound. content: a configuration as a dict."""
    for key in ("size", "crop"):
        value = content["data"].get(key)
        if value is None or is_interpolation(value):
            continue
        if not (isinstance(value, list) and len(value) == 2 and all(map(is_side, value))):
            raise UserError(f"data.{key}={str(value)[:60]}: allowed is [height, width], or null.")
        if value[0] * value[1] > MAX_PIXELS:
            raise UserError(f"data.{key}={str(value)[:60]}: at most {MAX_PIXELS:,} pixels are allowed.")
    for part in PARTS_WITH_SIZES:
        for place, number in whole_numbers(content[part], part) if part in content else ():
            key = place.rpartition(".")[2].rstrip("[]")
            high = MAX_LAYERS if key in LAYERS else MAX_PIXELS if place.startswith("data") else MAX_NUMBER
            if abs(number) > high:
                raise UserError(f"{place}={number:.6g}: at most {high:,} is allowed.")


def is_interpolation(value: Any) -> bool:
    """Return whether a value is taken from another key, which is checked itself."""
    return isinstance(value, str) and value.startswith("${")


def is_side(value: Any) -> bool:
    """Return whether a value is a height or a width in pixels."""
    return is_interpolation(value) or (isinstance(value, int) and value > 0)


def whole_numbers(content: Any, place: str) -> Iterator[tuple[str, int | float]]:
    """Yield each whole number below a node, with its place: no size is another number, and weights may be large.

    Raises UserError for a list of more than MAX_LAYERS entries.
    """
    if isinstance(content, dict):
        for key, value in content.items():
            yield from whole_numbers(value, f"{place}.{key}")
    elif isinstance(content, list):
        if len(content) > MAX_LAYERS and place != "data.dataset.classes":
            raise UserError(f"{place} has {len(content):,} entries; at most {MAX_LAYERS} are allowed.")
        for value in content:
            yield from whole_numbers(value, f"{place}[]")
    elif isinstance(content, int) and not isinstance(content, bool):
        yield place, content
