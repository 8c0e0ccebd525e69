"""Run folders, read into one table of networks x seeds; what cannot be used is named."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.analysis.design_points import DesignPoint, Spot, design_points
from segpipe.analysis.factors import FACTORS, Factor
from segpipe.analysis.listed import Problem, earlier, first_line, folders, loose, read_config
from segpipe.analysis.scores import MIOU, Score
from segpipe.analysis.settings import Facts, apart, facts, settled
from segpipe.errors import UserError
from segpipe.runs import cells
from segpipe.runs.run import Run, display_path
from segpipe.runs.storage import read_json

BESIDE = {"git": "code commit", "versions": "versions", "data_fingerprint": "data"}  # what a record tells, too


@dataclass(eq=False)
class FinishedRun:
    """A run that is finished and whole; matrices: int (I, C, C), a confusion matrix for every test picture.

    facts: what it was trained as. val: the score on the validation pictures, by which networks are ranked.
    """

    run: Run
    config: dict[str, Any]
    metrics: dict[str, Any]
    matrices: NDArray[np.int32]
    facts: Facts
    val: float


@dataclass(eq=False)
class TrainedNetwork:
    """A network with its run of every seed. places: the cells that it is."""

    places: list[DesignPoint]
    runs: dict[int, FinishedRun] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name of its first place."""
        return self.places[0].label

    @property
    def val(self) -> float:
        """Mean over seeds; NaN without runs."""
        return float(np.mean([run.val for run in self.runs.values()])) if self.runs else float("nan")


@dataclass(eq=False)
class Collection:
    """Everything below a folder. pictures, groups: of the I test pictures, the same for every run.

    apart: how often each value was found of keys in which runs differ though no override tells. asked: whether a list
    says which cells there ought to be. factors: what cells differ in. score: what they are compared by.
    """

    folder: Path
    networks: list[TrainedNetwork]
    seeds: list[int]
    classes: list[str]
    palette: list[tuple[int, int, int]]
    pictures: list[str]
    groups: list[str]
    problems: list[Problem]
    apart: dict[str, Counter[str]] = field(default_factory=dict)
    asked: bool = True
    factors: tuple[Factor, ...] = FACTORS
    score: Score = MIOU

    @cached_property
    def places(self) -> dict[DesignPoint, int]:
        """Which network each place is, by its number."""
        return {place: number for number, network in enumerate(self.networks) for place in network.places}

    @property
    def runs(self) -> list[FinishedRun]:
        """All that are finished."""
        return [run for network in self.networks for run in network.runs.values()]


