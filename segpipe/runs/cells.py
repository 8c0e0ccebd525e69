"""What a sweep consists of: ``sweep.json`` lists every cell that was asked for, and the run that is its network."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from segpipe.runs.run import Run, file_lock
from segpipe.runs.storage import read_json, write_json


class Cell(NamedTuple):
    """A place in a sweep. Cells that are the same network have the same run.

    overrides: the command line's, but for those of the sweep itself.
    choices: what tells the cells apart: model, stride, decoder, fusion, match, seed; in sweeps from before there was
        one, no match. run: its folder's name.
    refused: why the combination means nothing, where it does; error: what is wrong with its values.
    """

    overrides: list[str]
    choices: dict[str, Any]
    run: str | None = None
    refused: str | None = None
    error: str | None = None

    @property
    def label(self) -> str:
        """The cell on one line."""
        return " ".join(str(choice) for choice in self.choices.values() if choice is not None)

    @property
    def place(self) -> tuple[str, ...]:
        """What the cell is known by in its sweep, wherever the data lie."""
        return tuple(override for override in self.overrides if not override.startswith("data.root="))


def add(folder: Path, new: Cell, *, tuning_seeds: Iterable[int] | None = None) -> None:
    """Put a cell into ``sweep.json``, in the place it had; several processes may do so at once.

    tuning_seeds: see ``read_tuning_seeds``; None leaves those that are there.
    """
    with file_lock(folder, busy=lambda: None):
        kept = {cell.place: cell for cell in read(folder)}
        known = read_tuning_seeds(folder)
        seeds = known if tuning_seeds is None else [*tuning_seeds]
        if kept.get(new.place) == new and seeds == known:
            return
        kept[new.place] = new
        entries = {"name": folder.name, "tuning_seeds": seeds, "cells": [cell._asdict() for cell in kept.values()]}
        write_json(folder / "sweep.json", entries)


def read_tuning_seeds(folder: Path) -> list[int] | None:
    """The seeds that are for choosing nuisance factors, and never for a comparison; None where none are named."""
    return read_json(folder / "sweep.json").get("tuning_seeds")


def read(folder: Path) -> list[Cell]:
    """The cells of a sweep, as they were asked for; none where there is no sweep."""
    return [Cell(**entry) for entry in read_json(folder / "sweep.json").get("cells", [])]


def status(folder: Path, cell: Cell) -> str:
    """``refused``, ``missing``, or what its run's record says; ``interrupted`` where the run's process is gone.

    ``extended`` where the run was resumed for more epochs, and is finished: it is no longer what the cell asks for.
    """
    if cell.refused:
        return "refused"
    if cell.run is None:
        return "failed"
    run = Run(folder / cell.run)
    found = str(run.record.get("status", "missing"))
    if found == "finished" and run.record.get("extended_from"):
        return "extended"
    return "interrupted" if found == "running" and not run.is_running else found
