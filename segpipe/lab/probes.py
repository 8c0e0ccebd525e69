"""What each map of a network knows: a linear probe on every encoder stage and decoder step. docs/lab.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segpipe.data.dataset import Mask, Sample
from segpipe.lab.cells import as_batch, cell_fractions, enlarge, padded_size
from segpipe.lab.regions import Truth, filled_prediction, pixels_by_region, truth_of
from segpipe.lab.skips import Advance
from segpipe.lab.slots import recording
from segpipe.metrics.bootstrap import Estimate, as_estimates, class_ratios, estimate, mean_of_classes
from segpipe.metrics.confusion import RatioCounts, confusion_matrices, iou_counts
from segpipe.models.network import Network

RIDGE = 1e-3  # penalty, for features of unit variance and the mean over pixels
CELLS = 1024  # sampled from each map of each image, at most
Part = Literal["encoder", "neck", "decoder", "untrained encoder"]


@dataclass(frozen=True)
class MapScores:
    """The scores of predictions from one map, 0 to 1, on all test images. None: not defined.

    recall: share of the true contour pixels that are within one pixel of a predicted contour; precision: the reverse.
    regions: number of true regions of which most pixels get the region's class.
    """

    miou: Estimate
    recall: float | None
    precision: float | None
    regions: int


@dataclass(frozen=True)
class Probe:
    """The probe of one map. cells: of the map, mean over the test images. share: mIoU as a share of the ceiling's.

    ceiling: the scores of a perfect map of the same cells, which holds the fraction of each class.
    """

    part: Part
    label: str
    stride: int
    channels: int
    cells: int
    scores: MapScores
    ceiling: MapScores
    share: Estimate


@dataclass(frozen=True)
class ProbeMeasures:
    """The probes of one network: encoder fine to coarse, neck, decoder coarse to fine, the untrained encoder.

    fitted_on: number of images that the probes were fitted on. regions: number of true regions in the test images.
    """

    fitted_on: int
    regions: int
    probes: list[Probe]


class Layer(NamedTuple):
    """One map of a network for one image, (1, C, h, w)."""

    part: Part
    label: str
    stride: int
    map: Tensor


class Gram:
    """Sums over cells for a ridge regression of class shares on features, in double precision.

    The same as over pixels with the features of their cells and one-hot classes: a cell counts as often as it has
    labelled pixels.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        self.weight = 0.0
        self.x, self.y = np.zeros(channels), np.zeros(num_classes)
        self.xx, self.xy = np.zeros((channels, channels)), np.zeros((channels, num_classes))

    def add(self, features: NDArray[np.floating], fractions: NDArray[np.floating]) -> None:
        """Add n cells. features: (n, C). fractions: (n, K) of the cell's pixels by class; they may sum to below 1."""
        features, fractions = features.astype(np.float64), fractions.astype(np.float64)
        self.weight += fractions.sum()
        self.y += fractions.sum(0)
        with np.errstate(invalid="ignore"):  # features of a diverged network may be infinite; see ``solve``
            weighted = features * fractions.sum(1, keepdims=True)
            self.x += weighted.sum(0)
            self.xx += features.T @ weighted
            self.xy += features.T @ fractions

    def solve(self, ridge: float = RIDGE) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Return weights (K, C) and biases (K,) of the ridge regression; None without labelled cells or finite sums.

        It minimises the mean over pixels of the squared error plus ``ridge`` times the sum of the squared weights of
        features that are divided by their standard deviation; biases have no penalty (Hoerl and Kennard 1970).
        Constant channels get the weight 0.
        """
        if not self.weight or not np.isfinite(self.xx).all():
            return None
        x, y = self.x / self.weight, self.y / self.weight
        covariance = self.xx / self.weight - np.outer(x, x)
        variance, square = np.diag(covariance), np.diag(self.xx) / self.weight
        varies = variance > 1e-10 * square
        scale = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1)), 0.0)
        correlation = scale[:, None] * covariance * scale + ridge * np.eye(len(scale))
        weights = scale[:, None] * np.linalg.solve(
            correlation, scale[:, None] * (self.xy / self.weight - np.outer(x, y))
        )
        return weights.T, y - x @ weights


class MapCounts(NamedTuple):
    """Counts of the prediction of one image.

    matrix: the confusion matrix (C, C). contours: (4,) true contour pixels, of them found; predicted ones, of them
    true. regions: number of true regions with the right class.
    """

    matrix: NDArray[np.int64]
    contours: NDArray[np.int64]
    regions: int


def count_map(prediction: Mask, truth: Truth, num_classes: int) -> MapCounts:
    """Count the prediction (H, W) of one image."""
    pair = torch.from_numpy(prediction)[None].long(), torch.from_numpy(truth.mask)[None]
    filled, drawn = filled_prediction(prediction, truth)
    pairs = ((truth.contour, drawn.near), (drawn.contour, truth.near))
    lines = [number for contour, near in pairs for number in (contour.sum(), (contour & near).sum())]
    by_class = pixels_by_region(truth, filled, num_classes)
    right = (by_class.argmax(1) == truth.classes) & by_class.any(1)
    return MapCounts(confusion_matrices(*pair, num_classes)[0].numpy(), np.array(lines), int(right.sum()))


def ratios_of(counts: Sequence[MapCounts]) -> RatioCounts:
    """Return hits and unions (1, I, C), and true pixels (I, C), of the counts of I images."""
    iou = iou_counts(np.stack([one.matrix for one in counts]))
    return RatioCounts(iou.numerator[None], iou.denominator[None], iou.present)


def mean_iou(counts: RatioCounts, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mIoU (B,) under weights (B, I)."""
    return mean_of_classes(class_ratios(counts, weights))[:, 0]


