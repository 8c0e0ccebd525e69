"""A trial of the augmentation, before a training: a transform that would spoil the batches is refused by its name.

The sample is made up, so that the trial takes milliseconds and reads no file: noise, and a mask of few labels that lie
far apart. A transform that interpolates masks makes other labels, those between them.
"""

import copy
import random
import warnings
from collections.abc import Iterator
from typing import Any

import albumentations as A
import numpy as np

from segpipe.data.augment import Augment, check_kind, flat, run
from segpipe.data.dataset import IGNORE_INDEX, Sample
from segpipe.errors import UserError

DRAWS = 4  # of the random numbers of each transform
BLOCK = 5  # pixels; side of the regions of the mask
LARGEST = 2**21  # pixels of an image; larger ones are not tried, which would take seconds


def check_augment(
    augment: Augment, *, size: tuple[int, int], num_classes: int, channels: int | None, smallest: int, batched: bool
) -> None:
    """Raise UserError for transforms with which a training would fail, or learn from labels that are no classes.

    size: height and width of a training image in pixels. channels: the number of bands; None for 8-bit RGB. smallest:
    the smallest side of an image that the network takes. batched: whether a batch has several images, of one size.
    """
    height, width = augment.window or size
    if height * width > LARGEST:
        return
    whole = made_up(height, width, num_classes, channels)
    steps = (augment.compose if channels is None else augment.for_bands(channels)[0]).transforms
    sizes: set[tuple[int, ...]] = set()
    for draw in range(DRAWS):
        sample = whole
        for one in steps:
            before, sample = sample, tried(one, sample, draw=draw, num_classes=num_classes)
            if sample.mask.shape != before.mask.shape and one.p < 1 and one not in augment.before_crop:
                sizes.add(before.mask.shape)
        sizes.add(sample.mask.shape)
    if (side := min(map(min, sizes))) < smallest:
        raise UserError(
            f"augment: the transforms make images of {side} pixels; this encoder needs at least {smallest} x "
            f"{smallest}. Remove the one that cuts or reduces them, and set data.crop=[HEIGHT,WIDTH]."
        )
    if batched and len(sizes) > 1:
        raise UserError(different_sizes(sizes))


def different_sizes(sizes: set[tuple[int, ...]]) -> str:
    """Return the message for training images of different sizes after augmentation. sizes: (height, width) of each."""
    found = " and ".join(f"{height} x {width}" for height, width in sorted(sizes)[:2])
    return (
        f"augment: the transforms make images of different sizes ({found}), which a batch cannot hold. Put those that "
        f"change the size into augment.before_crop, and set data.crop=[HEIGHT,WIDTH]."
    )


def made_up(height: int, width: int, num_classes: int, channels: int | None) -> Sample:
    """Return noise (H, W, C) as transforms receive it, and a mask of the first, the last and the ignored label."""
    draw = np.random.default_rng(0)
    if channels is None:
        image = draw.integers(0, 256, (height, width, 3), np.uint8)
    else:
        image = draw.random((height, width, channels), np.float32)
    labels = np.array([0, num_classes - 1, IGNORE_INDEX], np.uint8)
    rows, columns = np.arange(height)[:, None] // BLOCK, np.arange(width) // BLOCK
    return Sample(image, labels[(rows + columns) % len(labels)])


def tried(transform: Any, sample: Sample, *, draw: int, num_classes: int) -> Sample:
    """Return what a transform makes of a sample if it is applied. Raises UserError as ``check_augment``.

    Of a composition such as OneOf each part is tried. draw: seed of its random numbers.
    """
    if transform.p == 0:
        return sample
    for part in parts(transform):
        tried(part, sample, draw=draw, num_classes=num_classes)
    made = applied(transform, sample, draw)
    check_kind(sample.image, made.image, type(transform).__name__)
    check_labels(sample, made, transform, num_classes)
    return made


def parts(transform: Any) -> Iterator[Any]:
    """Yield the transforms of which a composition applies one or some; none for a composition that applies all."""
    if isinstance(transform, A.BaseCompose) and not isinstance(transform, A.Sequential):
        yield from transform.transforms


def applied(transform: Any, sample: Sample, draw: int) -> Sample:
    """Return what a transform makes of a sample. Raises UserError where it fails."""
    trial = copy.deepcopy(transform)
    trial.p = 1.0
    compose = A.Compose([trial])
    compose.set_random_state(np.random.default_rng(draw), random.Random(draw))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = run(compose, sample, what=type(transform).__name__)
    if sample.image.dtype != np.uint8:
        made = made._replace(image=made.image.reshape(*made.image.shape[:2], -1))
    return made


def check_labels(before: Sample, after: Sample, transform: Any, num_classes: int) -> None:
    """Raise UserError where a transform has made labels that are no classes, or that no region of the mask had."""
    what = type(transform).__name__
    if after.mask.shape != after.image.shape[:2] or after.mask.dtype != np.uint8:
        raise UserError(
            f"augment: {what} makes a mask of {after.mask.dtype} {after.mask.shape} for an image of "
            f"{after.image.shape[:2]} pixels. Remove it."
        )
    filled = {getattr(one, name, None) for one in flat([transform]) for name in ("fill_mask", "mask_drop_value")}
    kept = {*np.unique(before.mask).tolist(), IGNORE_INDEX, *(filled & set(range(num_classes)))}
    if wrong := sorted({*np.unique(after.mask).tolist()} - kept):
        raise UserError(
            f"augment: {what} makes the label {', '.join(map(str, wrong[:3]))} in masks of the labels "
            f"{', '.join(map(str, sorted(kept)))}. Let it fill masks with {IGNORE_INDEX} or a "
            f"class, 0 to {num_classes - 1} (fill_mask), and set its mask_interpolation to 0, which is nearest; or "
            f"remove it."
        )
