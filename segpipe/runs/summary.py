"""The summary that a finished training prints."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segpipe.errors import printable
from segpipe.metrics.confusion import CLASS_SCORES, SCORES
from segpipe.runs.run import PYTHON, Run, display_path, shell_word


def print_summary(run: Run, metrics: dict[str, Any], *, another: str, trust: Sequence[str] = ()) -> None:
    """Print the scores by class, the paths of the results, and the commands to run next.

    another: an override that chooses another decoder, for the command that trains the same with it. trust: the user's
    own packages that the run imports.
    """
    console = Console(highlight=False, soft_wrap=True)
    console.print()
    console.print(score_table(metrics["test"], title="Test"))
    cost, training = metrics["cost"], metrics["training"]
    test, val = (format_score(metrics[split]["miou"]) for split in ("test", "val"))
    console.print(
        f"Test mIoU [bold]{test}[/], validation {val} "
        f"(best epoch {metrics['best_epoch'] + 1} of {training['epochs']}); trained in {training['seconds']:.0f} s."
    )
    if cost:
        console.print(
            f"Cost: {cost['parameters'] / 1e6:.2f} M parameters, {cost['gmac']:.2f} G multiply-adds and "
            f"{cost['latency_ms']:.1f} ms per image of {cost['size'][0]} x {cost['size'][1]}."
        )
    folder = display_path(run.folder)
    console.print(f"Run:      {folder}", markup=False)
    drawn = [path.name for path in sorted(run.pictures.glob("*.png"))]
    if drawn:
        console.print(f"Images:   {folder}/pictures: {', '.join(drawn)}", markup=False)
    for profile in sorted(run.folder.glob("fit-*profile*.txt")):  # debug=profile
        console.print(f"Profile:  {display_path(profile)}", markup=False)
    console.print("Next: train the same network with another upsampling operator, or predict the masks of images:")
    console.print(f"  {run.train_command(with_decoder(run.cell_overrides, another))}", markup=False)
    trusted = "".join(f" --trust {package}" for package in trust)
    console.print(f"  {PYTHON} -m segpipe.predict {shell_word(folder)} IMAGES --out masks{trusted}", markup=False)


def with_decoder(overrides: list[str], another: str) -> list[str]:
    """Return overrides with another choice of the decoder, without those of the keys of the previous one.

    ``hydra.mode=RUN`` is added where an experiment may set the mode to a sweep.
    """
    kept = [one for one in overrides if not one.lstrip("+~").startswith(("decoder=", "decoder."))]
    single = ["hydra.mode=RUN"] if any(one.startswith(("experiment=", "+experiment=")) for one in kept) else []
    return [*kept, another, *single]


def score_table(scores: dict[str, Any], *, title: str) -> Table:
    """Return a table with a column for each score per class, and their means; other scores are in the caption.

    scores: the scores of a split, as in ``metrics.json``. A dash stands for a class that is absent. A score that is
    one of CLASS_SCORES by another name, such as the accuracy of a class, has one column.
    """
    twice = [score.compute for score in CLASS_SCORES.values()]
    by_class = [score for score in SCORES.values() if score.per_class and score.compute not in twice]
    columns = {score.class_label or score.label: scores[f"per_class_{score.per_class}"] for score in by_class}
    columns |= {score.label: scores.get(f"per_class_{name}", {}) for name, score in CLASS_SCORES.items()}
    others = [f"{score.label} {format_score(scores[name])}" for name, score in SCORES.items() if not score.per_class]
    caption = ", ".join(others) or None
    table = Table(title=f"{title}: {scores['images']} images", title_justify="left", caption=caption)
    table.caption_justify = "left"
    table.add_column("class")
    for heading in (*columns, "pixels"):
        table.add_column(heading, justify="right")
    for name, pixels in scores["pixels"].items():
        values = [values.get(name) for values in columns.values()]
        table.add_row(escape(printable(name)), *map(format_score, values), f"{pixels:,}")
    table.add_section()
    means = [format_score(mean_of(values)) for values in columns.values()]
    table.add_row("mean", *means, f"{sum(scores['pixels'].values()):,}")
    return table


def mean_of(values: Mapping[str, float | None]) -> float | None:
    """Return the mean of the values of the classes that have one; None if there is none."""
    known = [value for value in values.values() if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else None


def format_score(value: float | None) -> str:
    """Return a score with three decimals, or a dash for None and NaN."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
