"""Files with the counts of every image of a split."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import UserError
from segpipe.metrics.boundaries import NAMES, BoundaryCounts, arrays, tally_of
from segpipe.metrics.confusion import RatioCounts
from segpipe.runs.storage import atomic_write


def write_confusion(path: Path, *, names: list[str], groups: list[str], matrices: NDArray[np.int64]) -> None:
    """Write the (n, C, C) confusion matrices of n images with their names and groups. Counts are pixels."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(
                file, names=np.array(names), groups=np.array(groups), matrices=matrices.astype(np.int32)
            )

    atomic_write(path, write)


def write_boundaries(path: Path, *, names: list[str], found: BoundaryCounts) -> None:
    """Write the boundary and object counts of every image, one array per score, with the names of the images."""
    counted = {name: array.astype(np.float64 if array.ndim == 1 else np.int32) for name, array in arrays(found).items()}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, names=np.array(names), **counted)  # type: ignore[arg-type]

    atomic_write(path, write)


def read_boundaries(path: Path) -> dict[str, RatioCounts]:
    """Read the scores of NAMES that a file has. Raises UserError where the file does not exist or is damaged."""
    again = "python -m segpipe.evaluate RUN counts them again and writes boundaries.npz to a folder that it prints."
    try:
        with path.open("rb") as raw, np.load(raw) as file:  # numpy does not close a damaged file
            return {name: tally_of(file[name]) for name in NAMES if name in file}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, so this test did not count boundaries. {again}") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged ({error}). {again}") from None
