"""The pixels of a TIFF file as stored: any number of bands and type of numbers, whole or a window.

Only the strips or tiles that a window needs are read and decompressed, each to the size that the header gives it: files
may come from strangers. tifffile has no such bound, and needs a further library for LZW, ZSTD and predictors.
Sources: TIFF 6.0 (Adobe 1992), its technical note 3 (floating point predictor), BigTIFF.
"""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segpipe.data.header import MOST_PAGES, MOST_SEGMENTS, REDUCED, SEGMENTS, TRANSPARENCY, Directories, open_as

KINDS = {1: "u", 2: "i", 3: "f"}  # numpy's letters by TIFF's SampleFormat
COMPRESSIONS = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits", 34925: "LZMA", 50000: "ZSTD"}
BY_LIBTIFF = {5, 32773, 34925, 50000}  # Pillow's copy of libtiff decompresses these
MOST_PART = 2**28  # bytes of a strip or tile that are always allowed, however small the image is
NODATA = 42113  # GDAL's tag: the number that stands for no data, as text
LAYOUT = {254, 256, 257, 258, 259, 262, 266, 277, 278, 284, 317, 322, 323, 339, NODATA} | SEGMENTS


class Unsupported(ValueError):
    """Raised for a TIFF that this reader does not decode; others may."""


class Page(NamedTuple):
    """The layout of one page.

    height, width, bands: of the page. kind: of the numbers, in the file's byte order. compression, predictor: TIFF's
    codes. planar: each band is stored alone. segment: height and width of a strip or a tile. tiled: tiles are stored
    completely, also where they extend beyond the image. offsets, counts: of each segment in the file, in bytes. nodata:
    the number that stands for no data.
    """

    height: int
    width: int
    bands: int
    kind: np.dtype
    compression: int
    predictor: int
    planar: bool
    segment: tuple[int, int]
    tiled: bool
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    nodata: float | None
    photometric: int


def read_pages(file: BinaryIO) -> list[Page]:
    """Return the layout of all pages, without smaller copies and masks.

    Raises Unsupported, and ValueError or struct.error for damaged files.
    """
    directories = Directories(file)
    pages: list[Page] = []
    offset, visited = directories.first, set[int]()
    while offset and offset not in visited and len(visited) < MOST_PAGES:
        visited.add(offset)
        tags, following = directories.read(offset, tags=LAYOUT)
        if not pages or not (tags.get(254) or (0,))[0] & (REDUCED | TRANSPARENCY):
            pages.append(page_of(tags, directories.order))
        if sum(len(page.offsets) for page in pages) > MOST_SEGMENTS:
            raise ValueError(f"a TIFF of more than {MOST_SEGMENTS} parts")
        offset = following
    return pages


def page_of(tags: dict[int, tuple[int, ...]], order: str) -> Page:
    """Return the layout of a page from its tags. Raises Unsupported for one that cannot be read here."""

    def first(tag: int, default: int) -> int:
        return (tags.get(tag) or (default,))[0]

    height, width, bands = first(257, 0), first(256, 0), first(277, 1)
    bits, kinds, compression, photometric = tags.get(258) or (1,), tags.get(339) or (1,), first(259, 1), first(262, 1)
    if len({*bits}) > 1 or len({*kinds}) > 1 or bits[0] not in (8, 16, 32, 64) or kinds[0] not in KINDS:
        raise Unsupported(f"numbers of {', '.join(map(str, dict.fromkeys(bits)))} bits")
    if compression not in COMPRESSIONS:
        raise Unsupported(f"compression {compression}")
    if photometric not in (0, 1, 2) or first(266, 1) != 1:
        raise Unsupported(f"photometric interpretation {photometric}")
    if kinds[0] == 3 and bits[0] == 8:
        raise Unsupported("floating point numbers of 8 bits")
    tiled = 324 in tags
    segment = (first(323, 0), first(322, 0)) if tiled else (min(first(278, height), height), width)
    offsets, counts = (tags.get(tag, ()) for tag in ((324, 325) if tiled else (273, 279)))
    page = Page(
        height, width, bands, np.dtype(f"{order}{KINDS[kinds[0]]}{bits[0] // 8}"), compression, first(317, 1),
        first(284, 1) == 2 and bands > 1, segment, tiled, offsets, counts, number(bytes(tags.get(NODATA, ()))),
        photometric,
    )  # fmt: skip
    if min(height, width, bands, *segment) < 1:
        raise ValueError("a TIFF without pixels")
    rows, columns = grid(page)
    expected = rows * columns * (bands if page.planar else 1)
    if not len(offsets) == len(counts) == expected:
        raise ValueError(f"a TIFF of {expected} parts with {len(offsets)} positions and {len(counts)} lengths")
    pixel_bytes = page.kind.itemsize * (1 if page.planar else bands)
    if max(segment) > 2**24 or segment[0] * segment[1] * pixel_bytes > 4 * height * width * pixel_bytes + MOST_PART:
        raise ValueError(f"a TIFF with tiles of {segment[0]} x {segment[1]} for {height} x {width} pixels")
    return page


