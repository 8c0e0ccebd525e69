"""What a finished training says on the terminal."""

import math
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from segpipe.runs.run import Run, shown

PYTHON = shown(Path(sys.executable)) if ".venv" in sys.executable else "python"  # make does not activate it


def print_summary(run: Run, metrics: dict[str, Any]) -> None:
    """Scores by class, where everything lies, and what to type next."""
    console = Console(highlight=False, soft_wrap=True)
    console.print()
    console.print(score_table(metrics["test"], title="Test"))
    cost, training = metrics["cost"], metrics["training"]
    console.print(
        f"Test mIoU [bold]{metrics['test']['miou']:.3f}[/], validation {metrics['val']['miou']:.3f} "
        f"(best epoch {metrics['best_epoch'] + 1} of {training['epochs']}); trained in {training['seconds']:.0f} s."
    )
    console.print(
        f"Cost: {cost['parameters'] / 1e6:.2f} M parameters, {cost['gmac']:.2f} G multiply-adds and "
        f"{cost['latency_ms']:.1f} ms a picture of {cost['size'][0]} x {cost['size'][1]}."
    )
    folder = shown(run.folder)
    console.print(f"Run:      {folder}", markup=False)
    console.print(f"Picture:  {folder}/pictures/predictions.png", markup=False)
    for profile in sorted(run.folder.glob("fit-*profile*.txt")):  # debug=profile
        console.print(f"Profile:  {shown(profile)}", markup=False)
    console.print("Next, another way up, and your own pictures:")
    console.print(f"  {PYTHON} -m segpipe.train decoder=unpool fusion=concat", markup=False)
    console.print(f"  {PYTHON} -m segpipe.predict {folder} PHOTOS --out masks", markup=False)


def score_table(found: dict[str, Any], *, title: str) -> Table:
    """IoU and accuracy of every class, and the means; a dash where a class is absent."""
    table = Table(title=f"{title}: {found['images']} pictures", title_justify="left")
    table.add_column("class")
    for heading in ("IoU", "accuracy", "pixels"):
        table.add_column(heading, justify="right")
    for name, iou in found["per_class_iou"].items():
        table.add_row(name, share(iou), share(found["per_class_accuracy"][name]), f"{found['pixels'][name]:,}")
    table.add_section()
    pixels = sum(found["pixels"].values())
    table.add_row("mean", share(found["miou"]), share(found["mean_class_accuracy"]), f"{pixels:,}")
    table.add_row("all pixels", "", share(found["pixel_accuracy"]), "")
    return table


def share(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
