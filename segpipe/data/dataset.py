"""What a data set is: pictures with masks, split in three, with named and coloured classes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.metrics.confusion import IGNORE_INDEX as IGNORE_INDEX

Split = Literal["train", "val", "test"]
Image = NDArray[np.uint8]  # (H, W, 3), RGB
Mask = NDArray[np.uint8]  # (H, W), class indices, IGNORE_INDEX where nothing is to be said

cv2.setNumThreads(0)  # the loader's workers are the parallelism


class Sample(NamedTuple):
    """A picture and its mask, of equal size."""

    image: Image
    mask: Mask


class SegmentationDataset(ABC):
    """One split of a data set.

    classes: names, in the order of the masks' indices. palette: one RGB colour each.
    names: one for every sample. groups: which samples belong together (a clip, a tile); statistics resample groups.
    notes: how the data were understood, where nobody said so; printed before a training.
    problems: what is wrong with the data as a whole, or with files; nothing is trained on data with a problem.
    """

    classes: list[str]
    palette: list[tuple[int, int, int]]
    names: list[str]
    groups: list[str]
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.names)

    @abstractmethod
    def read(self, index: int) -> Sample:
        """The sample as it is stored; void already IGNORE_INDEX. Raises UserError naming the file that is wrong."""

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a sample, without decoding it."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A word that changes when the data do."""


class FirstN(SegmentationDataset):
    """The first few samples of another data set."""

    def __init__(self, whole: SegmentationDataset, count: int) -> None:
        self.whole = whole
        self.classes, self.palette = whole.classes, whole.palette
        self.names, self.groups = whole.names[:count], whole.groups[:count]

    def read(self, index: int) -> Sample:
        """See SegmentationDataset."""
        return self.whole.read(index)

    def size(self, index: int) -> tuple[int, int]:
        """See SegmentationDataset."""
        return self.whole.size(index)

    def fingerprint(self) -> str:
        """Of the whole, with the number taken."""
        return f"{self.whole.fingerprint()}-first-{len(self)}"
