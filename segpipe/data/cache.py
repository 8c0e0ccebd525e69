"""What was counted once, kept in the user's cache folder. It is never needed, so it is never a reason to fail."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from segpipe.runs import write_json


def folder() -> Path:
    """``$SEGPIPE_CACHE``, else ``$XDG_CACHE_HOME/segpipe``, else ``~/.cache/segpipe``."""
    if given := os.environ.get("SEGPIPE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segpipe"


def read(name: str) -> Any:
    """What ``write`` kept under a name; None where there is nothing, or nothing that can be read."""
    with suppress(OSError, ValueError, RuntimeError, RecursionError):  # RuntimeError: there is no home
        return json.loads((folder() / f"{name}.json").read_text(encoding="utf-8"))
    return None


def write(name: str, content: dict[str, Any]) -> None:
    """Keep content under a name; without effect where the folder cannot be written."""
    with suppress(OSError, RuntimeError):
        write_json(folder() / f"{name}.json", content)
