"""What a finished training says on the terminal."""

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from segpipe.runs import Run


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
    console.print(f"Run:      {run.folder}", markup=False)
    console.print(f"Picture:  {run.pictures / 'predictions.png'}", markup=False)
    console.print("Next:", markup=False)
    console.print(f"  python -m segpipe.predict {run.folder} PHOTOS --out masks/     your own pictures", markup=False)
    console.print("  python -m segpipe.train decoder=unpool fusion=concat     another way up", markup=False)


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
