"""Check a data set by reading all of its images and masks."""

import hashlib
import sys
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from segpipe.data.bands import cached_bands
from segpipe.data.class_counts import remember
from segpipe.data.dataset import IGNORE_INDEX, Sample, SegmentationDataset, Split
from segpipe.data.findings import find_notes, find_problems
from segpipe.errors import UserError

DARK = 32  # an image whose values are all below this is suspicious


class Report:
    """The results of the check: pixels of each class in each split, problems, and notes, without repetitions."""

    def __init__(self) -> None:
        self.classes: list[str] = []
        self.pixels: dict[str, NDArray[np.int64]] = {}  # heading to (K + 1,) pixel counts, ignored pixels last
        self.where: dict[str, list[str]] = {}  # problem to the splits that have it
        self.notes: list[str] = []
        self.uniform: dict[str, list[str]] = {}  # class to the masks that contain this class only
        self.dark: list[str] = []  # names of images
        self.digests: dict[str, dict[bytes, str]] = {}  # split to the names of its images, by digest of the content
        self.read_before: dict[str, NDArray[np.int64]] = {}  # fingerprint to pixel counts
        self.class_pixels: dict[Split, NDArray[np.int64]] = {}  # pixels of each class (K,)
        self.numbers: dict[Split, int] = {}  # images of each split

    def problem(self, split: str, text: str) -> None:
        """Record a problem of a split."""
        splits = self.where.setdefault(text, [])
        if split not in splits:
            splits.append(split)

    @property
    def problems(self) -> list[str]:
        """Return all problems, each with its splits."""
        return [f"{', '.join(splits)}: {text}" for text, splits in self.where.items()]

    def read(self, split: Split, dataset: SegmentationDataset) -> None:
        """Read every sample of a split, unless a split with the same fingerprint was read before."""
        self.classes = self.classes or dataset.classes
        self.notes += [note for note in dataset.notes if note not in self.notes]
        for text in [*contract(dataset), *dataset.problems]:
            self.problem(split, text)
        heading, mark = f"{split} ({len(dataset)})", dataset.fingerprint()
        self.numbers[split] = len(dataset)
        if mark in self.read_before:
            self.pixels[heading] = self.read_before[mark]
            self.class_pixels[split] = self.pixels[heading][:-1]
            return
        pixels = np.zeros(len(dataset.classes) + 1, np.int64)
        pixels_of_images_with_class, complete = np.zeros(len(dataset.classes), np.int64), True
        hidden = not sys.stdout.isatty()
        digests = self.digests.setdefault(split, {})
        for index in track(range(len(dataset)), f"Reading {split}", transient=True, disable=hidden):
            try:
                sample = dataset.read(index)
                wrong = contract_of_sample(dataset, index, sample)
            except UserError as error:
                wrong = str(error)
            if wrong:
                self.problem(split, wrong)
                complete = False
                continue
            image, mask = sample
            counts = np.bincount(mask.ravel(), minlength=256)
            counts = np.append(counts[: len(dataset.classes)], counts[IGNORE_INDEX])
            pixels += counts
            pixels_of_images_with_class += (counts[:-1] > 0) * counts[:-1].sum()
            if np.count_nonzero(counts) == 1:
                name = [*dataset.classes, "ignored"][int(counts.argmax())]
                self.uniform.setdefault(name, []).append(f"{split}/{dataset.names[index]}")
            if dataset.form is None and image.max() < DARK:
                self.dark.append(f"{split}/{dataset.names[index]}")
            digests[hashlib.blake2b(image.tobytes(), digest_size=16).digest()] = dataset.names[index]
        if pixels.any():
            self.pixels[heading] = self.read_before[mark] = pixels
            self.class_pixels[split] = pixels[:-1]
        if split == "train" and complete and (bands := cached_bands(dataset)) is not None:
            self.notes += bands.notes()
        if pixels.any() and complete:
            remember(dataset, pixels[:-1], pixels_of_images_with_class)  # so that a training knows them

    def conclude(self) -> None:
        """Find what needs all splits: classes without pixels, masks of one class, images in two splits."""
        for split, text in find_problems(self.classes, self.class_pixels):
            self.problem(split, text)
        self.notes += find_notes(self.numbers)
        for name, masks in self.uniform.items():
            alone = f"contain{'s' if len(masks) == 1 else ''} only {name}, which may be correct: {some(masks)}"
            self.notes.append(f"{len(masks)} mask{'s' if len(masks) > 1 else ''} {alone}")
        if self.dark:
            self.notes.append(
                f"nearly black images: {some(self.dark)}. If this is not intended, scale their values to 0..255, by "
                f"the same factor for all images."
            )
        for first, second in combinations(self.digests, 2):
            shared = self.digests[first].keys() & self.digests[second].keys()
            names = sorted(self.digests[second][digest] for digest in shared)
            if shared:
                self.problem(second, f"images that are also in {first}: {some(names)}. Keep each in one split only.")

    def table(self, title: str) -> Table:
        """Return the share of pixels of each class in each split."""
        table = Table(title=escape(title), title_justify="left")
        table.add_column("class")
        for heading in self.pixels:
            table.add_column(heading, justify="right")
        for index, name in enumerate([*self.classes, "ignored"]):
            shares = [counts[index] / max(counts.sum(), 1) for counts in self.pixels.values()]
            table.add_row(escape(name), *[f"{share:.2%}" if share else "-" for share in shares])
        return table


