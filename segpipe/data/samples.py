"""Samples of a split for the loader: decoded, resized, cached in memory, augmented, batched."""

import sys
from typing import Literal, TypedDict

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from segpipe.data.augment import Augment
from segpipe.data.augment_trial import different_sizes
from segpipe.data.bands import pixel_bytes
from segpipe.data.crops import Crops, offset
from segpipe.data.dataset import Image, Sample, SegmentationDataset
from segpipe.data.resize import resize_mask, to_network
from segpipe.errors import UserError

RAM_LIMIT = 2 * 2**30  # bytes; cache=auto keeps splits up to this size in memory


class Batch(TypedDict):
    """A batch: images (N, C, H, W), masks uint8 (N, H', W'), indices in the split (N,), or of the crops.

    Images are RGB of uint8, or bands of float32 with values 0 to 255.
    In training H, W = H', W'. In evaluation the mask has its stored size, and ``data.size`` resizes only the image.
    """

    image: Tensor
    mask: Tensor
    index: Tensor


def as_tensor(image: Image) -> Tensor:
    """Return an image (H, W, C) as a batch (1, C, H, W) of the same numbers, without a copy."""
    return torch.from_numpy(np.ascontiguousarray(image))[None].permute(0, 3, 1, 2)


class Samples(Dataset[Batch]):
    """The samples of a split: resized, cached in memory, augmented.

    size: height and width to which images are resized, in pixels; None: no resizing. train: resize the masks too.
    augment: None: no augmentation. cache: keep samples in memory; ``auto``: if they take at most RAM_LIMIT.
    crops: the crops of an epoch, which are then the samples; None: each image of the data set is one.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        *,
        size: list[int] | None,
        train: bool,
        augment: Augment | None,
        seed: int,
        cache: Literal["auto", "ram", "off"],
        crops: Crops | None = None,
    ) -> None:
        self.dataset, self.size, self.train, self.augment, self.seed = dataset, size, train, augment, seed
        self.crops = crops
        self.kept: list[Sample] | None = None
        if cache == "ram" or (cache == "auto" and self.bytes() <= RAM_LIMIT):
            hidden = not sys.stdout.isatty()
            reading = track(range(len(dataset)), f"Reading {len(dataset)} samples", transient=True, disable=hidden)
            self.kept = [self.load(index) for index in reading]

    def bytes(self) -> int:
        """Return the memory of the decoded split in bytes: of images and masks."""
        sizes = [self.size or self.dataset.size(index) for index in range(len(self.dataset))]
        return sum(height * width * pixel_bytes(self.dataset) for height, width in sizes)

    def load(self, index: int) -> Sample:
        """Decode and resize one sample."""
        image, mask = self.dataset.read(index)
        if self.size and self.train:
            mask = resize_mask(mask, self.size)
        return Sample(to_network(image, self.size), mask)

    def __len__(self) -> int:
        """Return the number of samples in an epoch."""
        return self.crops.length if self.crops else len(self.dataset)

    def __getitem__(self, keys: list[tuple[int, int]]) -> Batch:
        """Return the batch of a list of (epoch, index). The augmentation of each sample depends on both.

        Images keep the memory layout of the decoder, which is torch's channels_last; this saves a copy.
        """
        samples = [self.sample(epoch, index) for epoch, index in keys]
        if self.augment and len(sizes := {sample.mask.shape for sample in samples}) > 1:
            raise UserError(different_sizes(sizes))
        return {
            "image": torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2),
            "mask": torch.from_numpy(np.stack([sample.mask for sample in samples])),
            "index": torch.tensor([index for _, index in keys]),
        }

    def sample(self, epoch: int, index: int) -> Sample:
        """Return one sample, augmented for ``epoch``."""
        if self.crops and self.augment:
            image, place = self.crops.draw(epoch, index)
            window = self.window(image, place)
            return self.augment(window, seed=self.seed, epoch=epoch, index=index, place=place)
        sample = self.kept[index] if self.kept is not None else self.load(index)
        return self.augment(sample, seed=self.seed, epoch=epoch, index=index) if self.augment else sample

    def window(self, image: int, place: tuple[float, float]) -> Sample:
        """Return the part of an image that the augmentation needs for a crop at a place of the image.

        Where the sample is not in memory, only this part is read, if the data set can do so.
        """
        assert self.crops is not None
        assert self.augment is not None
        sides = self.augment.window or self.crops.sizes[image]
        starts = [offset(*one) for one in zip(place, self.crops.sizes[image], sides, strict=True)]
        rows, columns = (slice(start, start + side) for start, side in zip(starts, sides, strict=True))
        if self.kept is None and not self.size:
            part, mask = self.dataset.read_window(image, rows, columns)
            return Sample(to_network(part, None), mask)
        sample = self.kept[image] if self.kept is not None else self.load(image)
        return Sample(sample.image[rows, columns], sample.mask[rows, columns])
