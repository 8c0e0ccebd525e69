"""The numbers of an image file as stored, all bands in their type: of TIFF and NPY files, whole or a window."""

import math
import os
import struct
from io import BytesIO
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.data import tiff
from segpipe.data.dataset import ImageForm
from segpipe.data.header import Header, axes_of, npy_header

KEPT = ("uint8", "uint16")  # all other numbers are read as float32
FLOATS = ("float16", "float32", "float64")


def depth_group(depth: str) -> str:
    """Return the type of numbers under which images of several types are one kind: ``float32`` for all of FLOATS."""
    return "float32" if depth in FLOATS else depth


def is_stack(file: BinaryIO, header: Header) -> bool:
    """Return whether all pages of a TIFF are of one band, one size and one type, so that they may be one image."""
    try:
        pages = tiff.read_pages(file)
    except (tiff.Unsupported, struct.error):
        return False
    alike = {(page.height, page.width, page.bands, page.kind) for page in pages}
    return len(pages) == header.pages and len(alike) == 1 and pages[0].bands == 1


def read_window(file: BinaryIO, header: Header, rows: slice, columns: slice, form: ImageForm | None) -> NDArray | None:
    """Return a window (h, w, bands) of an image as stored, not turned; None for files that only decoders read.

    With a form, numbers that mean no data become NaN, in float32. Raises many kinds of errors for damaged files.
    """
    if header.format == "NPY":
        return npy_window(file, rows, columns, form)
    if header.format != "TIFF" or header.white_is_zero or header.bits < 8:
        return None
    try:
        pages = tiff.read_pages(file)
        chosen = pages if form and form.pages else pages[:1]
        first = chosen[0]
        ranges = range(*rows.indices(first.height)), range(*columns.indices(first.width))
        if any((page.height, page.width) != (first.height, first.width) for page in chosen):
            raise ValueError("its pages have different sizes")
        bands = [tiff.read_window(file, page, *ranges) for page in chosen]
    except tiff.Unsupported:
        return None
    array = bands[0] if len(bands) == 1 else np.concatenate(bands, axis=2)
    return without_no_data(array, first.nodata) if form else array


def npy_window(file: BinaryIO, rows: slice, columns: slice, form: ImageForm | None) -> NDArray:
    """Return a window (h, w, bands) of an NPY file; only its part of the file is read."""
    shape, fortran, kind = npy_header(file)
    offset, order = file.tell(), "F" if fortran else "C"
    if file.seek(0, os.SEEK_END) < offset + kind.itemsize * math.prod(shape):
        raise ValueError(f"the file is too short for an array of {shape}")
    if isinstance(file, BytesIO):
        array = np.ndarray(shape, kind, file.getbuffer(), offset, order=order)  # type: ignore[arg-type]
    else:
        array = np.memmap(file, kind, "r", offset, shape, order)  # type: ignore[call-overload]
    axes = axes_of(shape) if len(shape) == 2 or form is None or form.axes is None else form.axes
    if axes is None:
        raise ValueError(f"an array of shape {shape}: data.dataset.axes=HWC or CHW says which axis has the bands")
    turned = array[..., None] if axes == "HW" else np.moveaxis(array, 0, 2) if axes == "CHW" else array
    window = np.array(turned[rows, columns])
    return window.view(np.uint8) if kind.kind == "b" else window.astype(kind.newbyteorder("="), copy=False)


def without_no_data(array: NDArray, nodata: float | None) -> NDArray:
    """Return an image with NaN, in float32, where it has no data; the same image if all of it has data."""
    if nodata is None or not np.isfinite(nodata) or (array.dtype.kind in "ui" and nodata != int(nodata)):
        return array
    with np.errstate(over="ignore"):
        empty = array == (np.asarray(nodata).astype(array.dtype) if array.dtype.kind == "f" else nodata)
    return np.where(empty, np.float32(np.nan), array.astype(np.float32)) if empty.any() else array


def narrowed(array: NDArray) -> NDArray:
    """Return uint8 and uint16 as they are, all other numbers as float32."""
    with np.errstate(over="ignore"):
        return array if array.dtype.name in KEPT else array.astype(np.float32)


def from_opencv(array: NDArray, header: Header) -> NDArray:
    """Return OpenCV's unchanged image as (H, W, bands), red first, in the number of bands that the header has.

    Raises ValueError for a palette of colours, whose indices OpenCV does not return.
    """
    if array.ndim == 2:
        return array[..., None]
    if array.shape[2] in (3, 4):
        array = cv2.cvtColor(array, cv2.COLOR_BGR2RGB if array.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    if header.bands == 2 and array.shape[2] == 4:  # gray, repeated, and transparency
        array = array[..., [0, 3]]
    if header.bands == 1 and array.shape[2] == 3:
        if (array != array[..., :1]).any():
            raise ValueError("its one band is a palette of colours: save it in three bands, or in gray")
        array = array[..., :1]
    return array
