"""``python -m segpipe.check_data data=camvid data.root=...``: what is wrong with the data, before training."""

import sys
from typing import get_args

import hydra
import numpy as np
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from segpipe import build, config
from segpipe.data.dataset import IGNORE_INDEX, Split
from segpipe.errors import UserError

SHOWN = 20  # problems printed in full

problems: list[str] = []


def check_split(cfg: DictConfig, split: Split) -> tuple[list[str], np.ndarray, int]:
    """Read every sample of a split: class names, pixels of each class (and ignored, last), and number of samples."""
    dataset = build.dataset(cfg, split)
    pixels = np.zeros(len(dataset.classes) + 1, np.int64)
    for index in range(len(dataset)):
        try:
            mask = dataset.read(index).mask
        except UserError as error:
            problems.append(f"{split}: {error}")
            continue
        counts = np.bincount(mask.ravel(), minlength=256)
        pixels += np.append(counts[: len(dataset.classes)], counts[IGNORE_INDEX])
    return dataset.classes, pixels, len(dataset)


@hydra.main(  # type: ignore[untyped-decorator]
    version_base="1.3", config_path=str(config.CONF), config_name="train"
)
def hydra_main(cfg: DictConfig) -> None:
    """Read all data once; print shares of classes, and everything that is wrong."""
    config.check(cfg)
    columns: dict[str, np.ndarray] = {}
    classes: list[str] = []
    for split in get_args(Split):
        try:
            classes, pixels, number = check_split(cfg, split)
        except UserError as error:
            problems.append(f"{split}: {error}")
            continue
        columns[f"{split} ({number})"] = pixels
    table = Table(title=f"data={cfg.data.name}: share of pixels", title_justify="left")
    table.add_column("class")
    for heading in columns:
        table.add_column(heading, justify="right")
    for index, name in enumerate([*classes, "ignored"]):
        shares = [pixels[index] / max(pixels.sum(), 1) for pixels in columns.values()]
        table.add_row(name, *[f"{share:.2%}" if share else "-" for share in shares])
        if name != "ignored" and columns and not next(iter(columns.values()))[index]:
            problems.append(f"class {name}: not a pixel of it in the training masks, so nothing can learn it.")
    Console().print(table)


def main() -> None:
    """Run; end with status 1 if anything is wrong."""
    with config.friendly():
        hydra_main()
    for problem in problems[:SHOWN]:
        print(f"- {problem}")
    if len(problems) > SHOWN:
        print(f"... and {len(problems) - SHOWN} more")
    print(f"{len(problems)} problems found." if problems else "Nothing wrong was found.")
    sys.exit(int(bool(problems)))


if __name__ == "__main__":
    main()
