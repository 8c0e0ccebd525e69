"""Shared by the tests that were test_folder.py."""

import numpy as np
import PIL.Image

from segpipe import check_data
from segpipe.data.folder import Folder
from support.configs import configure

RNG = np.random.default_rng(0)


SIZE = (20, 24)


STEPS = np.arange(20 * 24).reshape(SIZE) * 3 // (20 * 24)  # 0, 1, 2 in bands


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path, **options)


def write(images, masks, count=4, values=(0, 255), ending="", suffix=".png", first="a"):
    """Noise, and masks of bands of some values (numbers or colours)."""
    for number in range(count):
        name = f"{first}{number % 2}_{number}"
        save(images / f"{name}{suffix}", RNG.integers(0, 256, (*SIZE, 3), np.uint8))
        bands = np.array(values, np.uint8)[(STEPS + number) % len(values)]
        save(masks / f"{name}{ending}.png", bands)


def nested(root, splits=("train", "val", "test"), **options):
    for split in splits:
        write(root / split / "images", root / split / "masks", first=split, **options)
    return root


def splits(**arguments):
    return [Folder(split=split, **arguments) for split in ("train", "val", "test")]


def values(dataset):
    return set(np.unique(np.concatenate([dataset.read(index).mask.ravel() for index in range(len(dataset))])).tolist())


def report(root, *overrides):
    return check_data.check_data(configure("data=folder", f"data.root={root}", *overrides))
