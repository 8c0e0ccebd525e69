"""A run is a folder: what lies in it, and how it is written (whole or not at all) and read."""

import csv
import fcntl
import io
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import UserError

Status = Literal["running", "finished", "failed", "interrupted"]
LOCK = ".lock"  # in a run's folder
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "albumentations", "numpy", "wandb")


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
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
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))  # type: ignore[func-returns-value, arg-type]


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
    """Read what ``write_history`` wrote; nothing where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def write_confusion(path: Path, *, names: list[str], groups: list[str], matrices: NDArray[np.int64]) -> None:
    """Write the (n, C, C) confusion matrices of n pictures with their names and groups."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(
                file, names=np.array(names), groups=np.array(groups), matrices=matrices.astype(np.int32)
            )

    write_whole(path, write)


def shown(path: Path) -> str:
    """A path as one would type it: from the working folder, where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def anew(folder: Path) -> str:
    """What to do about a run that is damaged."""
    return f"To mend it: the command that the run was begun with, and resume=auto hydra.run.dir={shown(folder)}."


class Run:
    """A run's folder and its record, ``run.json``; the record is empty where there is none yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record: dict[str, Any] = read_json(self.record_path)
        self.started = time.time()
        self.spent: float = self.record.get("wall_time_s", 0.0)  # seconds of the sessions before

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """A run that is there. Raises UserError where the folder is none."""
        run = cls(Path(folder))
        if not run.config.is_file():
            hint = (
                "no config.yaml in it" if run.folder.is_dir() else "a file" if run.folder.exists() else "no such folder"
            )
            raise UserError(
                f"{folder}: not a run ({hint}). Give the folder that a training printed at its end, "
                f"outputs/runs/... for a single one."
            )
        return run

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.folder / "config.yaml"

    @property
    def record_path(self) -> Path:
        """Status, seed, versions, times."""
        return self.folder / "run.json"

    @property
    def history(self) -> Path:
        """A line an epoch."""
        return self.folder / "history.csv"

    @property
    def metrics(self) -> Path:
        """Scores of every split, and cost."""
        return self.folder / "metrics.json"

    @property
    def pictures(self) -> Path:
        """Predictions to look at."""
        return self.folder / "pictures"

    def confusion(self, split: str) -> Path:
        """The confusion matrix of every picture of a split."""
        return self.folder / "confusion" / f"{split}.npz"

    def checkpoint(self, name: Literal["best", "last"]) -> Path:
        """Weights and the state of the training."""
        return self.folder / "checkpoints" / f"{name}.ckpt"

    def best_checkpoint(self) -> Path:
        """The checkpoint to predict with. Raises UserError where none was written."""
        if not self.checkpoint("best").is_file():
            status = self.record.get("status", "without a record")
            raise UserError(
                f"{self.folder}: no checkpoints/best.ckpt (the run is {status}). Finish its training first: "
                f"python -m segpipe.train resume={shown(self.folder)}"
            )
        return self.checkpoint("best")

    @contextmanager
    def held(self, *, wait: bool = False) -> Iterator[None]:
        """Inside, the run is this process's alone; the system lets go of it however the process ends.

        wait: until another process has let go of it. Raises UserError where one has it, and ``wait`` is not asked for.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = f"{self.folder}: a process ({self.record.get('pid', 'another')}) is still at work on it."
                if not wait:
                    raise UserError(f"{holder} Wait for it, or end it.") from None
                print(f"{holder} Waiting for it.", flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
                self.__init__(self.folder)  # type: ignore[misc]  # what it has written meanwhile
            except OSError:  # a file system without locks
                pass
            self.tidy()
            yield

    def tidy(self) -> None:
        """Remove what a process that was killed has half written."""
        for folder in (self.folder, self.checkpoint("last").parent):
            for part in folder.glob(".*.part"):
                part.unlink()

    @property
    def alive(self) -> bool:
        """Whether a process is at work on it."""
        with suppress(FileNotFoundError), (self.folder / LOCK).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:
                pass
        return False

    def forget(self) -> None:
        """Begin with an empty record."""
        self.record, self.spent = {}, 0.0

    def update(self, **entries: Any) -> None:
        """Put entries into the record, and the record on disk."""
        self.record |= entries
        self.record["wall_time_s"] = round(self.spent + time.time() - self.started, 1)
        write_json(self.record_path, self.record)


def environment() -> dict[str, Any]:
    """Versions of what a result may depend on."""
    versions = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "versions": versions, "git": git_state(Path(__file__).parent)}


def git_state(folder: Path) -> str | None:
    """Commit of the code, with ``+changes`` behind it where files differ; None outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
