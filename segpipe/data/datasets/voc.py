"""PASCAL VOC 2012 (Everingham et al. 2010), if wanted with the masks of SBD (Hariharan et al. 2011)."""

from functools import partial
from pathlib import Path

import numpy as np
from torchvision.datasets import SBDataset, VOCSegmentation

from segpipe.data.dataset import Mask, Sample, SegmentationDataset, Split
from segpipe.data.datasets.public import open_or_explain, require_files, split_names
from segpipe.data.files import check_pair, fingerprint, read_image, read_mask, read_size, unreadable

COLOURS = {
    "background": (0, 0, 0),
    "aeroplane": (128, 0, 0),
    "bicycle": (0, 128, 0),
    "bird": (128, 128, 0),
    "boat": (0, 0, 128),
    "bottle": (128, 0, 128),
    "bus": (0, 128, 128),
    "car": (128, 128, 128),
    "cat": (64, 0, 0),
    "chair": (192, 0, 0),
    "cow": (64, 128, 0),
    "dining table": (192, 128, 0),
    "dog": (64, 0, 128),
    "horse": (192, 0, 128),
    "motorbike": (64, 128, 128),
    "person": (192, 128, 128),
    "potted plant": (0, 64, 0),
    "sheep": (128, 64, 0),
    "sofa": (0, 192, 0),
    "train": (128, 192, 0),
    "tv monitor": (0, 64, 128),
}
YEAR = Path("VOCdevkit") / "VOC2012"
HINT = (
    "Let it be downloaded (data.dataset.download=true, 2 GB; 1.4 GB more for SBD), or put VOCdevkit/VOC2012 there, and "
    "for data.dataset.sbd=true a folder sbd with img, cls, train.txt and val.txt."
)


class VOC(SegmentationDataset):
    """``root`` holds ``VOCdevkit/VOC2012``, and for ``sbd`` the folder ``sbd``.

    The labels of VOC's test split are not public. So ``test`` is VOC's val (1,449 pictures, the split that papers
    report), and ``val`` is a tenth of VOC's train (1,464), taken by name.
    sbd: train on SBD's pictures as well, less those of ``test`` and ``val``: the set known as trainaug (10,582), less a
    hundred and some. Where both have a mask, VOC's is read.
    """

    classes = list(COLOURS)
    palette = list(COLOURS.values())
    notes = ("VOC's val serves as test, its own test being secret; val is a tenth of its train.",)

    def __init__(self, *, root: str, split: Split, sbd: bool = False, download: bool = False) -> None:
        fetch = download and not (Path(root) / YEAR).is_dir()
        make = partial(VOCSegmentation, root, year="2012")
        official = {
            name: open_or_explain(
                partial(make, image_set=name, download=fetch and name == "train"),
                title="VOC 2012",
                root=root,
                hint=HINT,
            )
            for name in ("train", "val")
        }
        files = {
            Path(image).stem: (Path(image), Path(mask))
            for reader in official.values()
            for image, mask in zip(reader.images, reader.masks, strict=True)
        }
        tests, trains = ([Path(image).stem for image in official[name].images] for name in ("val", "train"))
        names = tests if split == "test" else split_names(trains, split)
        if sbd and split == "train":
            more = sbd_files(Path(root) / "sbd", download=download)
            files = more | files
            names += sorted(more.keys() - {*tests, *trains})
        self.names, self.groups = names, names
        self.images = require_files([files[name][0] for name in names], title="VOC 2012")
        self.masks = require_files([files[name][1] for name in names], title="VOC 2012")

    def read(self, index: int) -> Sample:
        """Decode a picture and its mask; the borders of objects are 255 in the file."""
        path = self.masks[index]
        image, mask = read_image(self.images[index]), read_sbd(path) if path.suffix == ".mat" else read_mask(path)
        check_pair(image, mask, len(self.classes), self.images[index], path)
        return Sample(image, mask)

    def size(self, index: int) -> tuple[int, int]:
        """From the picture's header."""
        return read_size(self.images[index])

    def fingerprint(self) -> str:
        """A digest of the files' names and sizes."""
        return fingerprint([*self.images, *self.masks])


def sbd_files(root: Path, *, download: bool) -> dict[str, tuple[Path, Path]]:
    """Name to picture and mask of all of SBD."""
    make = partial(SBDataset, str(root), mode="segmentation")
    fetch = download and not (root / "cls").is_dir()
    if fetch:
        root.mkdir(parents=True, exist_ok=True)
    readers = [
        open_or_explain(
            partial(make, image_set=name, download=fetch and name == "train"), title="SBD", root=str(root), hint=HINT
        )
        for name in ("train", "val")
    ]
    return {
        Path(image).stem: (Path(image), Path(mask))
        for reader in readers
        for image, mask in zip(reader.images, reader.masks, strict=True)
    }


def read_sbd(path: Path) -> Mask:
    """A mask of SBD, which is a Matlab file. Raises UserError where it is none."""
    from scipy.io import loadmat  # slow to import, and rarely wanted

    try:
        mask = np.array(loadmat(path)["GTcls"][0]["Segmentation"][0])
    except Exception as error:  # whatever SciPy makes of a damaged file
        raise unreadable(path, error) from error
    return mask.astype(np.uint8)
