"""``python -m segpipe.tune SWEEP KEY``: choose the level of a nuisance factor, such as ``optimizer.lr``, for each cell.

The level with the highest mean validation mIoU over the tuning seeds is chosen. Test scores are never read. The chosen
cells are written to a file for ``sweep.cells``, to be run with other seeds. Cells that chose a level at the edge of
their grid are written to another file, at the next level.
"""

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segpipe.config.messages import user_errors
from segpipe.engine import tuning
from segpipe.engine.tuning import OUT, Choice, Sweep, choose, join, next_command, notes, read, write
from segpipe.errors import pluralise
from segpipe.runs.archive import shown_path
from segpipe.runs.run import display_path
from segpipe.terminal import Parser

LONGEST_WORD = 12  # characters of a word of a label that is not split in a narrow terminal


def table(sweep: Sweep, choices: list[Choice | None]) -> Table:
    """Return a table with a row for each cell and a column for each level: mean and standard deviation over seeds."""
    title = f"Validation mIoU by {', '.join(sweep.keys)}, over the seeds {join(sweep.seeds)}; * is chosen"
    result = Table(title=title, title_justify="left")
    word = max((len(word) for cell in sweep.cells for word in cell.label.split()), default=0)
    result.add_column("cell", overflow="fold", min_width=min(word, LONGEST_WORD))
    levels = [" ".join(word.partition("=")[2] or "-" for word in level) for level in sweep.levels]
    for heading in (*levels, "changes", "regret"):
        result.add_column(escape(heading), overflow="fold", justify="right")
    for cell, choice in zip(sweep.cells, choices, strict=True):
        row = [escape(cell.label)]
        for level in sweep.levels:
            values = list(cell.scores.get(level, {}).values())
            lines = [f"{np.mean(values):.3f}" if values else "-"]
            lines[0] += "*" if choice and level == choice.level else ""
            lines += [f"±{np.std(values, ddof=1):.3f}"] if len(values) > 1 else []
            is_partial = level in cell.levels and len(values) < len(sweep.seeds)
            lines += [f"{len(values)} of {len(sweep.seeds)}"] if is_partial else []
            row.append("\n".join(lines))
        measures = [f"{choice.other:.0%}".replace("nan%", "-"), f"{choice.regret:.3f}"] if choice else ["-", "-"]
        result.add_row(*row, *measures)
    return result


def tune(folder: Path, keys: list[str], *, out: Path | None = None, incomplete: bool = False) -> int:
    """Choose a level for each cell, print the table and write the file of chosen cells.

    Returns the exit status: 1 where a cell has no choice, or where nothing was written.
    """
    sweep = read(folder, keys)
    choices = [choose(cell, sweep.levels, sweep.seeds, incomplete=incomplete) for cell in sweep.cells]
    console = Console(highlight=False, soft_wrap=True)
    console.print(table(sweep, choices), soft_wrap=False)
    for note in notes(sweep, choices):
        console.print(note, markup=False)
    waiting = sum(cell.waiting(sweep.seeds) for cell in sweep.cells)
    if not any(choices) or (waiting and not incomplete):
        runs = f"{pluralise(waiting, 'run')} of the tuning seeds {'is' if waiting == 1 else 'are'} not finished"
        why = runs if waiting else "no cell has a choice"
        console.print(f"Nothing was written: {why}. Finish the sweep, or choose from the finished runs: --incomplete")
        return 1
    file = out or (folder / OUT if folder.is_dir() else folder.with_name(f"{shown_path(folder).name}-{OUT}"))
    write(sweep, choices, file)
    if restore := tuning.restore_command(sweep):
        console.print(
            f"The runs are in an archive. Before the next command, restore them, in a copy of segpipe's repository:\n"
            f"  {restore}",
            markup=False,
        )
    beginning = file.name.removesuffix(OUT) if file.name.endswith(OUT) else f"{file.stem}-"
    more = file.with_name(beginning + tuning.BEYOND)
    if text := tuning.write_beyond(sweep, choices, more):
        console.print(f"Written to {display_path(more.absolute())}. To try these levels first:\n  {text}", markup=False)
    console.print(f"Written to {display_path(file.absolute())}. Next:\n  {next_command(sweep, file)}", markup=False)
    return int(not all(choices))


def main() -> None:
    """The command line."""
    parser = Parser(prog="python -m segpipe.tune", description=__doc__.partition("\n\n")[2])  # type: ignore[union-attr]
    parser.add_argument("sweep", type=Path, help="the folder of a sweep")
    parser.add_argument(
        "keys", nargs="+", metavar="KEY", help="a swept key; with several keys, their best combination is chosen"
    )
    parser.add_argument("--out", type=Path, help=f"the file to write (default: {OUT} in the sweep's folder)")
    parser.add_argument("--incomplete", action="store_true", help="also choose where runs are missing or failed")
    given = parser.parse_args()
    with user_errors():
        status = tune(given.sweep, given.keys, out=given.out, incomplete=given.incomplete)
    sys.exit(status)


if __name__ == "__main__":
    main()
