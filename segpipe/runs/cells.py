"""The cells of a sweep: ``sweep.json`` lists every requested cell and the run that trains its network."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from segpipe.runs.labels import VIEW_WORDS, full_name, labels, view_of
from segpipe.runs.records import SweepRecord, read_record
from segpipe.runs.run import Run, file_lock
from segpipe.runs.storage import inside, write_json

FILE = "sweep.json"


class Cell(NamedTuple):
    """One cell of a sweep. Cells that are the same network share a run.

    overrides: those of the command line, without those of the sweep itself.
    choices: the values that distinguish the cells: model, stride, decoder, fusion, match, seed, and the other keys that
        overrides set. Sweeps of earlier versions lack ``match`` and the other keys. run: the name of the run's folder,
        None without a run.
    refused: why the combination is invalid, None if it is valid; error: what is wrong with a value.
    """

    overrides: list[str]
    choices: dict[str, Any]
    run: str | None = None
    refused: str | None = None
    error: str | None = None

    @property
    def label(self) -> str:
        """The cell on one line, where the other cells of the sweep are unknown; see ``labels`` for those of a sweep."""
        view = view_of(self, {})
        words = [full_name(self.choices), VIEW_WORDS.get(view, view), f"seed={self.choices.get('seed')}"]
        return " ".join(filter(None, words))

    @property
    def place(self) -> tuple[str, ...]:
        """The key of the cell in its sweep: its overrides without the folder of the data."""
        return tuple(override for override in self.overrides if not override.startswith("data.root="))


def add(
    folder: Path, *new: Cell, tuning_seeds: Iterable[int] | None = None, options: Iterable[str] | None = None
) -> None:
    """Add cells to ``sweep.json``, or replace them there. Several processes may do so at the same time.

    tuning_seeds: see ``read_tuning_seeds``. options: see ``read_options``. None keeps what the file has.
    """
    with file_lock(folder, busy=lambda: None):
        record = read_record(inside(folder, FILE), SweepRecord)
        before = [Cell(**entry) for entry in record.get("cells", [])]
        kept = {cell.place: cell for cell in before} | {cell.place: cell for cell in new}
        seeds = record.get("tuning_seeds") if tuning_seeds is None else [*tuning_seeds]
        entries: dict[str, Any] = {"name": folder.name, "tuning_seeds": seeds}
        if given := (record.get("options") if options is None else [*options]):
            entries["options"] = given
        if list(kept.values()) == before and all(record.get(key) == value for key, value in entries.items()):
            return
        write_json(inside(folder, FILE), entries | {"cells": [cell._asdict() for cell in kept.values()]})


def read_options(folder: Path) -> list[str]:
    """Return what a command of this sweep gives before its overrides, for example ``--config-dir=my_conf``."""
    return list(read_record(inside(folder, FILE), SweepRecord).get("options") or [])


def read_tuning_seeds(folder: Path) -> list[int] | None:
    """Read the seeds that are used to tune nuisance factors, never to compare networks; None where none are given."""
    return read_record(inside(folder, FILE), SweepRecord).get("tuning_seeds")


def read(folder: Path) -> list[Cell]:
    """Read the cells of a sweep, in the order in which they were added; an empty list where there is no sweep."""
    return [Cell(**entry) for entry in read_record(inside(folder, FILE), SweepRecord).get("cells", [])]


def labelled(folder: Path) -> list[tuple[Cell, str]]:
    """Return the cells of a sweep with their labels, which no two of them have in common."""
    listed = read(folder)
    return list(zip(listed, labels(listed), strict=True))


def status(folder: Path, cell: Cell) -> str:
    """Return the status of a cell: ``refused`` for an invalid one, ``missing``, or the status in its run's record.

    It is ``failed`` for a cell with a wrong value, and ``interrupted`` where the record says running, but no process is
    running. It is ``extended`` where the run was resumed for more epochs and is finished: it is not the cell's run any
    more.
    """
    if cell.refused:
        return "refused"
    if cell.run is None:
        return "failed"
    run = Run(inside(folder, cell.run))
    recorded = str(run.record.get("status", "missing"))
    if recorded == "finished" and run.record.get("extended_from"):
        return "extended"
    return "interrupted" if recorded == "running" and not run.is_running else recorded
