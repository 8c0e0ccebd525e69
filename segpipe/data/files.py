"""Find, pair, read and check image and mask files. Each error message names the file."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from segpipe.data.dataset import IGNORE_INDEX, Image, Mask
from segpipe.errors import UserError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}


def pair(image_folder: Path, mask_folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images and masks of two folders, paired by stem and sorted. Raises UserError for a file alone."""
    images, masks = pictures(image_folder), pictures(mask_folder)
    if lonely := sorted(images.keys() ^ masks.keys()):
        path, other = (images[lonely[0]], mask_folder) if lonely[0] in images else (masks[lonely[0]], image_folder)
        raise UserError(
            f"{path}: no file of the same stem in {other} ({len(lonely)} of {len(images | masks)} stems have no "
            f"partner). Add the missing file, or remove this one."
        )
    stems = sorted(images)
    return [images[stem] for stem in stems], [masks[stem] for stem in stems]


def pictures(folder: Path) -> dict[str, Path]:
    """Return the paths of all images in a folder by stem. Raises UserError if there are none."""
    if not folder.is_dir():
        parent = folder.parent
        present = ", ".join(sorted(path.name for path in parent.iterdir())[:8]) if parent.is_dir() else "no such folder"
        raise UserError(
            f"{folder}: there is no such folder (in {parent}: {present or 'nothing'}). Give the folder of the data set "
            f"as data.root=FOLDER, or its parent folder in the environment variable SEGPIPE_DATA."
        )
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise UserError(f"{folder}: contains no image ({', '.join(sorted(IMAGE_SUFFIXES))}). Check data.root.")
    by_stem: dict[str, Path] = {}
    for path in files:
        if path.stem in by_stem:
            raise UserError(f"{path}: has the same stem as {by_stem[path.stem].name}. Keep only one of the two.")
        by_stem[path.stem] = path
    return by_stem


def fingerprint(paths: list[Path]) -> str:
    """Return a digest of the names and sizes of files, which does not depend on the location of the folder."""
    lines = [f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in paths]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


def read_image(path: Path) -> Image:
    """Return an image file as RGB (H, W, 3), rotated by its EXIF orientation. Raises UserError if it cannot be decoded.

    The format is determined by the content, not by the extension.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    except OSError as error:
        raise unreadable(path, error) from error
    if picture is None:
        raise unreadable(path, "it is not an image that can be decoded")
    return picture  # type: ignore[return-value]


def open_image(path: Path) -> PIL.Image.Image:
    """Return an image file as a decoded Pillow image. Raises UserError if it cannot be decoded."""
    try:
        with PIL.Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:  # Pillow's, for damaged files
        raise unreadable(path, error) from error
    return picture


def read_mask(path: Path) -> Mask:
    """Return a mask file as class indices (H, W); for a palette image its indices, not its colours.

    This function is for data sets of known format; ``survey.decode`` is for others. Raises UserError for other modes.
    """
    picture = open_image(path)
    if picture.mode not in ("L", "P", "1"):
        raise UserError(
            f"{path}: a mask of mode {picture.mode}, {picture.height} x {picture.width} pixels; masks must be "
            f"single-channel 8-bit images whose values are class indices. Convert it, then start again."
        )
    return np.array(picture).astype(np.uint8)


def read_size(path: Path) -> tuple[int, int]:
    """Return the height and width from the header of an image file. Raises UserError if it cannot be read."""
    try:
        with PIL.Image.open(path) as picture:
            return picture.height, picture.width
    except (OSError, SyntaxError, ValueError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, reason: object) -> UserError:
    """Return the error for a file that cannot be read."""
    size = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
    return UserError(f"{path}: cannot be read as an image ({reason}; {size}). Replace or remove it.")


def check_sizes(image: Image, mask: np.ndarray, image_path: Path, mask_path: Path) -> None:
    """Raise UserError if mask and image differ in size."""
    if image.shape[:2] != mask.shape:
        raise UserError(
            f"{mask_path}: a mask of {mask.shape[0]} x {mask.shape[1]} for an image of {image.shape[0]} x "
            f"{image.shape[1]} ({image_path}). Give both the same size."
        )


def check_pair(image: Image, mask: Mask, num_classes: int, image_path: Path, mask_path: Path) -> None:
    """Raise UserError if mask and image differ in size, or if the mask has an index that is not a class."""
    check_sizes(image, mask, image_path, mask_path)
    wrong = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[num_classes:IGNORE_INDEX]) + num_classes
    if len(wrong):
        raise UserError(
            f"{mask_path}: label {', '.join(map(str, wrong))} in a mask of {num_classes} classes "
            f"(allowed: 0 to {num_classes - 1}, and {IGNORE_INDEX} for ignored). Correct the mask or the classes."
        )
