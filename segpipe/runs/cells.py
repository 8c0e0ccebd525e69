"""The cells of a sweep: ``sweep.json`` lists every requested cell and the run that trains its network."""

import itertools
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from segpipe.runs.identity_keys import LOCATIONS
from segpipe.runs.labels import (
    CHOICES,
    VIEW_WORDS,
    full_name,
    has_effect,
    labels,
    override_values,
    parse_level,
    view_of,
)
from segpipe.runs.records import SweepRecord, read_record, write_record
from segpipe.runs.run import Run, display_path, file_lock
from segpipe.runs.storage import SET_ASIDE, inside

FILE = "sweep.json"
Place = frozenset[tuple[str, str]]  # keys with their levels


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
    def place(self) -> Place:
        """The key of the cell in its sweep: the levels of its overrides, in any order, if they have an effect."""
        return place_of(self.overrides)


def place_of(overrides: Iterable[str]) -> Place:
    """Return the place of a cell with some overrides; see ``Cell.place``."""
    values = override_values(overrides)
    return frozenset((key, repr(parse_level(value))) for key, value in values.items() if has_effect(key))


def without(place: Place, keys: Collection[str]) -> Place:
    """Return a place without some keys."""
    return frozenset(entry for entry in place if entry[0] not in keys)


class CellList:
    """The cells of a sweep in the order in which they were added. A cell is found again after another start.

    listed: the cells of the file. requested: the places of all cells of this start, which stay cells of their own; None
    if they are unknown.
    """

    def __init__(self, listed: Iterable[Cell], requested: Collection[Place] | None) -> None:
        self.requested = requested
        self.entries: dict[int, tuple[Cell, Place]] = {}
        self.next = 0
        self.by_place: defaultdict[Place, list[int]] = defaultdict(list)
        self.by_run: defaultdict[str, list[int]] = defaultdict(list)
        for cell in listed:
            self.put(cell, at=[])

    @property
    def cells(self) -> list[Cell]:
        """The cells in order."""
        return [self.entries[index][0] for index in sorted(self.entries)]

    def find(self, cell: Cell) -> list[int]:
        """Return the indices of the entries that stand for a cell."""
        place = cell.place
        near = {*self.by_place[without(place, LOCATIONS)]}
        near |= {*self.by_run[cell.run]} if cell.run else set()
        found = (index for index in near if index in self.entries)
        return sorted(index for index in found if self.is_same(*self.entries[index], cell, place))

    def is_same(self, earlier: Cell, earlier_place: Place, cell: Cell, place: Place) -> bool:
        """Return whether an entry stands for a cell: they have the same place, or the entry is of another start.

        Another start may find the data elsewhere: then the run is the same one, or the entry has none. Or it gives a
        key that changes nothing: then the run is the same one, with the same choices.
        """
        if earlier_place == place:
            return True
        same_run = cell.run is not None and earlier.run == cell.run
        shared, other = without(earlier_place, LOCATIONS), without(place, LOCATIONS)
        if self.requested is None:
            return same_run and shared == other
        if earlier_place in self.requested:
            return False
        if shared == other:
            return same_run or earlier.run is None
        return same_run and (shared < other or other < shared) and choices_of(earlier) == choices_of(cell)

    def put(self, cell: Cell, *, at: list[int] | None = None) -> None:
        """Add a cell, in place of the entries that stand for it. at: their indices; None looks for them."""
        first, *others = (self.find(cell) if at is None else at) or [self.next]
        self.next = max(self.next, first + 1)
        for index in others:
            del self.entries[index]
        place = cell.place
        self.entries[first] = cell, place
        self.by_place[without(place, LOCATIONS)].append(first)
        if cell.run:
            self.by_run[cell.run].append(first)


def choices_of(cell: Cell) -> tuple[Any, ...]:
    """Return the choices that every cell has."""
    return (*(cell.choices.get(key) for key in (*CHOICES, "seed")), view_of(cell, {}))


def add(
    folder: Path,
    *new: Cell,
    tuning_seeds: Iterable[int] | None = None,
    options: Iterable[str] | None = None,
    requested: Collection[Place] | None = None,
) -> None:
    """Add cells to ``sweep.json``, or replace them there. Several processes may do so at the same time.

    tuning_seeds: see ``read_tuning_seeds``. options: see ``read_options``. None keeps what the file has. requested: see
    ``CellList``.
    """
    with file_lock(folder, busy=lambda: None):
        path = inside(folder, FILE)
        record = read_record(path, SweepRecord)
        if not record and path.exists():
            set_aside(path)
        before = [Cell(**entry) for entry in record.get("cells", [])]
        listed = CellList(before, requested)
        for cell in new:
            listed.put(cell)
        seeds = record.get("tuning_seeds") if tuning_seeds is None else [*tuning_seeds]
        entries: dict[str, Any] = {"name": folder.name, "tuning_seeds": seeds}
        if given := (record.get("options") if options is None else [*options]):
            entries["options"] = given
        if listed.cells == before and all(record.get(key) == value for key, value in entries.items()):
            return
        write_record(path, entries | {"cells": [cell._asdict() for cell in listed.cells]}, SweepRecord)


def set_aside(path: Path) -> None:
    """Rename a list that cannot be read, and print that: it may be one of a later version, or one edited by hand."""
    names = (path.with_name(f"{path.name}{SET_ASIDE}{number or ''}") for number in itertools.count())
    new = next(name for name in names if not name.exists())
    path.rename(new)
    print(
        f"Note: {display_path(path)} cannot be read as a list of cells, so it is now {new.name}. A new list holds the "
        f"cells of this start; for those of earlier starts, repair the file, or run their commands again.",
        file=sys.stderr,
    )


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