def contract(dataset: SegmentationDataset) -> list[str]:
    """Return how the attributes of a data set differ from ``SegmentationDataset``: faults of its class."""
    kind, classes, count = type(dataset).__name__, dataset.classes, len(dataset)
    faults = []
    if len(dataset.palette) != len(classes):
        faults.append(
            f"{kind}.palette has {len(dataset.palette)} colours for {len(classes)} classes: give one for each."
        )
    if len(classes) > IGNORE_INDEX or len(set(classes)) < len(classes):
        faults.append(f"{kind}.classes has {len(classes)} names: allowed are up to {IGNORE_INDEX}, each of them once.")
    if len(dataset.names) != count or len(dataset.groups) != count:
        faults.append(
            f"{kind} has {len(dataset.names)} names and {len(dataset.groups)} groups for {count} samples: give one of "
            f"each for every sample."
        )
    return faults


def contract_of_sample(dataset: SegmentationDataset, index: int, sample: Sample) -> str | None:
    """Return how a sample differs from what ``SegmentationDataset.read`` promises, a fault of the class; else None."""
    name, (image, mask) = dataset.names[index], sample
    if dataset.form is not None:
        if image.ndim != 3 or image.shape[2] != dataset.form.channels:
            return f"{name}: the image is {image.dtype} {image.shape}; its form is {dataset.form}, (H, W, channels)."
    elif image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        return f"{name}: the image is {image.dtype} {image.shape}; allowed is uint8 (H, W, 3), RGB."
    if mask.dtype != np.uint8 or mask.ndim != 2:
        return f"{name}: the mask is {mask.dtype} {mask.shape}; allowed is uint8 (H, W)."
    if not image.shape[:2] == mask.shape == tuple(dataset.size(index)):
        return (
            f"{name}: the image is {image.shape[:2]}, the mask {mask.shape}, size() {dataset.size(index)}; they differ."
        )
    wrong = set(np.unique(mask).tolist()) - {*range(len(dataset.classes)), IGNORE_INDEX}
    if wrong:
        known = f"0 to {len(dataset.classes) - 1}, and {IGNORE_INDEX} for ignored"
        return f"{name}: the mask has {', '.join(map(str, sorted(wrong)))}; allowed are {known}."
    return None


def some(names: list[str]) -> str:
    """Return the first five names, and the number of the others."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
