"""The progress display of a running sweep, and the table of its cells at the end."""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from segpipe.errors import pluralise
from segpipe.runs import cells
from segpipe.runs.records import Metrics, read_record
from segpipe.runs.run import PYTHON, Run, shell_line, shell_word, typed
from segpipe.runs.storage import inside, read_history
from segpipe.runs.summary import format_score

OTHER_COLUMNS = 50  # characters of a table of cells, beside the cell and the name of its run
EVERY = 0.5  # seconds between two updates of the view
EXTENDED = "was resumed with another trainer.max_epochs, so it is not the cell's run; to train that, rename the folder"
SILENT = {"missing": "no record", "extended": f"its run {EXTENDED}"}


class ProgressView:
    """Shows the progress of a sweep: a live view on a terminal, and a line for each run that has ended.

    workers: the number of runs at a time.
    """

    def __init__(self, *, workers: int) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.workers = workers
        self.drawn = 0.0
        self.counts: Counter[str] = Counter()
        self.seconds: list[float] = []  # durations of the runs that were trained since the start of this process
        self.best: tuple[float, str] | None = None  # validation mIoU, name
        # No refresh thread and no redirection: a process with threads cannot be forked, and a fork copies sys.stdout.
        self.live = Live(
            console=self.console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        if self.console.is_terminal:
            self.live.start()

    def print_line(self, text: str) -> None:
        """Print a permanent line."""
        self.console.print(text, markup=False)

    def ended(self, run: Run, state: str, seconds: float, left: int) -> None:
        """Count and print a run that has ended. left: the number of runs that wait or are running."""
        self.counts[state] += 1
        self.seconds.append(seconds)
        metrics = read_record(run.metrics, Metrics)
        scores = ""
        if state == "finished" and metrics:
            miou = metrics["val"]["miou"]
            scores = f"  val {format_score(miou)}  test {format_score(metrics['test']['miou'])}"
            self.update_best(miou, run)
        elif error := run.record.get("error"):
            scores = f"  {str(error).splitlines()[0]}"
        line = f"{self.counts.total():>4}  {state:<11} {run.folder.name}{scores}"
        more = f"  ({seconds:.0f} s; {self.eta(left)})"  # on a terminal, the view shows this
        self.print_line(line if self.console.is_terminal else line + more)

    def already_finished(self, run: Run) -> None:
        """Count a run that an earlier process has finished."""
        self.counts["finished"] += 1
        self.update_best(read_record(run.metrics, Metrics).get("val", {}).get("miou"), run)

    def update_best(self, miou: float | None, run: Run) -> None:
        """Store a run's validation mIoU if it is the best so far."""
        if miou is not None and (self.best is None or miou > self.best[0]):
            self.best = (miou, run.folder.name)

    def eta(self, left: int) -> str:
        """Return how many runs are left, and the estimated time of the end from the mean duration so far."""
        if not left or not self.seconds:
            return f"{left} left"
        seconds = sum(self.seconds) / len(self.seconds) * left / self.workers
        return f"{left} left, until about {datetime.now() + timedelta(seconds=seconds):%H:%M}"

    def show(self, running: list[tuple[Run, float]], left: int) -> None:
        """Update the view: running runs with their start times, counts of ended runs, and the best score so far."""
        if not self.live.is_started or time.time() - self.drawn < EVERY:
            return
        self.drawn = time.time()
        table = Table.grid(padding=(0, 1))
        table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        for run, since in running:
            rows = read_history(run.history)
            at = (
                f"epoch {rows[-1]['epoch'] + 1:.0f}, loss {rows[-1].get('train/loss', float('nan')):.3f}"
                if rows
                else ""
            )
            table.add_row(run.folder.name, at, f"{time.time() - since:.0f} s")
        counted = ", ".join(f"{number} {state}" for state, number in self.counts.items()) or "none done yet"
        lines = [f"{counted}; {self.eta(left)}"]
        if self.best:
            lines.append(f"best validation mIoU {self.best[0]:.3f}: {self.best[1]}")
        self.live.update(Group(table, *map(Text, lines)), refresh=True)

    def close(self) -> None:
        """Remove the view."""
        self.live.stop()


def print_cells(folder: Path, name: str, *, options: Sequence[str] = ()) -> bool:
    """Print every cell of a sweep with its status and scores; return whether all valid cells are finished.

    name: ``sweep.name``, for the command that resumes it. options: what a command repeats before the overrides of a
    cell, such as ``--config-dir``.
    """
    listed, labels = [*zip(*cells.labelled(folder), strict=True)] or ([], [])
    console = Console(highlight=False)
    table = Table(title=f"Sweep: {escape(str(folder))}", title_justify="left")
    for heading in ("cell", "run", "status", "val mIoU", "test mIoU"):
        table.add_column(heading, overflow="fold", justify="right" if "mIoU" in heading else "left")
    shown: dict[str, str] = {}  # run: label of its first cell
    name_of = run_names(listed, labels, console.width)
    states = [cells.status(folder, cell) for cell in listed]
    for cell, state, label in zip(listed, states, labels, strict=True):
        metrics = (
            read_record(Run(inside(folder, cell.run)).metrics, Metrics) if cell.run and state == "finished" else {}
        )
        scores = [format_score(metrics[split]["miou"]) if metrics else "-" for split in ("val", "test")]
        same = shown.get(cell.run or "")
        if cell.run:
            shown.setdefault(cell.run, label)
        table.add_row(
            escape(label),
            f"the same network as {same}" if same else name_of[cell.run] if cell.run else "-",
            state,
            *scores,
        )
    console.print()
    console.print(table)
    for cell, state, label in zip(listed, states, labels, strict=True):
        if state == "refused":
            console.print(f"refused: {label}: {cell.refused}", markup=False, soft_wrap=True)
    known = zip(listed, states, labels, strict=True)
    wrong = [(cell, state, label) for cell, state, label in known if state not in ("finished", "refused")]
    for cell, state, label in wrong:
        silent = SILENT.get(state, "its process ended without writing the reason")
        error = cell.error or Run(inside(folder, str(cell.run))).record.get("error") or silent
        console.print(f"{state}: {label}: {str(error).splitlines()[0]}", markup=False, soft_wrap=True)
        console.print(
            f"  {PYTHON} -m segpipe.train {shell_line([*options, *cell.overrides])}", markup=False, soft_wrap=True
        )
    if any(folder.glob("*/wandb/offline-run-*")):
        where = shell_word(folder)
        console.print(f"W&B: to upload: wandb sync {where}/*/wandb/offline-run-*", markup=False, soft_wrap=True)
    refused = states.count("refused")
    finished = states.count("finished")
    counted = f"{pluralise(len(listed), 'cell')}, {pluralise(len(shown), 'network')}: "
    counted += f"{pluralise(finished, 'cell')} finished"
    counted += f", {refused} refused" if refused else ""
    counted += f", {len(wrong)} to be done" if wrong else ""
    console.print(f"{counted}.", soft_wrap=True)
    if wrong:
        console.print(f"To resume: run the same command with {typed('sweep.name', name)}", markup=False, soft_wrap=True)
    return not wrong and refused < len(listed)


def run_names(listed: Sequence[cells.Cell], labels: Sequence[str], width: int) -> dict[str, str]:
    """Return how each run is called in the table of cells: by its folder, or only its identity in a narrow terminal.

    labels: of the cells. width: of the terminal, in characters.
    """
    names = {cell.run: cell.run for cell in listed if cell.run}
    needed = max(map(len, labels), default=0) + max(map(len, names), default=0) + OTHER_COLUMNS
    return names if needed <= width else {name: name.rpartition("-")[2] for name in names}
