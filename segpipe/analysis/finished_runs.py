"""Read the finished runs among the cells of a folder; a run that cannot be used is a problem, with its reason."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segpipe.analysis.cell_list import Problem, first_line, read_config
from segpipe.analysis.collection import FinishedRun
from segpipe.analysis.scores import MIOU, ReportScore
from segpipe.analysis.settings import training_facts
from segpipe.errors import UserError
from segpipe.runs import cells
from segpipe.runs.counts import read_boundaries, read_confusion
from segpipe.runs.records import Metrics, read_record
from segpipe.runs.run import Run
from segpipe.runs.storage import inside

CellNames = Mapping[tuple[tuple[str, ...], str | None], str]  # label by overrides and run


def read_finished(
    folder: Path,
    all_cells: Iterable[cells.Cell],
    problems: list[Problem],
    names: CellNames,
    score: ReportScore,
) -> dict[str, FinishedRun]:
    """Return the finished runs by folder name. Adds a problem for each cell without one."""
    finished: dict[str, FinishedRun] = {}
    seen: set[str] = set()
    for cell in all_cells:
        if cell.run in seen and cell.run:
            continue
        seen.add(cell.run or "")
        name = names[tuple(cell.overrides), cell.run]
        try:
            state = cells.status(folder, cell)
            run = Run(inside(folder, cell.run)) if cell.run else None
        except (UserError, OSError) as unreadable:  # a link, or a folder that may not be read
            problems.append(Problem("damaged", name, str(unreadable)))
            continue
        if run is None or state not in ("finished", "extended"):
            error = cell.refused or cell.error or (run and run.record.get("error"))
            defaults = {"running": "still running", "missing": "no run yet"}
            reason = str(error).splitlines()[0] if error else defaults.get(state, "no reason recorded")
            problems.append(Problem(state, name, reason))
            continue
        try:
            finished[str(cell.run)] = read_run(run, score)
        except Exception as error:  # errors of zlib, zipfile, numpy and others; a damaged file must not stop the report
            problems.append(Problem("damaged", name, f"{cell.run}: {first_line(error)}"))
    return finished


def read_run(run: Run, score: ReportScore = MIOU) -> FinishedRun:
    """Return a finished run. Damaged files raise whatever their readers raise."""
    metrics = read_record(run.metrics, Metrics)
    if not metrics:
        raise ValueError("metrics.json is missing or damaged")
    val = val_score(run, metrics, score.ranking)
    matrices = read_confusion(run.confusion("test"))["matrices"]
    if matrices.shape[1:] != (len(run.record["classes"]),) * 2:
        raise ValueError(f"confusion/test.npz is {matrices.shape} for {len(run.record['classes'])} classes")
    if score.compute is not None and np.isnan(score.of_all(matrices)):
        raise ValueError(f"it has no {score.label} on test: no test mask has a labelled pixel")
    config = read_config(run.folder)
    run_facts = training_facts(config, run.record, name=run.folder.name)
    counts = read_boundaries(run.boundaries("test")).get(score.key) if score.at_boundaries else None
    if score.at_boundaries and (counts is None or len(counts.numerator) != len(matrices)):
        raise ValueError(f"boundaries/test.npz has no {score.key} of these test images")
    return FinishedRun(run, config, metrics, matrices, run_facts, val, counts)


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
