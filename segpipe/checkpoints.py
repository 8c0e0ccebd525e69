"""Which checkpoint of a run can be gone on with: files that were cut short or damaged are told from whole ones."""

import zipfile
from pathlib import Path

from segpipe.runs import Run, shown

DAMAGED = ".damaged"  # what the name of a file that was set aside ends with


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is as it was written, by the checksums in the zip that torch writes and does not check."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile raises whatever a damaged header leads it to
        return False


def newest_whole(run: Run) -> Path | None:
    """The checkpoint to go on with: the last, else the best; None where that would not give what the run would have.

    The best one must be whole if there is one: it is tested in the end, and a run that goes on may not write it again.
    """
    best, last = run.checkpoint("best"), run.checkpoint("last")
    if best.is_file() and not is_whole(best):
        return None
    return next((path for path in (last, best) if path.is_file() and is_whole(path)), None)


def set_aside(run: Run) -> list[str]:
    """Rename the run's checkpoints, so that a training may begin anew there; return what they are called now."""
    renamed = []
    for name in ("last", "best"):
        path = run.checkpoint(name)  # type: ignore[arg-type]
        if path.is_file():
            renamed.append(shown(path.rename(path.with_name(path.name + DAMAGED))))
    return renamed
