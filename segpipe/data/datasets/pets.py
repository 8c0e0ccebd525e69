"""Oxford-IIIT Pet (Parkhi et al. 2012): images of cats and dogs, with masks of pet and background."""

from pathlib import Path
from typing import Literal

import numpy as np
from torchvision.datasets import OxfordIIITPet

from segpipe.data.dataset import IGNORE_INDEX, Split
from segpipe.data.datasets.paired import PairedFiles
from segpipe.data.datasets.public import open_or_explain, require_files, split_names
from segpipe.data.files import read_text

COLOURS = {"background": (60, 60, 60), "pet": (230, 120, 40), "border": (240, 240, 240)}
BACKGROUND, PET, BORDER = 2, 1, 3  # labels in the trimap files
FOLDER = "oxford-iiit-pet"
HINT = f"Download it with data.dataset.download=true (0.8 GB), or move {FOLDER} with images and annotations there."


class Pets(PairedFiles):
    """Oxford-IIIT Pet with the classes background, pet, and border.

    ``test`` is the official test split (3,669 images). ``val`` is a tenth of the official trainval (3,680), selected by
    name; ``train`` is the rest.

    root: a folder with ``oxford-iiit-pet``, which has ``images`` and ``annotations``, as torchvision stores them.
    border: the third label of the trimaps, a band around the pet, is a ``class`` or ``ignored``.
    download: download the data set if it is missing. Raises UserError if it is missing or incomplete.
    """

    notes = ("val is a tenth of the official trainval.",)

    def __init__(
        self, *, root: str, split: Split, border: Literal["class", "ignored"] = "class", download: bool = False
    ) -> None:
        folder = Path(root) / FOLDER
        if not all((folder / name).is_dir() for name in ("images", "annotations")):
            open_or_explain(
                lambda: OxfordIIITPet(root, target_types="segmentation", download=download),
                title="Oxford-IIIT Pet",
                root=root,
                hint=HINT,
            )
        number = 3 if border == "class" else 2
        self.classes, self.palette = list(COLOURS)[:number], list(COLOURS.values())[:number]
        labels = {BACKGROUND: 0, PET: 1, BORDER: 2 if border == "class" else IGNORE_INDEX}
        self.table = np.arange(256, dtype=np.uint8)
        self.table[[0, *labels]] = [IGNORE_INDEX - 1, *labels.values()]  # 0 is not a label: rejected when read
        path = folder / "annotations" / ("test.txt" if split == "test" else "trainval.txt")
        lines = read_text(require_files([path], title="Oxford-IIIT Pet")[0]).splitlines()
        names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
        self.names = names if split == "test" else split_names(names, split)
        self.groups = self.names
        title = path.name
        self.images = require_files([folder / "images" / f"{name}.jpg" for name in self.names], title=title)
        self.masks = require_files(
            [folder / "annotations" / "trimaps" / f"{name}.png" for name in self.names], title=title
        )

    def fingerprint(self) -> str:
        """Return a digest of the files, and the number of classes, which depends on ``border``."""
        return f"{super().fingerprint()}-{len(self.classes)}"
