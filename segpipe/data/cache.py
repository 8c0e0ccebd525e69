"""The user's cache, for results that can be computed again. A failure to read or write it is never an error."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

from segpipe.errors import UserError
from segpipe.runs.storage import atomic_write, read_bytes, write_json


def folder() -> Path:
    """Return ``$SEGPIPE_CACHE``, else ``$XDG_CACHE_HOME/segpipe``, else ``~/.cache/segpipe``: the cache's folder."""
    if given := os.environ.get("SEGPIPE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segpipe"


def read(name: str) -> Any:
    """Return the content that ``write`` stored under a name; None if it is missing or cannot be read."""
    with suppress(OSError, ValueError, RuntimeError, RecursionError, UserError):  # RuntimeError: no home folder
        return json.loads(read_bytes(folder() / f"{name}.json"))
    return None


def write(name: str, content: dict[str, Any]) -> None:
    """Store content under a name; does nothing if the folder cannot be written."""
    with suppress(OSError, RuntimeError):
        write_json(folder() / f"{name}.json", content)


def read_part(name: str, start: int, length: int, *, whole: int) -> bytearray | None:
    """Return ``length`` bytes of a file of ``write_parts``; None if the file does not have ``whole`` bytes."""
    part = bytearray(length)
    with suppress(OSError, RuntimeError), (folder() / f"{name}.parts").open("rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size == whole:
            file.seek(start)
            return part if file.readinto(part) == length else None
    return None


def write_parts(name: str, parts: Iterable[bytes], *, together: int) -> None:
    """Store parts in one file under a name, in order; does nothing if the folder cannot be written.

    together: maximal size of all such files together, in bytes. If they are larger, the oldest files are removed.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.writelines(parts)

    with suppress(OSError, RuntimeError):
        atomic_write(folder() / f"{name}.parts", write)
        newest = sorted(folder().glob("*.parts"), key=lambda path: path.stat().st_mtime, reverse=True)
        sizes = accumulate(path.stat().st_size for path in newest)
        for path, size in zip(newest, sizes, strict=True):
            if size > together:
                path.unlink(missing_ok=True)
