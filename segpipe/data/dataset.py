"""The base class of data sets: images with masks, three splits, classes with names and colours."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.metrics.confusion import IGNORE_INDEX as IGNORE_INDEX

Split = Literal["train", "val", "test"]
Axes = Literal["HWC", "CHW"]
Image = NDArray[Any]  # (H, W, 3), RGB, uint8; (H, W, C), uint8, uint16 or float32, where there is an ImageForm
Mask = NDArray[np.uint8]  # (H, W), class indices; IGNORE_INDEX: not labelled

cv2.setNumThreads(0)  # the loader's workers run in parallel instead


class ImageForm(NamedTuple):
    """How the images of a data set are stored, where they are not read as 8-bit RGB.

    channels: bands of each image. depth: the type of its numbers in numpy. pages: a file's pages are its bands. axes:
    of ``.npy`` files with three axes; None: see ``header.axes_of``.
    """

    channels: int
    depth: str
    pages: bool = False
    axes: Axes | None = None

    def __str__(self) -> str:
        """Return the text for a message: ``5 bands of uint16``."""
        return f"{self.channels} band{'s' if self.channels > 1 else ''} of {self.depth}"


class Sample(NamedTuple):
    """An image (H, W, C) and its mask (H, W)."""

    image: Image
    mask: Mask


class SegmentationDataset(ABC):
    """One split of a data set.

    classes: names, in the order of the masks' indices. palette: one RGB colour for each class.
    names: one for each sample. groups: one for each sample; samples of one group belong together (a clip, a tile), and
        statistics resample groups.
    notes: assumptions about the data that the user did not state; printed before a training.
    problems: errors in the data set or its files; a training does not start if there are any.
    form: how images are stored; None: ``read`` returns RGB (H, W, 3) of uint8.
    """

    classes: list[str]
    palette: list[tuple[int, int, int]]
    names: list[str]
    groups: list[str]
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()
    form: ImageForm | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.names)

    @abstractmethod
    def read(self, index: int) -> Sample:
        """Return the stored sample; unlabelled pixels are IGNORE_INDEX. Raises UserError that names an invalid file."""

    def read_window(self, index: int, rows: slice, columns: slice) -> Sample:
        """Return a part of a sample: rows and columns in pixels, with the bounds of slices. See ``read``."""
        image, mask = self.read(index)
        return Sample(image[rows, columns], mask[rows, columns])

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """Return the height and width of a sample in pixels, without decoding it."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a string that changes when the data change."""

    def class_pixels(self) -> NDArray[np.int64] | None:
        """Return the pixels of each class (K,) if they are known without decoding anything, else None."""
        return None

    def image_files(self) -> list[Path]:
        """Return the path of each sample's image file; an empty list if the images are not files."""
        return []


class Subset(SegmentationDataset):
    """Some samples of another data set. indices: of the samples, in the order of the subset."""

    def __init__(self, whole: SegmentationDataset, indices: Sequence[int]) -> None:
        self.whole, self.indices = whole, list(indices)
        self.classes, self.palette, self.form = whole.classes, whole.palette, whole.form
        self.names = [whole.names[index] for index in self.indices]
        self.groups = [whole.groups[index] for index in self.indices]

    def read(self, index: int) -> Sample:
        """See SegmentationDataset."""
        return self.whole.read(self.indices[index])

    def read_window(self, index: int, rows: slice, columns: slice) -> Sample:
        """See SegmentationDataset."""
        return self.whole.read_window(self.indices[index], rows, columns)

    def size(self, index: int) -> tuple[int, int]:
        """See SegmentationDataset."""
        return self.whole.size(self.indices[index])

    def fingerprint(self) -> str:
        """Return the fingerprint of the other data set and the indices."""
        return f"{self.whole.fingerprint()}-{','.join(map(str, self.indices))}"


class FirstN(Subset):
    """The first ``count`` samples of another data set."""

    def __init__(self, whole: SegmentationDataset, count: int) -> None:
        super().__init__(whole, range(min(count, len(whole))))

    def fingerprint(self) -> str:
        """Return the fingerprint of the other data set and the number of samples."""
        return f"{self.whole.fingerprint()}-first-{len(self)}"


def evenly(total: int, count: int) -> list[int]:
    """Return ``count`` indices below ``total`` at equal distances, from the first on; all of them if there are fewer.

    In a video, the first images would all be of one clip.
    """
    return [index * total // count for index in range(count)] if count < total else list(range(total))
