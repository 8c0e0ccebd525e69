"""The LightningDataModule: three splits of a data set as batches."""

import os
import sys
from collections.abc import Callable
from typing import Literal, TypedDict, get_args

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segpipe.data.augment import Augment
from segpipe.data.counts import remembered_counts
from segpipe.data.dataset import First, Sample, SegmentationDataset, Split
from segpipe.data.sampler import EvalBatches, Loader, TrainBatches
from segpipe.errors import UserError

RAM_LIMIT = 2 * 2**30  # bytes that cache=auto allows a split
SHOWN = 3  # problems that a refusal prints


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
        if self.size and image.shape[:2] != tuple(self.size):
            image = resize(image, self.size, cv2.INTER_AREA)
            if self.train:
                mask = resize(mask, self.size, cv2.INTER_NEAREST)
        return Sample(image, mask)

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


def resize(picture: NDArray[np.uint8], size: list[int], how: int) -> NDArray[np.uint8]:
    """To (height, width)."""
    return cv2.resize(picture, size[::-1], interpolation=how)  # type: ignore[return-value]


class SegmentationData(pl.LightningDataModule):
    """Batches of a data set.

    dataset: called with ``split=``. batch_size: global, over all ranks and accumulation steps.
    size: see ``Samples``. workers: loader processes; None: see ``own_workers``.
    cache: keep the decoded (and resized) pictures in memory; ``auto`` does where a split takes less than 2 GiB.
    overfit: put the first batch of the training split, as it is, in the place of every split (debug=overfit).
    seed: of order and augmentation.
    """

    def __init__(
        self,
        *,
        dataset: Callable[..., SegmentationDataset],
        augment: Augment,
        seed: int,
        batch_size: int = 8,
        eval_batch_size: int = 8,
        size: list[int] | None = None,
        workers: int | None = None,
        cache: Literal["auto", "ram", "off"] = "auto",
        overfit: bool = False,
    ) -> None:
        super().__init__()
        self.make_dataset, self.augment, self.seed = dataset, augment, seed
        self.batch_size, self.eval_batch_size, self.size = batch_size, eval_batch_size, size
        self.workers, self.cache, self.overfit = workers, cache, overfit
        self.datasets: dict[Split, SegmentationDataset] = {}
        self.read_sizes: dict[Split, list[tuple[int, int]]] = {}
        self.samples: dict[tuple[Split, bool], Samples] = {}

    def split(self, name: Split) -> SegmentationDataset:
        """A split of the data set, made once. Raises UserError if something is wrong with it."""
        if name not in self.datasets:
            whole = self.make_dataset(split="train" if self.overfit else name)
            if problems := whole.problems:
                more = f"\nand {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
                raise UserError(
                    f"The {name} split has {len(problems)} problem{'s' if len(problems) > 1 else ''}:\n"
                    + "\n".join(problems[:SHOWN])
                    + f"{more}\nAll of them: python -m segpipe.check_data, with the same data=... data.root=..."
                )
            self.datasets[name] = First(whole, self.batch_size) if self.overfit else whole
        return self.datasets[name]

    def sizes(self, name: Split) -> list[tuple[int, int]]:
        """Height and width of each picture of a split, from the files' headers, read once."""
        if name not in self.read_sizes:
            dataset = self.split(name)
            self.read_sizes[name] = [dataset.size(index) for index in range(len(dataset))]
        return self.read_sizes[name]

    def notes(self) -> list[str]:
        """What the splits have to say, each thing once."""
        return list(dict.fromkeys(note for name in get_args(Split) for note in self.split(name).notes))

    def check(self, *, smallest: int = 1) -> None:
        """Raise UserError for what training would stumble over later. smallest: height and width the network takes."""
        for name in get_args(Split):
            if not len(self.split(name)):
                raise UserError(f"The {name} split has no picture. Add some, or give another data.root.")
        number = len(self.split("train"))
        if number < self.batch_size:
            raise UserError(
                f"The training split has {number} samples, a batch {self.batch_size}: "
                f"set data.batch_size={number} or less."
            )
        if self.size is None and self.augment.crop is None and self.batch_size > 1:
            sizes = sorted(set(self.sizes("train")))
            if len(sizes) > 1:
                raise UserError(
                    f"The training pictures are of {len(sizes)} sizes ({sizes[0]} to {sizes[-1]}), which make no "
                    f"batch: set data.crop=[HEIGHT,WIDTH] to train on crops of one size, or data.batch_size=1."
                )
        for name in () if self.size else get_args(Split):
            if name == "train" and self.augment.crop:
                continue
            for picture, size in zip(self.split(name).names, self.sizes(name), strict=True):
                if min(size) < smallest:
                    raise UserError(
                        f"{picture} ({name}) is {size[0]} x {size[1]} pixels, and this encoder takes "
                        f"{smallest} x {smallest} and more: set data.size=[HEIGHT,WIDTH], or remove the picture."
                    )

    def samples_of(self, name: Split, *, train: bool = False) -> Samples:
        """A split as samples, made once; ``train`` augments."""
        if (name, train) not in self.samples:
            augment = self.augment if train and not self.overfit else None
            self.samples[name, train] = Samples(
                self.split(name), size=self.size, train=train, augment=augment, seed=self.seed, cache=self.cache
            )
        return self.samples[name, train]

    def loader(self, name: Split, *, train: bool = False) -> DataLoader[Batch]:
        """Batches of a split; ``train`` shuffles and augments."""
        samples = self.samples_of(name, train=train)
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        workers = self.workers if self.workers is not None else self.own_workers(samples)
        batches: TrainBatches | EvalBatches
        if train:
            batches = TrainBatches(
                len(samples), batch_size=self.batch_size, seed=self.seed, rank=rank, world_size=world_size
            )
        else:
            batches = EvalBatches(self.sizes(name), batch_size=self.eval_batch_size, rank=rank, world_size=world_size)
        return Loader(
            samples,
            sampler=batches,  # as the sampler, so that Lightning tells it the epoch
            batch_size=None,  # it is batches that are sampled
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # its own: starting an epoch must not move the one that dropout draws from
            pin_memory=torch.cuda.is_available(),
        )

    def own_workers(self, samples: Samples) -> int:
        """0 where nothing is to be decoded or, beside a GPU, augmented; else 2, and beside a GPU up to 8.

        A GPU waits for what the CPU has not made ready; a CPU that trains has to make it itself, at once or later.
        """
        gpu = torch.cuda.is_available()
        if samples.kept is not None and not (gpu and samples.augment):
            return 0
        return min(8, os.cpu_count() or 2) if gpu else 2

    def median_frequency(self) -> Tensor:
        """(K,) class weights of Eigen and Fergus (2015): the classes' median frequency over the class's own.

        A class's frequency is its share of the pixels of the training pictures that it is in; an absent class weighs 0.
        """
        dataset = self.split("train")
        pixels, around = remembered_counts(dataset)
        frequency = pixels / np.maximum(around, 1)
        median = np.median(frequency[pixels > 0])
        return torch.from_numpy(np.where(pixels > 0, median / np.maximum(frequency, 1e-12), 0.0))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled, augmented batches."""
        return self.loader("train", train=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Whole pictures."""
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Whole pictures."""
        return self.loader("test")
