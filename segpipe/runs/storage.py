"""Files that are written whole or not at all, and read so that damage costs what is damaged."""

import csv
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def atomic_write(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a temporary file beside ``path``, then put it in its place in one step.

    A reader finds the old file or the new one, never a part; where writing fails, the old one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole."""
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))  # type: ignore[func-returns-value, arg-type]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole; what is no finite number as null, since JSON has none."""
    write_text(path, json.dumps(without_nan(content), indent=2, ensure_ascii=False) + "\n")


def without_nan(content: Any) -> Any:
    """NaN and infinities as None, all the way down."""
    if isinstance(content, Mapping):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none, or one that is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_history(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write a CSV file, whole: a line an epoch."""
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))  # an epoch may lack what others have
    table = csv.DictWriter(text, fieldnames=columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def read_history(path: Path) -> list[dict[str, float]]:
    """Read what ``write_history`` wrote, such that it would write the same again; nothing where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: number(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def number(text: str) -> float:
    """A number of a CSV file; an int where it was written as one."""
    return int(text) if text.lstrip("-").isdecimal() else float(text)
