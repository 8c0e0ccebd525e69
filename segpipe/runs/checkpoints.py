"""The checkpoints of a run: atomic writing, reading with a check for damage, and which one to resume from."""

import errno
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

from segpipe.errors import UserError
from segpipe.runs.run import Run, display_path, repair_hint
from segpipe.runs.storage import SET_ASIDE, atomic_write, open_regular

Keep = Literal["all", "best", "none"]  # checkpoints to keep of a sweep's finished runs; best: its weights only
OF_WEIGHTS = ("epoch", "global_step", "state_dict")  # the keys of a checkpoint with weights only
NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64)  # of weights, buffers
WITHIN_EPOCH = "within_epoch"  # key of a checkpoint that was written before the end of its epoch
UNREADABLE = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def write(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint atomically. Raises OSError where writing fails, for example on a full disk."""

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch wraps the error of the file in it
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None

    atomic_write(path, save)


def read(path: Path, *, device: torch.device | str = "cpu", limit: int | None = None) -> dict[str, Any]:
    """Read a checkpoint of a run to a device. limit: the largest allowed size of the file, in bytes.

    Raises UserError where the file is damaged, too large, or not a checkpoint.
    """
    require_intact(path)
    size = path.stat().st_size
    if limit is not None and size > limit:
        raise UserError(
            f"{display_path(path)} has {size:,} bytes; the network of this run needs at most {limit:,}. It does not "
            f"belong to this configuration. {repair_hint(path.parent.parent)}"
        )
    try:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
        state = checkpoint["state_dict"]
        problem = next(filter(None, (malformed(name, tensor) for name, tensor in state.items())), None)
    except Exception as error:  # torch raises many kinds of errors for a file that it did not write
        problem = str(error).partition("\n")[0] or type(error).__name__
    if problem:
        raise UserError(f"{display_path(path)} is damaged: {problem}. {repair_hint(path.parent.parent)}")
    if problem := next(filter(None, (not_finite(name, tensor) for name, tensor in state.items())), None):
        raise UserError(
            f"{display_path(path)}: {problem}. Its training diverged: train again with a lower optimizer.lr."
        )
    return checkpoint  # type: ignore[no-any-return]


def problem_of(name: object, tensor: object) -> str | None:
    """Return what is wrong with an entry of a state dict: it has to be a tensor of finite numbers. None if it is."""
    return malformed(name, tensor) or not_finite(name, tensor)


def malformed(name: object, tensor: object) -> str | None:
    """Return why an entry of a state dict is no dense tensor of numbers with a name; None if it is one."""
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        return f"its entry {str(name)[:100]} is not a dense tensor with a name"
    if tensor.is_meta:
        return f"{name} has a shape but no numbers (device meta)"
    if tensor.dtype not in NUMBERS:
        return f"{name} holds {tensor.dtype}"
    return None


def not_finite(name: object, tensor: Any) -> str | None:
    """Return that a tensor holds numbers that are not finite; None if it holds none."""
    if tensor.dtype.is_floating_point and not torch.isfinite(tensor).all():
        return f"{name} holds numbers that are not finite"
    return None


def require_fit(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], path: Path) -> None:
    """Raise UserError where a state dict has other names, shapes or kinds of numbers than a network. path: its file."""
    for name in sorted(state.keys() | expected.keys()):
        if name not in state or name not in expected:
            problem = f"{name} is {'missing' if name not in state else 'not part of the network'}"
        elif state[name].shape != expected[name].shape:
            problem = f"{name} has the shape {list(state[name].shape)}, not {list(expected[name].shape)}"
        elif state[name].dtype.is_floating_point != expected[name].dtype.is_floating_point:
            problem = f"{name} holds {state[name].dtype}"
        else:
            continue
        raise UserError(
            f"{display_path(path)} does not fit the network of config.yaml: {problem[:300]}. "
            f"{repair_hint(path.parent.parent)}"
        )


def require_intact(path: Path) -> Path:
    """Return the path of a checkpoint. Raises UserError where it is damaged: torch would load flipped bits silently."""
    if not is_intact(path):
        raise UserError(f"{display_path(path)} is damaged. {repair_hint(path.parent.parent)}")
    return path


def is_intact(path: Path) -> bool:
    """Return whether a checkpoint is undamaged, by the checksums of the zip file. Torch writes but does not check them.

    False where there is no regular file, and where an entry is compressed: torch does not compress, and a small file
    could fill the memory. Raises UserError where the file cannot be read, which does not mean that it is damaged.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            size = os.fstat(file.fileno()).st_size
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                return False
            return sum(entry.file_size for entry in entries) <= size and archive.testzip() is None
    except Exception as error:  # a damaged header may raise any error in zipfile
        if isinstance(error, MemoryError):
            raise
        if isinstance(error, OSError) and error.errno in UNREADABLE:
            reason = f"{display_path(path)}: cannot be read ({error.strerror})"
            raise UserError(
                f"{reason}. Check its permissions and the disk, then run the same command again."
            ) from error
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
    if path is None:
        return 0
    checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return int(checkpoint["epoch"]) + (WITHIN_EPOCH not in checkpoint)


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


def write_weights(run: Run, path: Path) -> Path:
    """Write the weights of the best checkpoint to another file, without paths and the optimizer's state; return it."""
    checkpoint = read(run.checkpoint("best"))
    write(path, {key: checkpoint[key] for key in OF_WEIGHTS})
    return path


def weights_only(path: Path) -> bool:
    """Return whether a checkpoint has weights only: it can be used for prediction and warm_start, not to resume."""
    return "optimizer_states" not in torch.load(path, map_location="cpu", weights_only=True, mmap=True)
