"""The LightningDataModule: three splits of a data set as batches."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from segpipe.data.augment import Augment
from segpipe.data.augment_trial import check_augment
from segpipe.data.bands import Bands, cached_bands, pixel_bytes, scaled
from segpipe.data.class_counts import cached_class_counts, known_class_pixels
from segpipe.data.class_places import cached_class_places
from segpipe.data.crops import Crops, amounts, automatic_steps
from segpipe.data.dataset import IGNORE_INDEX, FirstN, SegmentationDataset, Split
from segpipe.data.findings import find_notes, find_problems
from segpipe.data.samplers import EvalBatches, TrainBatches
from segpipe.data.samples import Batch, Samples
from segpipe.errors import UserError
from segpipe.runs.environment import cores

LOADER_TIMEOUT = 900  # seconds without a batch; after two such times the loader's processes are taken to be stuck
SHARED_MEMORY = "/dev/shm"  # where Linux keeps the batches that processes send to each other
LONGEST_TMPDIR = 75  # bytes; a socket's path has at most 107, and multiprocessing adds 32 to the temporary folder
SHOWN = 3  # problems that an error message lists


class Loader(DataLoader[Batch]):
    """A DataLoader that starts its workers at the first batch.

    Lightning creates the iterator before it sets the epoch of the sampler. With workers, a resumed training would
    otherwise begin with batches of epoch 0.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield one epoch."""
        batches = super().__iter__()
        with suppress(StopIteration):
            while True:
                yield next_batch(batches)


def next_batch(batches: Iterator[Batch]) -> Batch:
    """Return the next batch of an iterator, which is asked again after a timeout.

    A training that was suspended, by Ctrl-Z or a batch system, finds its time over when it continues.
    """
    try:
        return next(batches)
    except RuntimeError as error:
        if "timed out" not in str(error):
            raise
    return next(batches)


def sharing_problem(batch: int) -> str | None:
    """Return why processes cannot send batches of a size in bytes to this one, and what to do; None if they can.

    A loader's process that cannot send its batch waits without a message.
    """
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        return f"{error.strerror}. Set TMPDIR=FOLDER to a folder that can be written."
    if len(os.fsencode(folder)) > LONGEST_TMPDIR:
        return f"the path of the temporary folder is too long for sockets ({folder}). Set TMPDIR=/tmp."
    with suppress(OSError):  # other systems have no such folder
        status = os.statvfs(SHARED_MEMORY)
        if (free := status.f_bavail * status.f_frsize) < batch:
            return (
                f"{SHARED_MEMORY} has {free:,} free bytes, but a batch needs {batch:,}. Give more shared memory (for a "
                f"container: --shm-size=8g)."
            )
    return None


class SegmentationData(pl.LightningDataModule):
    """Batches of the three splits of a data set.

    dataset: a factory, called with ``split=``.
    augment: applied to the training samples.
    seed: of the order of samples and of the augmentation.
    batch_size: samples of one optimiser step, over all ranks and accumulation steps. eval_batch_size: for each rank.
    size: see ``Samples``. workers: loader processes; None: see ``default_workers``.
    cache: keep decoded (and resized) samples in memory. ``auto``: if a split takes at most 2 GiB.
    overfit: use the first batch of the training split, without augmentation, as every split (debug=overfit).
    steps_per_epoch: batches of an epoch, of crops that are drawn over all training images by their area. ``auto``:
        about as many as the area has (``crops.automatic_steps``). None: each image is cropped once in an epoch.
    rare_share: share of these crops, 0 to 1, that is centred on pixels of a class (``crops.Crops``).
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
        steps_per_epoch: int | Literal["auto"] | None = None,
        rare_share: float = 0.0,
    ) -> None:
        super().__init__()
        self.make_dataset, self.augment, self.seed = dataset, augment, seed
        self.batch_size, self.eval_batch_size, self.size = batch_size, eval_batch_size, size
        self.workers, self.cache, self.overfit = workers, cache, overfit
        self.steps_per_epoch, self.rare_share = None if overfit else steps_per_epoch, rare_share
        self.start = (0, 0)  # epoch and batches of it that are trained, where a training is resumed within an epoch
        self.datasets: dict[Split, SegmentationDataset] = {}
        self.stored_datasets: dict[Split, SegmentationDataset] = {}
        self.read_sizes: dict[Split, list[tuple[int, int]]] = {}
        self.samples_by_split: dict[tuple[Split, bool], Samples] = {}

    @cached_property
    def bands(self) -> Bands | None:
        """The bands of the training images; None if they are 8-bit RGB. For a trained run, its bands are set here."""
        return cached_bands(self.stored("train"))

    def split(self, name: Split) -> SegmentationDataset:
        """Return a split of the data set, images scaled by ``bands``. Raises UserError if it has problems."""
        if name not in self.datasets:
            dataset = self.stored(name)
            ordinary = dataset.form is None and "bands" not in vars(self)  # then the training split is not needed
            self.datasets[name] = dataset if ordinary else scaled(dataset, self.bands)
        return self.datasets[name]

    def stored(self, name: Split) -> SegmentationDataset:
        """Return a split with its images as they are stored, created once. Raises UserError if it has problems."""
        if name not in self.stored_datasets:
            dataset = self.make_dataset(split="train" if self.overfit else name)
            if problems := dataset.problems:
                more = f"\nand {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
                raise UserError(
                    f"The {name} split has {len(problems)} problem{'s' if len(problems) > 1 else ''}:\n"
                    + "\n".join(problems[:SHOWN])
                    + f"{more}\nTo list all: python -m segpipe.check_data, with the same data=... data.root=..."
                )
            self.stored_datasets[name] = FirstN(dataset, self.batch_size) if self.overfit else dataset
        return self.stored_datasets[name]

    def sizes(self, name: Split) -> list[tuple[int, int]]:
        """Return the height and width of each sample of a split in pixels; they are read once."""
        if name not in self.read_sizes:
            dataset = self.stored(name)  # scaling, which reads the training images once, does not change sizes
            self.read_sizes[name] = [dataset.size(index) for index in range(len(dataset))]
        return self.read_sizes[name]

    def notes(self) -> list[str]:
        """Return the notes of all splits, and what is wrong with their classes and numbers of images.

        Masks are not read for it: data sets whose pixels of each class are not known yet are left out.
        """
        splits = {name: self.split(name) for name in get_args(Split)}
        notes = [note for dataset in splits.values() for note in dataset.notes]
        notes += [] if self.bands is None else [*self.bands.notes(), *self.augment.notes(self.bands.channels)]
        if not self.overfit:
            known = {name: known_class_pixels(dataset) for name, dataset in splits.items()}
            pixels = {name: counts for name, counts in known.items() if counts is not None}
            unlabelled = [name for name in ("val", "test") if name not in pixels and not self.has_labels(name)]
            pixels |= {name: np.zeros(len(splits[name].classes), np.int64) for name in unlabelled}
            notes += [f"{name}: {text}" for name, text in find_problems(splits["train"].classes, pixels)]
            notes += find_notes({name: len(dataset) for name, dataset in splits.items()})
        notes += [self.epoch_note()] if self.steps_per_epoch else []
        return list(dict.fromkeys(notes))

    def epoch_note(self) -> str:
        """Return what an epoch is where it consists of crops."""
        steps, sizes, crop = self.train_batches(), self.trained_sizes(), self.augment.crop
        share = steps * self.batch_size / amounts(sizes, crop).sum()
        crops = f"crops of {crop[0]} x {crop[1]}" if crop else "images"
        number = f"the {len(sizes):,} training images" if len(sizes) > 1 else "the training image"
        percent = f"{100 * share:,.0f}" if share >= 0.01 else f"{100 * share:.2g}"
        text = (
            f"an epoch is {steps:,} batches of {self.batch_size} {crops}, about {percent} % of the area of {number} "
            f"(data.steps_per_epoch={self.steps_per_epoch})."
        )
        if self.rare_share:
            text += (
                f" {100 * self.rare_share:.3g} % of the crops are centred on pixels of a class, each class equally "
                f"often (data.rare_share={self.rare_share:g})."
            )
        return text

    def trained_sizes(self) -> list[tuple[int, int]]:
        """Return the height and width of each training image in pixels, after it was resized and before the crop."""
        return [(self.size[0], self.size[1])] * len(self.stored("train")) if self.size else self.sizes("train")

    def train_batches(self) -> int:
        """Return the number of training batches in an epoch."""
        if self.steps_per_epoch == "auto":
            return automatic_steps(self.trained_sizes(), self.augment.crop, self.batch_size)
        return self.steps_per_epoch or len(self.stored("train")) // self.batch_size

    def crops(self) -> Crops | None:
        """Return the crops of an epoch; None where each image is cropped once. For ``rare_share``, masks are read."""
        if not self.steps_per_epoch:
            return None
        return Crops(
            self.trained_sizes(),
            crop=self.augment.crop,
            length=self.train_batches() * self.batch_size,
            seed=self.seed,
            rare_share=self.rare_share,
            places=cached_class_places(self.split("train")) if self.rare_share else (),
        )

    def has_labels(self, name: Split) -> bool:
        """Return whether a mask of a split has a labelled pixel. Masks are read until one has, if it is not known."""
        dataset = self.split(name)
        pixels = known_class_pixels(dataset)
        if pixels is not None:
            return bool(pixels.any())
        return any((dataset.read(index).mask != IGNORE_INDEX).any() for index in range(len(dataset)))

    def batch_bytes(self) -> int:
        """Return the size of a training batch of this machine in bytes."""
        height, width = self.augment.crop or self.size or max(self.sizes("train"))
        return self.batch_size * height * width * pixel_bytes(self.stored("train"))

    def check(self, *, smallest: int = 1, ranks: int = 1, parts: int = 1) -> None:
        """Raise UserError for data or settings with which a training would fail later.

        smallest: the smallest height and width that the network accepts, in pixels. ranks, parts: number of devices,
            and of accumulation steps; each batch is divided evenly among them.
        """
        for name in get_args(Split):
            number = len(self.split(name))
            if not number:
                raise UserError(f"The {name} split has no image. Add images, or give another data.root.")
            if number < ranks and not (name == "train" and self.steps_per_epoch):
                raise UserError(
                    f"The {name} split has {number} image{'s' if number > 1 else ''} for {ranks} devices; each device "
                    f"needs at least one: set trainer.devices={number}, or add images."
                )
        if ranks > 1:
            self.check_shares(ranks * parts, f"{ranks} devices" + (f" in {parts} parts each" if parts > 1 else ""))
        number = len(self.split("train"))
        if number < self.batch_size and not self.steps_per_epoch:
            raise UserError(
                f"The training split has {number} samples, but a batch has {self.batch_size}: "
                f"set data.batch_size={number} or less."
            )
        if self.workers and (problem := sharing_problem(self.batch_bytes() // ranks)):
            raise UserError(f"data.workers={self.workers}: {problem} Or set data.workers=0.")
        if self.size is None and self.augment.crop is None and self.batch_size > 1:
            sizes = sorted(set(self.sizes("train")))
            if len(sizes) > 1:
                raise UserError(
                    f"The training images have {len(sizes)} different sizes ({sizes[0]} to {sizes[-1]}), but a "
                    f"batch needs one size: set data.crop=[HEIGHT,WIDTH] to train on crops, or data.batch_size=1."
                )
        self.check_augment(smallest)
        for name in () if self.size else get_args(Split):
            if name == "train" and self.augment.crop:
                continue
            for picture, size in zip(self.split(name).names, self.sizes(name), strict=True):
                if min(size) < smallest:
                    raise UserError(
                        f"{picture} ({name}) is {size[0]} x {size[1]} pixels; this encoder needs at least "
                        f"{smallest} x {smallest}: set data.size=[HEIGHT,WIDTH], or remove the image."
                    )

    def check_augment(self, smallest: int) -> None:
        """Raise UserError for an augmentation that spoils batches. smallest: see ``check``."""
        if not self.overfit:
            check_augment(
                self.augment,
                size=min(self.trained_sizes(), key=min),
                num_classes=len(self.split("train").classes),
                channels=None if self.bands is None else self.bands.channels,
                smallest=smallest,
                batched=self.batch_size > 1,
            )

    def check_shares(self, shares: int, whose: str) -> None:
        """Raise UserError, with the nearest valid size, if ``shares`` does not divide the batch size."""
        if self.batch_size % shares:
            fits = self.batch_size + shares if self.steps_per_epoch else len(self.split("train"))
            most = fits // shares * shares
            nearest = max(shares, min(round(self.batch_size / shares) * shares, most))
            raise UserError(
                f"data.batch_size={self.batch_size} is the batch size of all devices together and cannot be divided "
                f"evenly among {whose}: set data.batch_size={nearest}."
            )

    def samples(self, name: Split, *, train: bool = False) -> Samples:
        """Return a split as ``Samples``, created once. train: with augmentation."""
        if (name, train) not in self.samples_by_split:
            augment = self.augment if train and not self.overfit else None
            self.samples_by_split[name, train] = Samples(
                self.split(name),
                size=self.size,
                train=train,
                augment=augment,
                seed=self.seed,
                cache=self.cache,
                crops=self.crops() if train else None,
            )
        return self.samples_by_split[name, train]

    def loader(self, name: Split, *, train: bool = False) -> DataLoader[Batch]:
        """Return the loader of a split. train: shuffled and augmented."""
        samples = self.samples(name, train=train)
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        workers = self.workers if self.workers is not None else self.default_workers(samples, world_size)
        batches: TrainBatches | EvalBatches
        if train:
            batches = TrainBatches(
                len(samples),
                batch_size=self.batch_size,
                seed=self.seed,
                rank=rank,
                world_size=world_size,
                start=self.start,
            )
        else:
            batches = EvalBatches(self.sizes(name), batch_size=self.eval_batch_size, rank=rank, world_size=world_size)
        return Loader(
            samples,
            sampler=batches,  # as the sampler: Lightning then calls its set_epoch
            batch_size=None,  # the sampler returns batches
            num_workers=workers,
            persistent_workers=workers > 0,
            timeout=LOADER_TIMEOUT if workers else 0,  # torch would wait for ever where /dev/shm is full
            generator=torch.Generator(),  # separate: an epoch must not advance the generator that dropout uses
            pin_memory=torch.cuda.is_available(),
        )

    def default_workers(self, samples: Samples, ranks: int = 1) -> int:
        """Return the number of loader processes of a rank.

        Without a GPU: 0 if all samples are in memory, else 2. With a GPU: 0 if all samples are in memory and there is
        no augmentation, else 2 to 8, by the number of cores. A GPU would wait for slow loading; without a GPU, workers
        take processor time from the training. 0 where processes cannot send batches (``sharing_problem``). ranks:
        number of ranks that share the cores of the machine.
        """
        gpu = torch.cuda.is_available()
        if samples.kept is not None and not (gpu and samples.augment):
            return 0
        if sharing_problem(self.batch_bytes() // ranks):
            return 0
        return min(8, max(cores() // ranks, 2)) if gpu else 2

    def median_frequency(self) -> Tensor:
        """Return class weights (K,) of Eigen and Fergus (2015): median of all frequencies / frequency of the class.

        The frequency of a class is its share of the pixels of those training images that contain it. A class without
        pixels has weight 0.
        """
        dataset = self.split("train")
        pixels, pixels_of_images_with_class = cached_class_counts(dataset)
        frequency = pixels / np.maximum(pixels_of_images_with_class, 1)
        median = np.median(frequency[pixels > 0])
        return torch.from_numpy(np.where(pixels > 0, median / np.maximum(frequency, 1e-12), 0.0))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled, augmented batches of the training split."""
        return self.loader("train", train=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return batches of images of the split, not cropped and not augmented."""
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return batches of images of the split, not cropped and not augmented."""
        return self.loader("test")
