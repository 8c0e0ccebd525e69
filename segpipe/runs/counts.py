"""Files with the counts of every image of a split."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from segpipe.errors import UserError
from segpipe.metrics.boundaries import NAMES, BoundaryCounts, arrays, tally_of
from segpipe.metrics.confusion import RatioCounts
from segpipe.runs.storage import atomic_write, open_regular

MAX_ARRAY_BYTES = 2**30  # of one array
MAX_COUNT = 2**53  # larger counts are not exact in float64


def write_confusion(path: Path, *, names: list[str], groups: list[str], matrices: NDArray[np.int64]) -> None:
    """Write the (n, C, C) confusion matrices of n images with their names and groups. Counts are pixels."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(
                file, names=np.array(names), groups=np.array(groups), matrices=matrices.astype(np.int32)
            )

    atomic_write(path, write)


def write_boundaries(path: Path, *, names: list[str], counts: BoundaryCounts) -> None:
    """Write the boundary and object counts of every image, one array per score, with the names of the images."""
    counted = {
        name: array.astype(np.float64 if array.ndim == 1 else np.int32) for name, array in arrays(counts).items()
    }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, names=np.array(names), **counted)  # type: ignore[arg-type]

    atomic_write(path, write)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of an npz file that may come from a stranger. Counts are from 0 to MAX_COUNT, or NaN.

    Sizes are checked before anything is decompressed. Raises ValueError with the reason where the file is anything
    else, FileNotFoundError where there is none, UserError where it is not a regular file.
    """
    with open_regular(path) as raw:
        try:
            with zipfile.ZipFile(raw) as archive:
                return {entry.filename.removesuffix(".npy"): read_array(archive, entry) for entry in archive.infolist()}
        except (
            zipfile.BadZipFile,
            zipfile.LargeZipFile,
            EOFError,
            OSError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise ValueError(f"damaged ({error})") from error
        except Exception as error:  # zlib and numpy raise further kinds of errors for damaged bytes
            raise ValueError(str(error).partition("\n")[0] or type(error).__name__) from error


def read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    """Read one array of an npz file. Raises ValueError where it is no array of counts or texts."""
    if entry.file_size > MAX_ARRAY_BYTES:
        raise ValueError(f"{entry.filename} has {entry.file_size:,} bytes; at most {MAX_ARRAY_BYTES:,} are read")
    with archive.open(entry) as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{entry.filename} has the unknown format {version}")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        if dtype.kind not in "iufU" or any(side < 0 for side in shape):
            raise ValueError(f"{entry.filename} holds {dtype}; only numbers and texts are read")
        size = math.prod(shape) * dtype.itemsize
        content = file.read(MAX_ARRAY_BYTES + 1)
    if len(content) != size:
        raise ValueError(f"{entry.filename} has {len(content):,} bytes, but its header says {size:,}")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    values = array[~np.isnan(array)] if dtype.kind == "f" else array  # NaN: a score that an image does not define
    if dtype.kind != "U" and values.size and not (values.min() >= 0 and values.max() <= MAX_COUNT):
        raise ValueError(f"{entry.filename} holds values that are not counts: {values.min()} to {values.max()}")
    return array.copy()  # writable


def read_confusion(path: Path) -> dict[str, NDArray[Any]]:
    """Read the file of ``write_confusion``: names (n,), groups (n,), matrices (n, C, C).

    Raises ValueError and other errors as ``read_arrays``.
    """
    content = read_arrays(path)
    names, groups, matrices = (content.get(name) for name in ("names", "groups", "matrices"))
    if names is None or groups is None or matrices is None:
        raise ValueError("names, groups or matrices are missing")
    n, *sides = matrices.shape
    if len(sides) != 2 or sides[0] != sides[1] or names.shape != (n,) or groups.shape != (n,):
        raise ValueError(f"matrices {matrices.shape} do not fit names {names.shape} and groups {groups.shape}")
    if matrices.dtype.kind not in "iu" or {names.dtype.kind, groups.dtype.kind} != {"U"}:
        raise ValueError(f"matrices hold {matrices.dtype}, names {names.dtype}, groups {groups.dtype}")
    return content


def read_boundaries(path: Path) -> dict[str, RatioCounts]:
    """Read the scores of NAMES that a file has. Raises UserError where the file does not exist or is damaged."""
    again = "python -m segpipe.evaluate RUN counts them again and writes boundaries.npz to a folder that it prints."
    try:
        content = read_arrays(path)
        return {name: tally_of(content[name]) for name in NAMES if name in content}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, so this test did not count boundaries. {again}") from None
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}). {again}") from None
