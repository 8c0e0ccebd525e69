"""Content-aware operators: the kernels or sampling offsets that they compute, on boundaries and away from them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segpipe.data.dataset import Sample
from segpipe.data.resize import resize_mask
from segpipe.errors import UserError
from segpipe.lab.cells import as_batch, contours_of_map, image_extent, padded_size
from segpipe.lab.slots import Place, StepMaps, places, recording
from segpipe.metrics.bootstrap import Estimate, as_estimates, estimate
from segpipe.metrics.contours import NO_CONTOUR, count_within
from segpipe.models.network import Network
from segpipe.models.upsample import Upsampler

AWAY = 2  # pixels from the nearest pixel of another class, chessboard distance; boundary pixels have 1
Offset = tuple[int, int]  # (down, right), in cells of the operator's input
Kind = Literal["kernel", "offsets"]


class Strengths(NamedTuple):
    """Sums of ``strength`` over the boundary pixels of one image, and over the pixels away from them."""

    on: float
    pixels_on: int
    away: float
    pixels_away: int


@dataclass(frozen=True)
class ContentFacts:
    """What a content-aware operator computed for one image, in the pixels of its map that lie on the image.

    The pixels that lie in the padding are left out. kind: ``kernel``: values (T, H/s, W/s) are the weights of T
    neighbours of each pixel; ``offsets``: values (2, H/s, W/s) are the distance to the right and down, in cells of the
    operator's input, from the position of bilinear interpolation; of an operator with groups of channels, their mean.
    neighbours: of a kernel, (down, right) in cells of the input. strengths: (H/s, W/s), see ``strength``. boundary:
    (H/s, W/s) of bool, the boundary pixels. extent: height and width of the image in pixels of the map; the last pixel
    may lie on it only in part. found: the strengths on boundary pixels, and on pixels farther than AWAY from any.
    """

    place: str
    stride: int
    factor: int
    operator: str
    kind: Kind
    values: NDArray[np.float32]
    neighbours: tuple[Offset, ...]
    strengths: NDArray[np.float64]
    boundary: NDArray[np.bool_]
    extent: tuple[float, float]
    found: Strengths

    @property
    def on(self) -> float:
        """The mean strength on boundary pixels; NaN without any."""
        return self.found.on / self.found.pixels_on if self.found.pixels_on else float("nan")

    @property
    def away(self) -> float:
        """The mean strength away from boundary pixels; NaN without such pixels."""
        return self.found.away / self.found.pixels_away if self.found.pixels_away else float("nan")


def content_facts(step: StepMaps, labels: NDArray[np.uint8], size: tuple[int, int]) -> ContentFacts | None:
    """Return what the operator of a step computed for one image; None for an operator that looks at no content.

    labels: (h, w) class indices of the image. size: height and width of the padded image.
    """
    operator = step.place.upsample
    found = operator.explain(step.before, step.source) if explains(operator) else None  # type: ignore[operator]
    if not found:
        return None
    kind: Kind = "kernel" if "kernel" in found else "offsets"
    values = as_array(found[kind])
    groups = found.get("group_offsets")
    strengths = np.mean([strength(one, kind) for one in (values[None] if groups is None else as_array(groups))], axis=0)
    shape = values.shape[1:]
    boundary, near = boundaries(labels, size, (shape[0], shape[1]))
    height, width = boundary.shape
    values, strengths = values[:, :height, :width], strengths[:height, :width]
    place = step.place
    return ContentFacts(
        place.label,
        place.stride,
        place.factor,
        type(operator).__name__,
        kind,
        values,
        neighbours_of(operator, len(values)) if kind == "kernel" else (),
        strengths,
        boundary,
        image_extent(labels.shape, padded=size, shape=shape),
        Strengths(*sum_over(strengths, boundary), *sum_over(strengths, ~near)),
    )


def explains(operator: nn.Module) -> bool:
    """Return whether an operator has a method ``explain`` of its own."""
    method = getattr(operator, "explain", None)
    return callable(method) and getattr(method, "__func__", method) is not Upsampler.explain


def as_array(batch: Tensor) -> NDArray[np.float32]:
    """Return the first entry of a batch as an array."""
    return batch[0].detach().float().cpu().numpy()


def strength(values: NDArray[np.float32], kind: Kind) -> NDArray[np.float64]:
    """Return one number for each pixel, (D, h, w) to (h, w).

    Of a kernel its sharpness, the sum of its squared weights: 1 for a single neighbour, 1/T for the mean of T. Of
    offsets their length, in cells of the operator's input. Of an operator with groups of channels, the mean over the
    groups is taken of the lengths: offsets in opposite directions do not cancel.
    """
    squares = (values.astype(np.float64) ** 2).sum(0)
    return squares if kind == "kernel" else np.sqrt(squares)


def boundaries(
    labels: NDArray[np.uint8], size: tuple[int, int], shape: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the boundary pixels of a mask at the size of a map, and the pixels within AWAY of one.

    Both (h', w'): the pixels of the map that lie on the image. size: height and width of the padded image.
    """
    lines = contours_of_map(labels, padded=size, shape=shape)
    return lines[0] != NO_CONTOUR, count_within(lines, (AWAY,))[0] > 0


