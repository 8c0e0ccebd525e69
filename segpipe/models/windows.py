"""A network over images of any size: large ones by overlapping windows, whose logits are blended.

The logits of a large image are never in memory as a whole. Windows are computed row by row, from left to right. Logits
are handed on as soon as no further window adds to them. Until then, only the overlaps are kept: K x overlap x W numbers
for the overlap with the next row of windows.

Blending is that of nnU-Net (Isensee et al. 2021): the weight of a window's logits is a Gaussian around its centre with
a standard deviation of an eighth of its side; the weights of a pixel sum to 1. Where the receptive field fits in the
overlap, pixels that a window's inner border can affect get the weight 0, so the blended logits are those of the whole
image up to rounding. A network that reads the whole image at any pixel, such as one with global pooling or with
``LocalContrast``, gets the window in its place: its logits differ from those of the whole image.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segpipe.models.network import resize_logits

LIMIT = 2**22  # pixels, 2048 x 2048: an image with more is large, and computed by windows
SIDE = 768  # pixels of a window: it needs as much memory as an image of this size
OVERLAP = 256  # pixels of two windows: of all networks whose receptive field does not allow less
AT_ONCE = 2**24  # logits that are resized at a time


class Tile(NamedTuple):
    """The final logits (K, h, w) of a part of an image: of its ``rows`` and ``columns``."""

    rows: slice
    columns: slice
    logits: Tensor


class Span(NamedTuple):
    """A window along one axis: pixels from ``start`` to ``stop``, and the weights (stop - start,) of their logits."""

    start: int
    stop: int
    weights: Tensor


class Windows:
    """Computes the logits of an image of any size, tile by tile.

    network: images (N, C, H, W), values 0 to 255, to logits (N, K, H, W). stride: the network's coarsest stride.
    Windows begin at its multiples, as the cells of the maps of the whole image do. smallest: side of the smallest image
    that the network takes, in pixels. limit: the largest number of pixels that is computed in one piece. side, overlap:
    of the windows in pixels; they are rounded up to multiples of the stride.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        *,
        stride: int,
        smallest: int = 1,
        limit: int = LIMIT,
        side: int = SIDE,
        overlap: int = OVERLAP,
    ) -> None:
        self.network, self.stride, self.smallest, self.limit = network, stride, smallest, limit
        self.overlap = round_up(max(overlap, smallest), stride)
        self.side = max(round_up(side, stride), 2 * self.overlap)  # at most two windows share a row or a column
        self.layouts: dict[int, tuple[int, int]] = {}  # channels of an image: overlap and margin

    def is_large(self, size: Sequence[int]) -> bool:
        """Return whether an image or a mask of ``size``, (H, W), is computed part by part."""
        return size[0] * size[1] > self.limit

    @torch.inference_mode()
    def tiles(self, image: Tensor, size: Sequence[int]) -> Iterator[Tile]:
        """Yield the logits of an image (1, C, h, w), resized to ``size``, (H, W), in tiles from top to bottom.

        The tiles cover each pixel once. There is one tile, with the values of ``resize_logits(network(image), size)``,
        if neither the image nor ``size`` is large. Otherwise the resized logits are equal to these up to rounding.
        """
        source = (image.shape[-2], image.shape[-1])
        if not self.is_large(source):
            yield from self.resized(self.network(image).float(), size)
        elif source == tuple(size):
            yield from self.blended(image)
        else:
            yield from resize_tiles(self.blended(image), source, size)

    @torch.inference_mode()
    def resized(self, logits: Tensor, size: Sequence[int]) -> Iterator[Tile]:
        """Yield logits (1, K, h, w), resized to ``size``, (H, W): in one tile, or by rows if ``size`` is large."""
        source = (logits.shape[-2], logits.shape[-1])
        if not self.is_large(size) or source == tuple(size):
            yield Tile(slice(0, size[0]), slice(0, size[1]), resize_logits(logits, size)[0])
        else:
            tile = Tile(slice(0, source[0]), slice(0, source[1]), logits[0])
            yield from resize_tiles([tile], source, size)

    def masks(self, images: Tensor, size: Sequence[int]) -> Tensor:
        """Return the class indices (N, H, W), uint8 on the CPU, of images (N, C, h, w) at ``size``, (H, W).

        Large images are computed one by one, others as one batch.
        """
        masks = torch.empty(len(images), *size, dtype=torch.uint8)
        if self.is_large(images.shape[-2:]):
            parts = (self.tiles(image[None], size) for image in images)
        else:
            with torch.inference_mode():
                logits = self.network(images).float()
            parts = (self.resized(one[None], size) for one in logits)
        for mask, tiles in zip(masks, parts, strict=True):
            for tile in tiles:
                mask[tile.rows, tile.columns] = largest(tile.logits)
        return masks

    def layout(self, image: Tensor) -> tuple[int, int]:
        """Return the overlap of windows in pixels, and the margin: pixels at inner borders that get the weight 0.

        image: (1, C, H, W), of which only C and the device count. The overlap is twice the distance at which pixels
        affect logits, if that is at most the given overlap.
        """
        channels = image.shape[1]
        if channels not in self.layouts:
            margin = reach(
                self.network, channels=channels, stride=self.stride, most=self.overlap // 2, device=image.device
            )
            needed = self.overlap if margin is None else round_up(max(2 * margin, self.smallest, 1), self.stride)
            self.layouts[channels] = min(needed, self.overlap), margin or 0
        return self.layouts[channels]

    def blended(self, image: Tensor) -> Iterator[Tile]:
        """Yield the blended logits of the windows of an image (1, C, H, W)."""
        overlap, margin = self.layout(image)
        height, width = image.shape[-2:]
        rows, columns = (spans(length, side=self.side, overlap=overlap, margin=margin) for length in (height, width))
        below: Tensor | None = None  # (K, overlap, W): logits of the row of windows above, which the next row completes
        for row, next_row in zip(rows, [*rows[1:], None], strict=True):
            right: Tensor | None = None  # (K, h, overlap): of the window to the left
            for column, next_column in zip(columns, [*columns[1:], None], strict=True):
                window = image[..., row.start : row.stop, column.start : column.stop]
                logits = self.network(window)[0].float()
                logits = logits * (row.weights[:, None] * column.weights).to(logits.device)
                if right is not None:
                    logits[..., : right.shape[-1]] += right
                end = next_column.start if next_column else column.stop
                right = logits[..., end - column.start :].clone()
                final = logits[..., : end - column.start]  # its columns are complete
                if row.start and below is not None:
                    final[:, :overlap] += below[..., column.start : end]
                bottom = next_row.start if next_row else row.stop
                if next_row:
                    if below is None:
                        below = final.new_empty(len(final), overlap, width)
                    below[..., column.start : end] = final[:, bottom - row.start :]
                yield Tile(
                    slice(row.start, bottom), slice(column.start, end), final[:, : bottom - row.start].contiguous()
                )