def number(text: bytes) -> float | None:
    """Return the number in a text tag; None if it is none."""
    try:
        return float(text.split(b"\0")[0].decode("ascii", "replace"))
    except ValueError:
        return None


def grid(page: Page) -> tuple[int, int]:
    """Return the number of segments from top to bottom and from left to right."""
    return -(-page.height // page.segment[0]), -(-page.width // page.segment[1])


def read_window(file: BinaryIO, page: Page, rows: range, columns: range) -> NDArray:
    """Return a window of a page, (h, w, bands), in the computer's byte order. Raises ValueError for damaged parts."""
    kind = page.kind.newbyteorder("=")
    window = np.zeros((len(rows), len(columns), page.bands), kind)
    if not window.size:
        return window
    for row, column, band, index in segments(page, rows, columns):
        top, left = row * page.segment[0], column * page.segment[1]
        height = page.segment[0] if page.tiled else min(page.segment[0], page.height - top)
        shape = (height, page.segment[1], 1 if page.planar else page.bands)
        part = decode_segment(file, page, index, shape)
        up, down = max(top, rows.start), min(top + height, rows.stop)
        west, east = max(left, columns.start), min(left + shape[1], columns.stop)
        bands = slice(band, band + 1) if page.planar else slice(None)
        window[up - rows.start : down - rows.start, west - columns.start : east - columns.start, bands] = part[
            up - top : down - top, west - left : east - left
        ]
    return window


def segments(page: Page, rows: range, columns: range) -> Iterator[tuple[int, int, int, int]]:
    """Yield row, column, band and index of each segment that a window needs; the band is 0 if all are together."""
    down, across = grid(page)
    height, width = page.segment
    for band in range(page.bands if page.planar else 1):
        for row in range(rows.start // height, (rows.stop - 1) // height + 1):
            for column in range(columns.start // width, (columns.stop - 1) // width + 1):
                yield row, column, band, (band * down + row) * across + column


def decode_segment(file: BinaryIO, page: Page, index: int, shape: tuple[int, int, int]) -> NDArray:
    """Return a segment (h, w, bands). A segment of no bytes, as GDAL writes, has no data."""
    kind = page.kind.newbyteorder("=")
    if not page.counts[index]:
        with np.errstate(invalid="ignore", over="ignore"):  # a number that the type does not have
            return np.full(shape, np.float64(page.nodata or 0).astype(kind))
    size = shape[0] * shape[1] * shape[2] * kind.itemsize
    file.seek(page.offsets[index])
    data = file.read(min(page.counts[index], 2 * size + 2**16))
    data = decompress(data, page.compression, size, shape[0])
    if len(data) < size:
        raise ValueError(f"a part of {len(data)} bytes instead of {size}")
    if page.predictor == 3 and kind.kind == "f":
        return floats(np.frombuffer(data, np.uint8, size), shape, kind)
    values = np.frombuffer(data, page.kind, size // kind.itemsize).reshape(shape).astype(kind)
    if page.predictor == 2:  # each number is the difference to its neighbour on the left
        whole = values.view(f"u{kind.itemsize}")
        values = np.cumsum(whole, axis=1, dtype=whole.dtype).view(kind)
    elif page.predictor != 1:
        raise Unsupported(f"predictor {page.predictor}")
    return values


def decompress(data: bytes, compression: int, size: int, rows: int) -> bytes:
    """Return at most ``size`` bytes of a segment of ``rows`` rows. Raises many kinds of errors for damaged data."""
    if compression == 1:
        return data
    if compression in BY_LIBTIFF:
        picture = open_as("TIFF", BytesIO(single_strip(data, compression, rows, size // rows)))
        return picture.tobytes()
    return zlib.decompressobj().decompress(data, size)


def single_strip(data: bytes, compression: int, rows: int, width: int) -> bytes:
    """Return a TIFF of one strip, of ``rows`` x ``width`` pixels of 8 bits, whose compressed bytes are ``data``."""
    tags = {256: width, 257: rows, 258: 8, 259: compression, 262: 1, 273: 8, 277: 1, 278: rows, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    padded = data + bytes(len(data) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(padded)) + padded + struct.pack("<H", len(tags)) + entries + bytes(4)


def floats(data: NDArray[np.uint8], shape: tuple[int, int, int], kind: np.dtype) -> NDArray:
    """Undo the floating point predictor: bytes of equal weight lie together, as differences to their neighbours."""
    rows, columns, bands = shape
    whole = data.reshape(rows, -1, bands).cumsum(axis=1, dtype=np.uint8).reshape(rows, kind.itemsize, columns * bands)
    return np.ascontiguousarray(whole.swapaxes(1, 2)).view(kind.newbyteorder(">")).reshape(shape).astype(kind)