def sum_over(values: NDArray[np.float64], where: NDArray[np.bool_]) -> tuple[float, int]:
    """Return the sum over some pixels, and their number."""
    return float(values[where].sum()), int(where.sum())


def neighbours_of(operator: object, count: int) -> tuple[Offset, ...]:
    """Return the neighbours of an operator's kernel: its attribute ``offsets``, or a square in reading order.

    Raises UserError where neither says which neighbours the weights are of.
    """
    offsets = getattr(operator, "offsets", None)
    if isinstance(offsets, tuple) and len(offsets) == count:
        return offsets
    reach = math.isqrt(count) // 2
    if count != (2 * reach + 1) ** 2:
        raise UserError(
            f"explain of {type(operator).__name__} returns {count} weights for a pixel, which are no square with an "
            f"odd side. Give the operator an attribute offsets: a tuple of {count} pairs (down, right), one for each "
            f"weight."
        )
    return tuple((down, right) for down in range(-reach, reach + 1) for right in range(-reach, reach + 1))


def examples(facts: ContentFacts, count: int) -> list[tuple[int, int, bool]]:
    """Return pixels (row, column, on a boundary): ``count`` boundary pixels and as many others, evenly spread."""
    chosen = []
    for wanted in (True, False):
        rows, columns = np.nonzero(facts.boundary == wanted)
        picked = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
        chosen += [(int(rows[index]), int(columns[index]), wanted) for index in picked]
    return chosen


def as_square(weights: NDArray[np.float32], neighbours: tuple[Offset, ...]) -> NDArray[np.float32]:
    """Return the weights (T,) of neighbours in a square (K, K); cells that are no neighbours are 0."""
    reach = max(max(abs(down), abs(right)) for down, right in neighbours)
    square = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for weight, (down, right) in zip(weights, neighbours, strict=True):
        square[down + reach, right + reach] = weight
    return square


@dataclass(frozen=True)
class ContentMeasures:
    """What the operator of one step computed over the images of a split.

    kind: see ``ContentFacts``. on, away: the mean of ``strength`` over the boundary pixels of all images, and over the
    pixels farther than AWAY from any; ratio: the first over the second. pixels: number of boundary pixels.
    """

    place: str
    stride: int
    factor: int
    operator: str
    kind: Kind
    pixels: int
    on: Estimate
    away: Estimate
    ratio: Estimate


def explaining(network: Network) -> list[Place]:
    """Return the places of a network whose operators look at content, coarse to fine."""
    return [place for place in places(network) if explains(place.upsample)]


def passes(network: Network, images: int) -> int:
    """Return the number of forward passes of ``measure_content``."""
    return images if explaining(network) else 0


@torch.inference_mode()
def measure_content(
    network: Network, samples: Sequence[Sample], *, groups: Sequence[str], advance: Callable[[float], None]
) -> list[ContentMeasures]:
    """Return what each content-aware operator computed, coarse to fine. An image is one forward pass.

    groups: one for each sample, see ``metrics.bootstrap.units``. Boundaries are those of the masks.
    """
    steps = explaining(network)
    found: list[list[ContentFacts]] = [[] for _ in steps]
    for sample in samples if steps else ():
        size = sample.image.shape[:2]
        with recording(network) as record:
            network(as_batch(sample.image, network))
        labels = resize_mask(sample.mask, size)
        for of_step, place in zip(found, steps, strict=True):
            facts = content_facts(record.maps(place), labels, padded_size(network, size))
            if facts is not None:
                of_step.append(facts)
        advance(1)
    return [content_measures(of_step, groups) for of_step in found if len(of_step) == len(groups) and of_step]


def content_measures(found: Sequence[ContentFacts], groups: Sequence[str]) -> ContentMeasures:
    """Return the measures of one step from those of its images."""
    sums = np.array([facts.found for facts in found], np.float64)  # (I, 4)

    def score(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        on, pixels_on, away, pixels_away = (weights @ sums).T
        with np.errstate(invalid="ignore", divide="ignore"):
            means = on / pixels_on, away / pixels_away
            return np.stack([*means, means[0] / means[1]], axis=1)

    on, away, ratio = as_estimates(*estimate(score, groups))
    first, pixels = found[0], sum(facts.found.pixels_on for facts in found)
    return ContentMeasures(first.place, first.stride, first.factor, first.operator, first.kind, pixels, on, away, ratio)
