"""Every score of ``confusion.SCORES``, of every run: those that a run did not record are computed from its counts."""

from collections.abc import Sequence
from typing import Any

from segpipe.analysis.collect import Collection, FinishedRun
from segpipe.analysis.page.blocks import Section
from segpipe.analysis.page.tables import mean, scores
from segpipe.analysis.standings import NetworkResult, metric
from segpipe.metrics.confusion import SCORES, logged_scores, score_paths


def section(collection: Collection, found: Sequence[NetworkResult]) -> Section:
    """A table of all scores, a column each."""
    names = {score.label: name for name, score in SCORES.items()}
    of = {
        standing.number: [of_run(run, collection.classes) for run in standing.network.runs.values()]
        for standing in found
    }
    caption = (
        "Test scores in percent, mean over seeds. Each score is computed from all test images together; a score that "
        "is defined per class is the mean over the classes in the test masks."
    )

    def of_network(standing: NetworkResult, label: str) -> float | None:
        return mean([values[names[label]] for values in of[standing.number]])

    return Section("scores", "All scores", [scores(found, list(names), of_network, caption)])


def of_run(run: FinishedRun, classes: list[str]) -> dict[str, Any]:
    """The scores of a run's test by the names under which they are logged, from metrics.json.

    A score that metrics.json lacks is computed from the confusion matrices: the run is older than the score.
    """
    paths = score_paths(classes)
    missing = {name for name, path in paths.items() if metric(run, "test", path[0]) is None}
    counted = logged_scores(run.matrices, classes) if missing else {}
    return {name: counted[name] if name in missing else metric(run, "test", *path) for name, path in paths.items()}
