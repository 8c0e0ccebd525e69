"""Draw the regions of annotations: polygons, discs, run lengths, bitmaps.

Coordinates are those of COCO and LabelMe: x to the right and y down in pixels, with (0, 0) at the upper left corner of
the first pixel. A pixel belongs to a region if its centre lies inside.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segpipe.data.header import open_as

MOST_POINTS = 1_000_000  # of one polygon
MOST_CROSSINGS = 4_000_000  # rows that the edges of one polygon cross
MOST_COVER = 1000  # regions of one image together may cover the image so many times,
MOST_DRAWN = 10_000_000_000  # and have so many pixels
FAR = 1e6  # largest coordinate


class Patch(NamedTuple):
    """Pixels of a region: inside is boolean (h, w), with its upper left pixel at row ``top`` and column ``left``."""

    top: int
    left: int
    inside: NDArray[np.bool_]


class Region(ABC):
    """A region of an image."""

    @abstractmethod
    def patch(self, height: int, width: int) -> Patch:
        """Return the pixels of the region in an image of this size. Raises ValueError if it cannot be drawn."""


class Polygons(Region):
    """The union of polygons, each of which is a float array (N, 2) of x and y; inside is what lies inside of any."""

    def __init__(self, parts: Sequence[NDArray[np.float32]]) -> None:
        self.parts = parts

    def patch(self, height: int, width: int) -> Patch:
        """See Region. Crossing edges leave holes (the even-odd rule)."""
        points = np.concatenate(self.parts)
        limits = [width, height]
        low = [int(np.clip(np.floor(points[:, axis].min()), 0, limits[axis])) for axis in (0, 1)]
        high = [int(np.clip(np.ceil(points[:, axis].max()), low[axis], limits[axis])) for axis in (0, 1)]
        inside = np.zeros((high[1] - low[1], high[0] - low[0]), bool)
        for part in self.parts:
            inside |= filled(part.astype(np.float64) - low, *inside.shape)
        return Patch(low[1], low[0], inside)


def filled(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels (height, width) whose centres lie inside a polygon (N, 2) of x and y."""
    other = np.roll(points, -1, axis=0)
    upper = np.where((points[:, 1] <= other[:, 1])[:, None], points, other)
    lower = np.where((points[:, 1] <= other[:, 1])[:, None], other, points)
    first = np.clip(np.ceil(upper[:, 1] - 0.5), 0, height).astype(np.int64)  # the first row whose centre it reaches
    number = np.clip(np.ceil(lower[:, 1] - 0.5), 0, height).astype(np.int64) - first
    if number.sum() > MOST_CROSSINGS:
        raise ValueError(f"a polygon whose edges cross {number.sum():,} rows; allowed are {MOST_CROSSINGS:,}")
    edge = np.repeat(np.arange(len(points)), number)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(number) - number, number) + first[edge]
    run, rise = (lower - upper).T
    x = upper[edge, 0] + (rows + 0.5 - upper[edge, 1]) * run[edge] / rise[edge]
    columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    crossings, times = np.unique(rows * (width + 1) + columns, return_counts=True)
    turns = np.zeros(height * (width + 1), np.uint8)
    turns[crossings[times % 2 == 1]] = 1
    return np.bitwise_xor.accumulate(turns.reshape(height, width + 1), axis=1)[:, :width] == 1  # type: ignore[no-any-return]


class Disc(Region):
    """A disc with its centre at (x, y)."""

    def __init__(self, x: float, y: float, radius: float) -> None:
        self.x, self.y, self.radius = x, y, radius

    def patch(self, height: int, width: int) -> Patch:
        """See Region."""
        top, bottom = (int(np.clip(round(self.y + side * self.radius), 0, height)) for side in (-1, 1))
        left, right = (int(np.clip(round(self.x + side * self.radius), 0, width)) for side in (-1, 1))
        rows, columns = np.arange(top, bottom) + 0.5 - self.y, np.arange(left, right) + 0.5 - self.x
        return Patch(top, left, rows[:, None] ** 2 + columns**2 <= self.radius**2)


class Runs(Region):
    """COCO's run lengths: counts of pixels, column by column, alternately outside and inside. size: height, width."""

    def __init__(self, counts: NDArray[np.int64], size: tuple[int, int]) -> None:
        self.counts, self.size = counts, size

    def patch(self, height: int, width: int) -> Patch:
        """See Region."""
        if self.size != (height, width):
            raise ValueError(f"run lengths of {self.size[0]} x {self.size[1]} for an image of {height} x {width}")
        values = np.arange(len(self.counts)) % 2 == 1
        return Patch(0, 0, np.repeat(values, self.counts).reshape(width, height).T)


class Bitmap(Region):
    """Pixels of a gray PNG that are not 0; its upper left pixel is at (x, y). It is decoded when it is drawn."""

    def __init__(self, x: int, y: int, png: bytes) -> None:
        self.x, self.y, self.png = x, y, png

    def patch(self, height: int, width: int) -> Patch:
        """See Region."""
        try:
            inside = np.asarray(open_as("PNG", BytesIO(self.png))) != 0
        except Exception as error:  # decoders raise many kinds of errors for damaged files
            raise ValueError(f"a mask that cannot be decoded ({error})") from error
        top, left = max(self.y, 0), max(self.x, 0)
        rows, columns = slice(top - self.y, max(height - self.y, 0)), slice(left - self.x, max(width - self.x, 0))
        return Patch(top, left, inside[rows, columns])


def polygon(flat: Any, what: str) -> NDArray[np.float32]:
    """Return a polygon (N, 2) of a flat list [x, y, x, y, ...] or of pairs. Raises ValueError if it is none."""
    if not isinstance(flat, list) or len(flat) > 2 * MOST_POINTS:
        raise ValueError(f"{what}: a polygon of more than {MOST_POINTS:,} points, or no list")
    try:
        points = np.array(flat, np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{what}: a polygon is a list of x and y, not {str(flat)[:60]}") from error
    if len(points) < 3:
        raise ValueError(f"{what}: a polygon of {len(points)} points; it needs at least three")
    if not (np.abs(points) < FAR).all():  # NaN and infinity too
        raise ValueError(f"{what}: a polygon with a coordinate that is not a number of at most {FAR:g} pixels")
    return points.astype(np.float32)


def run_lengths(content: Any, what: str) -> Runs:
    """Return COCO's run lengths, of a list or compressed to a text. Raises ValueError if they are wrong."""
    size, counts = content.get("size"), content.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and 0 < n < FAR for n in size):
        raise ValueError(f"{what}: run lengths with size={str(size)[:60]}; allowed is [height, width]")
    if isinstance(counts, str):
        counts = decompressed(counts, what)
    if not isinstance(counts, list) or not all(type(n) is int and 0 <= n < 2**40 for n in counts):
        raise ValueError(f"{what}: run lengths that are no counts of pixels")
    if sum(counts) != size[0] * size[1]:
        raise ValueError(f"{what}: run lengths of {sum(counts):,} pixels for {size[0]} x {size[1]}; they must be equal")
    return Runs(np.array(counts, np.int64), (size[0], size[1]))


def decompressed(text: str, what: str) -> list[int]:
    """Return the counts of COCO's compressed run lengths.

    Each character holds 5 bits of a number, its lowest first, and a sixth that says whether more follow (character code
    minus 48). From the fourth count on, the number is the difference to the count before the last one.
    """
    counts: list[int] = []
    number = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 40:
            raise ValueError(f"{what}: compressed run lengths with the character {letter!r}")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (1 << shift) if bits & 16 else 0
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError(f"{what}: compressed run lengths that end too early")
    return counts
