"""What a caller may give as an image, as an array that a network takes.

``as_image`` accepts a path, the content of an image file, a PIL image, an array or a tensor; ``each`` accepts a batch
of these. A model that was trained on other images than 8-bit RGB has a record of its bands (``segpipe.data.bands``);
their values are scaled here, as in training.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from numpy.typing import NDArray

from segpipe.data.bands import Bands
from segpipe.data.dataset import Image
from segpipe.data.files import check_levels, check_opaque, check_pixels, read_image
from segpipe.errors import UserError

ImageLike = str | Path | bytes | PIL.Image.Image | NDArray[Any] | torch.Tensor
Result = TypeVar("Result")
ALLOWED = (
    "allowed is a path, the bytes of an image file, a PIL image, an array or a tensor (height, width) or (height, "
    "width, channels) or (channels, height, width), or a batch of these"
)


def each(given: Any, function: Callable[[Any], Result]) -> Result | list[Result]:
    """Apply a function to an image, or to each image of a batch: a list, a tuple, a 4-d array or tensor.

    Returns the function's result for one image, and a list of results for a batch, also for a batch of one image.
    Raises UserError for an empty batch; the message of an error in a batch has the index of the image.
    """
    if not (isinstance(given, list | tuple) or (isinstance(given, np.ndarray | torch.Tensor) and given.ndim == 4)):
        return function(given)
    if not len(given):
        raise UserError("The batch has no images. Give at least one image.")
    results = []
    for index, one in enumerate(given):
        try:
            results.append(function(one))
        except UserError as error:
            raise UserError(f"Image {index} of the batch: {error}") from error
    return results


def as_image(image: ImageLike, bands: Bands | None = None) -> Image:
    """Convert an image to an array (H, W, C) with values 0 to 255, as the network receives it.

    Without ``bands`` it is RGB of uint8, (H, W, 3). Gray is repeated, and of 16 bits the upper 8 are taken, as of
    files. With ``bands`` it is float32 with ``bands.channels`` channels, and values are scaled by ``bands.scale``.
    An array or a tensor may have its channels first or last. Where both are possible, those of an array are last, and
    those of a tensor first.
    Raises UserError for others, and for images that are refused as files: transparent, of floating point numbers
    without ``bands``, of 16 bits of which few are used, too large. With ``bands``, values that are not finite are
    without data, as in files.
    """
    if isinstance(image, str | Path):
        return from_file(existing(image), bands)
    if isinstance(image, bytes | bytearray | memoryview):
        return from_bytes(bytes(image), bands)
    if isinstance(image, PIL.Image.Image):
        return from_pil(image, bands)
    if isinstance(image, torch.Tensor):
        return from_array(values_of(image), bands, first=True)
    if isinstance(image, np.ndarray):
        return from_array(np.asarray(image), bands)
    hint = " Give the content of a file: file.read()." if hasattr(image, "read") else ""
    raise UserError(f"The image is of the type {type(image).__name__}: {ALLOWED}.{hint}")


def from_pil(image: PIL.Image.Image, bands: Bands | None) -> Image:
    """See ``as_image``. Pillow decodes an image when its pixels are asked for first, so a damaged file fails here."""
    check_pixels(image.height, image.width, "The image")
    try:
        return pil_as_rgb(image) if bands is None else from_array(pil_as_array(image), bands)
    except UserError:
        raise
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        raise UserError(f"The PIL image (mode {image.mode}) cannot be read ({error}). Replace it.") from error


def values_of(tensor: torch.Tensor) -> NDArray[Any]:
    """Return the values of a tensor as an array. Raises UserError for a kind of tensor that has no such values."""
    try:
        return tensor.detach().cpu().numpy()  # type: ignore[no-any-return]
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"The image is a tensor of {tensor.dtype} on {tensor.device}, {tensor.layout}: {ALLOWED}."
        ) from error


def from_file(path: Path, bands: Bands | None) -> Image:
    """Read an image file in the form of the images that the network was trained on."""
    if bands is None:
        return read_image(path)
    return bands.scale(read_image(path, bands.form))


def from_bytes(content: bytes, bands: Bands | None) -> Image:
    """Read the content of an image file. The readers take files, so it is written to a temporary one."""
    with tempfile.NamedTemporaryFile(prefix="segpipe-") as file:
        file.write(content)
        file.flush()
        try:
            return from_file(Path(file.name), bands)
        except UserError as error:
            raise UserError(str(error).replace(file.name, "The image")) from error


def existing(path: str | Path) -> Path:
    """Return the path of an image file. Raises UserError for a folder, a checkpoint and an address."""
    file = Path(path)
    if str(path).startswith(("http:", "https:", "ftp:", "s3:", "gs:", "data:")):
        raise UserError(f"{str(path)[:200]}: an address, not a file. Download the image, and give its bytes.")
    if file.is_dir():
        raise UserError(f"{path}: a folder, not an image. Give a list of its files, or use python -m segpipe.predict.")
    if file.suffix in (".ckpt", ".pt", ".pth", ".pt2", ".onnx", ".safetensors"):
        raise UserError(f"{path}: a file of weights, not an image. To load a model, use segpipe.load(RUN).")
    return file


def from_array(array: NDArray[Any], bands: Bands | None, *, first: bool = False) -> Image:
    """See ``as_image``. first: of an array whose channels may be first or last, they are first."""
    if array.dtype.kind not in "uif" or array.ndim not in (2, 3):
        raise UserError(f"The image is {array.dtype} {array.shape}: {ALLOWED}, of numbers.")
    if not array.size:
        raise UserError(f"The image has no pixels: its shape is {array.shape}. Give at least one pixel.")
    if bands is None and array.dtype.kind == "f":
        raise of_floats(array)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # TIFF readers return the order of the file
    array = channels_last(array, (1, 3, 4) if bands is None else (bands.channels,), first=first)
    check_pixels(array.shape[0], array.shape[1], "The image")
    if bands is None:
        return rgb_of(array)
    return np.ascontiguousarray(bands.scale(array), np.float32)  # type: ignore[return-value]


def of_floats(array: NDArray[Any]) -> UserError:
    """Return the error for floating point numbers, with what makes them an image of a network for 8-bit RGB."""
    what = f"The image is {array.dtype} {array.shape}"
    if not np.isfinite(array).all():
        return UserError(
            f"{what}, with values that are not finite (NaN or infinite). This network takes uint8, 0 to 255: replace "
            f"these values by numbers, scale the others, and give uint8."
        )
    fix = "(255 * image).round()" if array.min() >= 0 and array.max() <= 1 else "image.round().clip(0, 255)"
    return UserError(
        f"{what}, with values from {array.min():.4g} to {array.max():.4g}: this network takes uint8, 0 to 255. Values "
        f"in 0..1 become uint8 by (255 * image).round().astype('uint8'); for this image, give {fix}.astype('uint8')."
    )


def channels_last(array: NDArray[Any], counts: tuple[int, ...], *, first: bool) -> NDArray[Any]:
    """Return an array (H, W), (H, W, C) or (C, H, W) as (H, W, C). counts: the allowed numbers of channels.

    Raises UserError where no axis has such a length.
    """
    if array.ndim == 2:
        array = array[..., None]
    at_end, at_start = array.shape[-1] in counts, array.ndim == 3 and array.shape[0] in counts
    if at_start and (first or not at_end):
        return np.moveaxis(array, 0, -1)
    if not at_end:
        needed = f"{counts[0]}" if len(counts) == 1 else "1 (gray), 3 (RGB), or 4 (RGB and 255)"
        raise UserError(
            f"The image has the shape {array.shape}; the network takes {needed} channels, as (height, width, channels) "
            f"or (channels, height, width). Choose the channels that the network was trained on, in the same order."
        )
    return array


def rgb_of(array: NDArray[Any]) -> Image:
    """Convert integers (H, W, 1, 3 or 4) to RGB of uint8, as a file of such an image is read."""
    if array.dtype == np.uint16:
        check_levels(array, "The image")
        array = (array >> 8).astype(np.uint8)
    elif array.dtype != np.uint8:
        if array.min() < 0 or array.max() > 255:
            raise UserError(
                f"The image is {array.dtype} with values from {array.min()} to {array.max()}: allowed are 0 to 255 (or "
                f"uint16, 0 to 65535). Scale all images by the same factor, and give uint8."
            )
        array = array.astype(np.uint8)
    if array.shape[2] == 4:
        check_opaque(array[..., 3], "The image")
        array = array[..., :3]
    array = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array
    return np.ascontiguousarray(array)


def pil_as_array(image: PIL.Image.Image) -> NDArray[Any]:
    """Return the values of a PIL image, upright, (H, W) or (H, W, C); those of a palette as RGB."""
    image = PIL.ImageOps.exif_transpose(image)
    return np.array(image.convert("RGB") if image.mode in ("P", "1") else image)


def pil_as_rgb(image: PIL.Image.Image) -> Image:
    """Convert a PIL image, upright, to an RGB array (H, W, 3) of uint8. Raises UserError if that would lose data."""
    image = PIL.ImageOps.exif_transpose(image)
    if not image.width * image.height:
        raise UserError(f"The image has no pixels: its size is {image.size}. Give at least one pixel.")
    if image.mode == "F":
        raise UserError(
            "The image has floating point numbers: scale its values to 0..255, and give an RGB array of uint8."
        )
    if image.mode.startswith("I"):  # Pillow would clip these values, not scale them
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(
                f"The image has values from {values.min()} to {values.max()}; allowed are 0 to 65535. Scale them to "
                f"0..255, and give an RGB array of uint8."
            )
        return rgb_of(values.astype(np.uint16)[..., None])
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        check_opaque(np.asarray(image.convert("RGBA"))[..., 3], "The image")
    return np.array(image.convert("RGB"))  # a copy, because torch warns about arrays that are not writable
