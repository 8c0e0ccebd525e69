"""Augmentation by albumentations, with every draw a function of (seed, epoch, sample index)."""

import os
import random
import warnings
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would look up a name on the network

import albumentations as A
import cv2
import numpy as np

from segpipe.data.dataset import IGNORE_INDEX, Image, Mask, Sample
from segpipe.data.resize import resize_image, resize_mask
from segpipe.errors import UserError


class Augment:
    """Transforms, a crop, transforms.

    before_crop, after_crop: what changes geometry stands before, what is cheaper on the crop behind.
    crop: height and width of the training pictures, smaller ones padded (image edge, mask ignored); None: no crop.
    """

    def __init__(
        self,
        *,
        before_crop: Sequence[A.BasicTransform],
        after_crop: Sequence[A.BasicTransform],
        crop: list[int] | None,
    ) -> None:
        self.crop = crop
        cropping = [PadTo(crop[0], crop[1]), A.RandomCrop(crop[0], crop[1])] if crop else []
        self.compose = A.Compose([*before_crop, *cropping, *after_crop])
        # Of the results: 1 since masks are resized as their images are; before, they were shifted.
        self.revision = int(any(isinstance(one, Registered | A.CropAndPad) for one in [*before_crop, *after_crop]))

    def __call__(self, sample: Sample, *, seed: int, epoch: int, index: int) -> Sample:
        """The augmented sample: the same for the same (seed, epoch, index), in whatever process."""
        # One stream for all transforms: set_random_seed would start each of them alike, so that what is rotated, and
        # nothing else, is flipped as well.
        seeds = np.random.SeedSequence((seed, epoch, index))
        self.compose.set_random_state(np.random.default_rng(seeds), random.Random(int(seeds.generate_state(1)[0])))
        done = self.compose(image=sample.image, mask=sample.mask)
        return Sample(done["image"], done["mask"])


class PadTo(A.DualTransform):
    """Pads at the bottom and the right up to a size: pictures by their edge, masks by IGNORE_INDEX."""

    class InitSchema(A.BasicTransform.InitSchema):
        """Checked by albumentations."""

        height: int
        width: int

    def __init__(self, height: int, width: int, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.height, self.width = height, width

    def border(self, picture: np.ndarray) -> tuple[int, int, int, int]:
        """Rows and columns to add: top, bottom, left, right."""
        return 0, max(self.height - picture.shape[0], 0), 0, max(self.width - picture.shape[1], 0)

    def apply(self, img: Image, **params: Any) -> Image:
        """Repeat the edge."""
        if not any(self.border(img)):
            return img  # copyMakeBorder would copy it
        return cv2.copyMakeBorder(img, *self.border(img), borderType=cv2.BORDER_REPLICATE)  # type: ignore[return-value]

    def apply_to_mask(self, mask: Mask, **params: Any) -> Mask:
        """Ignore what is added."""
        if not any(self.border(mask)):
            return mask
        return cv2.copyMakeBorder(  # type: ignore[return-value]
            mask, *self.border(mask), borderType=cv2.BORDER_CONSTANT, value=[IGNORE_INDEX]
        )


class Registered(A.DualTransform):
    """Mixed into a transform that resizes: its own filters shift masks against images (``data.resize``)."""

    def apply(self, img: Image, **params: Any) -> Image:
        """Crop, where the transform does, and resize."""
        return resize_image(self.region(img, params), self.target_size(img, params))

    def apply_to_mask(self, mask: Mask, **params: Any) -> Mask:
        """The same to the mask."""
        return resize_mask(self.region(mask, params), self.target_size(mask, params))

    def region(self, array: np.ndarray, params: dict[str, Any]) -> np.ndarray:
        """What is resized."""
        left, top, right, bottom = params.get("crop_coords", (0, 0, array.shape[1], array.shape[0]))
        return array[top:bottom, left:right]

    def target_size(self, array: np.ndarray, params: dict[str, Any]) -> tuple[int, ...]:
        """Height and width that the transform gives."""
        return super().apply_to_mask(np.empty(array.shape[:2], np.uint8), **params).shape


REGISTERED = {
    transform: type(transform)(transform.__name__, (Registered, transform), {"__doc__": f"{transform.__name__}."})
    for transform in (
        A.RandomScale, A.Resize, A.LongestMaxSize, A.SmallestMaxSize, A.RandomSizedCrop, A.RandomResizedCrop,
    )
}  # fmt: skip


def strict(target: type[A.BasicTransform], **arguments: Any) -> A.BasicTransform:
    """Build a transform, refusing what albumentations would only warn of and then ignore.

    Geometric transforms that fill in are told to fill masks with IGNORE_INDEX; those that resize keep masks registered.
    """
    target = REGISTERED.get(target, target)
    if target is A.CropAndPad:  # resizes what it has cropped
        arguments.setdefault("mask_interpolation", cv2.INTER_NEAREST_EXACT)
    if "fill_mask" in target.InitSchema.model_fields:  # type: ignore[attr-defined]
        arguments.setdefault("fill_mask", IGNORE_INDEX)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return target(**arguments)
        except (UserWarning, ValueError, TypeError) as error:
            raise UserError(f"augment: {target.__name__} cannot be built: {error}") from error
