"""``python -m segpipe.check_data data=camvid data.root=...``: what is wrong with the data, before training."""

import argparse
import sys
from typing import get_args

import numpy as np
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from segpipe import build
from segpipe.config import CONF, check, friendly
from segpipe.data.dataset import IGNORE_INDEX, SegmentationDataset, Split
from segpipe.errors import UserError

SHOWN = 20  # problems printed in full


def check_data(cfg: DictConfig) -> tuple[Table, list[str]]:
    """Read all data once: a table of the classes' shares of pixels in every split, and everything that is wrong."""
    problems: list[str] = []
    pixels: dict[str, NDArray[np.int64]] = {}
    classes: list[str] = []
    for split in get_args(Split):
        try:
            dataset = build.dataset(cfg, split)
        except UserError as error:
            problems.append(f"{split}: {error}")
            continue
        classes = dataset.classes
        pixels[f"{split} ({len(dataset)})"] = count_pixels(dataset, split, problems)
    table = Table(title=f"data={cfg.data.name}: share of pixels", title_justify="left")
    table.add_column("class")
    for heading in pixels:
        table.add_column(heading, justify="right")
    for index, name in enumerate([*classes, "ignored"]):
        shares = [counts[index] / max(counts.sum(), 1) for counts in pixels.values()]
        table.add_row(name, *[f"{share:.2%}" if share else "-" for share in shares])
        if name != "ignored" and next(iter(pixels)).startswith("train") and not shares[0]:
            problems.append(f"class {name}: not a pixel of it in the training masks, so nothing can learn it.")
    return table, problems


def count_pixels(dataset: SegmentationDataset, split: Split, problems: list[str]) -> NDArray[np.int64]:
    """Pixels of each class, and of the ignored last; what cannot be read goes into ``problems``."""
    pixels = np.zeros(len(dataset.classes) + 1, np.int64)
    for index in range(len(dataset)):
        try:
            mask = dataset.read(index).mask
        except UserError as error:
            problems.append(f"{split}: {error}")
            continue
        counts = np.bincount(mask.ravel(), minlength=256)
        pixels += np.append(counts[: len(dataset.classes)], counts[IGNORE_INDEX])
    return pixels


def main() -> None:
    """The command line; status 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m segpipe.check_data", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="as for train: data=camvid data.root=...")
    with friendly():
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", parser.parse_args().overrides)
        check(cfg)
        table, problems = check_data(cfg)
    Console().print(table)
    for problem in problems[:SHOWN]:
        print(f"- {problem}")
    if len(problems) > SHOWN:
        print(f"... and {len(problems) - SHOWN} more")
    print(f"{len(problems)} problems found." if problems else "Nothing wrong was found.")
    sys.exit(int(bool(problems)))


if __name__ == "__main__":
    main()
