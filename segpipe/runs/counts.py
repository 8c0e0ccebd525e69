"""Files of what was counted of every image of a split."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import UserError
from segpipe.metrics.boundaries import NAMES, BoundaryCounts, arrays, tally_of
from segpipe.metrics.confusion import RatioCounts
from segpipe.runs.storage import atomic_write


def write_confusion(path: Path, *, names: list[str], groups: list[str], matrices: NDArray[np.int64]) -> None:
    """Write the (n, C, C) confusion matrices of n pictures with their names and groups."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(
                file, names=np.array(names), groups=np.array(groups), matrices=matrices.astype(np.int32)
            )

    atomic_write(path, write)


def write_boundaries(path: Path, *, names: list[str], found: BoundaryCounts) -> None:
    """Write what was counted of every picture, an array for each score, with the pictures' names."""
    counted = {name: array.astype(np.float64 if array.ndim == 1 else np.int32) for name, array in arrays(found).items()}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, names=np.array(names), **counted)  # type: ignore[arg-type]

    atomic_write(path, write)


def read_boundaries(path: Path) -> dict[str, RatioCounts]:
    """Read those of NAMES that a file has. Raises UserError where there is no file, or a damaged one."""
    again = "python -m segpipe.evaluate RUN counts them again, into boundaries.npz in a folder that it names."
    try:
        with path.open("rb") as raw, np.load(raw) as file:  # numpy leaves a damaged one open
            return {name: tally_of(file[name]) for name in NAMES if name in file}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, so this test did not count boundaries. {again}") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged ({error}). {again}") from None
