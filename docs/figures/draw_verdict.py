"""Draw ``verdict.png``: the marginal differences of the two kept sweeps, from their run folders.

``python docs/figures/draw_verdict.py``
"""

from pathlib import Path

import matplotlib.pyplot as plt

from segpipe.analysis.collect import collect
from segpipe.analysis.statistics.effects import Comparison, analyse

HERE = Path(__file__).parent
SWEEPS = {
    "sweep_shapes": ("FCN: class scores, linear", "#0072B2", 0.16),
    "sweep_ladder": ("ladder: features, a 3x3 convolution a step", "#D55E00", -0.16),
}
COARSE_TO_FINE = {"8 - 16": "one stride finer", "4 - 8": "one stride finer"}  # the last step down of either sweep


def differences(sweep: str) -> dict[str, Comparison]:
    """Decoders, fusions, and the step from the middle stride to the finest, each under the name of its row."""
    found = {}
    for one in analyse(collect(HERE.parent / "sweeps" / sweep)).marginal:
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
    found = {sweep: differences(sweep) for sweep in SWEEPS}
    means = {name: sum(found[sweep][name].estimate.difference for sweep in SWEEPS) for name in found["sweep_shapes"]}
    rows = sorted(means, key=lambda name: -abs(means[name]))
    figure, axes = plt.subplots(figsize=(8.4, 5.4), layout="constrained")
    for sweep, (label, colour, shift) in SWEEPS.items():
        for row, name in enumerate(rows):
            one = found[sweep][name]
            points = 100 if means[name] >= 0 else -100
            here = one.estimate.trainings
            assert here is not None
            axes.plot([points * here.low, points * here.high], [row + shift] * 2, color=colour, linewidth=3)
            face = colour if one.significant else "white"
            said = label if row == 0 else None
            axes.plot(
                points * one.estimate.difference, row + shift, "o", color=colour, markerfacecolor=face, label=said
            )
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