def collect(folder: Path, *, factors: Sequence[Factor] = FACTORS, score: Score = MIOU) -> Collection:
    """Read a sweep's folder, or any folder with runs in it.

    factors: what its cells differ in; whatever else was varied is part of a cell's setting. score: what networks are
    compared by.
    Raises UserError where there is no finished run in it; anything less is a problem that the collection names.
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
    asked = cells.read(folder)
    listed = [*asked, *earlier(folder, asked)] if asked else loose(folder, problems, factors)
    known = {cell.run for cell in listed}
    listed = without_tuning(folder, listed, problems)
    problems += [
        Problem("foreign", path.name, "not a cell of this sweep; excluded")
        for path in folders(folder)
        if path.name not in known and (path / "config.yaml").is_file()
    ]
    finished = same_test(read_all(folder, listed, problems, factors, score), problems)
    if not finished:
        states = Counter(problem.kind for problem in problems)
        found = ", ".join(f"{number} {kind}" for kind, number in states.items()) or "no runs"
        raise UserError(
            f"{folder}: no finished run ({found}). Give the folder that a sweep printed at its end. "
            f"To resume an interrupted sweep, repeat its command with sweep.name=NAME."
        )
    first = next(iter(finished.values()))
    with np.load(first.run.confusion("test")) as file:
        pictures, groups = file["names"].tolist(), file["groups"].tolist()
    spots = design_points(listed, {name: run.config for name, run in finished.items()}, factors)
    own = apart(spots, {name: run.facts for name, run in finished.items()}, factors)
    networks, twice = merged(spots, own, finished)
    problems += twice
    problems += [
        Problem(
            "extended", cell.label, f"{cell.run} was resumed with another trainer.max_epochs than this cell requests"
        )
        for cell in asked
        if cell.run in finished and "extended_from" in finished[cell.run].facts.values
    ]
    seeds = sorted({seed for network in networks for seed in network.runs})
    record = first.run.record
    palette = [tuple(colour) for colour in record.get("palette") or []]
    values = {
        key: Counter(each.get(key, "not set") for each in own.values()) for key in sorted(set().union(*own.values()))
    }
    return Collection(
        folder, networks, seeds, record["classes"], palette, pictures, groups, problems, values, bool(asked),
        tuple(factors), score,
    )  # fmt: skip


def without_tuning(folder: Path, listed: list[cells.Cell], problems: list[Problem]) -> list[cells.Cell]:
    """The cells that may be compared: those of tuning seeds have chosen what the others are trained with.

    A sweep that has no other seeds, so far, is reported with them.
    """
    tuning = set(cells.read_tuning_seeds(folder) or ())
    kept = [cell for cell in listed if cell.choices["seed"] not in tuning]
    if not kept:
        return listed
    why = "tuning seed (sweep.tuning_seeds); excluded from all comparisons"
    problems += [Problem("tuning", cell.label, why) for cell in listed if cell.choices["seed"] in tuning]
    return kept


def read_all(
    folder: Path, listed: Iterable[cells.Cell], problems: list[Problem], factors: Sequence[Factor], score: Score
) -> dict[str, FinishedRun]:
    """The finished runs by name; each of the others becomes a problem."""
    finished: dict[str, FinishedRun] = {}
    seen: set[str] = set()
    for cell in listed:
        if cell.run in seen:
            continue
        seen.add(cell.run or "")
        state = cells.status(folder, cell)
        if state not in ("finished", "extended"):
            error = cell.refused or cell.error or read_json(folder / str(cell.run) / "run.json").get("error")
            silent = {"running": "still running", "missing": "no run yet"}
            why = str(error).splitlines()[0] if error else silent.get(state, "no reason recorded")
            problems.append(Problem(state, cell.label, why))
            continue
        try:
            finished[str(cell.run)] = read_run(Run(folder / str(cell.run)), factors, score)
        except Exception as error:  # of whatever kind: zlib's, zipfile's, numpy's; one file is not to cost the report
            problems.append(Problem("damaged", cell.label, f"{cell.run}: {first_line(error)}"))
    return finished


def read_run(run: Run, factors: Sequence[Factor] = FACTORS, score: Score = MIOU) -> FinishedRun:
    """Raises whatever reading damaged files raises."""
    metrics = read_json(run.metrics)
    val = val_score(run, metrics, score)
    with run.confusion("test").open("rb") as opened, np.load(opened) as file:
        matrices = file["matrices"]
    if matrices.shape[1:] != (len(run.record["classes"]),) * 2:
        raise ValueError(f"confusion/test.npz is {matrices.shape} for {len(run.record['classes'])} classes")
    config = read_config(run.folder)
    what = facts(config, run.record, name=run.folder.name, factors=factors)
    return FinishedRun(run, config, metrics, matrices, what, val)


def val_score(run: Run, metrics: Mapping[str, Any], score: Score) -> float:
    """The score on validation: as recorded, or of the confusion matrices where the run is older than the score."""
    recorded = metrics["val"]
    if score.key not in recorded and score.of is not None and run.confusion("val").is_file():
        with np.load(run.confusion("val")) as file:
            return score.of_all(file["matrices"])
    return float(recorded[score.key])


def same_test(finished: dict[str, FinishedRun], problems: list[Problem]) -> dict[str, FinishedRun]:
    """Those that were tested on the same pictures of the same classes: what most of them have."""

    def tested(run: FinishedRun) -> tuple[Any, ...]:
        record = run.run.record
        return record.get("data_fingerprint", {}).get("test"), tuple(record["classes"]), len(run.matrices)

    found = Counter(map(tested, finished.values()))
    if len(found) <= 1:
        return finished
    most = found.most_common(1)[0][0]
    for name, run in finished.items():
        if tested(run) != most:
            problems.append(Problem("mixed", name, "tested on other images or classes than most runs; excluded"))
    return {name: run for name, run in finished.items() if tested(run) == most}


def merged(
    spots: list[Spot], own: Mapping[str, Mapping[str, str]], finished: dict[str, FinishedRun]
) -> tuple[list[TrainedNetwork], list[Problem]]:
    """Networks: places with a run in common are one. A finished run is in one, or a problem says which one is instead.

    own: what tells each run apart, beside its place.
    """
    places: dict[DesignPoint, dict[int, str]] = {}
    instead: dict[str, str] = {}
    for spot in spots:
        runs = places.setdefault(settled(spot, own.get(spot.run, {})), {})
        if (first := runs.get(spot.seed)) in finished:
            instead[spot.run] = str(first)
        else:
            runs[spot.seed] = spot.run
    owners: dict[str, TrainedNetwork] = {}
    networks: list[TrainedNetwork] = []
    for place, runs in places.items():
        network = next((owners[run] for run in runs.values() if run in owners), None)
        if network is None:
            network = TrainedNetwork([])
            networks.append(network)
        network.places.append(place)
        for seed, run in runs.items():
            if owners.setdefault(run, network) is network and run in finished:
                instead[run] = network.runs.setdefault(seed, finished[run]).run.folder.name
    used = {run.run.folder.name for network in networks for run in network.runs.values()}
    return networks, [duplicate(run, finished[instead[name]]) for name, run in finished.items() if name not in used]


def duplicate(run: FinishedRun, first: FinishedRun) -> Problem:
    """Two runs of one configuration and seed cannot be told apart, and only one is in the numbers."""
    records = run.run.record, first.run.record
    different = [what for key, what in BESIDE.items() if records[0].get(key) != records[1].get(key)]
    why = f"same configuration and seed as {first.run.folder.name}, which is used; this run is excluded"
    return Problem(
        "duplicate", run.run.folder.name, why + (f". Different: {', '.join(different)}" if different else "")
    )
