"""Read the run folders of a sweep into one table of networks and seeds, and list what cannot be used."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.analysis.cell_list import (
    Problem,
    cells_of_earlier_runs,
    cells_of_runs,
    first_line,
    read_config,
    run_folders,
)
from segpipe.analysis.design_points import DesignPoint, PlacedRun, design_points
from segpipe.analysis.factors import FACTORS, Factor
from segpipe.analysis.scores import MIOU, ReportScore
from segpipe.analysis.settings import TrainingFacts, point_with_setting, separating_values, training_facts
from segpipe.errors import UserError
from segpipe.runs import cells
from segpipe.runs.counts import read_confusion
from segpipe.runs.records import Metrics, read_record
from segpipe.runs.run import Run, display_path
from segpipe.runs.storage import inside

COMPARED_KEYS = {
    "git": "code commit",
    "versions": "versions",
    "data_fingerprint": "data",
}  # keys of run.json, with their names


@dataclass(eq=False)
class FinishedRun:
    """A finished run with intact files.

    matrices: int (I, C, C), a confusion matrix for each test image, rows true. facts: the configuration that can change
    its result. val: the score on the validation images, by which networks are ranked.
    """

    run: Run
    config: dict[str, Any]
    metrics: dict[str, Any]
    matrices: NDArray[np.int32]
    facts: TrainingFacts
    val: float


@dataclass(eq=False)
class TrainedNetwork:
    """A network and its runs by seed.

    points: the design points (cells) that are this network.
    """

    points: list[DesignPoint]
    runs: dict[int, FinishedRun] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The label of its first design point."""
        return self.points[0].label

    @property
    def val(self) -> float:
        """The mean validation score over seeds; NaN without runs."""
        return float(np.mean([run.val for run in self.runs.values()])) if self.runs else float("nan")


@dataclass(eq=False)
class Collection:
    """All networks and runs below a folder.

    images, groups: names of the I test images and of their groups, the same for every run. separating: for each key in
    which runs differ although no override sets it, how often each value occurs. has_cell_list: whether a sweep's list
    defines the requested cells. factors: the factors of the design. score: the score that is compared.
    """

    folder: Path
    networks: list[TrainedNetwork]
    seeds: list[int]
    classes: list[str]
    palette: list[tuple[int, int, int]]
    images: list[str]
    groups: list[str]
    problems: list[Problem]
    separating: dict[str, Counter[str]] = field(default_factory=dict)
    has_cell_list: bool = True
    factors: tuple[Factor, ...] = FACTORS
    score: ReportScore = MIOU

    @cached_property
    def points(self) -> dict[DesignPoint, int]:
        """The index of the network of each design point."""
        return {point: number for number, network in enumerate(self.networks) for point in network.points}

    @property
    def runs(self) -> list[FinishedRun]:
        """All finished runs that are used."""
        return [run for network in self.networks for run in network.runs.values()]


def collect(folder: Path, *, factors: Sequence[Factor] = FACTORS, score: ReportScore = MIOU) -> Collection:
    """Read the folder of a sweep, or any folder that contains runs.

    factors: the factors of the design; any other key that varies is part of a cell's setting. score: the score that is
    compared.
    Raises UserError if no run is finished; other faults are listed in ``problems`` of the result.
    """
    if not factors:
        raise UserError("factors is empty. Give at least one factor in which the cells of the folder differ.")
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder. Give the folder of a sweep, outputs/sweeps/NAME, or another folder with runs."
        )
    if Run(folder).config.is_file():
        raise UserError(
            f"{folder}: the folder of a single run. Give the folder that contains it, {display_path(folder.parent)}."
        )
    problems: list[Problem] = []
    requested = cells.read(folder)
    all_cells = exclude_tuning_seeds(folder, list_cells(folder, requested, problems, factors), problems)
    finished = keep_same_test_set(read_finished(folder, all_cells, problems, factors, score), problems)
    if not finished:
        states = Counter(problem.kind for problem in problems)
        summary = ", ".join(f"{number} {kind}" for kind, number in states.items()) or "no runs"
        raise UserError(
            f"{folder}: no finished run ({summary}). Give the folder that a sweep printed at its end. "
            f"To resume an interrupted sweep, repeat its command with sweep.name=NAME."
        )
    first = next(iter(finished.values()))
    counts = read_confusion(first.run.confusion("test"))
    images, groups = counts["names"].tolist(), counts["groups"].tolist()
    placed_runs = design_points(all_cells, {name: run.config for name, run in finished.items()}, factors)
    separating = separating_values(placed_runs, {name: run.facts for name, run in finished.items()}, factors)
    networks, duplicates = group_networks(placed_runs, separating, finished)
    problems += duplicates
    problems += [
        Problem(
            "extended", cell.label, f"{cell.run} was resumed with another trainer.max_epochs than this cell requests"
        )
        for cell in requested
        if cell.run in finished and "extended_from" in finished[cell.run].facts.values
    ]
    seeds = sorted({seed for network in networks for seed in network.runs})
    record = first.run.record
    palette = [tuple(colour) for colour in record.get("palette") or []]
    value_counts = {
        key: Counter(each.get(key, "not set") for each in separating.values())
        for key in sorted(set().union(*separating.values()))
    }
    return Collection(
        folder, networks, seeds, record["classes"], palette, images, groups, problems, value_counts, bool(requested),
        tuple(factors), score,
    )  # fmt: skip


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


