"""``python -m segpipe.tune SWEEP KEY``: the level of a nuisance factor, such as ``optimizer.lr``, for each cell.

The level with the highest mean validation mIoU over the tuning seeds is chosen; test scores are never read. The chosen
cells are written as a file for ``sweep.cells``, to be run with other seeds.
"""

import argparse
import itertools
import re
import shlex
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segpipe.config.messages import friendly
from segpipe.engine.processes import quoted
from segpipe.engine.tuning import ENDED, Choice, Sweep, beyond, choose, read
from segpipe.runs.run import shown
from segpipe.runs.storage import write_text
from segpipe.runs.summary import PYTHON

OUT = "tuned.cells"  # in the sweep's folder


def join(values: list[int]) -> str:
    """Seeds as text."""
    return ", ".join(map(str, values))


def table(sweep: Sweep, choices: list[Choice | None]) -> Table:
    """A row a cell, a column a level: mean and standard deviation over seeds."""
    found = Table(title=f"Validation mIoU over the seeds {join(sweep.seeds)}; * is chosen", title_justify="left")
    levels = [escape(" ".join(filter(None, level))) or "-" for level in sweep.levels]
    for heading in ("cell", *levels, "another", "regret"):
        found.add_column(heading, overflow="fold", justify="left" if heading == "cell" else "right")
    for cell, choice in zip(sweep.cells, choices, strict=True):
        row = [escape(cell.label)]
        for level in sweep.levels:
            values = list(cell.scores.get(level, {}).values())
            text = f"{np.mean(values):.3f}" if values else "-"
            text += f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            text += f" ({len(values)} of {len(sweep.seeds)})" if len(values) < len(sweep.seeds) else ""
            row.append(f"{text} *" if choice and level == choice.level else text)
        known = [f"{choice.other:.0%}".replace("nan%", "-"), f"{choice.regret:.3f}"] if choice else ["-", "-"]
        found.add_row(*row, *known)
    return found


def notes(sweep: Sweep, choices: list[Choice | None]) -> list[str]:
    """What a reader has to know of the choice: seeds, runs that are missing, edges."""
    found = [
        "another: how often resampled tuning seeds choose another level"
        + (" (not to be said of one seed)" if len(sweep.seeds) == 1 else "")
        + "; regret: what each seed's own best level has more, on the mean."
    ]
    if not sweep.named:
        found.append(
            f"The sweep names no tuning seeds (sweep.tuning_seeds), so all its seeds are taken: {join(sweep.seeds)}. "
            f"Compare the chosen cells on other seeds only."
        )
    for cell in sweep.cells:
        for level, seed in itertools.product(sweep.levels, sweep.seeds):
            if seed not in cell.seeds_of(level):
                state = cell.states.get((level, seed), "not listed")
                found.append(f"{state}: {cell.label} {' '.join(level)} seed={seed}")
    for cell, choice in zip(sweep.cells, choices, strict=True):
        if choice is None:
            found.append(f"Left out: {cell.label}: no level has the runs of all tuning seeds.")
        elif choice.seeds != sweep.seeds:
            found.append(f"Chosen on the seeds {join(choice.seeds)} only: {cell.label}")
    for level, number in Counter(choice.level for choice in choices if choice).most_common():
        found.append(f"Chosen in {number} of {len(choices)} cells: {' '.join(level)}")
    edges: dict[tuple[str, str], list[str]] = {}
    for cell, choice in zip(sweep.cells, choices, strict=True):
        for edge in beyond(choice.level, sweep.levels).items() if choice else ():
            edges.setdefault(edge, []).append(cell.label)
    for (word, more), labels in edges.items():
        found.append(f"At the grid's edge: {word}, chosen for {'; '.join(labels)}. Try {more} as well.")
    return found


def as_value(text: str) -> str:
    """A text as Hydra's grammar takes it."""
    return text if re.fullmatch(r"[\w./-]+", text) else quoted(text)


def next_command(sweep: Sweep, file: Path) -> str:
    """The command that runs the chosen cells with five seeds that chose nothing."""
    free = [seed for seed in range(len(sweep.seeds) + 5) if seed not in sweep.seeds][:5]
    name, path = (as_value(text) for text in (sweep.folder.resolve().name, shown(file.absolute())))
    given = [*sweep.fixed, f"sweep.name={name}", f"sweep.cells={path}"]
    return f"{PYTHON} -m segpipe.train -m {shlex.join([*given, 'seed=' + ','.join(map(str, free))])}"


def write(sweep: Sweep, choices: list[Choice | None], file: Path) -> None:
    """The chosen cells as lines of overrides, below comments that say where they come from."""
    about = shlex.join([shown(sweep.folder.absolute()), *sweep.keys])
    lines = [
        f"# Chosen by `python -m segpipe.tune {about}` on {datetime.now():%Y-%m-%d %H:%M}:",
        f"# the highest mean validation mIoU over the seeds {join(sweep.seeds)}. To run these cells:",
        f"# {next_command(sweep, file).replace(PYTHON, 'python', 1)}",
    ]
    for cell, choice in zip(sweep.cells, choices, strict=True):
        if choice:
            lines.append(shlex.join([*cell.words, *filter(None, choice.level)]))
    write_text(file, "\n".join(lines) + "\n")


def tune(folder: Path, keys: list[str], *, out: Path | None = None, incomplete: bool = False) -> int:
    """Choose, print and write; return the exit status: 1 where a cell is left out, or nothing was written."""
    sweep = read(folder, keys)
    choices = [choose(cell, sweep.levels, sweep.seeds, incomplete=incomplete) for cell in sweep.cells]
    console = Console(highlight=False, soft_wrap=True)
    console.print(table(sweep, choices), soft_wrap=False)
    for note in notes(sweep, choices):
        console.print(note, markup=False)
    waiting = sum(
        cell.states.get((level, seed)) not in ENDED and seed not in cell.seeds_of(level)
        for cell, level, seed in itertools.product(sweep.cells, sweep.levels, sweep.seeds)
    )
    if not any(choices) or (waiting and not incomplete):
        why = f"{waiting} runs of the tuning seeds are not finished" if waiting else "no cell has a choice"
        console.print(f"Nothing is written: {why}. Finish the sweep; or choose from what there is: --incomplete")
        return 1
    file = out or folder / OUT
    write(sweep, choices, file)
    console.print(f"Written to {shown(file.absolute())}. Next:\n  {next_command(sweep, file)}", markup=False)
    return int(not all(choices))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m segpipe.tune", description=__doc__.partition("\n\n")[2])  # type: ignore[union-attr]
    parser.add_argument("sweep", type=Path, help="a sweep's folder")
    parser.add_argument(
        "keys", nargs="+", metavar="KEY", help="a swept key; of several, the best combination is chosen"
    )
    parser.add_argument("--out", type=Path, help=f"the file to write (default: {OUT} in the sweep's folder)")
    parser.add_argument("--incomplete", action="store_true", help="choose where runs are missing or failed, too")
    given = parser.parse_args()
    with friendly():
        status = tune(given.sweep, given.keys, out=given.out, incomplete=given.incomplete)
    sys.exit(status)


if __name__ == "__main__":
    main()
