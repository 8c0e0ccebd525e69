"""Oxford-IIIT Pet (Parkhi et al. 2012): cats and dogs, cut out from what is around them."""

from pathlib import Path
from typing import Literal

import numpy as np
from torchvision.datasets import OxfordIIITPet

from segpipe.data.dataset import IGNORE_INDEX, Split
from segpipe.data.datasets.paired import PairedFiles
from segpipe.data.datasets.public import open_or_explain, require_files, split_names

COLOURS = {"background": (60, 60, 60), "pet": (230, 120, 40), "border": (240, 240, 240)}
BACKGROUND, PET, BORDER = 2, 1, 3  # in the trimaps' files
FOLDER = "oxford-iiit-pet"
HINT = f"Let it be downloaded (data.dataset.download=true, 0.8 GB), or put {FOLDER} with images and annotations there."


class Pets(PairedFiles):
    """``root`` holds ``oxford-iiit-pet`` with ``images`` and ``annotations``, as torchvision puts them.

    ``test`` is the official test split (3,669 pictures), ``val`` a tenth of the official trainval (3,680), by name.
    border: the trimaps' third label, a band around the pet, is a ``class`` or ``ignored``.
    """

    notes = ("val is a tenth of the official trainval.",)

    def __init__(
        self, *, root: str, split: Split, border: Literal["class", "ignored"] = "class", download: bool = False
    ) -> None:
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
        self.table[[0, *labels]] = [IGNORE_INDEX - 1, *labels.values()]  # 0 is no label of theirs: refused when read
        folder = Path(root) / FOLDER
        path = folder / "annotations" / ("test.txt" if split == "test" else "trainval.txt")
        lines = require_files([path], title="Oxford-IIIT Pet")[0].read_text(encoding="utf-8").splitlines()
        names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
        self.names = names if split == "test" else split_names(names, split)
        self.groups = self.names
        title = path.name
        self.images = require_files([folder / "images" / f"{name}.jpg" for name in self.names], title=title)
        self.masks = require_files(
            [folder / "annotations" / "trimaps" / f"{name}.png" for name in self.names], title=title
        )

    def fingerprint(self) -> str:
        """Of the files, and of how borders are taken."""
        return f"{super().fingerprint()}-{len(self.classes)}"
