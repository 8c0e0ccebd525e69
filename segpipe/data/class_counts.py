"""The number of pixels of each class, counted once for a data set and stored in the user's cache."""

import hashlib
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from segpipe.data import cache
from segpipe.data.dataset import SegmentationDataset

Counts = NDArray[np.int64]  # (K,)


def cached_class_counts(dataset: SegmentationDataset) -> tuple[Counts, Counts]:
    """Return for each class its pixels (K,), and the labelled pixels of all images that contain it (K,).

    They come from the cache if it has them. Its key contains the data set's fingerprint: changed data are counted
    again.
    """
    if (stored := cache.read(cache_name(dataset))) is not None and is_whole(stored, len(dataset.classes)):
        return np.array(stored["pixels"]), np.array(stored["around"])
    pixels, pixels_of_images_with_class = counts(dataset)
    remember(dataset, pixels, pixels_of_images_with_class)
    return pixels, pixels_of_images_with_class


def known_class_pixels(dataset: SegmentationDataset) -> Counts | None:
    """Return the pixels of each class (K,) if no mask has to be read for it: known, or in the cache. Else None."""
    if (pixels := dataset.class_pixels()) is not None:
        return pixels
    content = cache.read(cache_name(dataset))
    return np.array(content["pixels"]) if is_whole(content, len(dataset.classes)) else None


def remember(dataset: SegmentationDataset, pixels: Counts, pixels_of_images_with_class: Counts) -> None:
    """Store counts in the cache."""
    around = pixels_of_images_with_class.tolist()
    cache.write(cache_name(dataset), {"pixels": pixels.tolist(), "around": around})


def cache_name(dataset: SegmentationDataset, what: str = "pixels") -> str:
    """Return the name of what is known of a data set's masks in the cache. It changes when the data change."""
    key = f"{dataset.fingerprint()} {len(dataset)} {dataset.classes}"
    return f"{what}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}"


def is_whole(content: Any, num_classes: int) -> bool:
    """Return whether the cached content is a valid set of counts for ``num_classes`` classes."""
    lists = [content.get(key) for key in ("pixels", "around")] if isinstance(content, dict) else [None]
    return all(
        isinstance(numbers, list) and len(numbers) == num_classes and all(type(n) is int and n >= 0 for n in numbers)
        for numbers in lists
    )


def counts(dataset: SegmentationDataset) -> tuple[Counts, Counts]:
    """Count by reading every mask; see ``cached_class_counts``."""
    number = len(dataset.classes)
    pixels, pixels_of_images_with_class = np.zeros(number, np.int64), np.zeros(number, np.int64)
    hidden = not sys.stdout.isatty()
    for index in track(range(len(dataset)), f"Counting {len(dataset)} masks", transient=True, disable=hidden):
        histogram = np.bincount(dataset.read(index).mask.ravel(), minlength=256)[:number]
        pixels += histogram
        pixels_of_images_with_class += (histogram > 0) * histogram.sum()
    return pixels, pixels_of_images_with_class
