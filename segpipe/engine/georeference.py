"""The place of an image on the Earth: read from a GeoTIFF, and written with its mask."""

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from segpipe.data.dataset import Mask
from segpipe.runs.storage import atomic_write

GEO_TAGS = (33550, 33922, 34264, 34735)  # of GeoTIFF: pixel scale, tie points, transformation, keys of the CRS
WITHOUT = "lies on a map, but rasterio is not installed, so its masks do not: pip install 'segpipe[rasterio]'"


class Georeference(NamedTuple):
    """Coordinate reference system and affine transform of an image, as rasterio has them. crs may be None."""

    crs: Any
    transform: Any

    def to_map(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert points (n, 2) of x, y in pixels to coordinates of the map."""
        a, b, c, d, e, f = tuple(self.transform)[:6]
        x, y = points.T
        return np.stack([a * x + b * y + c, d * x + e * y + f], 1)

    def name(self) -> str | None:
        """Return the name of the CRS for a GeoJSON file: its code if it has one, else its text in WKT."""
        code = self.crs.to_epsg() if self.crs else None
        return f"urn:ogc:def:crs:EPSG::{code}" if code else self.crs.to_wkt() if self.crs else None


def is_installed() -> bool:
    """Return whether rasterio is installed."""
    return importlib.util.find_spec("rasterio") is not None


def has_georeference(path: Path) -> bool:
    """Return whether a file is a TIFF with tags of a GeoTIFF."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        with path.open("rb") as file:
            tags = TiffImagePlugin.TiffImageFile(file).tag_v2
            return any(tag in tags for tag in GEO_TAGS)
    except Exception:  # a damaged file is reported where its image is read
        return False


def read_georeference(path: Path) -> Georeference:
    """Return the georeference of a GeoTIFF. rasterio has to be installed."""
    import rasterio

    with rasterio.open(path) as source:
        return Georeference(source.crs, source.transform)


def write_mask(path: Path, mask: Mask, place: Georeference, palette: list[tuple[int, ...]]) -> None:
    """Write a mask (H, W) atomically as a GeoTIFF: 8-bit class indices, with the colours of the classes."""
    import rasterio

    def write(temporary: Path) -> None:
        with rasterio.open(
            temporary,
            "w",
            driver="GTiff",
            height=mask.shape[0],
            width=mask.shape[1],
            count=1,
            dtype="uint8",
            crs=place.crs,
            transform=place.transform,
            compress="deflate",
            tiled=True,
            blockxsize=256,
            blockysize=256,
        ) as file:
            file.write(mask, 1)
            file.write_colormap(1, dict(enumerate(palette)))

    atomic_write(path, write, sync=False)
