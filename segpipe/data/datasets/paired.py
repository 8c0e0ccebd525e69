"""The base class of data sets with one mask file per image; a table converts stored labels to class indices."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segpipe.data.dataset import Sample, SegmentationDataset
from segpipe.data.files import check_pair, fingerprint, read_image, read_size
from segpipe.data.masks import read_mask


class PairedFiles(SegmentationDataset):
    """Images and masks in files; a subclass sets their paths and the meaning of their labels.

    images, masks: paths, in equal order. table: (256,) from the stored label to the class index or IGNORE_INDEX. If it
    gives an index that is not a class, reading the mask raises UserError.
    """

    images: list[Path]
    masks: list[Path]
    table: NDArray[np.uint8]

    def read(self, index: int) -> Sample:
        """Decode an image and its mask, and convert the labels of the mask to class indices."""
        image, mask = read_image(self.images[index]), self.table[read_mask(self.masks[index])]
        check_pair(image, mask, len(self.classes), self.images[index], self.masks[index])
        return Sample(image, mask)

    def size(self, index: int) -> tuple[int, int]:
        """Return the height and width, from the header of the mask."""
        return read_size(self.masks[index])

    def image_files(self) -> list[Path]:
        """Return the paths of the images."""
        return self.images

    def fingerprint(self) -> str:
        """Return a digest of the files' names and sizes."""
        return fingerprint([*self.images, *self.masks])
