"""Read the folder of a sweep into a collection: its networks with their runs, and what cannot be used."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segpipe.analysis.cell_list import Problem, cells_of_earlier_runs, cells_of_runs, run_folders
from segpipe.analysis.collection import Collection, FinishedRun, TrainedNetwork
from segpipe.analysis.design_points import DesignPoint, PlacedRun, find_levels, place
from segpipe.analysis.factors import FACTORS, Factor
from segpipe.analysis.finished_runs import CellNames, keep_same_test_set, read_finished, val_score
from segpipe.analysis.roles import Roles, choose_roles, find_key
from segpipe.analysis.scores import MIOU, ReportScore
from segpipe.analysis.settings import add_hidden, drop_without_effect, hidden_keys
from segpipe.analysis.tuned import at_chosen_levels
from segpipe.errors import UserError
from segpipe.runs import cells
from segpipe.runs.archive import as_folder
from segpipe.runs.counts import read_confusion
from segpipe.runs.labels import labels
from segpipe.runs.run import Run, display_path

# Keys of run.json in which duplicates are compared, with their names in the message
COMPARED_KEYS = {"git": "code commit", "versions": "versions", "data_fingerprint": "data"}


def collect(
    folder: Path,
    *,
    factors: Sequence[Factor] | None = None,
    roles: Roles | None = None,
    tuned: Sequence[str] = (),
    score: ReportScore = MIOU,
) -> Collection:
    """Read the folder of a sweep, its archive, or any folder that contains runs.

    factors: the factors of a group of cells; None takes those that differ between the cells. roles: which factors are
    drawn, averaged over, or form groups. tuned: keys whose level was chosen for each cell. score: the score that is
    compared.
    Raises UserError if no run is finished; other faults are listed in ``problems`` of the result.
    """
    folder = as_folder(folder)
    if factors is not None and not factors:
        raise UserError("factors is empty. Give at least one factor in which the cells of the folder differ.")
    check_folder(folder)
    problems: list[Problem] = []
    requested = cells.read(folder)
    all_cells = list_cells(folder, requested, problems, factors or FACTORS)
    names = {(tuple(cell.overrides), cell.run): name for cell, name in zip(all_cells, labels(all_cells), strict=True)}
    if not tuned:
        all_cells = exclude_tuning_seeds(folder, all_cells, problems, names)
    finished = keep_same_test_set(read_finished(folder, all_cells, problems, names, score), problems)
    if not finished:
        raise no_finished_run(folder, problems)
    facts = {name: run.facts for name, run in finished.items()}
    design = find_levels(all_cells, {name: run.config for name, run in finished.items()}, factors or ())
    drop_without_effect(design, facts)
    separating = add_hidden(design, hidden_keys(design, facts), facts)
    val = {name: run.val for name, run in finished.items()}
    chosen = None
    if keys := [find_key(design, key, "--tuned") for key in dict.fromkeys(tuned)]:
        miou = {name: val_score(run.run, run.metrics, MIOU) for name, run in finished.items()}
        chosen = at_chosen_levels(design, keys, cells.read_tuning_seeds(folder) or (), miou, problems)
    inner, averaged = choose_roles(design, roles, val, [factor.key for factor in factors or ()])
    named = {problem.label for problem in problems}
    networks, unused = group_networks(place(design, inner), finished)
    problems += [problem for problem in unused if problem.label not in named]
    problems += extended_problems(requested, names, finished)
    if chosen and not any(network.runs for network in networks):
        raise UserError(
            f"{folder}: no run is at a level of {chosen.name} that validation chose. Run segpipe.tune, and "
            f"the command that it prints, first; without --tuned, the runs are compared as they are."
        )
    return Collection(
        folder,
        networks,
        seeds=sorted({seed for network in networks for seed in network.runs}),
        problems=problems,
        separating=separating,
        has_cell_list=bool(requested),
        factors=tuple(design.factors[key] for key in inner),
        score=score,
        outer=tuple(factor for key, factor in design.factors.items() if key not in inner),
        averaged=tuple(design.factors[key] for key in averaged),
        tuned=chosen,
        **tested_on(next(iter(finished.values()))),
    )


def extended_problems(
    requested: Sequence[cells.Cell], names: CellNames, finished: Mapping[str, FinishedRun]
) -> list[Problem]:
    """Return a problem for each requested cell whose run was resumed for more epochs."""
    return [
        Problem(
            "extended",
            names[tuple(cell.overrides), cell.run],
            f"{cell.run} was resumed with another trainer.max_epochs than this cell requests",
        )
        for cell in requested
        if cell.run and cell.run in finished and "extended_from" in finished[cell.run].facts.values
    ]


def tested_on(run: FinishedRun) -> dict[str, Any]:
    """Return the classes, the palette, the test images and their groups, which all runs have in common."""
    counts, record = read_confusion(run.run.confusion("test")), run.run.record
    return {
        "classes": record["classes"],
        "palette": [tuple(colour) for colour in record.get("palette") or []],
        "images": counts["names"].tolist(),
        "groups": counts["groups"].tolist(),
    }


def check_folder(folder: Path) -> None:
    """Raise UserError if a folder does not exist, or is that of a single run."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder. Give the folder of a sweep, outputs/sweeps/NAME, or another folder with runs."
        )
    if Run(folder).config.is_file():
        raise UserError(
            f"{folder}: the folder of a single run. Give the folder that contains it, {display_path(folder.parent)}."
        )


