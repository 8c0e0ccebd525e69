"""The files of one predicted image: mask, colours, overlay, and those that options ask for."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from segpipe.data.dataset import Image, Mask
from segpipe.data.png import bands_of, write_png
from segpipe.data.polygons import feature_collection
from segpipe.data.visualise import Colour, colour_mask, legend, overlay
from segpipe.engine.georeference import Georeference, has_georeference, read_georeference, write_mask
from segpipe.models.windows import Tile, largest
from segpipe.runs.storage import atomic_write, write_text

ENDINGS = ("_mask", "_colour", "_overlay")  # of the images that are always written
COVERED = 1 / 8  # of the height of an image: larger legends are left out
MORE_ENDINGS = ("_confidence", "_map")  # of those on request, and of georeferenced masks


@dataclass(frozen=True)
class Outputs:
    """Which files are written, and where.

    out: the folder. classes, palette: names and colours by class index. show_legend: a legend of the classes that
    occur, on the last rows of the overlay, if it covers at most COVERED of them. confidence: NAME_confidence.png, the
    largest probability of each pixel times 255. probabilities: NAME_probabilities.npy, float16 (K, H, W). polygons:
    NAME_polygons.geojson. geo: NAME_map.tif, the mask on the map, for GeoTIFFs, and polygons in its coordinates.
    """

    out: Path
    classes: Sequence[str]
    palette: Sequence[Colour]
    show_legend: bool = True
    confidence: bool = False
    probabilities: bool = False
    polygons: bool = False
    geo: bool = True

    def path(self, name: str, ending: str) -> Path:
        """Return the path of a file of an image."""
        return self.out / f"{name}{ending}"


@dataclass
class Prediction:
    """What is predicted for one image. counts: pixels of each class (256,). confidence: (H, W), 0 to 255, or None."""

    mask: Mask
    counts: NDArray[np.int64]
    confidence: NDArray[np.uint8] | None = None


def collect(tiles: Iterable[Tile], size: Sequence[int], name: str, outputs: Outputs) -> Prediction:
    """Return the prediction of an image of ``size``, (H, W), from its tiles of logits.

    Probabilities are written to their file on the way, because they may need more memory than there is.
    """
    result = Prediction(np.empty(tuple(size), np.uint8), np.zeros(256, np.int64))
    if outputs.confidence:
        result.confidence = np.empty(tuple(size), np.uint8)
    if outputs.probabilities:
        atomic_write(
            outputs.path(name, "_probabilities.npy"),
            lambda temporary: fill(result, with_file(tiles, temporary, (len(outputs.classes), *size))),
            sync=False,
        )
    else:
        fill(result, tiles)
    return result


def fill(result: Prediction, tiles: Iterable[Tile]) -> None:
    """Write the classes and the confidence of all tiles into a prediction."""
    for rows, columns, logits in tiles:
        part = largest(logits).numpy()
        result.mask[rows, columns] = part
        result.counts += np.bincount(part.ravel(), minlength=256)
        if result.confidence is not None:
            highest = logits.softmax(0).max(0).values
            result.confidence[rows, columns] = (highest * 255).round().byte().cpu().numpy()


def with_file(tiles: Iterable[Tile], path: Path, shape: tuple[int, ...]) -> Iterator[Tile]:
    """Yield tiles, and write their probabilities to a ``.npy`` file of float16 with ``shape``, (K, H, W)."""
    stored = open_memmap(path, "w+", np.float16, shape)
    if hasattr(os, "posix_fallocate"):  # else a full disk would end the process by a signal
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, stored.offset + stored.nbytes)
    for tile in tiles:
        stored[:, tile.rows, tile.columns] = tile.logits.softmax(0).half().cpu().numpy()
        yield tile
    stored.flush()


def write_outputs(name: str, path: Path, image: Image, found: Prediction, outputs: Outputs) -> None:
    """Write the files of one image below ``outputs.out``. path: of the image. image: (H, W, 3) RGB.

    Pictures are drawn and written by bands of rows.
    """
    mask, size, palette = found.mask, found.mask.shape, outputs.palette
    bands = list(bands_of(size))
    write_png(outputs.path(name, "_mask.png"), (mask[rows] for rows in bands), size)
    write_png(outputs.path(name, "_colour.png"), (colour_mask(mask[rows], palette) for rows in bands), size)
    entries = legend_of(found.counts, size, outputs)
    blended = (with_legend(overlay(image[rows], mask[rows], palette), rows.stop - size[0], entries) for rows in bands)
    write_png(outputs.path(name, "_overlay.png"), blended, size, photo=True)
    if found.confidence is not None:
        confidence = found.confidence
        write_png(outputs.path(name, "_confidence.png"), (confidence[rows] for rows in bands), size, photo=True)
    place = read_georeference(path) if outputs.geo and has_georeference(path) else None
    if place is not None:
        write_mask(outputs.path(name, "_map.tif"), mask, place, list(palette))
    if outputs.polygons:
        write_polygons(outputs.path(name, "_polygons.geojson"), mask, outputs.classes, place)


def legend_of(counts: NDArray[np.int64], size: Sequence[int], outputs: Outputs) -> Image | None:
    """Return the legend (h, W, 3) of the classes that occur in an image of ``size``, (H, W).

    counts: pixels of each class. None where no legend is wanted, or where it would cover too much of the image.
    """
    if not outputs.show_legend:
        return None
    indices = tuple(index for index in np.flatnonzero(counts).tolist() if index < len(outputs.classes))
    entries = legend(tuple(outputs.classes), tuple(outputs.palette), indices, size[1])
    return entries if len(entries) <= COVERED * size[0] else None


def with_legend(band: Image, below: int, entries: Image | None) -> Image:
    """Return rows (h, W, 3) of a picture with the part of the legend that lies on them; they are changed.

    below: the last of the rows, counted from the end of the picture: 0 for the end, negative above it. The legend
    covers the last rows of the picture.
    """
    if entries is not None and below > -len(entries):
        part = entries[: len(entries) + below][-len(band) :]
        band[len(band) - len(part) :] = part
    return band


def write_polygons(path: Path, mask: Mask, classes: Sequence[str], place: Georeference | None) -> None:
    """Write the regions of a mask as GeoJSON, in pixels or in the coordinates of the map."""
    transform, crs = (None, None) if place is None else (place.to_map, place.name())
    collection = feature_collection(mask, classes, transform=transform, crs=crs)
    write_text(path, json.dumps(collection, ensure_ascii=False) + "\n")