def layers_of(network: Network, image: Tensor, untrained: Network | None) -> list[Layer]:
    """Return the maps of a network for one image (1, 3, H, W), and those of an untrained network's encoder."""
    with recording(network) as record:
        x, features = network.encode(image)
        network.decode(x, features)
    strides = network.encoder.strides
    found = [Layer("encoder", f"encoder, stride {stride}", stride, features[stride]) for stride in strides]
    if x is not features[network.encoder.coarsest]:
        found.append(Layer("neck", f"neck, stride {strides[-1]}", strides[-1], x))
    for maps in record.steps():
        found.append(Layer("decoder", f"decoder, {maps.place.label}", maps.place.stride, maps.refined))
    if untrained is not None:
        maps_of = untrained.encode(image)[1]
        found += [
            Layer("untrained encoder", f"untrained encoder, stride {stride}", stride, maps_of[stride])
            for stride in strides
        ]
    return found


def passes(images: int, fitted_on: int) -> int:
    """Return the number of forward passes that ``measure_probes`` reports."""
    return 2 * fitted_on + 6 * images  # scoring all maps of an image takes as long as several passes


@torch.inference_mode()
def measure_probes(
    network: Network,
    untrained: Network | None,
    *,
    fit: Sequence[Sample],
    test: Sequence[Sample],
    groups: Sequence[str],
    num_classes: int,
    advance: Advance,
) -> ProbeMeasures:
    """Fit a linear probe on every map with the images of ``fit``, and score it on those of ``test``.

    network, untrained: in evaluation mode; ``untrained`` is the same network before training, or None. groups: one for
    each test image, see ``bootstrap.units``.
    """
    grams: list[Gram] = []
    for number, (image, mask) in enumerate(fit):
        layers = layers_of(network, as_batch(image, network), untrained)
        grams = grams or [Gram(layer.map.shape[1], num_classes) for layer in layers]
        for gram, layer in zip(grams, layers, strict=True):
            fractions = fractions_of(layer, network, mask, image.shape[:2], num_classes)
            add_cells(gram, layer.map, fractions, seed=number)
        advance(2)
    solved = [gram.solve() for gram in grams]
    return score_probes(
        network, untrained, solved, test, groups, num_classes=num_classes, fitted_on=len(fit), advance=advance
    )


def fractions_of(
    layer: Layer, network: Network, mask: Mask, size: Sequence[int], num_classes: int
) -> NDArray[np.float32]:
    """Return the fractions of each class in the cells of a map, (K, h, w). size: (H, W) of the network's input."""
    return cell_fractions(
        mask, stride=layer.stride, shape=layer.map.shape[-2:], size=size, padded=padded_size(network, size),
        num_classes=num_classes,
    )  # fmt: skip


