"""Summaries of mask files: kind, size, and values, before their meaning is known. They are computed once and cached."""

import hashlib
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pydantic
from numpy.typing import NDArray
from rich.progress import track

from segpipe.data import cache
from segpipe.data.files import open_image
from segpipe.errors import UserError

FORMAT = 2  # of the cache: raise it if MaskSummary changes, or the kind that decode gives a file
MOST = 1024  # maximal number of different values; class masks have few
GRAY = 0x010101  # a gray value times this is the colour 0xRRGGBB


class DecodedMask(NamedTuple):
    """A decoded mask file.

    values: (H, W), uint8 for ``gray`` and ``palette`` (indices), int32 0xRRGGBB for ``colour``.
    palette: (256,) colours 0xRRGGBB of a palette file. format: of the file, as PNG.
    """

    kind: Literal["gray", "palette", "colour"]
    values: NDArray[np.uint8] | NDArray[np.int32]
    palette: NDArray[np.int32] | None
    format: str


@dataclass(frozen=True)
class MaskSummary:
    """A summary of a mask file.

    kind, format: see ``DecodedMask``. size: height and width in pixels.
    values: value to number of pixels; None if there are more than MOST values.
    palette: the colours of the values, in their order. error: why it cannot be read; all else is empty then.
    """

    kind: str = ""
    format: str = ""
    size: tuple[int, int] = (0, 0)
    values: dict[int, int] | None = None
    palette: list[int] | None = None
    error: str | None = None


def decode(path: Path) -> DecodedMask:
    """Decode a mask. Images of gray colours only, and of one bit per pixel (as 0 and 255), have the kind ``gray``.

    Raises UserError if the file is not an image, or its mode cannot represent classes.
    """
    picture = open_image(path)
    mode, form = picture.mode, picture.format or ""
    pixels = np.asarray(picture.convert("L") if mode == "1" else picture)
    colours = picture.getpalette("RGB") if mode == "P" else None
    if mode in ("LA", "RGBA") and (pixels[..., -1] == 255).all():
        mode, pixels = mode[:-1], pixels[..., :-1]
        pixels = pixels[..., 0] if mode == "L" else pixels
    if mode in ("L", "1"):
        return DecodedMask("gray", pixels, None, form)
    if mode == "P":
        table = np.zeros((256, 3), np.int32)
        table[: len(colours or []) // 3] = np.reshape(colours or [], (-1, 3))
        return DecodedMask("palette", pixels, packed(table), form)
    if mode == "RGB":
        if (pixels == pixels[..., :1]).all():
            return DecodedMask("gray", np.ascontiguousarray(pixels[..., 0]), None, form)
        return DecodedMask("colour", packed(pixels), None, form)
    raise UserError(f"{path}: a mask of {MODES.get(mode, f'mode {mode}')}. {INSTEAD}")


MODES = {
    **dict.fromkeys(("I;16", "I;16B", "I;16L", "I", "F"), "more than 8 bits (often numbers of objects, not classes)"),
    **dict.fromkeys(("LA", "RGBA", "PA"), "transparent pixels"),
}
INSTEAD = "Masks must be 8-bit: class indices, 0 and 255, or colours that classes.json names. Save it so, as PNG."


def packed(colours: NDArray) -> NDArray[np.int32]:
    """Return RGB (..., 3) as 0xRRGGBB (...)."""
    return (colours.astype(np.int32) << np.array([16, 8, 0], np.int32)).sum(-1, dtype=np.int32)


def look(path: Path) -> MaskSummary:
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
    return MaskSummary(stored.kind, stored.format, (height, width), pixels_by_value, palette)


KEPT = pydantic.TypeAdapter(dict[str, MaskSummary])
seen: dict[str, MaskSummary] = {}  # by path, size and time; used if the cache cannot be written


def summarise_masks(paths: list[Path]) -> list[MaskSummary]:
    """Return the summaries of all masks: from the cache, except for new and changed files."""
    absolute = [os.path.join(os.getcwd(), path) for path in paths]
    folders = sorted({os.path.dirname(path) for path in absolute})
    name = f"masks-{FORMAT}-{hashlib.blake2b(chr(10).join(folders).encode(), digest_size=8).hexdigest()}"
    statuses = [os.stat(path) for path in absolute]
    stamps = [f"{path} {status.st_size} {status.st_mtime_ns}" for path, status in zip(absolute, statuses, strict=True)]
    if not seen.keys() >= set(stamps):
        with suppress(pydantic.ValidationError):  # a damaged cache is ignored
            seen.update(KEPT.validate_python(cache.read(name) or {}))
    looks = {stamp: seen[stamp] for stamp in stamps if stamp in seen}
    if new := [index for index, stamp in enumerate(stamps) if stamp not in looks]:
        hidden = not sys.stdout.isatty()
        for index in track(new, f"Reading {len(new)} masks", transient=True, disable=hidden):
            looks[stamps[index]] = look(paths[index])
        readable = {stamp: one for stamp, one in looks.items() if not one.error}  # errors may be temporary
        seen.update(readable)
        if any(stamps[index] in readable for index in new):
            cache.write(name, {stamp: asdict(one) for stamp, one in readable.items()})
    return [looks[stamp] for stamp in stamps]
