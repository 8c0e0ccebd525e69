"""The crops of an epoch: which part of which training image each one is, as a function of (seed, epoch, number)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segpipe.data.class_places import ClassPlaces

Size = tuple[int, int]  # height and width in pixels
MIN_STEPS, MAX_STEPS = 50, 250  # of an epoch with steps="auto"; 250 is the epoch of nnU-Net (Isensee et al. 2021)
OF_CROPS, OF_EPOCH = 1, 2  # keys of random streams, beside those of the augmentation and of the order


class Crop(NamedTuple):
    """A crop. image: the index of its image. place: vertical and horizontal, from 0 to below 1: see ``offset``."""

    image: int
    place: tuple[float, float]


def offset(place: float, length: int, crop: int) -> int:
    """Return the first pixel of a crop of ``crop`` pixels at a place in an image of ``length`` pixels.

    0 is the first possible pixel, almost 1 the last one. If the place is uniform, all offsets are equally likely.
    """
    return int(place * (max(length - crop, 0) + 1))


def place_of(centre: float, length: int, crop: int) -> float:
    """Return the place of the crop whose middle is at ``centre`` pixels, or as near as the border of the image allows.

    ``offset`` is its inverse. ``length`` and ``crop`` are as there.
    """
    last = max(length - crop, 0)
    first = min(max(int(centre - crop / 2 + 0.5), 0), last)
    return (first + 0.5) / (last + 1)


def amounts(sizes: Sequence[Size], crop: Sequence[int] | None) -> np.ndarray:
    """Return how many crops each image has: its area in crops. A side that is shorter than the crop counts as one crop.

    Without a crop, each image is one. Returns float64 (number of images,).
    """
    if crop is None:
        return np.ones(len(sizes))
    return np.maximum(np.asarray(sizes, float).reshape(-1, 2) / np.asarray(crop, float), 1.0).prod(1)


def automatic_steps(sizes: Sequence[Size], crop: Sequence[int] | None, batch_size: int) -> int:
    """Return the batches of an epoch that are about the area of the images: at least MIN_STEPS, at most MAX_STEPS.

    With many images, it is at least as many as an epoch has in which each image is cropped once.
    """
    by_area = int(amounts(sizes, crop).sum() + 1e-6) // batch_size
    return min(max(by_area, MIN_STEPS), max(MAX_STEPS, len(sizes) // batch_size))


class Crops:
    """The crops of each epoch. They depend on (seed, epoch, number of the crop) only, not on processes or devices.

    sizes: of the images, as they are trained. crop: height and width; None: whole images. length: crops in an epoch.
    rare_share: share of the crops, 0 to 1, whose middle is a pixel of a class. Each class is equally likely, and so is
        each of its pixels; so the rarer a class, the more often each of its pixels is seen. places: these pixels, by
        class. Without labelled pixels, all crops are drawn by area.

    The other crops are drawn by area. Their images are at equal distances in the list of all areas, so that an epoch
    has each image as often as its area says, up to one; the place in the image is uniform.
    """

    def __init__(
        self,
        sizes: Sequence[Size],
        *,
        crop: Sequence[int] | None,
        length: int,
        seed: int,
        rare_share: float = 0.0,
        places: Sequence[ClassPlaces] = (),
    ) -> None:
        self.sizes, self.crop, self.length, self.seed = list(sizes), crop, length, seed
        self.rare_share, self.places = rare_share, [one for one in places if len(one.images)]
        self.ends = np.cumsum(amounts(sizes, crop))

    def draw(self, epoch: int, number: int) -> Crop:
        """Return crop ``number`` of an epoch, from 0 to below ``length``."""
        random = np.random.default_rng((self.seed, epoch, number, OF_CROPS))
        if self.places and random.random() < self.rare_share:
            image, centre = self.places[random.integers(len(self.places))].draw(random)
            sides = self.crop or self.sizes[image]
            vertical, horizontal = (
                place_of(share * length, length, side)
                for share, length, side in zip(centre, self.sizes[image], sides, strict=True)
            )
            return Crop(image, (vertical, horizontal))
        start = np.random.default_rng((self.seed, epoch, 0, OF_EPOCH)).random()
        reached = (number + start) / self.length * self.ends[-1]
        image = min(int(np.searchsorted(self.ends, reached, side="right")), len(self.ends) - 1)
        return Crop(image, (random.random(), random.random()))
