"""Read annotation files as JSON: COCO's, one for many images, and LabelMe's, one for each image."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from segpipe.data.files import check_pixels, limit_of, read_size
from segpipe.data.folder.classes import IGNORED
from segpipe.data.folder.drawing import FAR, Bitmap, Disc, Polygons, Region, polygon, run_lengths
from segpipe.data.folder.sources import BACKGROUND, Drawing
from segpipe.data.header import read_header
from segpipe.errors import UserError
from segpipe.runs.storage import read_bytes, reject_constant

LIMIT = "SEGPIPE_MAX_JSON"  # environment variable with the largest length of an annotation file
MEGABYTES = 128  # its default; the objects in memory take about twenty times as much
SPECIAL = {"__ignore__": IGNORED, "_background_": BACKGROUND}  # LabelMe's names
SHAPES = ("polygon", "rectangle", "rotation", "circle", "mask")


class Coco(NamedTuple):
    """The content of a COCO file. images: the file name of each image and its mask. categories: by their numbers."""

    images: list[tuple[str, Drawing]]
    categories: list[str]
    notes: list[str]


def read_json(path: Path) -> Any:
    """Return the content of a JSON file of limited length. Raises UserError if it is too large or no JSON."""
    limit = limit_of(LIMIT, MEGABYTES, "megabytes")
    try:
        if path.stat().st_size > limit * 1e6:
            raise UserError(
                f"{path}: {path.stat().st_size / 1e6:,.0f} MB of JSON; allowed are {limit:g}. If you trust the file, "
                f"raise the environment variable {LIMIT}; reading takes about 20 times its length in memory."
            )
        return json.loads(read_bytes(path, limit=int(limit * 1e6)), parse_constant=reject_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}). Replace or remove it.") from error


def require_coco(path: Path, content: Any) -> None:
    """Raise UserError if the content of a JSON file is not COCO's."""
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise UserError(f"{path}: no COCO file: it needs the lists images, annotations and categories. Correct it.")


