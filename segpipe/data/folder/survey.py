"""Summaries of mask and image files, before the meaning of values is known. They are computed once and cached."""

import hashlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pydantic
from numpy.typing import NDArray
from rich.progress import track

from segpipe.data import cache
from segpipe.data.files import alpha_of, most_bytes, read_stored_header, reading
from segpipe.data.forms import ImageSummary
from segpipe.data.masks import (
    AS_MASK,
    has_wide_numbers,
    mask_header,
    open_mask,
    read_gray_window,
    read_mask_values,
    small_values,
)
from segpipe.errors import UserError
from segpipe.runs.storage import open_regular

FORMAT = 5  # of the cache: raise it if a summary changes, what it says of a file, or which files are rejected
MOST = 1024  # maximal number of different values; class masks have few
GRAY = 0x010101  # a gray value times this is the colour 0xRRGGBB


class DecodedMask(NamedTuple):
    """A decoded mask file.

    values: (H, W), uint8 for ``gray`` and ``palette`` (indices), int32 0xRRGGBB for ``colour``.
    palette: (256,) colours 0xRRGGBB of a palette file. format: of the file, as PNG. orientation: by which it was turned
    upright, as in EXIF; 1: not turned. overlap: pixels that have labels of several classes; one of them was chosen.
    """

    kind: Literal["gray", "palette", "colour"]
    values: NDArray[np.uint8] | NDArray[np.int32]
    palette: NDArray[np.int32] | None
    format: str
    orientation: int = 1
    overlap: int = 0


class MaskSource(ABC):
    """A mask that is not one file with the classes of the pixels, but made from files: from polygons, for example.

    path: the file that a message names, and the default of its text.
    """

    path: Path

    @abstractmethod
    def decode(self) -> DecodedMask:
        """Return the mask. Raises UserError that names an invalid file."""

    @abstractmethod
    def stamp(self) -> str:
        """Return a text that changes when the files or the way of reading them change."""

    def __str__(self) -> str:
        """Return the path, for messages."""
        return str(self.path)


@dataclass(frozen=True)
class MaskSummary:
    """A summary of a mask file.

    kind, format, orientation, overlap: see ``DecodedMask``. size: height and width in pixels.
    values: value to number of pixels; None if there are more than MOST values.
    palette: the colours of the values, in their order. error: why it cannot be read; all else is empty then.
    """

    kind: str = ""
    format: str = ""
    size: tuple[int, int] = (0, 0)
    values: dict[int, int] | None = None
    palette: list[int] | None = None
    error: str | None = None
    orientation: int = 1
    overlap: int = 0


def decode(path: Path | MaskSource) -> DecodedMask:
    """Decode a mask. Images of gray colours only, and of one bit per pixel (as 0 and 255), have the kind ``gray``.

    Arrays, and masks of other numbers than 8 bits, are ``gray`` too if they hold whole numbers up to 255. Raises
    UserError if the file is not an image, or if its values may not mean what its author sees.
    """
    if isinstance(path, MaskSource):
        return path.decode()
    picture, header = open_mask(path)
    if picture is None:
        values = small_values(read_mask_values(path), path)
        return DecodedMask("gray", values, None, header.format, header.orientation)
    mode, form, orientation = picture.mode, header.format, header.orientation
    pixels = np.asarray(picture.convert("L") if mode == "1" else picture)
    if mode in ("LA", "RGBA") and (pixels[..., -1] == 255).all():
        mode, pixels = mode[:-1], pixels[..., :-1]
        pixels = pixels[..., 0] if mode == "L" else pixels
    if mode in ("L", "1"):
        return DecodedMask("gray", pixels, None, form, orientation)
    if mode == "P":
        colours = np.reshape(picture.getpalette("RGB") or [], (-1, 3))
        if is_inverted(colours):
            raise UserError(
                f"{path}: a palette in which 0 is the brightest gray (ImageJ's inverting LUT), so programs disagree on "
                f"what is foreground. {AS_MASK}"
            )
        table = np.zeros((256, 3), np.int32)
        table[: len(colours)] = colours
        return DecodedMask("palette", pixels, packed(table), form, orientation)
    if mode == "RGB":
        if (pixels == pixels[..., :1]).all():
            return DecodedMask("gray", np.ascontiguousarray(pixels[..., 0]), None, form, orientation)
        return DecodedMask("colour", packed(pixels), None, form, orientation)
    kind = "transparent pixels" if mode in ("LA", "RGBA", "PA") else f"mode {mode}"
    raise UserError(
        f"{path}: a mask of {kind}. Masks must be 8-bit: class indices, 0 and 255, or colours that classes.json names. "
        f"Save it so, as PNG."
    )


