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
from numpy.typing import NDArray

from segpipe.data import stored
from segpipe.data.dataset import IGNORE_INDEX, Image, ImageForm, Mask
from segpipe.data.header import SIGNATURES, Header, read_header
from segpipe.errors import UserError
from segpipe.runs.storage import open_regular, read_bytes

LIMIT = "SEGPIPE_MAX_MEGAPIXELS"  # environment variable with the largest size of an image
MEGAPIXELS = 250  # its default
MOST_TEXT = 2**24  # bytes of a text file
FULL_RANGE = 2**14  # values of 16 bits: below, fewer than 64 of 256 gray levels are left
FEW = 0.01  # share of pixels: so many may be brighter (clouds, defects of a sensor)
AS_IMAGE = "Save the image as an 8-bit PNG or TIFF, gray or RGB."
PAGES = "or, if the pages of each file are the bands of one image, set data.dataset.pages=bands"


def limit_of(variable: str, default: float, unit: str) -> float:
    """Return a limit that an environment variable may raise. unit: of the number, in the plural."""
    text = os.environ.get(variable) or str(default)
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not 0 < limit < 1e6:
        raise UserError(f"{variable}={text}: allowed is a number of {unit} above 0, for example {default}.")
    return limit


def max_pixels() -> int:
    """Return the largest number of pixels of an image, from the environment variable LIMIT (in megapixels)."""
    return int(limit_of(LIMIT, MEGAPIXELS, "megapixels") * 1e6)


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
    """Return the content of a UTF-8 text file, without a byte order mark. Raises UserError or OSError."""
    try:
        return read_bytes(path, limit=MOST_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: this is no text in UTF-8 (byte {error.start} cannot be read). Save it as UTF-8."
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn every error of opening and decoding an image file into a UserError."""
    try:
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Change its permissions.") from error
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


def header_of(file: BinaryIO, path: Path, *, pages: bool = False) -> Header:
    """Return the header of an open image file. Raises UserError for files that neither image nor mask can be.

    pages: several pages are allowed.
    """
    header = read_header(file)
    if header is None:
        raise unreadable(path, f"it is not {', '.join(SIGNATURES)}")
    if not all(header.size):
        raise unreadable(path, "it has no pixels")
    check_pixels(*header.size, str(path))
    if header.pages > 1 and not pages:
        raise several_pages(header, path)
    return header


def several_pages(header: Header, path: Path) -> UserError:
    """Return the error for a file of several pages of which only one would be read."""
    bands = header.format == "TIFF"
    return UserError(
        f"{path}: a {header.format} of {header.pages}{' or more' * (header.format == 'GIF')} pages; only the first "
        f"would be read. Save each page as a file of its own, with a mask of its own{f'; {PAGES}' if bands else ''}."
    )


def read_stored_header(path: Path) -> Header:
    """Return the header of a file of an image of any form. Raises UserError if no form of images would read the file.

    pages: more than 1 if the file has pages of one band and equal sizes, which may be the bands of one image.
    """
    with reading(path), open_regular(path, limit=most_bytes()) as file:
        header = header_of(file, path, pages=True)
        if header.pages > 1 and not (header.format == "TIFF" and stored.is_stack(file, header)):
            raise several_pages(header, path)
        check_readable(header, path)
        return header


def check_readable(header: Header, path: Path) -> None:
    """Raise UserError for an image whose numbers would not be read as its author sees them, whatever its form."""
    if header.space:
        raise UserError(f"{path}: an image of the colour space {header.space}. Convert it to RGB, and save it as PNG.")
    if header.white_is_zero and header.bits > 8:
        raise UserError(f"{path}: a TIFF of more than 8 bits with inverted values (MINISWHITE). {AS_IMAGE}")
    if header.bits > 8 and header.bits not in (16, 32, 64) and header.format == "TIFF":
        raise UserError(f"{path}: a TIFF of {header.bits} bits; allowed are 8, 16, 32 and 64. Save it with 16 bits.")
    size = max(1, header.bits // 8) * max(header.bands, 1) * header.pages * header.size[0] * header.size[1]
    if size > most_bytes():
        raise UserError(
            f"{path}: {header.size[0]} x {header.size[1]} pixels of {max(header.bands, 1) * header.pages} bands are "
            f"{size / 1e9:.1f} GB; allowed are {most_bytes() / 1e9:.1f}. Cut it into tiles, or raise {LIMIT}."
        )


def image_header(file: BinaryIO, path: Path) -> Header:
    """Return the header of an open file of an image. Raises UserError if its values would not be read as they are."""
    header = header_of(file, path)
    check_readable(header, path)
    if header.numbers != "unsigned" or header.bits > 16:
        kind = "floating point numbers" if header.numbers == "float" else f"{header.numbers} {header.bits}-bit integers"
        raise UserError(
            f"{path}: an image of {kind}; allowed are unsigned integers of 8 or 16 bits. Scale the values to 0..255 "
            f"(the same scale for all images), and save them with 8 bits."
        )
    if not header.rgb and header.bands == 3:
        raise UserError(
            f"{path}: a TIFF of three bands that are not said to be colours (photometric interpretation MINISBLACK). "
            f"If they are, save it as RGB: tifffile.imwrite(FILE, array, photometric='rgb')."
        )
    if header.bands > 4 or header.bands < 1 or (header.format == "NPY" and header.bands not in (1, 3)):
        raise UserError(
            f"{path}: an image of {header.bands} bands; only three would be read. Choose three bands (or one), and "
            f"save them with 8 bits."
        )
    return header


def read_image(path: Path, form: ImageForm | None = None) -> Image:
    """Return an image file, turned upright by its EXIF orientation.

    Without a form as RGB (H, W, 3) of uint8: gray is repeated, 16 bits are reduced to the upper 8. With a form as it is
    stored, (H, W, channels): uint8, uint16, or float32 for all others; no data (GDAL's tag) is NaN. Raises UserError if
    the file cannot be read, or has another form, or if reading it would lose data without a word: further pages and
    bands, most of the values' bits.
    """
    if form is not None:
        return read_form(path, form)
    with reading(path):
        content = read_image_bytes(path)
        file = BytesIO(content)
        header = image_header(file, path)
        if is_ordinary(header):
            part = stored.read_window(file, header, slice(None), slice(None), None)
            if part is not None:
                return as_plain(part, path)
        data = np.frombuffer(content, np.uint8)
        image = decode_checked(data, header, path) if header.hides_data else decode(data, header, path)
    turned = header.format == "TIFF"  # OpenCV turns TIFFs, whatever it is asked for
    image = image if turned or header.orientation == 1 else upright(image, header.orientation)
    if image.shape[:2] != header.upright_size:
        raise unreadable(path, f"its header says {header.upright_size}, but it has {image.shape[:2]} pixels")
    return image


def read_image_window(path: Path, rows: slice, columns: slice, form: ImageForm | None = None) -> Image:
    """Return a part of an image file, equal to ``read_image(path, form)[rows, columns]``.

    Of a TIFF in strips or tiles only those are decoded that have pixels of the part, and of an NPY file only the part
    is read. Other files are decoded completely.
    """
    with reading(path), open_regular(path, limit=most_bytes()) as file:
        header = header_of(file, path, pages=form is not None and form.pages)
        if is_ordinary(header) if form is None else header.orientation == 1:
            part = stored.read_window(file, header, rows, columns, form)
            if part is not None:
                return as_plain(part, path) if form is None else fitted(part, header, form, path)
    return read_image(path, form)[rows, columns]


def is_ordinary(header: Header) -> bool:
    """Return whether an image is a TIFF or an array whose numbers are those of 8-bit gray or RGB, upright."""
    simple = header.depth == "uint8" and header.bits == 8 and header.bands in (1, 3) and header.rgb
    return simple and header.format in ("TIFF", "NPY") and header.orientation == 1 and not header.alpha


def as_plain(array: NDArray, path: Path) -> Image:
    """Return an array (H, W, 1 or 3) of uint8 as RGB (H, W, 3)."""
    if array.dtype != np.uint8 or array.shape[2] not in (1, 3):
        raise UserError(
            f"{path}: an array of {array.shape[2]} bands of {array.dtype}; needed is uint8 of one band or three. "
            f"Choose three bands (or one), scale the values to 0..255, and save them with 8 bits."
        )
    return writable(np.broadcast_to(array, (*array.shape[:2], 3)))


def read_form(path: Path, form: ImageForm) -> Image:
    """Return an image (H, W, C) as it is stored; see ``read_image``."""
    with reading(path):
        with open_regular(path, limit=most_bytes()) as file:
            header = header_of(file, path, pages=form.pages)
        check_readable(header, path)
        return fitted(read_stored(path, header, form), header, form, path)


def read_stored(path: Path, header: Header, form: ImageForm | None = None) -> NDArray:
    """Return all bands of an image (H, W, bands) in their type, upright. Raises UserError if they cannot be decoded."""
    with open_regular(path, limit=most_bytes()) as file:
        array = stored.read_window(file, header, slice(None), slice(None), form)
        turned = False
        if array is None:
            file.seek(0)
            array = decode(np.frombuffer(file.read(), np.uint8), header, path, unchanged=True)
            array, turned = stored.from_opencv(array, header), header.format == "TIFF"
            if header.bands != array.shape[2] and header.bands > 1:
                raise UserError(
                    f"{path}: {array.shape[2]} of its {header.bands} bands can be decoded in this compression. Save "
                    f"it as a TIFF with deflate or LZW compression, or without."
                )
    return array if turned or header.orientation == 1 else upright(array, header.orientation)


def fitted(array: NDArray, header: Header, form: ImageForm, path: Path) -> Image:
    """Return the bands that a form has, without transparency that is opaque. Raises UserError for another form."""
    channels = array.shape[2]
    if channels == form.channels + 1 and channels in (2, 4):
        check_opaque(array[..., -1], str(path))
        array = array[..., :-1]
    if array.shape[2] != form.channels or stored.depth_group(header.depth) != form.depth:
        raise UserError(
            f"{path}: an image of {ImageForm(channels, stored.depth_group(header.depth))}; needed are images of "
            f"{form}, as in training. Give images of this form, or train on images of the other."
        )
    return writable(stored.narrowed(array))


def writable(array: NDArray) -> NDArray:
    """Return an array whose values are together in memory, and may be written: torch warns about others."""
    return np.require(array, requirements=["C", "W"])


def alpha_of(path: Path, header: Header) -> str:
    """Return what the band beside the colours holds: ``data``, ``opaque``, or an empty text if there is none.

    A fourth band of 8 bits counts as one, and a second band; of other depth only one that the file says to be.
    """
    if not (header.hides_data if header.bits <= 8 else header.alpha or header.transparent):
        return ""
    with reading(path):
        array = read_stored(path, header._replace(bands=4 if header.transparent else header.bands))
    beside = array[..., -1] if array.shape[2] in (2, 4) else None
    if beside is None:
        return "" if not header.transparent else "data"
    return "opaque" if (beside == np.iinfo(beside.dtype).max).all() else "data"


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
            f"it would not be read. Save the image without it: three bands (or one) of 8 bits. If it is data, train on "
            f"it too: data.channels=4 (2 if the colours are gray)."
        )


def upright(array: NDArray, orientation: int) -> NDArray:
    """Turn an array (H, W) or (H, W, 3) by an EXIF orientation, 1 to 8."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return np.ascontiguousarray(array[::rows, ::columns])


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


def size_problem(image: tuple[int, ...], mask: tuple[int, ...], image_path: Path, mask_path: object) -> str | None:
    """Return the error message if mask and image differ in size, (height, width); else None."""
    if image == mask:
        return None
    return (
        f"{mask_path}: a mask of {mask[0]} x {mask[1]} for an image of {image[0]} x {image[1]} ({image_path}). Give "
        f"both the same size."
    )


def check_sizes(image: Image, mask: np.ndarray, image_path: Path, mask_path: object) -> None:
    """Raise UserError if mask and image differ in size."""
    if problem := size_problem(image.shape[:2], mask.shape, image_path, mask_path):
        raise UserError(problem)


def check_pair(image: Image, mask: Mask, num_classes: int, image_path: Path, mask_path: Path) -> None:
    """Raise UserError if mask and image differ in size, or if the mask has an index that is not a class."""
    check_sizes(image, mask, image_path, mask_path)
    wrong = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[num_classes:IGNORE_INDEX]) + num_classes
    if len(wrong):
        raise UserError(
            f"{mask_path}: label {', '.join(map(str, wrong))} in a mask of {num_classes} classes "
            f"(allowed: 0 to {num_classes - 1}, and {IGNORE_INDEX} for ignored). Correct the mask or the classes."
        )
