"""What data sets of one mask file a picture share, where a table turns the file's labels into class indices."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segpipe.data.dataset import Sample, SegmentationDataset
from segpipe.data.files import check_pair, fingerprint, read_image, read_mask, read_size


class PairedFiles(SegmentationDataset):
    """Pictures and masks in files; a subclass finds them and says what their labels mean.

    images, masks: paths, of equal number and order. table: (256,) label in the file to class index, or IGNORE_INDEX; an
    index that is no class is refused when it is read.
    """

    images: list[Path]
    masks: list[Path]
    table: NDArray[np.uint8]

    def read(self, index: int) -> Sample:
        """Decode a picture and its mask, and translate the mask's labels."""
        image, mask = read_image(self.images[index]), self.table[read_mask(self.masks[index])]
        check_pair(image, mask, len(self.classes), self.images[index], self.masks[index])
        return Sample(image, mask)

    def size(self, index: int) -> tuple[int, int]:
        """From the mask's header."""
        return read_size(self.masks[index])

    def fingerprint(self) -> str:
        """A digest of the files' names and sizes."""
        return fingerprint([*self.images, *self.masks])
