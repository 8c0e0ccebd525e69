"""Cityscapes (Cordts et al. 2016): street scenes of 50 cities, 1024 x 2048 pixels, nineteen classes."""

from pathlib import Path

import numpy as np
from torchvision.datasets import Cityscapes as Reader

from segpipe.data.dataset import IGNORE_INDEX, Split
from segpipe.data.datasets.paired import PairedFiles
from segpipe.data.datasets.public import open_or_explain, require_files
from segpipe.data.find import is_stray

TRAINED = [label for label in Reader.classes if 0 <= label.train_id < IGNORE_INDEX]  # in the order of the train ids
HELD_OUT_CITIES = ("bochum", "krefeld", "ulm")  # 290 of the 2,975 training images
HINT = (
    "Its terms require an account for the download: download leftImg8bit_trainvaltest.zip and "
    "gtFine_trainvaltest.zip from cityscapes-dataset.com, and move them there; the first start unpacks them."
)


class Cityscapes(PairedFiles):
    """Cityscapes with fine annotations. Labels outside the nineteen classes are ignored. Groups are cities.

    The labels of the official test split are not public. Therefore ``test`` is the official val (500 images, which
    papers report), and ``val`` is HELD_OUT_CITIES of the official train.

    root: a folder with ``leftImg8bit`` and ``gtFine``, or with the two zip files. Raises UserError if they are missing.
    """

    classes = [label.name for label in TRAINED]
    palette = [label.color for label in TRAINED]
    notes = (
        f"test is the official val, since the labels of the official test are not public; val is "
        f"{', '.join(HELD_OUT_CITIES)} of the official train.",
    )

    def __init__(self, *, root: str, split: Split) -> None:
        official = "val" if split == "test" else "train"
        if not all((Path(root) / name / official).is_dir() for name in ("leftImg8bit", "gtFine")):
            open_or_explain(  # it unpacks the zip files
                lambda: Reader(root, split=official, mode="fine", target_type="semantic"),
                title="Cityscapes",
                root=root,
                hint=HINT,
            )
        files = list_files(Path(root), official)
        if split != "test":
            files = [pair for pair in files if (pair[0].parent.name in HELD_OUT_CITIES) == (split == "val")]
        self.images = [image for image, _ in files]
        self.masks = require_files([mask for _, mask in files], title="leftImg8bit")
        self.names = [path.stem.removesuffix("_leftImg8bit") for path in self.images]
        self.groups = [path.parent.name for path in self.images]
        self.table = np.full(256, IGNORE_INDEX, np.uint8)  # 255 is the license plate, id -1
        self.table[len(Reader.classes) - 1 : IGNORE_INDEX] = IGNORE_INDEX - 1  # not an id: rejected when read
        for label in TRAINED:
            self.table[label.id] = label.train_id


def list_files(root: Path, official: str) -> list[tuple[Path, Path]]:
    """Return the images and masks of an official split, sorted. Stray files are left out."""
    folder = root / "leftImg8bit" / official
    cities = [city.name for city in folder.iterdir() if city.is_dir() and not is_stray(city.name)]
    images = [path for city in cities for path in (folder / city).iterdir() if path.name.endswith("_leftImg8bit.png")]
    masks = root / "gtFine" / official
    return sorted(
        (path, masks / path.parent.name / path.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png"))
        for path in images
        if not is_stray(path.name)
    )
