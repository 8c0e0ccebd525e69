"""Augmentation by albumentations. Each random draw depends on (seed, epoch, sample index) only."""

import copy
import inspect
import os
import random
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise its import queries the network for a newer version

import albumentations as A
import cv2
import numpy as np

from segpipe.data.crops import offset
from segpipe.data.dataset import IGNORE_INDEX, Image, Mask, Sample
from segpipe.data.resize import resize_image, resize_mask, with_bands
from segpipe.errors import UserError

PROBES, PROBED = 32, (64, 96)  # draws of the transforms before the crop, on images of these sides, to learn their scale
TURNED = 1.25  # times the side of a crop: what a crop needs that is turned by up to 15 degrees, sin 15 + cos 15
FLIPS = (A.HorizontalFlip, A.VerticalFlip)
OPENCV_BANDS = 128  # of an image; with more, OpenCV takes it for an array of three dimensions


class Augment:
    """Apply transforms, crop, and apply more transforms, to an image and its mask.

    before_crop: transforms that change the geometry. after_crop: those that cost less on the crop.
    crop: height and width of the training images in pixels; None: no crop. Smaller images are padded by repeating their
        edge, their masks by IGNORE_INDEX.
    """

    def __init__(
        self,
        *,
        before_crop: Sequence[A.BasicTransform],
        after_crop: Sequence[A.BasicTransform],
        crop: list[int] | None,
    ) -> None:
        self.crop = crop
        self.before_crop, self.after_crop = list(before_crop), list(after_crop)
        self.transforms = list(flat([*before_crop, *after_crop]))
        self.of_bands: dict[int, tuple[A.Compose, list[str]]] = {}  # by number of bands: see ``for_bands``
        self.cut = CropAt(crop[0], crop[1]) if crop else None
        self.cropping = [PadTo(crop[0], crop[1]), self.cut] if crop else []
        self.compose = A.Compose([*before_crop, *self.cropping, *after_crop])
        # 1: masks are aligned with their images after resizing; revision 0 shifted them.
        self.revision = int(
            any(isinstance(one, Registered | A.CropAndPad) for one in flat([*before_crop, *after_crop]))
        )

    def flips(self) -> list[str]:
        """Return the names of the transforms that flip; each doubles the number of images that an image may become."""
        return sorted({type(one).__name__ for one in self.transforms if isinstance(one, FLIPS)})

    def unbounded(self) -> list[str]:
        """Return the names of the transforms by which an image may become more than a few other images: all but flips.

        ``encoder.cache`` cannot keep the features of all of these. Crops are not among them.
        """
        transforms = [one for one in self.transforms if isinstance(one, A.BasicTransform)]
        return list(dict.fromkeys(type(one).__name__ for one in transforms if not isinstance(one, FLIPS)))

    @cached_property
    def window(self) -> tuple[int, int] | None:
        """Height and width of the part of an image from which a crop can be made as from the whole; None: the whole.

        Without transforms before the crop it is the crop. Else it leaves space for the smallest scale that they draw
        and for a rotation by up to 15 degrees. Transforms to a fixed size need the whole image.
        """
        if self.crop is None or not self.before_crop:
            return (self.crop[0], self.crop[1]) if self.crop else None
        compose, scales = A.Compose(self.before_crop), []
        for number in range(PROBES):
            ratios = []
            for side in PROBED:
                compose.set_random_state(np.random.default_rng(number), random.Random(number))
                blank = np.zeros((side, side), np.uint8)
                try:
                    shape = compose(image=np.dstack([blank] * 3), mask=blank)["image"].shape
                except Exception:  # for example a crop that is larger than the image
                    return None
                ratios.append(min(shape[:2]) / side)
            if abs(ratios[0] - ratios[1]) > 0.05 * ratios[0]:
                return None
            scales.append(ratios[0])
        side = int(max(self.crop) * TURNED / min(*scales, 1.0)) + 1
        return side, side

    def __call__(
        self, sample: Sample, *, seed: int, epoch: int, index: int, place: tuple[float, float] | None = None
    ) -> Sample:
        """Return the augmented sample. Equal (seed, epoch, index) give equal results in all processes.

        Images of float32, values 0 to 255, may have any number of bands; see ``for_bands``.
        place: of the crop in the transformed sample (see ``crops.offset``); None: random.
        """
        if self.cut is not None:
            self.cut.place = place
        bands = sample.image.dtype != np.uint8
        compose = self.for_bands(sample.image.shape[2])[0] if bands else self.compose
        # One random stream for all transforms: set_random_seed would give each of them the same stream, so that
        # exactly those images would be flipped that are rotated.
        seeds = np.random.SeedSequence((seed, epoch, index))
        compose.set_random_state(np.random.default_rng(seeds), random.Random(int(seeds.generate_state(1)[0])))
        if bands:  # the library takes floating point numbers from 0 to 1
            transformed = run(compose, sample._replace(image=sample.image / np.float32(255)))
            image = np.clip(255 * transformed.image, 0, 255, dtype=np.float32)
            return Sample(image.reshape(*image.shape[:2], -1), transformed.mask)
        transformed = run(compose, sample)
        check_kind(sample.image, transformed.image)
        return transformed

    def for_bands(self, channels: int) -> tuple[A.Compose, list[str]]:
        """Return the transforms for float32 images of a number of bands, and the names of those that are left out.

        Changes of colour become ``BandJitter``. Transforms that do not work on such an image, as tried once, are left
        out: those of RGB, or of 8 bits.
        """
        if channels not in self.of_bands:
            left: list[str] = []
            parts = [[on_bands(one, channels, left) for one in part] for part in (self.before_crop, self.after_crop)]
            before, after = ([one for one in part if one is not None] for part in parts)
            self.of_bands[channels] = A.Compose([*before, *self.cropping, *after]), left
        return self.of_bands[channels]

    def notes(self, channels: int) -> list[str]:
        """Return what is left out for images of a number of bands, as a sentence to be printed."""
        left = self.for_bands(channels)[1]
        if not left:
            return []
        return [f"augment: left out, because it does not work on {channels} bands of float32: {', '.join(left)}."]


