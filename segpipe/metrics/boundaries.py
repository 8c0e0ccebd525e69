"""Scores of a segmentation at boundaries and by the size of objects, from counts of every single picture."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segpipe.metrics.components import SIZES, object_counts
from segpipe.metrics.confusion import RatioCounts, mean_ratio
from segpipe.metrics.contours import NO_CONTOUR, Filled, Labels, contours, count_within, fill_ignored, match, tolerance

RATIOS = (0.02, 0.005)  # of the diagonal: the depth of boundary IoU's bands
BANDS = (1, 2, 4, 8, 16, 32)  # pixels
FAR = 8  # pixels, beyond which all is far from boundaries
AVERAGES = ("boundary_f", "boundary_f_script")
REGIONS = (
    *(f"boundary_iou_{ratio}" for ratio in RATIOS),
    *(f"band_miou_{distance}" for distance in BANDS),
    f"far_miou_{FAR}",
    *(f"object_iou_{size}" for size in SIZES),
)
NAMES = AVERAGES + REGIONS


class BoundaryCounts(NamedTuple):
    """What is counted of I pictures with C classes."""

    averages: NDArray[np.float64]  # (I, 2) AVERAGES; NaN where a picture has none
    counts: NDArray[np.int64]  # (I, 12, 3, C) of REGIONS: hits, union, true pixels

    def select(self, order: NDArray[np.int64]) -> "BoundaryCounts":
        """The pictures of these numbers, in this order."""
        return BoundaryCounts(self.averages[order], self.counts[order])


def count_boundaries(
    predictions: NDArray[np.integer], truths: NDArray[np.integer], *, num_classes: int
) -> BoundaryCounts:
    """Count N pictures of equal size, each by itself; for ignored pixels see ``contours.fill_ignored``.

    predictions, truths: (N, H, W). Pixels of IGNORE_INDEX in the truth are never counted. A prediction of
    ``num_classes`` stands for none of the classes: what is missed by it is nobody's mistake.
    """
    filled = fill_ignored(predictions.astype(np.uint8), truths.astype(np.uint8))
    drawn = contours(filled.prediction), contours(filled.truth)
    near = band_counts(filled, drawn, num_classes)
    objects = object_counts(filled, num_classes=num_classes + 1)[..., :num_classes]
    present = near[:, -1, 2] + near[:, -2, 2] > 0
    return BoundaryCounts(boundary_f(filled, drawn, present), np.concatenate([near, objects], axis=1))


def concatenate(parts: list[BoundaryCounts]) -> BoundaryCounts:
    """Of several pictures each, as one."""
    return BoundaryCounts(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def tallies(found: BoundaryCounts) -> dict[str, RatioCounts]:
    """The scores as ratios of sums, in the order of NAMES; those of AVERAGES have one column in place of classes."""
    return {name: tally_of(array) for name, array in arrays(found).items()}


def arrays(found: BoundaryCounts) -> dict[str, NDArray[np.generic]]:
    """What is counted for each score: (I,) of AVERAGES, (I, 3, C) of REGIONS."""
    means = {name: found.averages[:, index] for index, name in enumerate(AVERAGES)}
    return means | {name: found.counts[:, index] for index, name in enumerate(REGIONS)}


def tally_of(array: NDArray[np.generic]) -> RatioCounts:
    """The ratios of one of ``arrays``."""
    if array.ndim == 1:
        defined = ~np.isnan(array[:, None])
        return RatioCounts(np.nan_to_num(array[:, None]), *2 * (defined.astype(np.float64),))
    return RatioCounts(*array.astype(np.float64).swapaxes(0, 1))


def boundary_scores(found: BoundaryCounts) -> dict[str, float]:
    """The scores of all pictures, by name, from 0 to 1; NaN where there is nothing to score."""
    return {name: mean_ratio(tally) for name, tally in tallies(found).items()}


def band_counts(filled: Filled, drawn: tuple[Labels, Labels], num_classes: int) -> NDArray[np.int64]:
    """Hits, union and true pixels of boundary IoU, of the bands, and of what is far from boundaries: (N, 9, 3, C).

    drawn: contours of the predictions and of the truths.
    Boundary IoU (Cheng et al. 2021): of a class's mask, true and predicted, only the pixels at most round(ratio *
    diagonal) pixels, at least 1, from what is not of the class, or outside the picture. Theirs is of instances; here it
    is of classes, intersections and unions summed over pictures.
    Bands: the pixels, of whatever class, at most d from a pixel of another true class, so that the band of 1 is the
    contour; here the picture's frame is no boundary. Distances are those of ``contours.count_within``.
    Every pixel is put into one of 7 x 3 x 3 places: in how many bands it lies, and in how many depths of its true and
    of its predicted mask. All scores are sums over places.
    """
    diagonal = math.hypot(*filled.truth.shape[1:])
    depths = tuple(sorted(max(1, round(ratio * diagonal)) for ratio in RATIOS))
    shape = (len(BANDS) + 1, len(depths) + 1, len(depths) + 1)
    place = count_within(drawn[1], BANDS, value=shape[1] * shape[2])
    place += count_within(drawn[1], depths, value=shape[2], frame=True)
    place += count_within(drawn[0], depths, frame=True)
    number, end = len(place), math.prod(shape)
    if filled.ignored is not None:
        place[filled.ignored] = end
    first = (place + (end + 1) * np.arange(number)[:, None, None]) * (num_classes + 1)
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
    by_band = np.stack([hits, present, guessed]).sum((3, 4))  # (3, N, 7, C), the innermost last
    inwards = by_band[:, :, ::-1].cumsum(2)
    outside = inwards[:, :, -1:] - inwards[:, :, [BANDS.index(FAR)]]
    hit, mine, theirs = np.concatenate([np.array(within).transpose(1, 2, 0, 3), inwards[:, :, :-1], outside], axis=2)
    return np.stack([hit, mine + theirs - hit, mine], axis=2)


def boundary_f(filled: Filled, drawn: tuple[Labels, Labels], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pictures' boundary F-measure, averaged over classes as SegNet's paper does and as its script does, (N, 2).

    drawn: contours of the predictions and of the truths. present: (N, C) the classes in a picture's truth.
    Of a class, precision is the share of predicted contour pixels with a true one of the class nearer than 0.75 % of
    the diagonal, recall the reverse, F their harmonic mean (Csurka et al. 2013; SegNet: Badrinarayanan et al. 2017,
    section 4); 0 where nothing is matched. Then means over classes, and over pictures:
    Paper: over the classes in the picture's truth. One without a contour in either map (it fills the picture) is left
    out; NaN, and the picture left out, where that leaves none.
    Script (Scripts/computeBFmeasure.m in alexgkendall/SegNet-Tutorial): over the classes with a contour in the truth or
    in the prediction, so that a class predicted by mistake counts as 0; 0 where there is none.
    Only the averaging is the script's: it matches contour pixels one to one, has contours round ignored regions, and
    scores what is predicted in them. How Csurka et al. treat the picture's frame, and how the script draws contours (by
    a function of the Berkeley benchmark), was not found out.
    Contours midway through ignored regions count where these are thin: nearer than the tolerance to what counts.
    """
    if filled.far is not None:
        drawn = (np.where(filled.far, NO_CONTOUR, drawn[0]), np.where(filled.far, NO_CONTOUR, drawn[1]))
    precise, recalled = match(*drawn, radius=tolerance(filled.truth.shape[1:]), num_classes=present.shape[1])
    lines = precise.pixels + recalled.pixels > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = precise.matched / precise.pixels, recalled.matched / recalled.pixels
        measure = np.nan_to_num(2 * precision * recall / (precision + recall))
        counted = lines & present
        paper, script = ((measure * kept).sum(1) / kept.sum(1) for kept in (counted, lines))
    return np.stack([paper, np.nan_to_num(script)], axis=1)
