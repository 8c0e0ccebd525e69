"""Write the table of differences of README.md, from the kept sweeps: ``python docs/sweeps/readme.py``."""

from pathlib import Path

import sections
from sections import HERE, Kept, differences, points, read, table

from segpipe.analysis.formatting import join_words

PAGE = HERE.parent.parent / "README.md"
COLUMNS = (  # head of the column; name, tuned keys and strides of the sweep
    ("drawn scenes, FCN, strides 32 to 8", "sweep_shapes", [], [32, 16, 8]),
    ("drawn scenes, ladder, strides 16 to 4", "sweep_ladder", [], [16, 8, 4]),
    ("drawn scenes, ladder, stride 4", "sweep_ladder", [], [4]),
    ("CamVid, ladder on VGG-16, stride 4", "sweep_camvid", ["optimizer.lr"], [4]),
)
ROWS = {
    ("sum", "none"): "skips, summed, over none",
    ("concat", "sum"): "concatenated over summed skips",
    ("deconv", "bilinear"): "transposed convolution over bilinear",
    ("bilinear", "nearest"): "bilinear over nearest neighbour",
    ("unpool", "nearest"): "unpooling over nearest neighbour",
}


def section(folder: Path = HERE) -> str:
    """Return the table, in Markdown, after a sentence on its numbers. A sweep that is not kept has no column."""
    columns = {
        head: kept
        for head, name, tuned, strides in COLUMNS
        if (kept := read(name, folder, tuned=tuned, only={"stride": strides}))
    }
    trainings: dict[str, set[str]] = {}
    for head, kept in columns.items():
        runs = {run.run.folder.name for run in kept.collection.runs}
        trainings.setdefault(head.partition(",")[0], set()).update(runs)
    numbers = [f"{len(runs)} trainings on {name}" for name, runs in trainings.items()]
    seeds = min(len(kept.collection.seeds) for kept in columns.values())
    lines = [["difference", *columns]]
    lines += [[said, *(entry(one, *pair) for one in columns.values())] for pair, said in ROWS.items()]
    return (
        f"Differences in test mIoU, in percentage points with 95 % intervals, from {join_words(numbers)} with "
        f"{seeds} seeds per network:\n\n{table(lines)}"
    )


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