def run(compose: A.Compose, sample: Sample, *, what: str = "a transform") -> Sample:
    """Return a transformed sample. Raises UserError where a transform fails. what: its name, for the message."""
    try:
        made = compose(image=sample.image, mask=sample.mask)
    except Exception as error:  # the library raises many kinds of errors
        if isinstance(error, UserError | MemoryError) or "Insufficient memory" in str(error):
            raise
        height, width = sample.mask.shape
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"augment: {what} fails on an image of {height} x {width} pixels ({reason}). Change its arguments, or "
            f"remove it."
        ) from error
    return Sample(made["image"], made["mask"])


def check_kind(before: np.ndarray, after: np.ndarray, what: str = "the transforms") -> None:
    """Raise UserError where transforms have changed the type or the channels of an image, as Normalize and ToGray do.

    The network normalises its images itself: a second time, it would train on nearly black ones. what: the transforms,
    for the message.
    """
    if (after.dtype, after.shape[2:]) != (before.dtype, before.shape[2:]):
        kinds = [
            f"{image.dtype} with {'x'.join(map(str, image.shape[2:])) or 'no'} channels" for image in (before, after)
        ]
        raise UserError(
            f"augment: {what} made {kinds[1]} of an image of {kinds[0]}. Remove the transform that does so, such as "
            f"Normalize, ToFloat, ToTensorV2 or ToGray(num_output_channels=1): the network normalises its images "
            f"itself."
        )


def flat(transforms: Sequence[Any]) -> Iterator[Any]:
    """Yield transforms and those inside of compositions such as OneOf."""
    for transform in transforms:
        yield transform
        yield from flat(getattr(transform, "transforms", ()))


def on_bands(transform: Any, channels: int, left: list[str]) -> Any:
    """Return a transform for float32 images of a number of bands; None, and its name in ``left``, if it has none."""
    if isinstance(transform, A.ColorJitter):
        return BandJitter(brightness=transform.brightness, contrast=transform.contrast, p=transform.p)
    if isinstance(transform, FLIPS) and channels > OPENCV_BANDS:
        return (HorizontalBandFlip if isinstance(transform, A.HorizontalFlip) else VerticalBandFlip)(p=transform.p)
    if isinstance(inner := getattr(transform, "transforms", None), Sequence):
        kept = [one for one in (on_bands(child, channels, left) for child in inner) if one is not None]
        if len(kept) == len(inner):
            same = copy.copy(transform)
            same.transforms = kept
            return same
        left.append(type(transform).__name__)  # a composition keeps its probabilities for all of its transforms
        return None
    return transform if works_on_bands(transform, channels) else left.append(type(transform).__name__)


