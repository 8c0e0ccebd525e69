"""PNG files written a few rows at a time: neither the picture nor the file is in memory as a whole."""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segpipe.runs.storage import atomic_write

LEVEL = 1  # of zlib: several times faster than its default, files a little larger
AT_ONCE = 2**20  # pixels that are drawn and compressed at a time
SIGNATURE = b"\x89PNG\r\n\x1a\n"
NONE, SUB = 0, 1  # PNG's filters: the values; their differences from the pixel to the left


def bands_of(size: Sequence[int]) -> Iterator[slice]:
    """Yield the rows of a picture of ``size``, (H, W), in bands of about AT_ONCE pixels."""
    rows = max(1, AT_ONCE // size[1])
    return (slice(top, min(top + rows, size[0])) for top in range(0, size[0], rows))


def write_png(path: Path, bands: Iterable[NDArray[np.uint8]], size: Sequence[int], *, photo: bool = False) -> None:
    """Write a picture of ``size``, (H, W), atomically. bands: its rows from top to bottom, (h, W) or (h, W, 3) RGB.

    photo: the picture has few areas of one value; another filter makes such files smaller. The file is not forced to
    the disk: after a loss of power it may be damaged.
    """
    atomic_write(path, lambda temporary: write_rows(temporary, iter(bands), size, photo=photo), sync=False)


def write_rows(path: Path, bands: Iterator[NDArray[np.uint8]], size: Sequence[int], *, photo: bool) -> None:
    """Write the file of ``write_png``."""
    strategy = zlib.Z_RLE if photo else zlib.Z_DEFAULT_STRATEGY
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    with path.open("wb") as file:
        band = next(bands)
        colour = 2 if band.ndim == 3 else 0
        file.write(SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, colour, 0, 0, 0)))
        while True:
            if packed := packer.compress(filtered(band, SUB if photo else NONE).data):
                file.write(chunk(b"IDAT", packed))
            if (following := next(bands, None)) is None:
                break
            band = following
        file.write(chunk(b"IDAT", packer.flush()) + chunk(b"IEND", b""))


def filtered(band: NDArray[np.uint8], kind: int) -> NDArray[np.uint8]:
    """Return rows (h, W) or (h, W, 3) as PNG stores them: (h, 1 + bytes of a row), the filter first."""
    rows = band.reshape(len(band), -1)
    stored = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    stored[:, 0] = kind
    stored[:, 1:] = rows
    if kind == SUB:
        step = band.shape[2] if band.ndim == 3 else 1
        stored[:, 1 + step :] -= rows[:, :-step]
    return stored


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file: length, kind, content, checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
