"""Write the table of differences in README.md from the kept sweeps: ``python docs/sweeps/readme.py``."""

from pathlib import Path

import sections
from sections import HERE, Kept, differences, points, read, table

PAGE = HERE.parent.parent / "README.md"
COLUMNS: dict[str, tuple[str, list[str]]] = {  # head of the column, tuned keys
    "sweep_shapes": ("drawn scenes, FCN (linear decoder)", []),
    "sweep_ladder": ("drawn scenes, ladder (a 3x3 convolution per step)", []),
    "sweep_camvid": ("CamVid, ladder on a frozen VGG-16", ["optimizer.lr"]),
}
ROWS = {
    ("sum", "none"): "skips, summed, over none",
    ("concat", "sum"): "concatenated over summed skips",
    ("deconv", "bilinear"): "transposed convolution over bilinear",
    ("bilinear", "nearest"): "bilinear over nearest neighbour",
    ("nearest", "unpool"): "nearest neighbour over unpooling",
}


def section(folder: Path = HERE) -> str:
    """Return the table, in Markdown. A sweep that is not kept has no column."""
    kept = {name: one for name, (_, tuned) in COLUMNS.items() if (one := read(name, folder, tuned=tuned))}
    lines = [["difference", *(COLUMNS[name][0] for name in kept)]]
    lines += [[said, *(entry(one, *pair) for one in kept.values())] for pair, said in ROWS.items()]
    return table(lines)


def entry(kept: Kept, a: str, b: str) -> str:
    """Return the difference a - b with its interval; "not significant" is said."""
    one = differences(kept.analysis.marginal)[a, b]
    return points(one, bold=False) + ("" if one.significant else ", not significant")


def written(page: str, folder: Path = HERE) -> str:
    """Return the page with the present table."""
    return sections.written(page, Path(__file__).name, section(folder))


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
