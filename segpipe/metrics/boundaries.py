"""Scores at boundaries and by object size, computed from counts of each image."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segpipe.metrics.components import SIZES, object_counts
from segpipe.metrics.confusion import RatioCounts, mean_ratio
from segpipe.metrics.contours import NO_CONTOUR, Filled, Labels, contours, count_within, fill_ignored, match, tolerance

RATIOS = (0.02, 0.005)  # depth of the bands of boundary IoU, as a share of the image diagonal
BANDS = (1, 2, 4, 8, 16, 32)  # widths in pixels
FAR = 8  # pixels; a larger distance is far from boundaries
AVERAGES = ("boundary_f", "boundary_f_script")
REGIONS = (
    *(f"boundary_iou_{ratio}" for ratio in RATIOS),
    *(f"band_miou_{distance}" for distance in BANDS),
    f"far_miou_{FAR}",
    *(f"object_iou_{size}" for size in SIZES),
)
NAMES = AVERAGES + REGIONS


class BoundaryCounts(NamedTuple):
    """Counts of I images with C classes."""

    averages: NDArray[np.float64]  # (I, 2) AVERAGES; NaN if not defined for an image
    counts: NDArray[np.int64]  # (I, 12, 3, C) of REGIONS: hits, union, true pixels

    def select(self, order: NDArray[np.int64]) -> "BoundaryCounts":
        """The counts of the images with these indices, in this order."""
        return BoundaryCounts(self.averages[order], self.counts[order])


def count_boundaries(
    predictions: NDArray[np.integer], truths: NDArray[np.integer], *, num_classes: int
) -> BoundaryCounts:
    """Count N images of equal size, each separately. For ignored pixels see ``contours.fill_ignored``.

    predictions, truths: (N, H, W) class indices. Pixels of IGNORE_INDEX in the truth are never counted. The prediction
    ``num_classes`` means none of the classes: it counts as a false positive of no class.
    """
    filled = fill_ignored(predictions.astype(np.uint8), truths.astype(np.uint8))
    drawn = contours(filled.prediction), contours(filled.truth)
    near = band_counts(filled, drawn, num_classes)
    objects = object_counts(filled, num_classes=num_classes + 1)[..., :num_classes]
    present = near[:, -1, 2] + near[:, -2, 2] > 0
    return BoundaryCounts(boundary_f(filled, drawn, present), np.concatenate([near, objects], axis=1))


def concatenate(parts: list[BoundaryCounts]) -> BoundaryCounts:
    """Concatenate the counts of several sets of images."""
    return BoundaryCounts(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def tallies(counts: BoundaryCounts) -> dict[str, RatioCounts]:
    """The scores as ratios of sums, in the order of NAMES. Those of AVERAGES have one column instead of classes."""
    return {name: tally_of(array) for name, array in arrays(counts).items()}


def arrays(counts: BoundaryCounts) -> dict[str, NDArray[np.generic]]:
    """The counts of each score: (I,) for AVERAGES, (I, 3, C) for REGIONS."""
    means = {name: counts.averages[:, index] for index, name in enumerate(AVERAGES)}
    return means | {name: counts.counts[:, index] for index, name in enumerate(REGIONS)}


def tally_of(array: NDArray[np.generic]) -> RatioCounts:
    """The ratios of one of the ``arrays``."""
    if array.ndim == 1:
        defined = ~np.isnan(array[:, None])
        return RatioCounts(np.nan_to_num(array[:, None]), *2 * (defined.astype(np.float64),))
    return RatioCounts(*array.astype(np.float64).swapaxes(0, 1))


def boundary_scores(counts: BoundaryCounts) -> dict[str, float]:
    """The scores of all images by name, 0 to 1; NaN where a score is not defined."""
    return {name: mean_ratio(tally) for name, tally in tallies(counts).items()}


def band_counts(filled: Filled, drawn: tuple[Labels, Labels], num_classes: int) -> NDArray[np.int64]:
    """Hits, union and true pixels of boundary IoU, of the bands, and far from boundaries: (N, 9, 3, C).

    drawn: contours of the predictions and of the truths.
    Boundary IoU (Cheng et al. 2021): the IoU of the boundary pixels of the true and of the predicted mask of a class.
    A boundary pixel has a distance of at most max(1, round(ratio * diagonal)) from a pixel outside the mask or outside
    the image. The paper scores instances; here it is classes, with intersections and unions summed over images.
    Bands: pixels of any class at a distance of at most d from a pixel of another true class. The band of 1 is the
    contour. The border of the image is not a boundary here. Distances are those of ``contours.count_within``.
    Implementation: each pixel belongs to one of 7 x 3 x 3 cells, by the number of bands that contain it, and by the
    number of depths of its true and of its predicted mask. All counts are sums over cells.
    """
    diagonal = math.hypot(*filled.truth.shape[1:])
    depths = tuple(sorted(max(1, round(ratio * diagonal)) for ratio in RATIOS))
    shape = (len(BANDS) + 1, len(depths) + 1, len(depths) + 1)
    cell = count_within(drawn[1], BANDS, value=shape[1] * shape[2])
    cell += count_within(drawn[1], depths, value=shape[2], frame=True)
    cell += count_within(drawn[0], depths, frame=True)
    number, end = len(cell), math.prod(shape)
    if filled.ignored is not None:
        cell[filled.ignored] = end
    first = (cell + (end + 1) * np.arange(number)[:, None, None]) * (num_classes + 1)
    missed = np.flatnonzero(filled.truth != filled.prediction)
    of_missed = first.ravel()[missed]

    def count(index: NDArray[np.int64]) -> NDArray[np.int64]:
        counts = np.bincount(index.ravel(), minlength=number * (end + 1) * (num_classes + 1))
        return counts.reshape(number, end + 1, num_classes + 1)[:, :end, :num_classes].reshape(number, *shape, -1)

    present = count(first + filled.truth)
    hits = present - count(of_missed + filled.truth.ravel()[missed])
    guessed = hits + count(of_missed + filled.prediction.ravel()[missed])

    within = []
    for ratio in RATIOS:
        deep = slice(len(depths) - depths.index(max(1, round(ratio * diagonal))), None)
        parts = (hits[:, :, deep, deep], present[:, :, deep], guessed[:, :, :, deep])
        within.append([part.sum((1, 2, 3)) for part in parts])
    by_band = np.stack([hits, present, guessed]).sum((3, 4))  # (3, N, 7, C), the narrowest band last
    inwards = by_band[:, :, ::-1].cumsum(2)
    outside = inwards[:, :, -1:] - inwards[:, :, [BANDS.index(FAR)]]
    hit, mine, theirs = np.concatenate([np.array(within).transpose(1, 2, 0, 3), inwards[:, :, :-1], outside], axis=2)
    return np.stack([hit, mine + theirs - hit, mine], axis=2)


def boundary_f(filled: Filled, drawn: tuple[Labels, Labels], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The boundary F-measure of each image, (N, 2), averaged over classes as in SegNet's paper and as in its script.

    drawn: contours of the predictions and of the truths. present: (N, C), the classes in the truth of each image.
    The F-measure of a class is that of ``class_boundary_f``. It is averaged over classes, then over images:
    Paper: the mean over the classes in the truth of the image. A class without a contour in both maps (it fills the
    image) is left out. If no class remains, the value is NaN, and the image is left out.
    Script (Scripts/computeBFmeasure.m in alexgkendall/SegNet-Tutorial): the mean over the classes with a contour in the
    truth or in the prediction; a class that is predicted by mistake counts as 0. Without such classes the value is 0.
    Only the averaging follows the script. Unlike this function, the script matches contour pixels one to one, draws
    contours around ignored regions, and scores predictions inside them. It is not known how Csurka et al. treat the
    image border, and how the script draws contours (by a function of the Berkeley benchmark).
    """
    measure = class_boundary_f(filled, drawn, num_classes=present.shape[1])
    lines = np.isfinite(measure)
    measure = np.nan_to_num(measure)
    with np.errstate(invalid="ignore", divide="ignore"):
        counted = lines & present
        paper, script = ((measure * kept).sum(1) / kept.sum(1) for kept in (counted, lines))
    return np.stack([paper, np.nan_to_num(script)], axis=1)


def class_boundary_f(filled: Filled, drawn: tuple[Labels, Labels], *, num_classes: int) -> NDArray[np.float64]:
    """The boundary F-measure of each class in each image, (N, C); NaN for a class without a contour in both maps.

    drawn: contours of the predictions and of the truths.
    Precision of a class is the share of its predicted contour pixels that have a true contour pixel of the class nearer
    than 0.75 % of the diagonal. Recall is the reverse. F is their harmonic mean (Csurka et al. 2013; SegNet:
    Badrinarayanan et al. 2017, section 4), and 0 without matches.
    Contours inside ignored regions count if they are nearer than the tolerance to a pixel that is not ignored.
    """
    if filled.far is not None:
        drawn = (np.where(filled.far, NO_CONTOUR, drawn[0]), np.where(filled.far, NO_CONTOUR, drawn[1]))
    precise, recalled = match(*drawn, radius=tolerance(filled.truth.shape[1:]), num_classes=num_classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = precise.matched / precise.pixels, recalled.matched / recalled.pixels
        measure = np.nan_to_num(2 * precision * recall / (precision + recall))
    return np.where(precise.pixels + recalled.pixels > 0, measure, np.nan)
