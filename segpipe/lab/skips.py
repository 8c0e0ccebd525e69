"""What the skips of a decoder carry: their share of the fused maps, and what is lost without them. docs/lab.md."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segpipe.data.dataset import IGNORE_INDEX, Sample
from segpipe.lab.cells import as_batch, cell_fractions, padded_size, predicted_classes
from segpipe.lab.slots import Place, places, recording, replaced_skip
from segpipe.metrics.bootstrap import Estimate, as_estimates, class_ratios, estimate, mean_of_classes
from segpipe.metrics.boundaries import class_boundary_f
from segpipe.metrics.confusion import RatioCounts, confusion_matrices, iou_counts
from segpipe.metrics.contours import contours, fill_ignored
from segpipe.models.decoder import Step
from segpipe.models.network import Network

REPLACEMENTS = ("zero", "mean", "shuffled", "blurred")
BLUR = 2.0  # standard deviation of the Gaussian window, in cells of the skip
Advance = Callable[[float], None]  # called with the number of forward passes that were done


@dataclass(frozen=True)
class Loss:
    """What the network loses, 0 to 1, when one skip is replaced: the score with the skip minus the score without.

    replacement: one of REPLACEMENTS. class_iou, class_boundary_f: one for each class.
    """

    replacement: str
    miou: Estimate
    boundary_f: Estimate
    class_iou: list[Estimate]
    class_boundary_f: list[Estimate]


@dataclass(frozen=True)
class Skip:
    """One skip. energy: its share of the fused map, 0 to 1; class_energy: in the cells of each class."""

    stride: int
    energy: Estimate
    class_energy: list[Estimate]
    losses: list[Loss]


@dataclass(frozen=True)
class SkipMeasures:
    """The skips of one network, coarse to fine; without any, the list is empty. miou, boundary_f: of the network."""

    miou: Estimate
    boundary_f: Estimate
    skips: list[Skip]


class Counts(NamedTuple):
    """Counts of V predictions of I images with C classes.

    iou: hits and unions (V, I, C), true pixels (I, C). boundary: boundary F-measure (V, I, C), NaN where undefined.
    """

    iou: RatioCounts
    boundary: NDArray[np.float64]


class Totals(NamedTuple):
    """Energies of one skip by image, and the sum over all cells of its values.

    with_skip, without: (I, 1 + C) in the whole map, then in the cells of each class. mean: (1, C_s, 1, 1).
    """

    with_skip: NDArray[np.float64]
    without: NDArray[np.float64]
    mean: Tensor


def skip_places(network: Network) -> list[Place]:
    """Return the decoder's steps that fuse a skip, coarse to fine."""
    steps = [place for place in places(network) if place.section == "decoder" and isinstance(place.module, Step)]
    return [place for place in steps if place.module.fuse.uses_skip]  # type: ignore[union-attr]


def passes(network: Network, images: int) -> int:
    """Return the number of forward passes that ``measure_skips`` reports for a number of images."""
    return images * (1 + len(skip_places(network)) * len(REPLACEMENTS))


