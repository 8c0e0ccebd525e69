"""The list of a sweep's cells while it grows: written now and then, because writing takes longer for long lists."""

import time
from collections.abc import Callable
from pathlib import Path

from segpipe.engine.sweep import SweepCallback
from segpipe.runs import cells
from segpipe.runs.cells import Cell

SHARE = 0.05  # of the time, at most, that is spent on writing the list
PAUSE = 1.0  # seconds between two writes
REPORT_EVERY = 30.0  # seconds between two lines on the progress


class Listing:
    """Adds the cells of a sweep to ``sweep.json``, several at a time.

    folder: of the sweep. A cell is on the disk after a second, or after ``write``; for lists that take long to write,
    later. A cell that is lost because this process is killed is listed by the next start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pending: list[Cell] = []
        self.tuning_seeds: list[int] | None = None
        self.next_write = 0.0
        self.began = self.reported = time.monotonic()
        self.listed = 0

    def add(self, cell: Cell, *, tuning_seeds: list[int] | None) -> None:
        """Add a cell."""
        self.pending.append(cell)
        self.listed += 1
        self.tuning_seeds = self.tuning_seeds if tuning_seeds is None else tuning_seeds
        if time.monotonic() >= self.next_write:
            self.write()

    def write(self) -> None:
        """Write the cells that wait."""
        if not self.pending:
            return
        began = time.monotonic()
        cells.add(
            self.folder,
            *self.pending,
            tuning_seeds=self.tuning_seeds,
            options=SweepCallback.options or None,
            requested=SweepCallback.requested,
        )
        self.pending = []
        now = time.monotonic()
        self.next_write = now + max(PAUSE, (now - began) / SHARE)

    def report(self, print_line: Callable[[str], None]) -> None:
        """Print, from time to time, how many cells are checked and when all will be."""
        now = time.monotonic()
        if SweepCallback.jobs and now - self.reported >= REPORT_EVERY:
            self.reported = now
            left = (now - self.began) / self.listed * SweepCallback.jobs
            print_line(f"Checked {self.listed:,} of {SweepCallback.total:,} cells; {left / 60:.0f} min for the rest.")
