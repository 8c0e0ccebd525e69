"""Content-aware operators: the kernels or sampling offsets that they compute, on boundaries and away from them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segpipe.lab.cells import contours_of_map
from segpipe.lab.slots import StepMaps
from segpipe.metrics.contours import NO_CONTOUR, count_within

AWAY = 2  # cells from the nearest pixel of another class, chessboard distance; boundary pixels have 1
Offset = tuple[int, int]  # (down, right), in cells of the operator's input


@dataclass(frozen=True)
class ContentFacts:
    """What a content-aware operator computed for one image.

    kind: ``kernel``: values (T, H/s, W/s) are the weights of T neighbours of each pixel; ``offsets``: values (2, H/s,
    W/s) are the distance to the right and down, in cells of the operator's input, from the position of bilinear
    interpolation. neighbours: of a kernel, (down, right) in cells of the input. boundary: (H/s, W/s) of bool, the
    boundary pixels. on, away: the mean of ``strength`` on boundary pixels, and on pixels farther than AWAY from any;
    NaN without such pixels.
    """

    place: str
    stride: int
    factor: int
    operator: str
    kind: Literal["kernel", "offsets"]
    values: NDArray[np.float32]
    neighbours: tuple[Offset, ...]
    boundary: NDArray[np.bool_]
    on: float
    away: float


def content_facts(step: StepMaps, labels: NDArray[np.uint8], size: tuple[int, int]) -> ContentFacts | None:
    """Return what the operator of a step computed for one image; None for an operator that looks at no content.

    labels: (h, w) class indices of the image. size: height and width of the padded image.
    """
    operator = step.place.upsample
    explain = getattr(operator, "explain", None)
    found = explain(step.before, step.source) if callable(explain) else None
    if not found:
        return None
    kind: Literal["kernel", "offsets"] = "kernel" if "kernel" in found else "offsets"
    values = found[kind][0].detach().float().cpu().numpy()
    boundary, near = boundaries(labels, size, (values.shape[1], values.shape[2]))
    strengths = strength(values, kind)
    place = step.place
    return ContentFacts(
        place.label,
        place.stride,
        place.factor,
        type(operator).__name__,
        kind,
        values,
        neighbours_of(operator, len(values)) if kind == "kernel" else (),
        boundary,
        mean_of(strengths, boundary),
        mean_of(strengths, ~near),
    )


def strength(values: NDArray[np.float32], kind: str) -> NDArray[np.float64]:
    """Return one number for each pixel, (D, h, w) to (h, w).

    Of a kernel its sharpness, the sum of its squared weights: 1 for a single neighbour, 1/T for the mean of T. Of
    offsets their length, in cells of the operator's input.
    """
    squares = (values.astype(np.float64) ** 2).sum(0)
    return squares if kind == "kernel" else np.sqrt(squares)


def boundaries(
    labels: NDArray[np.uint8], size: tuple[int, int], shape: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the boundary pixels of a mask at the size of a map, and the pixels within AWAY of one, (h, w) each."""
    lines = contours_of_map(labels, padded=size, shape=shape)
    return lines[0] != NO_CONTOUR, count_within(lines, (AWAY,))[0] > 0


def mean_of(values: NDArray[np.float64], where: NDArray[np.bool_]) -> float:
    """Return the mean over some pixels; NaN without any."""
    return float(values[where].mean()) if where.any() else float("nan")


def neighbours_of(operator: object, count: int) -> tuple[Offset, ...]:
    """Return the neighbours of an operator's kernel: its attribute ``offsets``, or a square in reading order."""
    offsets = getattr(operator, "offsets", None)
    if isinstance(offsets, tuple) and len(offsets) == count:
        return offsets
    reach = round(count**0.5) // 2
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