def works_on_bands(transform: Any, channels: int) -> bool:
    """Return whether a transform keeps the bands of a float32 image, and its numbers between the 256 of 8 bits.

    One that does not work on a small RGB image of 8 bits either, as a crop of a larger size, is no matter of bands.
    """
    image = np.random.default_rng(0).random((96, 96, channels), np.float32)
    changed = tried(transform, image)
    if changed is None:
        return tried(transform, (255 * image[..., :1]).astype(np.uint8).repeat(3, 2)) is None
    if changed.ndim != 3 or changed.shape[2] != channels or changed.dtype != np.float32:
        return False
    return bool(np.isfinite(changed).all() and np.abs(255 * changed - (255 * changed).round()).max() > 0.01)


def tried(transform: Any, image: Image) -> Image | None:
    """Return what a transform makes of an image if it is applied; None if it raises an error."""
    trial = copy.deepcopy(transform)
    trial.p = 1.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            changed: Image = A.Compose([trial])(image=image, mask=np.zeros(image.shape[:2], np.uint8))["image"]
            return changed
    except Exception:  # the library raises many kinds of errors
        return None


class BandJitter(A.ImageOnlyTransform):
    """Change brightness and contrast of all bands by the same two random factors; values 0 to 1, float32.

    brightness, contrast: ranges of the factors. Contrast is relative to the mean of each band.
    """

    class InitSchema(A.BasicTransform.InitSchema):
        """The arguments, validated by albumentations."""

        brightness: tuple[float, float]
        contrast: tuple[float, float]

    def __init__(self, brightness: tuple[float, float], contrast: tuple[float, float], p: float = 0.5) -> None:
        super().__init__(p=p)
        self.brightness, self.contrast = brightness, contrast

    def get_params(self) -> dict[str, float]:
        """Return the factors."""
        return {"light": self.py_random.uniform(*self.brightness), "spread": self.py_random.uniform(*self.contrast)}

    def apply(self, img: Image, light: float = 1.0, spread: float = 1.0, **params: Any) -> Image:
        """Change an image (H, W, C)."""
        mean = img.mean((0, 1), dtype=np.float64).astype(np.float32)
        return np.clip((img - mean) * np.float32(spread * light) + mean * np.float32(light), 0, 1)


class HorizontalBandFlip(A.HorizontalFlip):
    """A flip of any number of bands."""

    def apply(self, img: Image, **params: Any) -> Image:
        """Flip an image (H, W, C), or a mask (H, W)."""
        return np.ascontiguousarray(img[:, ::-1])


class VerticalBandFlip(A.VerticalFlip):
    """A flip of any number of bands."""

    def apply(self, img: Image, **params: Any) -> Image:
        """Flip an image (H, W, C), or a mask (H, W)."""
        return np.ascontiguousarray(img[::-1])


