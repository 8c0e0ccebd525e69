"""The summary that a finished training prints."""

import math
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from segpipe.metrics.confusion import SCORES
from segpipe.runs.run import Run, display_path

PYTHON = display_path(Path(sys.executable)) if ".venv" in sys.executable else "python"  # make does not activate it


def print_summary(run: Run, metrics: dict[str, Any]) -> None:
    """Print the scores by class, the paths of the results, and the commands to run next."""
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
        f"{cost['latency_ms']:.1f} ms per image of {cost['size'][0]} x {cost['size'][1]}."
    )
    folder = display_path(run.folder)
    console.print(f"Run:      {folder}", markup=False)
    console.print(f"Images:   {folder}/pictures/predictions.png", markup=False)
    for profile in sorted(run.folder.glob("fit-*profile*.txt")):  # debug=profile
        console.print(f"Profile:  {display_path(profile)}", markup=False)
    console.print("Next: train another upsampling operator, or predict your own images:")
    console.print(f"  {PYTHON} -m segpipe.train decoder=unpool fusion=concat", markup=False)
    console.print(f"  {PYTHON} -m segpipe.predict {folder} IMAGES --out masks", markup=False)


def score_table(split_scores: dict[str, Any], *, title: str) -> Table:
    """Return a table with a column for each score per class, and their means; other scores are in the caption.

    split_scores: the scores of a split, as in ``metrics.json``. A dash stands for a class that is absent.
    """
    by_class = {name: score for name, score in SCORES.items() if score.per_class}
    others = [
        f"{score.label} {format_score(split_scores[name])}" for name, score in SCORES.items() if not score.per_class
    ]
    caption = ", ".join(others) or None
    table = Table(title=f"{title}: {split_scores['images']} images", title_justify="left", caption=caption)
    table.caption_justify = "left"
    table.add_column("class")
    for heading in (*(score.class_label or score.label for score in by_class.values()), "pixels"):
        table.add_column(heading, justify="right")
    for name, pixels in split_scores["pixels"].items():
        values = [split_scores[f"per_class_{score.per_class}"][name] for score in by_class.values()]
        table.add_row(name, *map(format_score, values), f"{pixels:,}")
    table.add_section()
    table.add_row(
        "mean", *(format_score(split_scores[name]) for name in by_class), f"{sum(split_scores['pixels'].values()):,}"
    )
    return table


def format_score(value: float | None) -> str:
    """Return a score with three decimals, or a dash for None and NaN."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
