"""A run is a folder: what lies in it, whose it is while it is trained, and its record."""

import fcntl
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from segpipe.errors import UserError
from segpipe.runs.storage import read_json, write_json

Status = Literal["running", "finished", "failed", "interrupted"]
LOCK = ".lock"  # in a run's folder


def display_path(path: Path) -> str:
    """A path as one would type it: from the working folder, where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def repair_hint(folder: Path) -> str:
    """What to do about a run that is damaged."""
    return f"To mend it: the command that the run was begun with, and resume=auto hydra.run.dir={display_path(folder)}."


@contextmanager
def file_lock(folder: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Inside, no other process is at work on a folder; the system lets go of it however this one ends.

    busy: called before waiting for another process; it may raise instead. Without locks in a file system, nobody waits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass
        yield


def remove_if_empty(folder: Path, *, beside: frozenset[str] = frozenset({LOCK})) -> None:
    """Remove the folder that Hydra made for a training that was refused, or went on elsewhere, if it is empty."""
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= beside:
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


class Run:
    """A run's folder and its record, ``run.json``; the record is empty where there is none yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read()

    def read(self) -> None:
        """Take the record from the disk."""
        self.record: dict[str, Any] = read_json(self.record_path)
        self.started = time.time()
        self.previous_seconds: float = self.record.get("wall_time_s", 0.0)  # seconds of the sessions before

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

    @property
    def examples(self) -> Path:
        """The same few pictures for every run: photo, truth, prediction."""
        return self.pictures / "examples"

    def confusion(self, split: str) -> Path:
        """The confusion matrix of every picture of a split."""
        return self.folder / "confusion" / f"{split}.npz"

    def boundaries(self, split: str) -> Path:
        """What was counted at the boundaries and of the objects of every picture of a split."""
        return self.folder / "boundaries" / f"{split}.npz"

    def checkpoint(self, name: Literal["best", "last"]) -> Path:
        """Weights and the state of the training."""
        return self.folder / "checkpoints" / f"{name}.ckpt"

    def best_checkpoint(self) -> Path:
        """The checkpoint to predict with. Raises UserError where none was written."""
        if not self.checkpoint("best").is_file():
            status = self.record.get("status", "without a record")
            if status == "finished":
                left_out = ("resume=", "sweep.", "run_dir=", "hydra.")
                given = [str(one) for one in self.record.get("overrides", []) if not str(one).startswith(left_out)]
                raise UserError(
                    f"{self.folder}: its weights were not kept (sweep.keep=none, or a copy without checkpoints). To "
                    f"have them, train it again: python -m segpipe.train {shlex.join([*given, 'hydra.mode=RUN'])}"
                )
            raise UserError(
                f"{self.folder}: no checkpoints/best.ckpt (the run is {status}). Finish its training first: "
                f"python -m segpipe.train resume={display_path(self.folder)}"
            )
        return self.checkpoint("best")

    @contextmanager
    def lock(self, *, wait: bool = False) -> Iterator[None]:
        """Inside, the run is this process's alone.

        wait: until another process has let go of it. Raises UserError where one has it, and ``wait`` is not asked for.
        """

        def busy() -> None:
            holder = f"{self.folder}: a process ({self.record.get('pid', 'another')}) is still at work on it."
            if not wait:
                raise UserError(f"{holder} Wait for it, or end it.")
            print(f"{holder} Waiting for it.", flush=True)

        with file_lock(self.folder, busy):
            self.read()  # what another process has written meanwhile
            self.remove_partial_files()
            yield

    def remove_partial_files(self) -> None:
        """Remove what a process that was killed has half written."""
        for folder in (self.folder, self.checkpoint("last").parent):
            for part in folder.glob(".*.part"):
                part.unlink()

    @property
    def is_running(self) -> bool:
        """Whether a process is at work on it."""
        with suppress(FileNotFoundError), (self.folder / LOCK).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:
                pass
        return False

    def reset(self) -> None:
        """Begin with an empty record."""
        self.record, self.previous_seconds = {}, 0.0

    def update(self, **entries: Any) -> None:
        """Put entries into the record, and the record on disk."""
        self.record |= entries
        self.record["wall_time_s"] = round(self.previous_seconds + time.time() - self.started, 1)
        write_json(self.record_path, self.record)

    def finish(self, status: Status, error: str) -> None:
        """Write how it ended. That a process is gone tells it too, so a full disk is a line and no error."""
        try:
            self.update(status=status, error=error)
        except OSError as full:
            print(f"{display_path(self.record_path)}: its last state could not be written ({full}).", file=sys.stderr)
