"""The checkpoints of a run: atomic writing, reading with a check for damage, and which one to resume from."""

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

from segpipe.errors import UserError
from segpipe.runs.run import Run, display_path, repair_hint
from segpipe.runs.storage import atomic_write

Keep = Literal["all", "best", "none"]  # checkpoints to keep of a sweep's finished runs; best: its weights only
OF_WEIGHTS = ("epoch", "global_step", "state_dict")  # the keys of a checkpoint with weights only
SET_ASIDE = ".damaged"  # suffix of a quarantined file


def write(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint atomically. Raises OSError where writing fails, for example on a full disk."""

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch wraps the error of the file in it
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None

    atomic_write(path, save)


def read(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint of a run to a device. Raises UserError where the file is damaged."""
    return torch.load(require_intact(path), map_location=device, weights_only=True)


def require_intact(path: Path) -> Path:
    """Return the path of a checkpoint. Raises UserError where it is damaged: torch would load flipped bits silently."""
    if not is_intact(path):
        raise UserError(f"{display_path(path)} is damaged. {repair_hint(path.parent.parent)}")
    return path


def is_intact(path: Path) -> bool:
    """Return whether a checkpoint is undamaged, by the checksums of the zip file. Torch writes but does not check them.

    False where there is no file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged header may raise any error in zipfile
        return False


def latest_intact(run: Run) -> Path | None:
    """Return the checkpoint to resume from: the last one, else the best one; None where neither can be used.

    A best checkpoint must be intact if there is one: it is tested at the end, and a resumed run may never write it
    again. A checkpoint with weights only cannot be resumed.
    """
    best, last = run.checkpoint("best"), run.checkpoint("last")
    if best_is_damaged(run):
        return None
    whole_ones = (path for path in (last, best) if path.is_file() and is_intact(path))
    return next((path for path in whole_ones if not weights_only(path)), None)


def epochs_done(run: Run) -> int:
    """Return the number of epochs that the checkpoint to resume from has trained; 0 where there is none."""
    path = latest_intact(run)
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["epoch"]) + 1 if path else 0


def stamps(run: Run) -> list[tuple[int, int]]:
    """Return time of change and size of the run's checkpoints, which differ once a checkpoint was written."""
    files = [run.checkpoint("best"), run.checkpoint("last")]
    return [(path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else (0, 0) for path in files]


def best_is_damaged(run: Run) -> bool:
    """Return whether there is a best checkpoint and it is damaged."""
    best = run.checkpoint("best")
    return best.is_file() and not is_intact(best)


def quarantine(run: Run) -> list[str]:
    """Rename the run's checkpoints so that a training can start from scratch in its folder; return the new paths."""
    renamed = []
    for name in ("last", "best"):
        path = run.checkpoint(name)  # type: ignore[arg-type]
        if path.is_file():
            renamed.append(display_path(path.rename(path.with_name(path.name + SET_ASIDE))))
    return renamed


def compact(run: Run, keep: Keep) -> None:
    """Remove the checkpoints of a finished run that are not to be kept. Calling it again has no effect.

    Raises OSError or UserError where the best checkpoint cannot be rewritten. In this case all checkpoints are kept.
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
        with suppress(OSError):  # the folder does not exist, or it has other files
            best.parent.rmdir()


def weights_only(path: Path) -> bool:
    """Return whether a checkpoint has weights only: it can be used for prediction and warm_start, not to resume."""
    return "optimizer_states" not in torch.load(path, map_location="cpu", weights_only=True, mmap=True)
