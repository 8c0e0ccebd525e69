"""How long a report over many runs takes, and how large its page is.

The runs are copies of those kept under docs/sweeps, as a sweep over one more setting would have left them, with example
images of 320 x 240 drawn at random.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.timing import arguments
from segpipe import report
from segpipe.analysis import spreadsheets
from segpipe.analysis.page import boundaries, curves, examples, plots, tables
from segpipe.data.examples import save_examples
from segpipe.runs.archive import as_folder
from segpipe.runs.storage import read_json, write_json

KEPT = as_folder(Path(__file__).parent.parent / "docs" / "sweeps" / "sweep_ladder.zip")
PARTS = {  # what is timed, and where it is called from
    "read the runs": (report, "collect"),
    "analyse": (report, "analyse"),
    "differences at boundaries": (boundaries, "exploratory"),
    "put the page together": (report, "content"),
    "of that, learning curves": (curves, "learning_curves"),
    "of that, forests": (plots, "forest"),
    "of that, heat maps": (plots, "heat_maps"),
    "of that, tables of differences": (tables, "differences"),
    "of that, images": (examples, "section"),
    "fill in the template": (report, "render"),
    "write the CSV files": (spreadsheets, "write"),
}


def many(folder: Path, *, runs: int, images: int) -> None:
    """Fill a sweep's folder."""
    kept = [cell for cell in read_json(KEPT / "sweep.json")["cells"] if (KEPT / cell["run"] / "metrics.json").is_file()]
    kept.sort(key=lambda cell: [cell["choices"][key] for key in ("stride", "decoder", "fusion", "seed")])
    cells = []
    for number in range(runs):
        copy, cell = divmod(number, len(kept))
        original = kept[cell]
        name = f"setting{copy}-{original['run']}"
        shutil.copytree(KEPT / original["run"], folder / name)
        overrides = [*original["overrides"], f"task.lr={copy + 1}e-3"]
        cells.append(original | {"run": name, "overrides": overrides})
        if original["choices"]["seed"] == 0 and images:
            draw(folder / name, images, number)
    write_json(folder / "sweep.json", {"name": folder.name, "cells": cells})


def draw(run: Path, count: int, seed: int) -> None:
    """Example images of a run: rectangles, as many as make a prediction's file."""
    random = np.random.default_rng(seed)
    masks = np.zeros((count, 240, 320), np.uint8)
    for mask in masks:
        for _ in range(150):
            y, x, height, width = random.integers((240, 320, 60, 60))
            mask[y : y + height, x : x + width] = random.integers(6)
    photos = [np.repeat(40 * mask[..., None], 3, axis=2) for mask in masks]
    names = [f"image {number}" for number in range(count)]
    palette = [(40 * index, 255 - 40 * index, 90) for index in range(6)]
    save_examples(
        run / "pictures" / "examples", names=names, images=photos, truths=masks, predictions=masks, palette=palette
    )


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Inside, the parts' seconds are added up."""
    seconds = dict.fromkeys(PARTS, 0.0)
    originals = {name: getattr(*place) for name, place in PARTS.items()}

    def clocked(name: str, function):
        def call(*arguments, **named):
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                seconds[name] += time.perf_counter() - began

        return call

    for name, (module, attribute) in PARTS.items():
        setattr(module, attribute, clocked(name, originals[name]))
    try:
        yield seconds
    finally:
        for name, (module, attribute) in PARTS.items():
            setattr(module, attribute, originals[name])


def main() -> None:
    """Print seconds and sizes."""
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--images", type=int, default=4, help="example images of a run of the lowest seed")
    parser.add_argument("--resamples", type=int, default=report.RESAMPLES)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "many"
        folder.mkdir()
        many(folder, runs=given.runs, images=given.images)
        for _ in range(given.rounds):
            began = time.perf_counter()
            with timed() as seconds:
                report.report(folder, resamples=given.resamples)
            whole = time.perf_counter() - began
            for name, spent in seconds.items():
                print(f"{name:32} {spent:7.1f} s")
            print(f"{f'a report on {given.runs} runs':32} {whole:7.1f} s")
        for name in ("report.html", "results.csv", "comparisons.csv"):
            print(f"{name:32} {(folder / name).stat().st_size / 1e6:7.2f} MB")


if __name__ == "__main__":
    main()