def no_finished_run(folder: Path, problems: Sequence[Problem]) -> UserError:
    """Return the error of a folder without a finished run."""
    states = Counter(problem.kind for problem in problems)
    summary = ", ".join(f"{number} {kind}" for kind, number in states.items()) or "no runs"
    return UserError(
        f"{folder}: no finished run ({summary}). Give the folder that a sweep printed at its end. "
        f"To resume an interrupted sweep, repeat its command with sweep.name=NAME."
    )


def list_cells(
    folder: Path, requested: list[cells.Cell], problems: list[Problem], factors: Sequence[Factor]
) -> list[cells.Cell]:
    """Return the requested cells and those of earlier starts; without a list, the cells of the runs.

    Adds a problem for each run that is none of them, and for a damaged list.
    """
    if not requested and (folder / cells.FILE).is_file():
        problems.append(Problem("damaged", cells.FILE, "it is damaged, so the cells are those of the runs"))
    all_cells = (
        [*requested, *cells_of_earlier_runs(folder, requested)]
        if requested
        else cells_of_runs(folder, problems, factors)
    )
    names = {cell.run for cell in all_cells}
    links = sorted(path.name for path in folder.iterdir() if path.is_symlink() and path.is_dir())
    problems += [Problem("foreign", name, "a link, which is not followed; excluded") for name in links]
    problems += [
        Problem("foreign", path.name, "not a cell of this sweep; excluded")
        for path in run_folders(folder)
        if path.name not in names and (path / "config.yaml").is_file()
    ]
    return all_cells


def exclude_tuning_seeds(
    folder: Path, all_cells: list[cells.Cell], problems: list[Problem], names: CellNames
) -> list[cells.Cell]:
    """Return the cells without those of tuning seeds, which were used to choose the levels of the other cells.

    If a sweep has no other seeds yet, all its cells are returned. Adds a problem for each excluded cell.
    """
    tuning = set(cells.read_tuning_seeds(folder) or ())
    kept = [cell for cell in all_cells if cell.choices["seed"] not in tuning]
    if not kept:
        return all_cells
    reason = "tuning seed (sweep.tuning_seeds); excluded from all comparisons"
    problems += [
        Problem("tuning", names[tuple(cell.overrides), cell.run], reason)
        for cell in all_cells
        if cell.choices["seed"] in tuning
    ]
    return kept


def group_networks(
    placed_runs: list[PlacedRun], finished: dict[str, FinishedRun]
) -> tuple[list[TrainedNetwork], list[Problem]]:
    """Return the networks, and a problem for each run that is a duplicate.

    Design points that share a run are one network.
    """
    runs_of_points: dict[DesignPoint, dict[int, str]] = {}
    used_runs: dict[str, str] = {}
    for placed in placed_runs:
        runs = runs_of_points.setdefault(placed.point, {})
        if (first := runs.get(placed.seed)) in finished:
            used_runs[placed.run] = str(first)
        else:
            runs[placed.seed] = placed.run
    owners: dict[str, TrainedNetwork] = {}
    networks: list[TrainedNetwork] = []
    for point, runs in runs_of_points.items():
        network = next((owners[run] for run in runs.values() if run in owners), None)
        if network is None:
            network = TrainedNetwork([])
            networks.append(network)
        network.points.append(point)
        for seed, run in runs.items():
            if owners.setdefault(run, network) is network and run in finished:
                used_runs[run] = network.runs.setdefault(seed, finished[run]).run.folder.name
    used = {run.run.folder.name for network in networks for run in network.runs.values()}
    unused = {name: run for name, run in finished.items() if name not in used}
    return networks, [
        duplicate_problem(run, finished[used_runs[name]])
        if name in used_runs
        else Problem("foreign", name, "its place among the cells of this folder is unknown; excluded")
        for name, run in unused.items()
    ]


def duplicate_problem(run: FinishedRun, first: FinishedRun) -> Problem:
    """Return the problem of a second run with the same configuration and seed, of which only the first is used."""
    records = run.run.record, first.run.record
    different = [name for key, name in COMPARED_KEYS.items() if records[0].get(key) != records[1].get(key)]
    identities = [record.get("identity") for record in records]
    same = f"same configuration and seed as {first.run.folder.name}"
    if None not in identities and identities[0] != identities[1]:
        same = (
            f"identity {identities[0]}, but the same cell and seed as {first.run.folder.name} with identity "
            f"{identities[1]}, and no key of their configurations differs"
        )
    reason = f"{same}, which is used; this run is excluded"
    return Problem(
        "duplicate", run.run.folder.name, reason + (f". Different: {', '.join(different)}" if different else "")
    )