class PadTo(A.DualTransform):
    """Pad at the bottom and right to a size: images by repeating their edge, masks by IGNORE_INDEX."""

    class InitSchema(A.BasicTransform.InitSchema):
        """The arguments, validated by albumentations."""

        height: int
        width: int

    def __init__(self, height: int, width: int, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.height, self.width = height, width

    def border(self, array: np.ndarray) -> tuple[int, int, int, int]:
        """Return the number of rows and columns to add: top, bottom, left, right."""
        return 0, max(self.height - array.shape[0], 0), 0, max(self.width - array.shape[1], 0)

    def apply(self, img: Image, **params: Any) -> Image:
        """Pad an image (H, W, C) by repeating its edge."""
        if not any(self.border(img)):
            return img  # copyMakeBorder would copy it
        if img.shape[2] > OPENCV_BANDS:
            _, below, _, right = self.border(img)
            return np.pad(img, ((0, below), (0, right), (0, 0)), mode="edge")
        return with_bands(cv2.copyMakeBorder(img, *self.border(img), borderType=cv2.BORDER_REPLICATE), img)

    def apply_to_mask(self, mask: Mask, **params: Any) -> Mask:
        """Pad a mask (H, W) by IGNORE_INDEX."""
        if not any(self.border(mask)):
            return mask
        return cv2.copyMakeBorder(  # type: ignore[return-value]
            mask, *self.border(mask), borderType=cv2.BORDER_CONSTANT, value=[IGNORE_INDEX]
        )


class CropAt(A.RandomCrop):
    """A crop at a random place; at ``place`` where it is not None.

    Let a window be at the same place in an image as the crop is in the window. Then the crop is the one at this place
    of the image, whatever the window's size is, and also where both are scaled before they are cropped.
    """

    place: tuple[float, float] | None = None

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Return where the crop is, in the form of albumentations."""
        if self.place is None:
            return super().get_params_dependent_on_data(params, data)
        sides = (self.height, self.width)
        top, left = (offset(*one) for one in zip(self.place, params["shape"][:2], sides, strict=True))
        return {"crop_coords": (left, top, left + self.width, top + self.height), "pad_params": None}


class Registered(A.DualTransform):
    """A mixin for transforms that resize, with the filters of ``data.resize``.

    The filters of albumentations shift masks against images.
    """

    def apply(self, img: Image, **params: Any) -> Image:
        """Crop, if the transform crops, and resize an image (H, W, 3)."""
        return resize_image(self.region(img, params), self.target_size(img, params))

    def apply_to_mask(self, mask: Mask, **params: Any) -> Mask:
        """Apply the same to a mask (H, W)."""
        return resize_mask(self.region(mask, params), self.target_size(mask, params))

    def region(self, array: np.ndarray, params: dict[str, Any]) -> np.ndarray:
        """Return the region of the array that the transform resizes."""
        left, top, right, bottom = params.get("crop_coords", (0, 0, array.shape[1], array.shape[0]))
        return array[top:bottom, left:right]

    def target_size(self, array: np.ndarray, params: dict[str, Any]) -> tuple[int, ...]:
        """Return the height and width of the transform's result."""
        return super().apply_to_mask(np.empty(array.shape[:2], np.uint8), **params).shape


REGISTERED = {
    transform: type(transform)(transform.__name__, (Registered, transform), {"__doc__": f"{transform.__name__}."})
    for transform in (
        A.RandomScale, A.Resize, A.LongestMaxSize, A.SmallestMaxSize, A.RandomSizedCrop, A.RandomResizedCrop,
    )
}  # fmt: skip


def strict(target: type[A.BasicTransform], **arguments: Any) -> A.BasicTransform:
    """Build a transform. Raises UserError for arguments that albumentations warns about or rejects.

    Transforms that fill new areas fill masks with IGNORE_INDEX. Transforms that resize keep masks aligned with images.
    """
    if not (inspect.isclass(target) and issubclass(target, A.BasicTransform | A.BaseCompose)):
        name = getattr(target, "__name__", target)
        raise UserError(f"augment: {name} is no transform of albumentations, nor derived from one. Remove it.")
    target = REGISTERED.get(target, target)
    if target is A.CropAndPad:  # it resizes after cropping
        arguments.setdefault("mask_interpolation", cv2.INTER_NEAREST_EXACT)
    if "fill_mask" in getattr(getattr(target, "InitSchema", None), "model_fields", ()):
        arguments.setdefault("fill_mask", IGNORE_INDEX)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return target(**arguments)
        except (UserWarning, ValueError, TypeError) as error:
            lines = [line.strip() for line in str(error).splitlines() if "errors.pydantic.dev" not in line]
            raise UserError(f"augment: {target.__name__} cannot be built: {' '.join(lines)}") from error


READS = {"read_fn", "reference_images", "metadata_key", "font_path"}  # arguments of transforms that need more than data


def library_transforms() -> list[str]:
    """Return the names of albumentations' transforms and compositions that call no given function and read no file."""
    return [
        name
        for name, kind in vars(A).items()
        if inspect.isclass(kind)
        and issubclass(kind, A.BasicTransform | A.BaseCompose)
        and kind is not A.Lambda
        and not READS & inspect.signature(kind).parameters.keys()
    ]