def add_cells(gram: Gram, x: Tensor, fractions: NDArray[np.float32], *, seed: int) -> None:
    """Add the labelled cells of a map (1, C, h, w), CELLS at most, drawn at random without replacement."""
    labelled = np.flatnonzero(fractions.sum(0))
    if len(labelled) > CELLS:
        labelled = np.sort(np.random.default_rng(seed).choice(labelled, CELLS, replace=False))
    features = x[0].flatten(1)[:, torch.from_numpy(labelled).to(x.device)].float().cpu().numpy()
    gram.add(features.T, fractions.reshape(len(fractions), -1)[:, labelled].T)


def score_probes(
    network: Network,
    untrained: Network | None,
    solved: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]] | None],
    test: Sequence[Sample],
    groups: Sequence[str],
    *,
    num_classes: int,
    fitted_on: int,
    advance: Advance,
) -> ProbeMeasures:
    """Score solved probes, in the order of ``layers_of``, on test images."""
    counts: list[list[MapCounts]] = [[] for _ in solved]
    ceilings: list[list[MapCounts]] = [[] for _ in solved]
    shapes: list[Layer] = []
    cells, num_regions = np.zeros(len(solved)), 0
    for image, mask in test:
        layers, truth, size = layers_of(network, as_batch(image, network), untrained), truth_of(mask), image.shape[:2]
        num_regions += int(pixels_by_region(truth, truth.filled, num_classes).any(1).sum())
        perfect: dict[tuple[int, ...], MapCounts] = {}
        for index, (layer, probe) in enumerate(zip(layers, solved, strict=True)):
            sizes = {"size": size, "padded": padded_size(network, size), "full": mask.shape}
            key = (layer.stride, *layer.map.shape[-2:])
            cells[index] += key[1] * key[2]
            if key not in perfect:
                fractions = torch.from_numpy(fractions_of(layer, network, mask, size, num_classes))[None]
                perfect[key] = count_map(enlarge(fractions, stride=layer.stride, **sizes), truth, num_classes)
            ceilings[index].append(perfect[key])
            if probe is not None:
                prediction = enlarge(linear(layer.map, *probe), stride=layer.stride, **sizes)
                counts[index].append(count_map(prediction, truth, num_classes))
        shapes = [layer._replace(map=layer.map[:, :, :0]) for layer in layers]
        advance(6)
    cells /= max(len(test), 1)
    rows = zip(shapes, cells.tolist(), counts, ceilings, strict=True)
    return ProbeMeasures(fitted_on, num_regions, [as_probe(*row, groups=groups) for row in rows])


def linear(x: Tensor, weights: NDArray[np.float64], biases: NDArray[np.float64]) -> Tensor:
    """Return the scores (1, K, h, w) of a probe for a map (1, C, h, w)."""
    kernel = torch.from_numpy(weights).to(x)[:, :, None, None]
    return F.conv2d(x, kernel, torch.from_numpy(biases).to(x))


def as_probe(
    layer: Layer, cells: float, counts: Sequence[MapCounts], ceiling: Sequence[MapCounts], *, groups: Sequence[str]
) -> Probe:
    """Return the scores of a map from the counts of all test images; without counts, they are None."""
    share = Estimate(None)
    if counts:
        own, best = ratios_of(counts), ratios_of(ceiling)
        (share,) = as_estimates(*estimate(lambda drawn: mean_iou(own, drawn) / mean_iou(best, drawn), groups))
    return Probe(
        layer.part, layer.label, layer.stride, layer.map.shape[1], round(cells), scores_of(counts, groups),
        scores_of(ceiling, groups), share,
    )  # fmt: skip


def scores_of(counts: Sequence[MapCounts], groups: Sequence[str]) -> MapScores:
    """Return the scores of one map from the counts of all test images."""
    if not counts:
        return MapScores(Estimate(None), None, None, 0)
    ratios = ratios_of(counts)
    (miou,) = as_estimates(*estimate(lambda drawn: mean_iou(ratios, drawn), groups))
    true, found, predicted, right = np.sum([one.contours for one in counts], axis=0).tolist()
    recall, precision = found / true if true else None, right / predicted if predicted else None
    return MapScores(miou, recall, precision, sum(one.regions for one in counts))