def read_coco(path: Path, content: Any) -> Coco:
    """Return the images and masks of a COCO file. Raises UserError that says which entry is wrong.

    Crowds count as their category. Later annotations lie above earlier ones.
    """
    require_coco(path, content)
    try:
        names = category_names(content["categories"])
        sizes = {image["id"]: image_entry(image) for image in content["images"]}
        if len(sizes) < len(content["images"]):
            raise ValueError("two images have the same id")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {said(error)}. Correct the file.") from error
    regions: dict[Any, list[tuple[str, Region]]] = {}
    bare, crowds = 0, 0
    for position, annotation in enumerate(content["annotations"]):
        try:
            what = f"annotation {annotation.get('id', position)}"
            if annotation["image_id"] not in sizes:
                raise ValueError(f"{what} is of the image {annotation['image_id']}, which is not listed")
            if annotation["category_id"] not in names:
                raise ValueError(f"{what} is of the category {annotation['category_id']}, which is not listed")
            if not annotation.get("segmentation"):
                bare += 1
                continue
            crowds += annotation.get("iscrowd") == 1
            name = names[annotation["category_id"]]
            regions.setdefault(annotation["image_id"], []).append((name, coco_region(annotation["segmentation"], what)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: {said(error)}. Correct the file.") from error
    if bare:
        raise UserError(
            f"{path}: {bare} of {len(content['annotations'])} annotations have no segmentation (boxes only), so their "
            f"pixels are not known. Draw these objects, or remove the annotations."
        )
    images = [(file, Drawing(path, file, size, tuple(regions.get(key, ())))) for key, (file, size) in sizes.items()]
    notes = [f"{path}: {crowds} regions are marked iscrowd; they count as their class."] if crowds else []
    if empty := len(sizes.keys() - regions.keys()):
        notes.append(f"{path}: {empty} of {len(sizes)} images have no annotation; all their pixels are {BACKGROUND}.")
    return Coco(images, list(names.values()), notes)


def said(error: Exception) -> str:
    """Return the reason of an error in the content of a file."""
    if isinstance(error, KeyError):
        return f"an entry without {error}"
    return str(error) if isinstance(error, ValueError) else "an entry of another kind than COCO's"


def category_names(categories: Sequence[Mapping[str, Any]]) -> dict[Any, str]:
    """Return the name of each category by its id, in the order of the ids. Raises ValueError for invalid ones."""
    names: dict[Any, str] = {}
    for category in sorted(categories, key=lambda category: category["id"]):
        name = category["name"]
        if not isinstance(name, str) or not name or category["id"] in names:
            raise ValueError(f"the category {str(category)[:80]} has no name, or the id of another one")
        if name in names.values():
            raise ValueError(f"the category {name} occurs twice")
        names[category["id"]] = SPECIAL.get(name, name)
    return names


def image_entry(image: Mapping[str, Any]) -> tuple[str, tuple[int, int]]:
    """Return the file name and the height and width of an entry of ``images``. Raises ValueError for invalid ones."""
    name, size = image["file_name"], (image["height"], image["width"])
    if not isinstance(name, str) or not all(type(n) is int and 0 < n < FAR for n in size):
        raise ValueError(f"the image {str(image)[:120]} has no valid file_name, height and width")
    return name, size


def coco_region(content: Any, what: str) -> Region:
    """Return the region of a ``segmentation``: run lengths, or a list of polygons. Raises ValueError."""
    if isinstance(content, dict):
        return run_lengths(content, what)
    if not isinstance(content, list):
        raise ValueError(f"{what}: a segmentation is a list of polygons or run lengths, not {str(content)[:60]}")
    return Polygons([polygon(flat, what) for flat in content])


def is_labelme(content: Any) -> bool:
    """Return whether the content of a JSON file is LabelMe's."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def read_labelme(path: Path, image: Path | None) -> Drawing:
    """Return the mask of a LabelMe file, in which later shapes lie above earlier ones.

    image: gives the size if the file does not. Raises UserError for shapes that have no area, and for invalid ones.
    """
    content = read_json(path)
    if not is_labelme(content):
        raise UserError(f"{path}: no LabelMe file: it needs the list shapes. Replace or remove it.")
    size = (content.get("imageHeight"), content.get("imageWidth"))
    if not all(type(n) is int and 0 < n < FAR for n in size):
        if image is None:
            raise UserError(f"{path}: imageHeight={size[0]} and imageWidth={size[1]} are no size. Correct the file.")
        size = read_size(image)
    check_pixels(*size, str(path))  # type: ignore[arg-type]
    regions = []
    for position, shape in enumerate(content["shapes"]):
        try:
            name = shape["label"]
            if not isinstance(name, str) or not name:
                raise ValueError(f"shape {position} has the label {str(name)[:60]}")
            regions.append((SPECIAL.get(name, name), labelme_region(shape, f"shape {position} ({name[:60]})")))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = str(error) if isinstance(error, ValueError) else f"shape {position} is not one of LabelMe's"
            raise UserError(f"{path}: {reason}. Correct the file.") from error
    return Drawing(path, path.stem, size, tuple(regions))  # type: ignore[arg-type]


def labelme_region(shape: Mapping[str, Any], what: str) -> Region:
    """Return the region of a shape. Raises ValueError for one without an area, and for invalid ones."""
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    if kind not in SHAPES:
        raise ValueError(
            f"{what} is a {str(kind)[:40]}, which has no area that is known; allowed are {', '.join(SHAPES)}"
        )
    if kind in ("polygon", "rotation") or (kind == "rectangle" and len(points) > 2):
        return Polygons([polygon(points, what)])
    if len(points) != 2:
        raise ValueError(f"{what} is a {kind} of {len(points)} points; it has two")
    (x, y), (other_x, other_y) = ((float(part[0]), float(part[1])) for part in points)
    if not all(abs(number) < FAR for number in (x, y, other_x, other_y)):
        raise ValueError(f"{what} has a coordinate that is not a number of at most {FAR:g} pixels")
    if kind == "rectangle":
        return Polygons([polygon([[x, y], [other_x, y], [other_x, other_y], [x, other_y]], what)])
    if kind == "circle":
        return Disc(x, y, math.dist((x, y), (other_x, other_y)))
    return labelme_bitmap(shape, round(min(x, other_x)), round(min(y, other_y)), what)


def labelme_bitmap(shape: Mapping[str, Any], x: int, y: int, what: str) -> Bitmap:
    """Return the region of a shape ``mask``, a PNG in base64. Raises ValueError if it is none."""
    png = base64.b64decode(str(shape["mask"]), validate=True)
    header = read_header(BytesIO(png))
    if header is None or header.format != "PNG" or header.bands != 1:
        raise ValueError(f"{what} has a mask that is not a gray PNG")
    check_pixels(*header.size, what)
    return Bitmap(x, y, png)
