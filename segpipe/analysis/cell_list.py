"""The cells of a folder: those of the sweep's list, or those of the runs if there is no list."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segpipe.analysis.factors import FACTORS, Factor, in_order_of_names
from segpipe.errors import UserError
from segpipe.runs import cells
from segpipe.runs.renames import upgrade
from segpipe.runs.run import Run
from segpipe.runs.storage import inside, is_component, read_yaml


class Problem(NamedTuple):
    """A run or cell that is excluded from the numbers, or that differs from what was requested.

    kind: missing, running, interrupted, failed, refused, damaged, foreign, mixed, tuning, duplicate, extended.
    label: the cell or the folder. reason: one line.
    """

    kind: str
    label: str
    reason: str


def cells_of_runs(folder: Path, problems: list[Problem], factors: Sequence[Factor] = FACTORS) -> list[cells.Cell]:
    """Return the cells of the runs of a folder that has no list. Adds a problem for each folder that is no run."""
    return [cell for path in run_folders(folder) if (cell := cell_of_run(path, problems, factors))]


def cells_of_earlier_runs(folder: Path, requested: list[cells.Cell]) -> list[cells.Cell]:
    """Return the cells of finished runs of earlier starts of a sweep that its list no longer names.

    This happens if the experiment's file was edited between two starts. Each run is assigned to the cell with the
    overrides in its record.
    """
    by_overrides = {tuple(cell.overrides): cell for cell in requested}
    known = {cell.run for cell in requested}
    earlier_cells = []
    for path in run_folders(folder):
        if path.name in known or (run := Run(path)).record.get("status") != "finished":
            continue
        if (overrides := tuple(run.cell_overrides)) in by_overrides:
            earlier_cells.append(by_overrides[overrides]._replace(run=path.name, refused=None, error=None))
    return earlier_cells


def run_folders(folder: Path) -> list[Path]:
    """Return the sorted subfolders, without hidden ones, links, and names with control characters."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.is_symlink() and is_component(path.name) and not path.name.startswith(".")
    )


def cell_of_run(path: Path, problems: list[Problem], factors: Sequence[Factor] = FACTORS) -> cells.Cell | None:
    """Return the cell of a run by its configuration; None, with a problem, if the folder is no run or is damaged."""
    if not (path / "config.yaml").is_file():
        problems.append(Problem("foreign", path.name, "no config.yaml, so it is not a run"))
        return None
    try:
        config = read_config(path)
        levels = {factor.key: factor.level_in(config) for factor in in_order_of_names(factors)}
        choices = {"model": config["model"]["name"], **levels, "seed": config["seed"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        problems.append(Problem("damaged", path.name, f"config.yaml: {first_line(error)}"))
        return None
    overrides = Run(path).record.get("overrides") or []
    return cells.Cell([str(override) for override in overrides], choices, run=path.name)


def read_config(path: Path) -> dict[str, Any]:
    """Return the resolved configuration of a run as data, with the present paths of classes.

    Raises ValueError, OSError or UserError if the file is damaged.
    """
    return upgrade(read_yaml(inside(path, "config.yaml")))  # type: ignore[no-any-return]


def first_line(error: Exception) -> str:
    """Return the type and the first line of an error."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")
