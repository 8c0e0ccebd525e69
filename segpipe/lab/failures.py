"""Where two runs differ: the images, regions and boundaries, and the errors of both by type. docs/lab.md."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segpipe.data.dataset import Image, Mask
from segpipe.data.resize import resize_image
from segpipe.data.visualise import Colour
from segpipe.lab.errors import TYPES, Beside, Errors, beside_of, find_errors
from segpipe.lab.pictures import Shown, shown
from segpipe.lab.regions import Truth, truth_of
from segpipe.lab.skips import Advance

IMAGES, REGIONS, BOUNDARIES = 4, 8, 12  # shown, at most
MARGIN = 0.25  # around a region, as a share of its longer side
SMALLEST_CROP = 24  # pixels

Predict = Callable[[int], Mask]  # from the index of an image to its classes (H, W)


@dataclass(frozen=True)
class ErrorCounts:
    """The errors of one run by type (4) and true class (C).

    events: regions that are missed or of a wrong class, patches that are displaced boundaries or holes. pixels: the
    wrong pixels of each type.
    """

    events: list[list[int]]
    pixels: list[list[int]]


@dataclass(frozen=True)
class DifferentImage:
    """An image in which many pixels are right in one run only.

    alone: share of the labelled pixels that only this run has right, for each run. accuracy: share right, of each run.
    """

    name: str
    alone: tuple[float, float]
    accuracy: tuple[float, float]
    shown: Shown


@dataclass(frozen=True)
class DifferentRegion:
    """A true region of which the runs have different numbers of pixels right.

    image: name. pixels: labelled ones. right: share right, of each run. types: the most frequent error of each run in
    the region; "" where all is right. shown: the region's surroundings.
    """

    image: str
    class_index: int
    pixels: int
    right: tuple[float, float]
    types: tuple[str, str]
    shown: Shown


@dataclass(frozen=True)
class DifferentBoundary:
    """The boundary between two true classes in all images.

    pixels: contour pixels of either class beside the other. found: share of them within one pixel of a predicted
    contour, for each run.
    """

    classes: tuple[int, int]
    pixels: int
    found: tuple[float, float]


@dataclass(frozen=True)
class FailureMeasures:
    """Two runs on the same images. reason: why they cannot be compared; there are no numbers then.

    regions, true_pixels: of each class in the truth. images, different_regions, boundaries: those that differ most.
    """

    names: tuple[str, str]
    reason: str = ""
    counts: tuple[ErrorCounts, ErrorCounts] | None = None
    regions: list[int] = field(default_factory=list)
    true_pixels: list[int] = field(default_factory=list)
    images: list[DifferentImage] = field(default_factory=list)
    different_regions: list[DifferentRegion] = field(default_factory=list)
    boundaries: list[DifferentBoundary] = field(default_factory=list)


class Case(NamedTuple):
    """One image with the errors of both runs. name: of the image; photo: (H, W, 3)."""

    name: str
    photo: Image
    truth: Truth
    errors: tuple[Errors, Errors]
    palette: Sequence[Colour]

    @property
    def alone(self) -> NDArray[np.uint8]:
        """Where only one run is right (H, W): 1 the first, 2 the second."""
        first, second = ((one.types == 0) & self.truth.labelled for one in self.errors)
        return (first & ~second) + 2 * (second & ~first).astype(np.uint8)

    def show(self, rows: slice, columns: slice) -> Shown:
        """Return the images of a part."""
        part = rows, columns
        errors = [one.types[part] for one in self.errors]
        return shown(self.photo[part], self.truth.mask[part], errors, self.alone[part], self.palette)


def passes(images: int) -> int:
    """Return the number of forward passes that ``compare`` reports."""
    return 3 * images


def compare(
    predict: tuple[Predict, Predict],
    read: Callable[[int], tuple[Image, Mask]],
    *,
    run_names: tuple[str, str],
    image_names: Sequence[str],
    num_classes: int,
    palette: Sequence[Colour],
    advance: Advance,
) -> FailureMeasures:
    """Compare the predictions of two runs for the same images.

    predict: of each run. read: from the index of an image to photo and mask.
    """
    totals = [[np.zeros((len(TYPES), num_classes), np.int64) for _ in range(2)] for _ in range(2)]
    present = np.zeros((2, num_classes), np.int64)
    lines = np.zeros((3, num_classes, num_classes), np.int64)
    images: list[tuple[tuple[float, ...], DifferentImage]] = []
    regions: list[tuple[tuple[float, ...], DifferentRegion]] = []
    for index, name in enumerate(image_names):
        photo, mask = read(index)
        truth = truth_of(mask)
        beside = beside_of(truth, num_classes)
        first, second = (find_errors(one(index), truth, beside, num_classes) for one in predict)
        photo = photo if photo.shape[:2] == mask.shape else resize_image(photo, mask.shape)
        case = Case(name, photo, truth, (first, second), palette)
        for total, errors in zip(totals, case.errors, strict=True):
            total[0] += errors.events
            total[1] += errors.pixels
        present += present_in(truth, num_classes)
        lines += boundary_counts(case, beside, num_classes)
        keep_best(images, IMAGES, [(image_rank(case), partial(different_image, case))])
        keep_best(regions, REGIONS, region_candidates(case))
        advance(3)
    return FailureMeasures(
        run_names,
        counts=tuple(ErrorCounts(total[0].tolist(), total[1].tolist()) for total in totals),  # type: ignore[arg-type]
        regions=present[0].tolist(),
        true_pixels=present[1].tolist(),
        images=[one for _, one in images],
        different_regions=[one for _, one in regions],
        boundaries=different_boundaries(lines),
    )


def keep_best(best: list, most: int, candidates: Sequence[tuple[tuple[float, ...], Callable]]) -> None:
    """Add candidates to a list of (rank, item), highest first, of at most ``most``. Ranks of 0 are left out.

    candidates: rank, and a function that makes the item; only those that are kept are made.
    """
    for rank, make in candidates:
        if any(rank) and (len(best) < most or rank > best[-1][0]):
            best.append((rank, make()))
            best.sort(key=lambda one: one[0], reverse=True)  # stable: the earlier of two equal ones stays first
            del best[most:]


def present_in(truth: Truth, num_classes: int) -> NDArray[np.int64]:
    """Return the number of regions with labelled pixels, and of labelled pixels, of each class, (2, C)."""
    labelled = np.bincount(truth.numbers[truth.labelled], minlength=len(truth.classes)) > 0
    counts = [
        np.bincount(each, minlength=num_classes) for each in (truth.classes[labelled], truth.mask[truth.labelled])
    ]
    return np.stack(counts)


def image_rank(case: Case) -> tuple[float, ...]:
    """Return by what images are ranked: the share of the labelled pixels that only one run has right."""
    return (float((case.alone > 0).sum() / max(case.truth.labelled.sum(), 1)),)


def different_image(case: Case) -> DifferentImage:
    """Return an image of the list."""
    labelled = max(int(case.truth.labelled.sum()), 1)
    first, second = (int((case.alone == value).sum()) / labelled for value in (1, 2))
    right = [1 - int((one.types > 0).sum()) / labelled for one in case.errors]
    return DifferentImage(case.name, (first, second), (right[0], right[1]), case.show(slice(None), slice(None)))


def region_candidates(case: Case) -> list[tuple[tuple[float, ...], Callable[[], DifferentRegion]]]:
    """Return the regions of an image with their ranks: those that only one run finds first, then by pixels."""
    first, second = case.errors
    difference = np.abs(first.right - second.right)
    found_by_one = (first.of_regions == 0) != (second.of_regions == 0)
    ordered = np.lexsort((-difference, ~found_by_one))[:REGIONS].tolist()
    return [
        (
            (float(found_by_one[index] and difference[index] > 0), float(difference[index])),
            partial(different_region, case, index),
        )
        for index in ordered
    ]


def different_region(case: Case, index: int) -> DifferentRegion:
    """Return a region of the list. index: of the region in its image."""
    inside = case.truth.numbers == index
    pixels = int((inside & case.truth.labelled).sum())
    types = []
    for errors in case.errors:
        counts = np.bincount(errors.types[inside], minlength=len(TYPES) + 1)[1:]
        types.append(TYPES[int(counts.argmax())] if counts.any() else "")
    right = [int(errors.right[index]) / pixels for errors in case.errors]
    part = surroundings(inside)
    return DifferentRegion(
        case.name, int(case.truth.classes[index]), pixels, (right[0], right[1]), (types[0], types[1]), case.show(*part)
    )


def surroundings(inside: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return rows and columns of a region (H, W) with a margin, at least SMALLEST_CROP pixels each where they exist."""
    bounds = []
    spans = [np.flatnonzero(inside.any(axis)) for axis in (1, 0)]
    margin = round(MARGIN * max(span[-1] - span[0] + 1 for span in spans))
    for span, side in zip(spans, inside.shape, strict=True):
        start, stop = max(int(span[0]) - margin, 0), min(int(span[-1]) + 1 + margin, side)
        length = min(max(stop - start, SMALLEST_CROP), side)
        start = max(min(start - (length - (stop - start)) // 2, side - length), 0)
        bounds.append(slice(start, start + length))
    return bounds[0], bounds[1]


def boundary_counts(case: Case, beside: Beside, num_classes: int) -> NDArray[np.int64]:
    """Return the contour pixels between each pair of classes, and those that each run finds, (3, C, C).

    Rows are the class of the pixel, columns the class beside it.
    """
    kept = case.truth.contour.ravel()[beside.indices]
    indices, classes = beside.indices[kept], beside.classes[kept]
    pixel, other = np.nonzero(classes)
    cell = case.truth.filled.ravel()[indices[pixel]].astype(np.int64) * num_classes + other
    found = [errors.contours.near.ravel()[indices[pixel]] for errors in case.errors]
    parts = [np.bincount(cell[chosen], minlength=num_classes**2) for chosen in (np.ones(len(cell), bool), *found)]
    return np.stack(parts).reshape(3, num_classes, num_classes)


def different_boundaries(lines: NDArray[np.int64]) -> list[DifferentBoundary]:
    """Return the boundaries of which the runs find different numbers of pixels, the largest difference first.

    lines: the sum of ``boundary_counts``.
    """
    both = lines + lines.transpose(0, 2, 1)
    rows, columns = np.triu_indices(both.shape[1], 1)
    pixels, first, second = both[:, rows, columns]
    order = np.argsort(-np.abs(first - second), kind="stable")
    return [
        DifferentBoundary(
            (int(rows[one]), int(columns[one])),
            int(pixels[one]),
            (float(first[one] / pixels[one]), float(second[one] / pixels[one])),
        )
        for one in order[:BOUNDARIES].tolist()
        if first[one] != second[one]
    ]