def decode_window(path: Path | MaskSource, rows: slice, columns: slice) -> DecodedMask:
    """Decode a part of a mask; see ``decode``. Of a TIFF of one band, and of an array, only this part is read."""
    if isinstance(path, MaskSource):
        whole = path.decode()
        return whole._replace(values=whole.values[rows, columns])
    with reading(path), open_regular(path, limit=most_bytes()) as file:
        header = mask_header(file, path)
    if has_wide_numbers(header):
        return DecodedMask("gray", small_values(read_mask_values(path, rows, columns), path), None, header.format)
    if (part := read_gray_window(path, rows, columns)) is not None:
        return DecodedMask("gray", part, None, header.format)
    whole = decode(path)
    return whole._replace(values=whole.values[rows, columns])


def is_inverted(colours: NDArray) -> bool:
    """Return whether a palette (N, 3) is a ramp of grays from bright to dark."""
    gray = colours[:, :1]
    return len(colours) > 1 and bool((colours == gray).all() and (np.diff(gray[:, 0].astype(int)) < 0).all())


def packed(colours: NDArray) -> NDArray[np.int32]:
    """Return RGB (..., 3) as 0xRRGGBB (...)."""
    return (colours.astype(np.int32) << np.array([16, 8, 0], np.int32)).sum(-1, dtype=np.int32)


def look(path: Path | MaskSource) -> MaskSummary:
    """Decode a mask and summarise it."""
    try:
        stored = decode(path)
    except UserError as error:
        return MaskSummary(error=str(error))
    height, width = stored.values.shape
    if stored.kind == "colour":
        values, counts = np.unique(stored.values, return_counts=True)
    else:
        counts = np.bincount(stored.values.ravel(), minlength=256)
        values = np.flatnonzero(counts)
        counts = counts[values]
    pixels_by_value = dict(zip(values.tolist(), counts.tolist(), strict=True)) if len(values) <= MOST else None
    palette = None if stored.palette is None else stored.palette[values].tolist()
    return MaskSummary(
        stored.kind,
        stored.format,
        (height, width),
        pixels_by_value,
        palette,
        orientation=stored.orientation,
        overlap=stored.overlap,
    )


def look_at_image(path: Path) -> ImageSummary:
    """Summarise an image by its header; it is decoded only if it may have transparency."""
    try:
        header = read_stored_header(path)
        beside = alpha_of(path, header)
    except UserError as error:
        return ImageSummary(error=str(error))
    return ImageSummary(
        header.orientation,
        bands=header.bands,
        depth=header.depth,
        pages=header.pages,
        shape=header.shape,
        beside=beside,
        rgb=header.rgb,
        size=header.upright_size,
    )


Summary = TypeVar("Summary", MaskSummary, ImageSummary)
File = TypeVar("File", Path, Path | MaskSource)
seen: dict[str, Any] = {}  # summaries by kind, path, size and time; used if the cache cannot be written


def summarise_masks(paths: list[Path | MaskSource]) -> list[MaskSummary]:
    """Return the summaries of all masks: from the cache, except for new and changed files."""
    return summarise(paths, MaskSummary, look, "masks")


def summarise_images(paths: list[Path]) -> list[ImageSummary]:
    """Return the summaries of all images: from the cache, except for new and changed files."""
    return summarise(paths, ImageSummary, look_at_image, "images")


def summarise(
    paths: Sequence[File], kind: type[Summary], summary_of: Callable[[File], Summary], title: str
) -> list[Summary]:
    """Return the summaries of all files: from the cache, except for new and changed files, and those with errors."""
    absolute = [os.path.join(os.getcwd(), path if isinstance(path, Path) else path.path) for path in paths]
    folders = sorted({os.path.dirname(path) for path in absolute})
    place = "\n".join(folders).encode(errors="surrogateescape")
    name = f"{title}-{FORMAT}-{hashlib.blake2b(place, digest_size=8).hexdigest()}"
    stamps = [
        f"{title} {name} {stamp(name) if isinstance(path, Path) else path.stamp()}"
        for path, name in zip(paths, absolute, strict=True)
    ]
    if not seen.keys() >= set(stamps):
        stored = pydantic.TypeAdapter(dict[str, kind])  # type: ignore[valid-type]
        with suppress(pydantic.ValidationError):  # a damaged cache is ignored
            seen.update(stored.validate_python(cache.read(name) or {}))
    looks = {mark: seen[mark] for mark in stamps if mark in seen}
    if new := [index for index, mark in enumerate(stamps) if mark not in looks]:
        hidden = not sys.stdout.isatty()
        for index in track(new, f"Reading {len(new)} {title}", transient=True, disable=hidden):
            looks[stamps[index]] = summary_of(paths[index])
        readable = {mark: one for mark, one in looks.items() if not one.error}  # errors may be temporary
        seen.update(readable)
        if any(stamps[index] in readable for index in new):
            cache.write(name, {mark: asdict(one) for mark, one in readable.items()})
    return [looks[mark] for mark in stamps]


def stamp(path: str | Path) -> str:
    """Return the size and the modification time of a file; nothing if it has vanished."""
    with suppress(OSError):
        status = os.stat(path)
        return f"{status.st_size} {status.st_mtime_ns}"
    return ""