def exclude_tuning_seeds(folder: Path, all_cells: list[cells.Cell], problems: list[Problem]) -> list[cells.Cell]:
    """Return the cells without those of tuning seeds, which were used to choose the levels of the other cells.

    If a sweep has no other seeds yet, all its cells are returned. Adds a problem for each excluded cell.
    """
    tuning = set(cells.read_tuning_seeds(folder) or ())
    kept = [cell for cell in all_cells if cell.choices["seed"] not in tuning]
    if not kept:
        return all_cells
    reason = "tuning seed (sweep.tuning_seeds); excluded from all comparisons"
    problems += [Problem("tuning", cell.label, reason) for cell in all_cells if cell.choices["seed"] in tuning]
    return kept


def read_finished(
    folder: Path,
    all_cells: Iterable[cells.Cell],
    problems: list[Problem],
    factors: Sequence[Factor],
    score: ReportScore,
) -> dict[str, FinishedRun]:
    """Return the finished runs by folder name. Adds a problem for each cell without one."""
    finished: dict[str, FinishedRun] = {}
    seen: set[str] = set()
    for cell in all_cells:
        if cell.run in seen:
            continue
        seen.add(cell.run or "")
        try:
            state = cells.status(folder, cell)
            run = Run(inside(folder, cell.run)) if cell.run else None
        except (UserError, OSError) as unreadable:  # a link, or a folder that may not be read
            problems.append(Problem("damaged", cell.label, str(unreadable)))
            continue
        if run is None or state not in ("finished", "extended"):
            error = cell.refused or cell.error or (run and run.record.get("error"))
            defaults = {"running": "still running", "missing": "no run yet"}
            reason = str(error).splitlines()[0] if error else defaults.get(state, "no reason recorded")
            problems.append(Problem(state, cell.label, reason))
            continue
        try:
            finished[str(cell.run)] = read_run(run, factors, score)
        except Exception as error:  # errors of zlib, zipfile, numpy and others; a damaged file must not stop the report
            problems.append(Problem("damaged", cell.label, f"{cell.run}: {first_line(error)}"))
    return finished


def read_run(run: Run, factors: Sequence[Factor] = FACTORS, score: ReportScore = MIOU) -> FinishedRun:
    """Return a finished run. Damaged files raise whatever their readers raise."""
    metrics = read_record(run.metrics, Metrics)
    if not metrics:
        raise ValueError("metrics.json is missing or damaged")
    val = val_score(run, metrics, score)
    matrices = read_confusion(run.confusion("test"))["matrices"]
    if matrices.shape[1:] != (len(run.record["classes"]),) * 2:
        raise ValueError(f"confusion/test.npz is {matrices.shape} for {len(run.record['classes'])} classes")
    if score.compute is not None and np.isnan(score.of_all(matrices)):
        raise ValueError(f"it has no {score.label} on test: no test mask has a labelled pixel")
    config = read_config(run.folder)
    run_facts = training_facts(config, run.record, name=run.folder.name, factors=factors)
    return FinishedRun(run, config, metrics, matrices, run_facts, val)


def val_score(run: Run, metrics: Mapping[str, Any], score: ReportScore) -> float:
    """Return the validation score: as recorded, or from the confusion matrices if the run is older than the score."""
    recorded = metrics["val"]
    if score.key not in recorded and score.compute is not None and run.confusion("val").is_file():
        return score.of_all(read_confusion(run.confusion("val"))["matrices"])
    if recorded.get(score.key) is None:
        raise ValueError(f"it has no {score.label} on validation: no mask of that split has a labelled pixel, perhaps")
    return float(recorded[score.key])


def keep_same_test_set(finished: dict[str, FinishedRun], problems: list[Problem]) -> dict[str, FinishedRun]:
    """Return the runs that were tested on the most common test set. Adds a problem for each of the others."""

    def test_key(run: FinishedRun) -> tuple[Any, ...]:
        record = run.run.record
        return record.get("data_fingerprint", {}).get("test"), tuple(record["classes"]), len(run.matrices)

    counts = Counter(map(test_key, finished.values()))
    if len(counts) <= 1:
        return finished
    commonest = counts.most_common(1)[0][0]
    for name, run in finished.items():
        if test_key(run) != commonest:
            problems.append(Problem("mixed", name, "tested on other images or classes than most runs; excluded"))
    return {name: run for name, run in finished.items() if test_key(run) == commonest}


def group_networks(
    placed_runs: list[PlacedRun], separating: Mapping[str, Mapping[str, str]], finished: dict[str, FinishedRun]
) -> tuple[list[TrainedNetwork], list[Problem]]:
    """Return the networks, and a problem for each run that is a duplicate.

    Design points that share a run are one network.
    separating: for each run, the values that separate it from other runs of its design point.
    """
    runs_of_points: dict[DesignPoint, dict[int, str]] = {}
    used_runs: dict[str, str] = {}
    for placed in placed_runs:
        runs = runs_of_points.setdefault(point_with_setting(placed, separating.get(placed.run, {})), {})
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
    return networks, [
        duplicate_problem(run, finished[used_runs[name]]) for name, run in finished.items() if name not in used
    ]


def duplicate_problem(run: FinishedRun, first: FinishedRun) -> Problem:
    """Return the problem of a second run with the same configuration and seed, of which only the first is used."""
    records = run.run.record, first.run.record
    different = [name for key, name in COMPARED_KEYS.items() if records[0].get(key) != records[1].get(key)]
    reason = f"same configuration and seed as {first.run.folder.name}, which is used; this run is excluded"
    return Problem(
        "duplicate", run.run.folder.name, reason + (f". Different: {', '.join(different)}" if different else "")
    )
