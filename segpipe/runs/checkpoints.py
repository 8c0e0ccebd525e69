"""A run's checkpoints: written whole, read if whole; which one can be gone on with."""

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

from segpipe.errors import UserError
from segpipe.runs.run import Run, display_path, repair_hint
from segpipe.runs.storage import atomic_write

Keep = Literal["all", "best", "none"]  # of the checkpoints of a sweep's finished runs; best: its weights only
OF_WEIGHTS = ("epoch", "global_step", "state_dict")  # what a checkpoint of weights only holds
SET_ASIDE = ".damaged"  # what the name of a file that was set aside ends with


def write(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint, whole. Raises OSError where that fails: on a full disk, say."""

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's own word for what the file has raised
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None

    atomic_write(path, save)


def read(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint of a run. Raises UserError where it is damaged."""
    return torch.load(require_intact(path), map_location=device, weights_only=True)


def require_intact(path: Path) -> Path:
    """A checkpoint of a run. Raises UserError where it is damaged: torch would take weights with a bit flipped."""
    if not is_intact(path):
        raise UserError(f"{display_path(path)} is damaged. {repair_hint(path.parent.parent)}")
    return path


def is_intact(path: Path) -> bool:
    """Whether a checkpoint is as it was written, by the checksums in the zip that torch writes and does not check."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile raises whatever a damaged header leads it to
        return False


def latest_intact(run: Run) -> Path | None:
    """The checkpoint to go on with: the last, else the best; None where that would not give what the run would have.

    The best one must be whole if there is one: it is tested in the end, and a run that goes on may not write it again.
    Weights only are not enough.
    """
    best, last = run.checkpoint("best"), run.checkpoint("last")
    if best_is_damaged(run):
        return None
    whole_ones = (path for path in (last, best) if path.is_file() and is_intact(path))
    return next((path for path in whole_ones if not weights_only(path)), None)


def best_is_damaged(run: Run) -> bool:
    """Whether there is a best checkpoint that is not whole."""
    best = run.checkpoint("best")
    return best.is_file() and not is_intact(best)


def quarantine(run: Run) -> list[str]:
    """Rename the run's checkpoints, so that a training may begin anew there; return what they are called now."""
    renamed = []
    for name in ("last", "best"):
        path = run.checkpoint(name)  # type: ignore[arg-type]
        if path.is_file():
            renamed.append(display_path(path.rename(path.with_name(path.name + SET_ASIDE))))
    return renamed


def compact(run: Run, keep: Keep) -> None:
    """Remove of a finished run's checkpoints what is not to be kept. Done again, it finds nothing left to do.

    Raises OSError and UserError where the best checkpoint cannot be rewritten; then all of them are still there.
    """
    best, last = run.checkpoint("best"), run.checkpoint("last")
    if keep == "best" and best.is_file():
        if not weights_only(require_intact(best)):
            checkpoint = read(best)
            write(best, {key: checkpoint[key] for key in OF_WEIGHTS})
        last.unlink(missing_ok=True)
    if keep == "none":
        for path in (last, best):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # no such folder, or what else lies in it
            best.parent.rmdir()


def weights_only(path: Path) -> bool:
    """Whether a checkpoint was made compact: it can be predicted with and begun from, but not gone on with."""
    return "optimizer_states" not in torch.load(path, map_location="cpu", weights_only=True, mmap=True)
