"""Draw ``verdict.png``: the marginal differences of the kept sweeps, from their archives.

``python docs/figures/draw_verdict.py``
"""

from pathlib import Path
from statistics import mean

import matplotlib.pyplot as plt

from segpipe.analysis.collect import collect
from segpipe.analysis.statistics.effects import Comparison, analyse

HERE = Path(__file__).parent
SWEEPS: dict[str, tuple[str, str, list[str]]] = {  # legend, colour, tuned keys; in the order of the lines of a row
    "sweep_shapes": ("drawn scenes, FCN: class scores, linear", "#0072B2", []),
    "sweep_ladder": ("drawn scenes, ladder: features, a 3x3 convolution a step", "#D55E00", []),
    "sweep_camvid": (
        "CamVid, ladder on a frozen VGG-16, each cell at its own learning rate",
        "#009E73",
        ["optimizer.lr"],
    ),
}
SHIFT = 0.25  # of the lines of a row, in rows
COARSE_TO_FINE = {"8 - 16": "one stride finer", "4 - 8": "one stride finer"}  # the last step down of either sweep


def differences(sweep: str) -> dict[str, Comparison]:
    """Decoders, fusions, and the step from the middle stride to the finest, each under the name of its row."""
    found = {}
    for one in analyse(collect(HERE.parent / "sweeps" / f"{sweep}.zip", tuned=SWEEPS[sweep][2])).marginal:
        name = f"{one.contrast.a} - {one.contrast.b}"
        if one.contrast.factor != "stride":
            found[name] = one
        elif name in COARSE_TO_FINE and not (sweep == "sweep_ladder" and name == "8 - 16"):
            found[COARSE_TO_FINE[name]] = one
    return found


def turned(name: str, mean: float) -> str:
    """A row's name, the better level first."""
    return " over ".join(name.split(" - ") if mean >= 0 else reversed(name.split(" - ")))


def main() -> None:
    """See the module."""
    found = {sweep: differences(sweep) for sweep in SWEEPS if (HERE.parent / "sweeps" / f"{sweep}.zip").is_file()}
    names = dict.fromkeys(name for rows in found.values() for name in rows)
    means = {name: mean(rows[name].estimate.difference for rows in found.values() if name in rows) for name in names}
    rows = sorted(means, key=lambda name: -abs(means[name]))
    figure, axes = plt.subplots(figsize=(8.4, 6.4), layout="constrained")
    for number, sweep in enumerate(found):
        label, colour, _ = SWEEPS[sweep]
        axes.plot([], [], "o", color=colour, label=label)
        shift = SHIFT * (number - (len(found) - 1) / 2)
        for row, name in enumerate(rows):
            if name not in found[sweep]:
                continue
            one = found[sweep][name]
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
    axes.legend(loc="lower right", frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(HERE / "verdict.png", dpi=110)


if __name__ == "__main__":
    main()
