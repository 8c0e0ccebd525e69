"""Some pixels of each class, found once for a data set and stored in the user's cache: middles for crops."""

import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from segpipe.data import cache
from segpipe.data.class_counts import cache_name
from segpipe.data.dataset import Mask, SegmentationDataset

KEPT = 50_000  # pixels of each class, from all images together
KEPT_OF_IMAGE = 2_000  # pixels of each class, from one image
Found = tuple[int, int, list[int], list[int]]  # index of the image, its pixels of the class, rows, columns


class ClassPlaces(NamedTuple):
    """Some pixels of a class. images: (n,) indices of the images that contain it.

    ends: (n,) cumulative numbers of its pixels. rows, columns: n arrays of places, from 0 (top, left) to 1, of pixels
    that are drawn evenly from those of the class in the image.
    """

    images: NDArray[np.int64]
    ends: NDArray[np.int64]
    rows: list[NDArray[np.float64]]
    columns: list[NDArray[np.float64]]

    def draw(self, random: np.random.Generator) -> tuple[int, tuple[float, float]]:
        """Return an image and a place in it. All pixels of the class are about equally likely."""
        which = int(np.searchsorted(self.ends, random.integers(self.ends[-1]), side="right"))
        chosen = random.integers(len(self.rows[which]))
        return int(self.images[which]), (float(self.rows[which][chosen]), float(self.columns[which][chosen]))


def cached_class_places(dataset: SegmentationDataset) -> list[ClassPlaces]:
    """Return pixels of each class. They come from the cache if it has them; else every mask is read."""
    name = cache_name(dataset, "places")
    sizes = [dataset.size(index) for index in range(len(dataset))]
    found = cache.read(name)
    if not is_whole(found, len(dataset.classes), sizes):
        found = {"places": find(dataset)}
        cache.write(name, found)
    return [in_shares(of_class, sizes) for of_class in found["places"]]


def in_shares(found: list[Found], sizes: list[tuple[int, int]]) -> ClassPlaces:
    """Return the pixels of a class relative to the sizes of their images."""
    heights, widths = ([sizes[entry[0]][axis] for entry in found] for axis in (0, 1))
    return ClassPlaces(
        np.array([entry[0] for entry in found], np.int64),
        np.cumsum([entry[1] for entry in found], dtype=np.int64),
        [(np.array(entry[2]) + 0.5) / height for entry, height in zip(found, heights, strict=True)],
        [(np.array(entry[3]) + 0.5) / width for entry, width in zip(found, widths, strict=True)],
    )


def find(dataset: SegmentationDataset) -> list[list[Found]]:
    """Find pixels of each class by reading every mask: for each class, an entry for each image that contains it."""
    found: list[list[Found]] = [[] for _ in dataset.classes]
    kept = min(max(KEPT // max(len(dataset), 1), 1), KEPT_OF_IMAGE)
    hidden = not sys.stdout.isatty()
    for index in track(range(len(dataset)), f"Looking into {len(dataset)} masks", transient=True, disable=hidden):
        mask = dataset.read(index).mask
        for one, entries in enumerate(found):
            number, rows, columns = some_pixels(mask, one, kept, seed=index)
            if number:
                entries.append((index, number, rows, columns))
    return found


def some_pixels(mask: Mask, one: int, kept: int, *, seed: int) -> tuple[int, list[int], list[int]]:
    """Return the number of pixels of a class in a mask (H, W), and rows and columns of up to ``kept`` random ones."""
    hits = mask == one
    ends = hits.sum(1).cumsum()
    number = int(ends[-1])
    ranks = np.sort(np.random.default_rng((seed, one)).integers(number, size=kept)) if number > kept else range(number)
    rows = np.searchsorted(ends, ranks, side="right")
    before = ends[rows] - hits[rows].sum(1)
    columns = [int(np.flatnonzero(hits[row])[at]) for row, at in zip(rows, ranks - before, strict=True)]
    return number, rows.tolist(), columns


def is_whole(content: Any, num_classes: int, sizes: list[tuple[int, int]]) -> bool:
    """Return whether the cached content has the form of ``find``, for this number of classes and these image sizes."""
    found = content.get("places") if isinstance(content, dict) else None
    if not isinstance(found, list) or len(found) != num_classes or not all(isinstance(one, list) for one in found):
        return False
    try:
        return all(
            0 <= index < len(sizes)
            and type(number) is int
            and number >= len(rows) == len(columns) > 0
            and is_below(rows, sizes[index][0])
            and is_below(columns, sizes[index][1])
            for of_class in found
            for index, number, rows, columns in of_class
        )
    except (TypeError, ValueError):
        return False


def is_below(numbers: list[Any], limit: int) -> bool:
    """Return whether a list holds whole numbers from 0 to below a limit."""
    return all(type(number) is int and 0 <= number < limit for number in numbers)
