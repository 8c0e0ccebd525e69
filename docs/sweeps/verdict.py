"""Draw ``docs/figures/verdict.png``, the marginal differences of the kept sweeps: ``python docs/sweeps/verdict.py``."""

from pathlib import Path
from statistics import mean

import matplotlib.pyplot as plt
import sections
from sections import HERE, Kept, read

from segpipe.analysis.statistics.comparison import Comparison

FIGURE = HERE.parent / "figures" / "verdict.png"
LINES = (  # of a row: legend, colour; name, tuned keys and strides of the sweep
    ("drawn scenes, FCN: class scores, linear; strides 32 to 8", "#0072B2", "sweep_shapes", [], None),
    ("drawn scenes, ladder: a 3x3 convolution a step; strides 16 to 4", "#D55E00", "sweep_ladder", [], None),
    ("drawn scenes, ladder; stride 4", "#E69F00", "sweep_ladder", [], {"stride": [4]}),
    (
        "CamVid, ladder on a frozen VGG-16, own learning rates; stride 4",
        "#009E73",
        "sweep_camvid",
        ["optimizer.lr"],
        None,
    ),
)
SHIFT = 0.2  # of the lines of a row, in rows
COARSE_TO_FINE = {"8 - 16": "one stride finer", "4 - 8": "one stride finer"}  # the last step down of either sweep


def differences(kept: Kept, sweep: str) -> dict[str, Comparison]:
    """Decoders, fusions, and the step from the middle stride to the finest, each under the name of its row.

    Sweeps may list the levels in another order; a row has the names of two levels in that of the alphabet.
    """
    marginal = kept.analysis.marginal
    found = {f"{a} - {b}": one for (a, b), one in sections.differences(marginal).items() if a < b}
    for one in marginal:
        name = f"{one.contrast.a} - {one.contrast.b}"
        if name in COARSE_TO_FINE and not (sweep == "sweep_ladder" and name == "8 - 16"):
            found[COARSE_TO_FINE[name]] = one
    return found


def turned(name: str, mean: float) -> str:
    """A row's name, the better level first."""
    return " over ".join(name.split(" - ") if mean >= 0 else reversed(name.split(" - ")))


def main(folder: Path = HERE, figure: Path = FIGURE) -> None:
    """See the module. folder: of the archives; a sweep that is not kept has no line. figure: the file to write."""
    found = {
        (label, colour): differences(kept, sweep)
        for label, colour, sweep, tuned, only in LINES
        if (kept := read(sweep, folder, tuned=tuned, only=only))
    }
    names = dict.fromkeys(name for rows in found.values() for name in rows)
    means = {name: mean(rows[name].estimate.difference for rows in found.values() if name in rows) for name in names}
    rows = sorted(means, key=lambda name: -abs(means[name]))
    drawing, axes = plt.subplots(figsize=(8.4, 8.0), layout="constrained")
    for number, ((label, colour), of_line) in enumerate(found.items()):
        axes.plot([], [], "o", color=colour, label=label)
        shift = SHIFT * (number - (len(found) - 1) / 2)
        for row, name in enumerate(rows):
            if name not in of_line:
                continue
            one = of_line[name]
            points = 100 if means[name] >= 0 else -100
            here = one.estimate.trainings
            assert here is not None
            axes.plot([points * here.low, points * here.high], [row + shift] * 2, color=colour, linewidth=3)
            face = colour if one.significant else "white"
            axes.plot(points * one.estimate.difference, row + shift, "o", color=colour, markerfacecolor=face)
    axes.set_yticks(range(len(rows)), [turned(name, means[name]) for name in rows])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("difference in points of test mIoU, 95 % interval for new trainings; hollow: not significant")
    drawing.legend(loc="outside lower center", frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    drawing.savefig(figure, dpi=110)
    plt.close(drawing)


if __name__ == "__main__":
    main()
