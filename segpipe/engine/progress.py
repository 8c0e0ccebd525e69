"""What a sweep shows while it runs, and in the end."""

import shlex
import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from segpipe.runs import cells
from segpipe.runs.run import Run
from segpipe.runs.storage import read_history, read_json
from segpipe.runs.summary import PYTHON, format_score

EVERY = 0.5  # seconds from one drawing of the view to the next
EXTENDED = "was resumed with another trainer.max_epochs, so it is no run of its cell; to train that, rename its folder"
SILENT = {"missing": "no record", "extended": f"its run {EXTENDED}"}


class ProgressView:
    """Counts what is done; on a terminal a view that is always there, else a line for each run that ends.

    workers: runs at a time.
    """

    def __init__(self, *, workers: int) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.workers = workers
        self.drawn = 0.0
        self.counts: Counter[str] = Counter()
        self.seconds: list[float] = []  # of the runs that were trained in this start
        self.best: tuple[float, str] | None = None  # validation mIoU, name
        # A thread of its own could not fork, and what it put in the place of sys.stdout would be forked with the rest.
        self.live = Live(
            console=self.console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        if self.console.is_terminal:
            self.live.start()

    def print_line(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False)

    def ended(self, run: Run, state: str, seconds: float, left: int) -> None:
        """A run has ended; ``left`` wait for their turn or are at work."""
        self.counts[state] += 1
        self.seconds.append(seconds)
        metrics = read_json(run.metrics)
        scores = ""
        if state == "finished" and metrics:
            miou = metrics["val"]["miou"]
            scores = f"  val {format_score(miou)}  test {format_score(metrics['test']['miou'])}"
            self.update_best(miou, run)
        elif error := run.record.get("error"):
            scores = f"  {str(error).splitlines()[0]}"
        self.print_line(
            f"{self.counts.total():>4}  {state:<11} {run.folder.name}{scores}  ({seconds:.0f} s; {self.eta(left)})"
        )

    def already_finished(self, run: Run) -> None:
        """A run that was finished in an earlier start."""
        self.counts["finished"] += 1
        self.update_best(read_json(run.metrics).get("val", {}).get("miou"), run)

    def update_best(self, miou: float | None, run: Run) -> None:
        """A validation mIoU, which may be the best so far."""
        if miou is not None and (self.best is None or miou > self.best[0]):
            self.best = (miou, run.folder.name)

    def eta(self, left: int) -> str:
        """How many are left, and when the last will have ended if they take as long as those before."""
        if not left or not self.seconds:
            return f"{left} left"
        seconds = sum(self.seconds) / len(self.seconds) * left / self.workers
        return f"{left} left, until about {datetime.now() + timedelta(seconds=seconds):%H:%M}"

    def show(self, running: list[tuple[Run, float]], left: int) -> None:
        """Draw the view anew: what is at work and since when, what is done, the best so far."""
        if not self.live.is_started or time.time() - self.drawn < EVERY:
            return
        self.drawn = time.time()
        table = Table.grid(padding=(0, 2))
        for run, since in running:
            rows = read_history(run.history)
            at = (
                f"epoch {rows[-1]['epoch'] + 1:.0f}, loss {rows[-1].get('train/loss', float('nan')):.3f}"
                if rows
                else ""
            )
            table.add_row(run.folder.name, at, f"{time.time() - since:.0f} s")
        counted = ", ".join(f"{number} {state}" for state, number in self.counts.items()) or "none done yet"
        best = f"; best validation mIoU {self.best[0]:.3f}, {self.best[1]}" if self.best else ""
        self.live.update(Group(table, Text(f"{counted}; {self.eta(left)}{best}")), refresh=True)

    def close(self) -> None:
        """Take the view away."""
        self.live.stop()


def print_cells(folder: Path) -> bool:
    """Print every cell of a sweep with its status and scores; return whether all that mean something are finished."""
    listed = cells.read(folder)
    console = Console(highlight=False)
    table = Table(title=f"Sweep: {escape(str(folder))}", title_justify="left")
    for heading in ("cell", "run", "status", "val mIoU", "test mIoU"):
        table.add_column(heading, overflow="fold", justify="right" if "mIoU" in heading else "left")
    shown: dict[str, str] = {}  # run: the first cell that it is
    states = [cells.status(folder, cell) for cell in listed]
    for cell, state in zip(listed, states, strict=True):
        metrics = read_json(Run(folder / cell.run).metrics) if cell.run and state == "finished" else {}
        found = [format_score(metrics[split]["miou"]) if metrics else "-" for split in ("val", "test")]
        same = shown.get(cell.run or "")
        if cell.run:
            shown.setdefault(cell.run, cell.label)
        table.add_row(escape(cell.label), f"the same network as {same}" if same else cell.run or "-", state, *found)
    console.print()
    console.print(table)
    for cell, state in zip(listed, states, strict=True):
        if state == "refused":
            console.print(f"refused: {cell.label}: {cell.refused}", markup=False, soft_wrap=True)
    wrong = [(cell, state) for cell, state in zip(listed, states, strict=True) if state not in ("finished", "refused")]
    for cell, state in wrong:
        silent = SILENT.get(state, "its process is gone, and could not write why")
        error = cell.error or Run(folder / str(cell.run)).record.get("error") or silent
        console.print(f"{state}: {cell.label}: {str(error).splitlines()[0]}", markup=False, soft_wrap=True)
        console.print(f"  {PYTHON} -m segpipe.train {shlex.join(cell.overrides)}", markup=False, soft_wrap=True)
    if any(folder.glob("*/wandb/offline-run-*")):
        console.print(f"W&B: to upload what is offline: wandb sync {folder}/*/wandb/offline-run-*", soft_wrap=True)
    refused = states.count("refused")
    counted = f"{len(listed)} cells, {len(shown)} networks: {states.count('finished')} cells finished"
    counted += f", {refused} refused" if refused else ""
    counted += f", {len(wrong)} to be done" if wrong else ""
    console.print(f"{counted}.", soft_wrap=True)
    if wrong:
        console.print(f"To go on with those: the same command with sweep.name={folder.name}", soft_wrap=True)
    return not wrong and refused < len(listed)
