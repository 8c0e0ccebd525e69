"""A split's samples as a loader asks for them: decoded, resized, kept in memory, augmented, batched."""

import sys
from typing import Literal, TypedDict

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from segpipe.data.augment import Augment
from segpipe.data.dataset import Sample, SegmentationDataset
from segpipe.data.resize import resize_mask, to_network

RAM_LIMIT = 2 * 2**30  # bytes that cache=auto allows a split


class Batch(TypedDict):
    """What a step gets: RGB images uint8 (N, 3, H, W), masks uint8 (N, H', W'), positions in the split (N,).

    In training H, W = H', W'; in evaluation the mask has its stored size, whatever ``data.size`` makes of the picture.
    """

    image: Tensor
    mask: Tensor
    index: Tensor


class Samples(Dataset[Batch]):
    """A split as samples to be batched: resized, kept in memory, augmented.

    size: height and width to resize pictures to; None keeps theirs. train: resize the masks, too.
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
    ) -> None:
        self.dataset, self.size, self.train, self.augment, self.seed = dataset, size, train, augment, seed
        self.kept: list[Sample] | None = None
        if cache == "ram" or (cache == "auto" and self.bytes() <= RAM_LIMIT):
            hidden = not sys.stdout.isatty()
            reading = track(range(len(dataset)), f"Reading {len(dataset)} samples", transient=True, disable=hidden)
            self.kept = [self.load(index) for index in reading]

    def bytes(self) -> int:
        """The memory that the split takes when decoded: four bytes a pixel."""
        sizes = [self.size or self.dataset.size(index) for index in range(len(self.dataset))]
        return sum(height * width * 4 for height, width in sizes)

    def load(self, index: int) -> Sample:
        """Decode and resize."""
        image, mask = self.dataset.read(index)
        if self.size and self.train:
            mask = resize_mask(mask, self.size)
        return Sample(to_network(image, self.size), mask)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, keys: list[tuple[int, int]]) -> Batch:
        """The batch of some (epoch, index), each sample augmented by its own draw.

        Images keep the order of bytes they were decoded in, which is torch's channels_last: nothing is copied twice.
        """
        samples = [self.sample(epoch, index) for epoch, index in keys]
        return {
            "image": torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2),
            "mask": torch.from_numpy(np.stack([sample.mask for sample in samples])),
            "index": torch.tensor([index for _, index in keys]),
        }

    def sample(self, epoch: int, index: int) -> Sample:
        """One sample, as it is in ``epoch``."""
        sample = self.kept[index] if self.kept is not None else self.load(index)
        return self.augment(sample, seed=self.seed, epoch=epoch, index=index) if self.augment else sample
