"""Read image and mask files. Every function opens regular files only, and each error message names the file."""

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from segpipe.data.dataset import IGNORE_INDEX, Image, Mask
from segpipe.data.header import SIGNATURES, Header, open_as, read_header
from segpipe.errors import UserError
from segpipe.runs.storage import open_regular, read_bytes

LIMIT = "SEGPIPE_MAX_MEGAPIXELS"  # environment variable with the largest size of an image
MEGAPIXELS = 250  # its default
MOST_TEXT = 2**24  # bytes of a text file
FULL_RANGE = 2**14  # values of 16 bits: below, fewer than 64 of 256 gray levels are left
FEW = 0.01  # share of pixels: so many may be brighter (clouds, defects of a sensor)
TURNS = {  # by EXIF orientation
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
AS_MASK = "Save the mask as an 8-bit PNG of class indices, or of 0 and 255."
AS_IMAGE = "Save the image as an 8-bit PNG or TIFF, gray or RGB."


def max_pixels() -> int:
    """Return the largest number of pixels of an image, from the environment variable LIMIT (in megapixels)."""
    text = os.environ.get(LIMIT) or str(MEGAPIXELS)
    try:
        megapixels = float(text)
    except ValueError:
        megapixels = math.nan
    if not 0 < megapixels < 1e6:
        raise UserError(f"{LIMIT}={text}: allowed is a number of megapixels above 0, for example {MEGAPIXELS}.")
    return int(megapixels * 1e6)


def check_pixels(height: int, width: int, what: str, *, share: float = 1.0) -> None:
    """Raise UserError if an image has more pixels than allowed. what: the image, for the message.

    share: of the limit that is allowed.
    """
    allowed = share * max_pixels()
    if height * width > allowed:
        raise UserError(
            f"{what}: {height} x {width} pixels are {height * width / 1e6:.0f} megapixels; allowed are "
            f"{allowed / 1e6:g}. Cut it into tiles or reduce it, or raise the environment variable {LIMIT}."
        )


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 text file, without a byte order mark. Raises UserError, OSError or ValueError."""
    return read_bytes(path, limit=MOST_TEXT).decode("utf-8-sig")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn every error of opening and decoding an image file into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        raise unreadable(path, error) from error


def unreadable(path: Path, reason: object) -> UserError:
    """Return the error for a file that cannot be read."""
    size = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
    return UserError(f"{path}: cannot be read as an image ({reason}; {size}). Replace or remove it.")


def read_image_bytes(path: Path) -> bytes:
    """Return the content of an image file. Raises UserError if it is not a regular file or too large."""
    return read_bytes(path, limit=most_bytes())


def most_bytes() -> int:
    """Return the largest length of an image file in bytes: of four bands of 16 bits, and other data."""
    return 8 * max_pixels() + 2**26


def header_of(file: BinaryIO, path: Path) -> Header:
    """Return the header of an open image file. Raises UserError for files that neither image nor mask can be."""
    header = read_header(file)
    if header is None:
        raise unreadable(path, f"it is not {', '.join(SIGNATURES)}")
    if not all(header.size):
        raise unreadable(path, "it has no pixels")
    check_pixels(*header.size, str(path))
    if header.pages > 1:
        raise UserError(
            f"{path}: a {header.format} of {header.pages}{' or more' * (header.format == 'GIF')} pages; only the first "
            f"would be read. Save each page as a file of its own, with a mask of its own."
        )
    return header


def read_image_header(path: Path) -> Header:
    """Return the header of an image file. Raises UserError if ``read_image`` would reject the file by its header."""
    with reading(path), open_regular(path, limit=most_bytes()) as file:
        return image_header(file, path)


def image_header(file: BinaryIO, path: Path) -> Header:
    """Return the header of an open file of an image. Raises UserError if its values would not be read as they are."""
    header = header_of(file, path)
    if header.numbers != "unsigned" or header.bits > 16:
        kind = "floating point numbers" if header.numbers == "float" else f"{header.numbers} {header.bits}-bit integers"
        raise UserError(
            f"{path}: an image of {kind}; allowed are unsigned integers of 8 or 16 bits. Scale the values to 0..255 "
            f"(the same scale for all images), and save them with 8 bits."
        )
    if header.white_is_zero and header.bits > 8:
        raise UserError(f"{path}: a TIFF of more than 8 bits with inverted values (MINISWHITE). {AS_IMAGE}")
    if header.bands > 4:
        raise UserError(
            f"{path}: an image of {header.bands} bands; only three would be read. Choose three bands (or one), and "
            f"save them with 8 bits."
        )
    return header


def read_image(path: Path) -> Image:
    """Return an image file as RGB (H, W, 3), turned upright by its EXIF orientation.

    Gray is repeated; 16 bits are reduced to the upper 8. Raises UserError if the file cannot be read, or if reading it
    would lose data without a word: further pages and bands, most of the values' bits.
    """
    with reading(path):
        content = read_image_bytes(path)
        header = image_header(BytesIO(content), path)
        data = np.frombuffer(content, np.uint8)
        image = decode_checked(data, header, path) if header.hides_data else decode(data, header, path)
    turned = header.format == "TIFF"  # OpenCV turns TIFFs, whatever it is asked for
    image = image if turned or header.orientation == 1 else upright(image, header.orientation)
    if image.shape[:2] != header.upright_size:
        raise unreadable(path, f"its header says {header.upright_size}, but it has {image.shape[:2]} pixels")
    return image  # type: ignore[return-value]


def decode(data: NDArray[np.uint8], header: Header, path: Path, *, unchanged: bool = False) -> NDArray:
    """Decode an image to RGB (H, W, 3) of uint8, or unchanged. Raises UserError if it cannot be decoded."""
    how = cv2.IMREAD_UNCHANGED if unchanged else cv2.IMREAD_COLOR_RGB
    image = cv2.imdecode(data, how if unchanged or header.format == "TIFF" else how | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise unreadable(path, "it cannot be decoded")
    return image


def decode_checked(data: NDArray[np.uint8], header: Header, path: Path) -> NDArray:
    """Decode an image to RGB (H, W, 3). Raises UserError if data would be lost: a band beside its colours, low bits."""
    stored = decode(data, header, path, unchanged=True)
    beside = stored[..., -1] if stored.ndim == 3 and stored.shape[2] in (2, 4) else None
    check_levels(stored if beside is None else stored[..., :-1], str(path))
    if header.transparent or header.bands in (2, 4):
        check_opaque(beside, str(path))
    if stored.dtype == np.uint8 and stored.ndim == 3 and stored.shape[2] == 4:
        return cv2.cvtColor(stored, cv2.COLOR_BGRA2RGB)  # equal to a second decoding
    return decode(data, header, path)


def check_levels(values: NDArray, what: str) -> None:
    """Raise UserError if an image of 16 bits uses so few values that the upper 8 bits hold almost nothing."""
    if values.dtype == np.uint16 and values.any() and (values >= FULL_RANGE).mean() < FEW:
        largest = int(np.quantile(values, 1 - FEW))
        raise UserError(
            f"{what}: an image of 16 bits in which {1 - FEW:.0%} of the values are at most {largest}. Only the upper 8 "
            f"bits are read, which leaves them {(largest >> 8) + 1} of 256 gray levels. Scale all images to 0..255 "
            f"by the same factor, and save them with 8 bits."
        )


def check_opaque(alpha: NDArray | None, what: str) -> None:
    """Raise UserError if the band beside the colours holds data. alpha: None if it could not be read."""
    if alpha is None or (alpha != np.iinfo(alpha.dtype).max).any():
        raise UserError(
            f"{what}: the image has a band beside its colours (transparency, or infrared) that is not 255 everywhere; "
            f"it would not be read. Save the image without it: three bands (or one) of 8 bits."
        )


def upright(array: NDArray, orientation: int) -> NDArray:
    """Turn an array (H, W) or (H, W, 3) by an EXIF orientation, 1 to 8."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return np.ascontiguousarray(array[::rows, ::columns])


def open_mask(path: Path) -> tuple[PIL.Image.Image, Header]:
    """Return a mask file as a decoded, upright Pillow image, and its header.

    Raises UserError if it cannot be read, or if its values would not be those that its author sees.
    """
    with reading(path):
        data = BytesIO(read_image_bytes(path))
        header = header_of(data, path)
        if header.lossy:
            raise UserError(
                f"{path}: a {header.format} with lossy compression, which does not store exact values. Create the mask "
                f"again, and save it as PNG."
            )
        if header.numbers != "unsigned" or header.bits > 8:
            raise UserError(
                f"{path}: a mask of more than 8 bits (often numbers of objects, not classes). Masks must be 8-bit: "
                f"class indices, 0 and 255, or colours that classes.json names. Save it so, as PNG."
            )
        if header.white_is_zero:
            raise UserError(
                f"{path}: a TIFF that stores white as 0 (MINISWHITE: a boolean array, or ImageJ's inverting LUT), so "
                f"programs disagree on what is foreground. {AS_MASK}"
            )
        picture = open_as(header.format, data)
        picture.load()
        return stand_upright(picture, header, path), header


def stand_upright(picture: PIL.Image.Image, header: Header, path: Path) -> PIL.Image.Image:
    """Turn a decoded Pillow image by the orientation in its header. Raises UserError for an unexpected size."""
    orientation = header.orientation
    if header.format == "TIFF":  # most versions of Pillow turn TIFFs while they decode them, and remove the tag
        orientation = picture.getexif().get(274, 1)
    picture = picture.transpose(TURNS[orientation]) if orientation in TURNS else picture
    if (picture.height, picture.width) != header.upright_size:
        raise unreadable(path, f"its header says {header.upright_size}, but it has {picture.height} x {picture.width}")
    return picture


def read_mask(path: Path) -> Mask:
    """Return a mask file as class indices (H, W); for a palette image its indices, not its colours.

    This function is for data sets of known format; ``survey.decode`` is for others. Raises UserError for other modes.
    """
    picture, _ = open_mask(path)
    if picture.mode not in ("L", "P", "1"):
        raise UserError(
            f"{path}: a mask of mode {picture.mode}, {picture.height} x {picture.width} pixels; masks must be "
            f"single-channel 8-bit images whose values are class indices. Convert it, then start again."
        )
    return np.array(picture).astype(np.uint8)


def read_size(path: Path) -> tuple[int, int]:
    """Return the height and width of an upright image, from its header. Raises UserError if it cannot be read."""
    with reading(path), open_regular(path, limit=most_bytes()) as file:
        return header_of(file, path).upright_size


def fingerprint(paths: list[Path]) -> str:
    """Return a digest of the names and sizes of files, which does not depend on the location of the folder."""
    lines = [f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in paths]
    return hashlib.blake2b("\n".join(lines).encode(errors="surrogateescape"), digest_size=8).hexdigest()


def file_digest(path: Path) -> bytes:
    """Return a digest of the content of an image file. Raises UserError if it cannot be read."""
    with reading(path), open_regular(path, limit=most_bytes()) as file:
        return hashlib.file_digest(file, "blake2b").digest()  # type: ignore[arg-type]


def check_sizes(image: Image, mask: np.ndarray, image_path: Path, mask_path: object) -> None:
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
