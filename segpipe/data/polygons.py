"""The outlines of the regions of a mask, as GeoJSON: polygons whose edges are edges of pixels, with their holes."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.data.dataset import Mask

Points = NDArray[np.float64]  # (n, 2) of x, y
Ring = NDArray[np.int64]  # (n, 2) of x, y: corners of pixels, the first one repeated at the end


def feature_collection(
    mask: Mask, classes: Sequence[str], *, transform: Callable[[Points], Points] | None = None, crs: str | None = None
) -> dict[str, Any]:
    """Return the regions of a mask (H, W) as a GeoJSON FeatureCollection: a polygon for each region, with its holes.

    A region is a set of pixels of one class that are connected by their sides. Coordinates are x to the right and y
    downwards in pixels, with (0, 0) at the upper left corner of the image; or those of ``transform``, in ``crs``.
    Properties: ``class``, ``index`` and ``pixels``, the area. Outer rings are anticlockwise as seen with y upwards, as
    RFC 7946 asks. It also asks for longitudes and latitudes; as GIS programs do, ``crs`` is written instead.
    """
    features = []
    for index in np.unique(mask).tolist():
        name = classes[index] if index < len(classes) else "ignored"
        for rings, pixels in regions(mask == index):
            points = [oriented(to_points(ring, transform), outer=not place) for place, ring in enumerate(rings)]
            features.append(
                {
                    "type": "Feature",
                    "properties": {"class": name, "index": index, "pixels": pixels},
                    "geometry": {"type": "Polygon", "coordinates": [ring.tolist() for ring in points]},
                }
            )
    collection: dict[str, Any] = {"type": "FeatureCollection"}
    if crs is not None:
        collection["crs"] = {"type": "name", "properties": {"name": crs}}
    return collection | {"features": features}


def to_points(ring: Ring, transform: Callable[[Points], Points] | None) -> Points:
    """Return the corners of a ring in the coordinates of the file."""
    return ring if transform is None else transform(ring.astype(np.float64))  # type: ignore[return-value]


def oriented(ring: Points, *, outer: bool) -> Points:
    """Return a ring in the direction of RFC 7946: outer rings anticlockwise (y upwards), holes clockwise."""
    x, y = ring[:, 0] - ring[0, 0], ring[:, 1] - ring[0, 1]
    area = float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())
    return ring if (area > 0) == outer else ring[::-1]


def regions(inside: NDArray[np.bool_]) -> Iterator[tuple[list[Ring], int]]:
    """Yield for each region of (H, W) its rings, the outer one first, and its number of pixels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        inside.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S
    )
    outer: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = defaultdict(list)
    for ring in rings_of(inside):
        x, y = ring[np.lexsort((ring[:, 0], ring[:, 1]))[0]]  # the leftmost of the highest corners
        if inside[y, x]:  # the pixel below and to the right of it
            outer[int(labels[y, x])] = ring
        else:
            holes[int(labels[y - 1, x])].append(ring)
    for label in range(1, count):
        yield [outer[label], *holes[label]], int(stats[label, cv2.CC_STAT_AREA])


def rings_of(inside: NDArray[np.bool_]) -> Iterator[Ring]:
    """Yield the outlines of the regions of (H, W): closed rings of corners, with a turn at each.

    Sorted by rows, corners 2 i and 2 i + 1 are the ends of a horizontal edge; sorted by columns, of a vertical edge. A
    point where two pixels touch at their corners holds two corners. They are paired so that these pixels are apart.
    """
    cells = np.pad(inside.astype(np.uint8), 1)
    kind = cells[:-1, :-1] + 2 * cells[:-1, 1:] + 4 * cells[1:, :-1] + 8 * cells[1:, 1:]  # of the pixels around a point
    corner = np.isin(kind, (1, 2, 4, 8, 7, 11, 13, 14))
    touching = (kind == 6) | (kind == 9)
    y, x = np.nonzero(corner | touching)
    repeats = 1 + touching[y, x].astype(np.int64)
    falling = np.repeat(kind[y, x] == 6, repeats)  # pixels to the right above and to the left below
    y, x = np.repeat(y, repeats), np.repeat(x, repeats)
    second = np.zeros(len(y), np.int64)
    second[1:] = (y[1:] == y[:-1]) & (x[1:] == x[:-1])
    along = np.arange(len(y))  # sorted by y, then x
    down = np.lexsort((np.where(falling, -second, second), y, x))
    beside, below = np.empty_like(along), np.empty_like(along)
    beside[along[0::2]], beside[along[1::2]] = along[1::2], along[0::2]
    below[down[0::2]], below[down[1::2]] = down[1::2], down[0::2]
    points = np.stack([x, y], 1)
    beside_of, below_of = beside.tolist(), below.tolist()
    seen = bytearray(len(y))
    for start in range(len(y)):
        if seen[start]:
            continue
        chain, here = [], start
        while not seen[here]:
            other = beside_of[here]
            seen[here] = seen[other] = 1
            chain += [here, other]
            here = below_of[other]
        yield points[[*chain, start]]
