"""The LightningDataModule: three splits of a data set as batches."""

from collections.abc import Callable, Iterator
from typing import Literal, get_args

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from segpipe.data.augment import Augment
from segpipe.data.class_counts import cached_class_counts
from segpipe.data.dataset import FirstN, SegmentationDataset, Split
from segpipe.data.samplers import EvalBatches, TrainBatches
from segpipe.data.samples import Batch, Samples
from segpipe.errors import UserError
from segpipe.runs.environment import cores

SHOWN = 3  # problems that a refusal prints


class Loader(DataLoader[Batch]):
    """Begins when the first batch is asked for: Lightning makes the iterator before it tells the sampler the epoch.

    With workers, a training that was gone on with would else begin with batches of epoch 0.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """One epoch."""
        yield from super().__iter__()


class SegmentationData(pl.LightningDataModule):
    """Batches of a data set.

    dataset: called with ``split=``. batch_size: global, over all ranks and accumulation steps.
    size: see ``Samples``. workers: loader processes; None: see ``default_workers``.
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
        self.samples_by_split: dict[tuple[Split, bool], Samples] = {}

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
            self.datasets[name] = FirstN(whole, self.batch_size) if self.overfit else whole
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

    def check(self, *, smallest: int = 1, ranks: int = 1, parts: int = 1) -> None:
        """Raise UserError for what training would stumble over later.

        smallest: height and width the network takes. ranks, parts: among which each batch is shared evenly.
        """
        for name in get_args(Split):
            number = len(self.split(name))
            if not number:
                raise UserError(f"The {name} split has no picture. Add some, or give another data.root.")
            if number < ranks:
                raise UserError(
                    f"The {name} split has {number} picture{'s' if number > 1 else ''} for {ranks} devices, each of "
                    f"which needs one at least: set trainer.devices={number}, or add pictures."
                )
        if ranks > 1:
            self.check_shares(ranks * parts, f"{ranks} devices" + (f" in {parts} parts each" if parts > 1 else ""))
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

    def check_shares(self, shares: int, whose: str) -> None:
        """Raise UserError, with the nearest batch that will do, for one that is not shared evenly."""
        if self.batch_size % shares:
            most = len(self.split("train")) // shares * shares
            nearest = max(shares, min(round(self.batch_size / shares) * shares, most))
            raise UserError(
                f"data.batch_size={self.batch_size} is the batch of all devices together and cannot be shared evenly "
                f"among {whose}: set data.batch_size={nearest}."
            )

    def samples(self, name: Split, *, train: bool = False) -> Samples:
        """A split as samples, made once; ``train`` augments."""
        if (name, train) not in self.samples_by_split:
            augment = self.augment if train and not self.overfit else None
            self.samples_by_split[name, train] = Samples(
                self.split(name), size=self.size, train=train, augment=augment, seed=self.seed, cache=self.cache
            )
        return self.samples_by_split[name, train]

    def loader(self, name: Split, *, train: bool = False) -> DataLoader[Batch]:
        """Batches of a split; ``train`` shuffles and augments."""
        samples = self.samples(name, train=train)
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        workers = self.workers if self.workers is not None else self.default_workers(samples, world_size)
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

    def default_workers(self, samples: Samples, ranks: int = 1) -> int:
        """0 where nothing is to be decoded or, beside a GPU, augmented; else 2, and beside a GPU up to 8.

        ranks: those that share the machine's cores.

        A GPU waits for what the CPU has not made ready; a CPU that trains has to make it itself, at once or later.
        """
        gpu = torch.cuda.is_available()
        if samples.kept is not None and not (gpu and samples.augment):
            return 0
        return min(8, max(cores() // ranks, 2)) if gpu else 2

    def median_frequency(self) -> Tensor:
        """(K,) class weights of Eigen and Fergus (2015): the classes' median frequency over the class's own.

        A class's frequency is its share of the pixels of the training pictures that it is in; an absent class weighs 0.
        """
        dataset = self.split("train")
        pixels, pixels_of_images_with_class = cached_class_counts(dataset)
        frequency = pixels / np.maximum(pixels_of_images_with_class, 1)
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