@torch.inference_mode()
def measure_skips(
    network: Network, samples: Sequence[Sample], *, groups: Sequence[str], num_classes: int, advance: Advance
) -> SkipMeasures:
    """Measure every skip on images: share of energy, and what is lost when it is replaced.

    network: in evaluation mode. samples: images as the network receives them, masks of any size. groups: one for each
    sample, see ``bootstrap.units``.
    """
    found = skip_places(network)
    variants = [(place, replacement) for place in found for replacement in REPLACEMENTS]
    counted: list[list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = [[] for _ in range(1 + len(variants))]
    totals = survey(network, found, samples, num_classes=num_classes, counted=counted[0], advance=advance)
    for index in range(len(samples) if variants else 0):
        image, mask = samples[index]
        x, features = network.encode(as_batch(image, network))
        partner = (index + len(samples) // 2) % len(samples)
        others = network.encode(as_batch(samples[partner].image, network))[1] if partner != index else None
        for number, (place, replacement) in enumerate(variants, 1):
            change = replacing(replacement, place, mean=totals[place.stride].mean, others=others)
            if change is not None:
                with replaced_skip(network, place.stride, change):
                    logits = network.decode(x, features)[..., : image.shape[0], : image.shape[1]]
                counted[number].append(count(predicted_classes(logits, mask.shape), mask, num_classes))
            advance(1)
    return summarise(found, totals, [gather(each) for each in counted if each], groups, shuffled=len(samples) > 1)


def survey(
    network: Network,
    found: Sequence[Place],
    samples: Sequence[Sample],
    *,
    num_classes: int,
    counted: list[tuple[NDArray[np.int64], NDArray[np.float64]]],
    advance: Advance,
) -> dict[int, Totals]:
    """Run the network unchanged: add its counts to ``counted``, return energies and the mean of each skip by stride."""
    energies: dict[int, list[NDArray[np.float64]]] = {place.stride: [] for place in found}
    sums: dict[int, list[tuple[Tensor, int]]] = {place.stride: [] for place in found}
    for image, mask in samples:
        size = image.shape[:2]
        with recording(network) as record:
            logits = network(as_batch(image, network))
        counted.append(count(predicted_classes(logits, mask.shape), mask, num_classes))
        for place in found:
            maps = record.maps(place)
            assert maps.skip is not None
            without = place.module.fuse(maps.smoothed, torch.zeros_like(maps.skip))  # type: ignore[operator, union-attr]
            shape = tuple(maps.fused.shape[-2:])
            shares = cell_fractions(
                mask, stride=place.stride, shape=shape, size=size, padded=padded_size(network, size),
                num_classes=num_classes,
            )  # fmt: skip
            areas = np.concatenate([np.ones((1, *shape)), shares])
            by_cell = [(one.double() ** 2).sum((0, 1)).cpu().numpy() for one in (maps.fused - without, without)]
            with np.errstate(invalid="ignore"):  # a diverged network has infinite values
                energies[place.stride].append(np.tensordot(by_cell, areas, ((1, 2), (1, 2))))  # (2, 1 + C)
            sums[place.stride].append((maps.skip.double().sum((2, 3), keepdim=True), shape[0] * shape[1]))
        advance(1)
    totals = {}
    for place in found:
        by_image = np.stack(energies[place.stride])  # (I, 2, 1 + C)
        added, cells = zip(*sums[place.stride], strict=True)
        mean = torch.stack(added).sum(0) / sum(cells)
        totals[place.stride] = Totals(by_image[:, 0], by_image[:, 1], mean)
    return totals


def replacing(
    replacement: str, place: Place, *, mean: Tensor, others: dict[int, Tensor] | None
) -> Callable[[Tensor], Tensor] | None:
    """Return the function from a skip to what is fused instead; None where there is no other image to shuffle with.

    mean: of each channel over all images and cells. others: the encoder's maps of another image.
    """
    if replacement == "shuffled":
        if others is None:
            return None
        other = place.module.tap(others)  # type: ignore[operator, union-attr]
        return lambda skip: (
            other if other.shape == skip.shape else F.interpolate(other, skip.shape[-2:], mode="bilinear")
        )
    simple: dict[str, Callable[[Tensor], Tensor]] = {
        "zero": torch.zeros_like,
        "mean": lambda skip: mean.to(skip).expand_as(skip),
        "blurred": partial(blur, deviation=BLUR),
    }
    return simple[replacement]


def blur(x: Tensor, *, deviation: float) -> Tensor:
    """Blur each channel of (N, C, H, W) with a Gaussian window; deviation: in cells. The edge is repeated."""
    reach = int(np.ceil(3 * deviation))
    line = torch.exp(-(torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device) ** 2) / (2 * deviation**2))
    line = line / line.sum()
    flat = F.pad(x.flatten(0, 1)[:, None], (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(flat, line[None, None, :, None]), line[None, None, None])[:, 0].unflatten(0, x.shape[:2])


def count(
    prediction: NDArray[np.uint8], mask: NDArray[np.uint8], num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the confusion matrix (C, C) of one image, and the boundary F-measure (C,) of the classes in its mask."""
    pair = torch.from_numpy(prediction)[None].long(), torch.from_numpy(mask)[None]
    matrix = confusion_matrices(*pair, num_classes)[0].numpy()
    filled = fill_ignored(prediction[None], mask[None])
    measure = class_boundary_f(filled, (contours(filled.prediction), contours(filled.truth)), num_classes=num_classes)
    present = np.bincount(mask.ravel(), minlength=IGNORE_INDEX + 1)[:num_classes] > 0
    return matrix, np.where(present, measure[0], np.nan)


def gather(parts: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]]) -> Counts:
    """Return the counts of one prediction of all images."""
    matrices, boundary = zip(*parts, strict=True)
    return Counts(iou_counts(np.stack(matrices)), np.stack(boundary))


def summarise(
    found: Sequence[Place],
    totals: dict[int, Totals],
    counts: Sequence[Counts],
    groups: Sequence[str],
    *,
    shuffled: bool,
) -> SkipMeasures:
    """Return the measures of the counts of the unchanged network and of all variants, in the order of the variants."""
    kept = [replacement for replacement in REPLACEMENTS if shuffled or replacement != "shuffled"]
    hits, unions = (np.stack([getattr(one.iou, name) for one in counts]) for name in ("numerator", "denominator"))
    iou = RatioCounts(hits, unions, counts[0].iou.present)
    boundary = np.stack([one.boundary for one in counts])  # (V, I, C)
    of_images = mean_of_classes(boundary)[..., None]
    by_class, by_image = as_mean(boundary), as_mean(of_images)

    def scores(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B, I) to (B, V, 2 + 2 C): mIoU, boundary F, IoU and boundary F of each class."""
        ious = class_ratios(iou, weights)
        parts = [mean_of_classes(ious)[..., None], class_ratios(by_image, weights), ious]
        return np.concatenate([*parts, class_ratios(by_class, weights)], axis=2)

    def intact_and_lost(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B, I) to (B, V, 2 + 2 C): the scores of the unchanged network, then what each variant loses."""
        values = scores(weights)
        return np.concatenate([values[:, :1], values[:, :1] - values[:, 1:]], axis=1)

    estimates = estimate(intact_and_lost, groups)
    intact, *lost = [as_estimates(*(each[number] for each in estimates)) for number in range(len(counts))]
    skips = []
    for number, place in enumerate(found):
        of_place = lost[number * len(kept) : (number + 1) * len(kept)]
        losses = [as_loss(replacement, row) for replacement, row in zip(kept, of_place, strict=True)]
        whole, *of_classes = energy_shares(totals[place.stride], groups)
        skips.append(Skip(place.stride, whole, of_classes, losses))
    return SkipMeasures(intact[0], intact[1], skips)


def as_mean(values: NDArray[np.float64]) -> RatioCounts:
    """Return values (V, I, C), NaN where undefined, as the counts of their mean over images."""
    known = np.isfinite(values).astype(np.float64)
    return RatioCounts(np.nan_to_num(values), known, known)


def as_loss(replacement: str, row: list[Estimate]) -> Loss:
    """Return a row of ``summarise``, 2 + 2 C estimates, as a Loss."""
    num_classes = len(row) // 2 - 1
    return Loss(replacement, row[0], row[1], row[2 : 2 + num_classes], row[2 + num_classes :])


def energy_shares(totals: Totals, groups: Sequence[str]) -> list[Estimate]:
    """Return the skip's share of the fused map's energy: of the whole map, then in the cells of each class."""

    def share(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            with_skip, without = weights @ totals.with_skip, weights @ totals.without
            return with_skip / (with_skip + without)

    return as_estimates(*estimate(share, groups))
