"""Read mask files. Every function opens regular files only, and each error message names the file."""

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from segpipe.data import stored
from segpipe.data.dataset import Mask
from segpipe.data.files import (
    check_readable,
    header_of,
    most_bytes,
    read_stored,
    reading,
    unreadable,
)
from segpipe.data.header import Header, open_as
from segpipe.errors import UserError
from segpipe.runs.storage import open_regular

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


def open_mask(path: Path) -> tuple[PIL.Image.Image | None, Header]:
    """Return a mask file as a decoded, upright Pillow image, and its header.

    The image is None for an array, and for a mask of other numbers than 8 bits: ``read_mask_values`` reads those.
    Raises UserError if the file cannot be read, or if its values would not be those that its author sees.
    """
    with reading(path), open_regular(path, limit=most_bytes()) as file:
        header = mask_header(file, path)
        if has_wide_numbers(header):
            return None, header
        file.seek(0)
        picture = open_as(header.format, BytesIO(file.read(most_bytes())))
        picture.load()
        return stand_upright(picture, header, path), header


def mask_header(file: BinaryIO, path: Path) -> Header:
    """Return the header of an open file of a mask. Raises UserError if its values would not be read as they are."""
    header = header_of(file, path)
    if header.lossy:
        raise UserError(
            f"{path}: a {header.format} with lossy compression, which does not store exact values. Create the mask "
            f"again, and save it as PNG."
        )
    if has_wide_numbers(header) and header.bands != 1:
        raise more_than_8_bits(path)
    if header.white_is_zero:
        raise UserError(
            f"{path}: a TIFF that stores white as 0 (MINISWHITE: a boolean array, or ImageJ's inverting LUT), so "
            f"programs disagree on what is foreground. {AS_MASK}"
        )
    return header


def has_wide_numbers(header: Header) -> bool:
    """Return whether a mask is an array, or has numbers other than unsigned ones of at most 8 bits."""
    return header.format == "NPY" or header.numbers != "unsigned" or header.bits > 8


def more_than_8_bits(path: Path) -> UserError:
    """Return the error for a mask that only ``read_mask_values`` reads."""
    return UserError(
        f"{path}: a mask of more than 8 bits (often numbers of objects, not classes). Masks must be 8-bit: "
        f"class indices, 0 and 255, or colours that classes.json names. Save it so, as PNG."
    )


def read_mask_values(path: Path, rows: slice = slice(None), columns: slice = slice(None)) -> NDArray[np.int64]:
    """Return the numbers of a mask of one band (H, W) in any type: integers, booleans, whole floating point numbers.

    rows, columns: only this part. Raises UserError for numbers that are negative, not finite, or not whole.
    """
    with reading(path):
        with open_regular(path, limit=most_bytes()) as file:
            header = mask_header(file, path)
            check_readable(header, path)
            part = None
            if header.orientation == 1:
                part = stored.read_window(file, header, rows, columns, None)
        values = read_stored(path, header)[rows, columns] if part is None else part
        if values.shape[2] != 1:
            raise UserError(f"{path}: a mask of {values.shape[2]} bands; allowed is one band of numbers. {AS_MASK}")
        with np.errstate(invalid="ignore"):
            whole = np.nan_to_num(values[..., 0], nan=-1, posinf=-1, neginf=-1).astype(np.int64)
        if (whole != values[..., 0]).any():
            raise UserError(
                f"{path}: a mask of floating point numbers that are not whole, often probabilities; they must be "
                f"indices of classes. Masks are best saved with 8 bits. {AS_MASK}"
            )
    if whole.size and whole.min() < 0:
        raise UserError(
            f"{path}: a mask with the value {whole.min()}. If it means not labelled, save it as 255. {AS_MASK}"
        )
    return whole


def small_values(values: NDArray[np.int64], path: Path) -> Mask:
    """Return the numbers of a mask as uint8; 0 and 65535 become 0 and 255. Raises UserError for numbers above 255."""
    if not values.size or values.max() <= 255:
        return values.astype(np.uint8)
    if ((values == 0) | (values == 65535)).all():
        return (values >> 8).astype(np.uint8)
    raise UserError(
        f"{path}: a mask of more than 8 bits with {len(np.unique(values))} values up to {values.max()}. These are "
        f"often numbers of objects, not classes: data.dataset.instances=foreground reads all of them as one class. "
        f"Class indices must be 0 to 254. {AS_MASK}"
    )


def read_gray_window(path: Path, rows: slice, columns: slice) -> NDArray[np.uint8] | None:
    """Return a part of a mask of one band of 8 bits, without decoding all of it; None if the file must be decoded."""
    with reading(path), open_regular(path, limit=most_bytes()) as file:
        header = mask_header(file, path)
        simple = header.format == "TIFF" and header.bands == 1 and header.bits == 8 and header.orientation == 1
        if not simple or has_wide_numbers(header):
            return None
        part = stored.read_window(file, header, rows, columns, None)
    return None if part is None else part[..., 0]


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

    Masks of 16 bits and more, and arrays, are read as well where their numbers are at most 255. This function is for
    data sets of known format; ``survey.decode`` is for others. Raises UserError for other modes.
    """
    picture, _ = open_mask(path)
    if picture is None:
        return small_values(read_mask_values(path), path)
    if picture.mode not in ("L", "P", "1"):
        raise UserError(
            f"{path}: a mask of mode {picture.mode}, {picture.height} x {picture.width} pixels; masks must be "
            f"single-channel 8-bit images whose values are class indices. Convert it, then start again."
        )
    return np.array(picture).astype(np.uint8)
