"""Which cells a folder holds: those of its sweep's list, or those that its runs are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from segpipe.analysis.factors import FACTORS, Factor, in_order_of_names
from segpipe.runs import cells
from segpipe.runs.renames import upgrade
from segpipe.runs.run import Run


class Problem(NamedTuple):
    """What is not in the numbers, or not as it was asked for.

    kind: missing, running, interrupted, failed, refused, damaged, foreign, mixed, tuning, duplicate, extended.
    """

    kind: str
    what: str
    why: str


def loose(folder: Path, problems: list[Problem], factors: Sequence[Factor] = FACTORS) -> list[cells.Cell]:
    """The cells that the runs of a folder without a list are."""
    return [cell for path in folders(folder) if (cell := cell_of(path, problems, factors))]


def earlier(folder: Path, asked: list[cells.Cell]) -> list[cells.Cell]:
    """Finished runs of earlier starts of a sweep, which its list names no more: an experiment's file was edited, say.

    Each is the cell of the overrides that its record has.
    """
    of = {tuple(cell.overrides): cell for cell in asked}
    listed = {cell.run for cell in asked}
    found = []
    for path in folders(folder):
        if path.name in listed or (run := Run(path)).record.get("status") != "finished":
            continue
        if (own := tuple(run.cell_overrides)) in of:
            found.append(of[own]._replace(run=path.name, refused=None, error=None))
    return found


def folders(folder: Path) -> list[Path]:
    """What lies in it, in order."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def cell_of(path: Path, problems: list[Problem], factors: Sequence[Factor] = FACTORS) -> cells.Cell | None:
    """The cell that a run of its own would be; None, and a problem, where the folder is no run, or damaged."""
    if not (path / "config.yaml").is_file():
        problems.append(Problem("foreign", path.name, "no config.yaml, so it is not a run"))
        return None
    try:
        config = read_config(path)
        levels = {factor.key: factor.level_in(config) for factor in in_order_of_names(factors)}
        choices = {"model": config["model"]["name"], **levels, "seed": config["seed"]}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        problems.append(Problem("damaged", path.name, f"config.yaml: {first_line(error)}"))
        return None
    overrides = Run(path).record.get("overrides") or []
    return cells.Cell([str(override) for override in overrides], choices, run=path.name)


def read_config(path: Path) -> dict[str, Any]:
    """A run's configuration, by the fast reader: it is resolved already."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load((path / "config.yaml").read_text(encoding="utf-8"), loader)
    if not isinstance(content, dict):
        raise TypeError("not a configuration")
    return upgrade(content)  # type: ignore[no-any-return]


def first_line(error: Exception) -> str:
    """What an error says, short."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")