def largest(logits: Tensor) -> Tensor:
    """Return the class index (H, W), uint8 on the CPU, of the largest of the logits (K, H, W); of equal ones the first.

    ``max`` equals ``argmax``, but is up to five times faster on a CPU.
    """
    return logits.max(0).indices.byte().cpu()


def round_up(number: int, step: int) -> int:
    """Return the smallest multiple of ``step`` that is at least ``number``."""
    return -(-number // step) * step


def spans(length: int, *, side: int, overlap: int, margin: int) -> list[Span]:
    """Return the windows along an axis of ``length`` pixels; two neighbours share ``overlap`` pixels.

    The last window ends where the image ends, and may be shorter than ``side``. margin: pixels at each inner border
    that get the weight 0; at most half the overlap.
    """
    windows = []
    total = torch.zeros(length)
    for start in range(0, max(length - overlap, 1), side - overlap):
        stop = min(start + side, length)
        distance = torch.arange(stop - start) + 0.5 - side / 2
        weights = torch.exp(-0.5 * (distance / (side / 8)) ** 2)
        if start:
            weights[:margin] = 0
        if stop < length:
            weights[stop - start - margin :] = 0
        total[start:stop] += weights
        windows.append((start, stop, weights))
    return [Span(start, stop, weights / total[start:stop]) for start, stop, weights in windows]


@torch.inference_mode()
def reach(
    network: Callable[[Tensor], Tensor],
    *,
    channels: int,
    stride: int,
    most: int,
    device: torch.device | str = "cpu",
) -> int | None:
    """Return the largest distance at which a pixel affects a logit, in pixels; None if it is more than ``most``.

    One part of an image is set to NaN, which every operation hands on; logits that stay numbers do not depend on that
    part. Its border is a multiple of the stride, as the borders of windows are. None too for a network that refuses
    NaN, such as an exported one.
    """
    edge = round_up(most + 1, stride)
    numbers = torch.arange(2 * edge)
    found = 0
    for known in (numbers < edge, numbers >= edge):
        image = torch.full((1, channels, 2 * edge, 2 * edge), 128.0)
        image[..., ~(known[:, None] & known)] = math.nan
        image = image.to(device)
        try:
            finite = network(image)[0].isfinite().all(0)
        except Exception:  # of any kind, by what the network is
            return None
        height, width = int(finite.any(1).sum()), int(finite.any(0).sum())
        if not height or not width or height * width != int(finite.sum()):
            return None
        found = max(found, edge - height, edge - width)
    return found if found <= most else None


def resize_tiles(tiles: Iterable[Tile], source: Sequence[int], size: Sequence[int]) -> Iterator[Tile]:
    """Resize the tiles of logits of size ``source``, (h, w), to ``size``, (H, W), a few rows at a time.

    tiles: from top to bottom, rows of tiles from left to right. The values are those of ``resize_logits`` up to
    rounding, but neither all logits nor all resized logits are in memory.
    """
    bands = rows_of(tiles, source[1])
    held = next(bands)  # (K, n, w): rows from ``top`` on
    top, start = 0, 0
    while start < size[0]:
        stop = min(size[0], start + max(1, AT_ONCE // (len(held) * size[1])))
        first, weights = row_weights(source[0], size[0], start, stop)
        while top + held.shape[1] < first + weights.shape[1]:
            held = torch.cat([held[:, max(first - top, 0) :], next(bands)], 1)
            top = max(first, top)
        rows = weights.to(held) @ held[:, first - top : first - top + weights.shape[1]]
        yield Tile(slice(start, stop), slice(0, size[1]), resize_logits(rows[None], (stop - start, size[1]))[0])
        start = stop


def rows_of(tiles: Iterable[Tile], width: int) -> Iterator[Tensor]:
    """Join the tiles of the same rows: (K, n, width)."""
    parts: list[Tensor] = []
    for tile in tiles:
        parts.append(tile.logits)
        if tile.columns.stop == width:
            yield parts[0] if len(parts) == 1 else torch.cat(parts, 2)
            parts = []


def row_weights(source: int, length: int, start: int, stop: int) -> tuple[int, Tensor]:
    """Return the weights of source rows for the rows from ``start`` to ``stop`` after resizing to ``length`` rows.

    The result is the first source row, and the weights (stop - start, n) of n source rows. They are those of bilinear
    interpolation, whose support grows with the step where rows are removed (``antialias``).
    """
    step = source / length
    support = max(step, 1.0)
    centres = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * step
    first = max(0, math.floor(float(centres[0]) - support))
    last = min(source, math.ceil(float(centres[-1]) + support))
    distance = torch.arange(first, last, dtype=torch.float64) + 0.5 - centres[:, None]
    weights = (1 - distance.abs() / support).clamp(min=0)
    return first, weights / weights.sum(1, keepdim=True)
