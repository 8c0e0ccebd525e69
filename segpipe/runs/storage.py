"""Atomic writing of files, and reading that returns nothing for missing or damaged files."""

import csv
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def atomic_write(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` write a temporary file next to ``path``, then rename it to ``path`` in one step.

    A reader sees the old file or the new one, never a part. Where writing fails, the old file stays.
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
    """Write a text file atomically, in UTF-8."""
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))  # type: ignore[func-returns-value, arg-type]


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    atomic_write(path, lambda temporary: temporary.write_bytes(content))  # type: ignore[func-returns-value, arg-type]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically. NaN and infinities become null, because JSON does not have them."""
    write_text(path, json.dumps(without_nan(content), indent=2, ensure_ascii=False) + "\n")


def without_nan(content: Any) -> Any:
    """Copy nested dicts and lists with NaN and infinities replaced by None."""
    if isinstance(content, Mapping):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; an empty dict where it does not exist or is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_history(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the history as a CSV file, atomically: one line per epoch."""
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))  # an epoch may lack values of other epochs
    table = csv.DictWriter(text, fieldnames=columns, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def read_history(path: Path) -> list[dict[str, float]]:
    """Read the rows that ``write_history`` wrote, unchanged; an empty list where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: number(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def number(text: str) -> float:
    """Return a number of a CSV file: an int if it is written as one, else a float."""
    return int(text) if text.lstrip("-").isdecimal() else float(text)
