"""PASCAL VOC 2012 (Everingham et al. 2010), optionally with the masks of SBD (Hariharan et al. 2011)."""

from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from torchvision.datasets import SBDataset, VOCSegmentation

from segpipe.data.dataset import Mask, Sample, SegmentationDataset, Split
from segpipe.data.datasets.public import listed_files, open_or_explain, require_files, split_names
from segpipe.data.files import check_pair, fingerprint, read_image, read_image_bytes, read_size, unreadable
from segpipe.data.masks import read_mask

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
    "Download it with data.dataset.download=true (2 GB, SBD 1.4 GB more), or move VOCdevkit/VOC2012 there, and for "
    "data.dataset.sbd=true a folder sbd with img, cls, train.txt and val.txt."
)


class VOC(SegmentationDataset):
    """VOC 2012 with 21 classes; the borders of objects are ignored.

    The labels of VOC's test split are not public. Therefore ``test`` is VOC's val (1,449 images, the split that papers
    report), and ``val`` is a tenth of VOC's train (1,464), selected by name.

    root: a folder with ``VOCdevkit/VOC2012``, and for ``sbd`` the folder ``sbd``.
    sbd: train also on SBD's images, without those of ``test`` and ``val``. This is the set known as trainaug (10,582),
        without somewhat more than a hundred images. If both have a mask, VOC's is read.
    download: download the data set if it is missing. Raises UserError if it is missing or incomplete.
    """

    classes = list(COLOURS)
    palette = list(COLOURS.values())
    notes = ("test is VOC's val, since the labels of VOC's test are not public; val is a tenth of VOC's train.",)

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
        listed = {name: listed_files(reader.images, reader.masks) for name, reader in official.items()}
        files = {image.stem: (image, mask) for part in listed.values() for image, mask in part}
        tests, trains = ([image.stem for image, _ in listed[name]] for name in ("val", "train"))
        names = tests if split == "test" else split_names(trains, split)
        if sbd and split == "train":
            more = sbd_files(Path(root) / "sbd", download=download)
            files = more | files
            names += sorted(more.keys() - {*tests, *trains})
        self.names, self.groups = names, names
        self.images = require_files([files[name][0] for name in names], title="VOC 2012")
        self.masks = require_files([files[name][1] for name in names], title="VOC 2012")

    def read(self, index: int) -> Sample:
        """Decode an image and its mask; the borders of objects have label 255 in the file."""
        path = self.masks[index]
        image, mask = read_image(self.images[index]), read_sbd(path) if path.suffix == ".mat" else read_mask(path)
        check_pair(image, mask, len(self.classes), self.images[index], path)
        return Sample(image, mask)

    def size(self, index: int) -> tuple[int, int]:
        """Return the height and width, from the header of the image."""
        return read_size(self.images[index])

    def image_files(self) -> list[Path]:
        """Return the paths of the images."""
        return self.images

    def fingerprint(self) -> str:
        """Return a digest of the files' names and sizes."""
        return fingerprint([*self.images, *self.masks])


def sbd_files(root: Path, *, download: bool) -> dict[str, tuple[Path, Path]]:
    """Return the paths of image and mask of each name of SBD. Raises UserError if SBD is missing."""
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
        image.stem: (image, mask) for reader in readers for image, mask in listed_files(reader.images, reader.masks)
    }


def read_sbd(path: Path) -> Mask:
    """Return a mask (H, W) of SBD, a Matlab file. Raises UserError if it cannot be read."""
    from scipy.io import loadmat  # slow to import, and rarely needed

    try:
        mask = np.array(loadmat(BytesIO(read_image_bytes(path)))["GTcls"][0]["Segmentation"][0])
    except Exception as error:  # SciPy raises many kinds of errors for damaged files
        raise unreadable(path, error) from error
    return mask.astype(np.uint8)
