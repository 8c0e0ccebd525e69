"""The section with every score of ``confusion.SCORES``; scores that a run did not record are computed."""

from collections.abc import Sequence
from typing import Any

from segpipe.analysis.collection import Collection, FinishedRun
from segpipe.analysis.network_results import NetworkResult, metric
from segpipe.analysis.page.blocks import Section
from segpipe.analysis.page.tables import mean, scores
from segpipe.metrics.confusion import SCORES, logged_scores, score_paths


def section(collection: Collection, results: Sequence[NetworkResult]) -> Section:
    """Return a table with a column for each score."""
    names = {score.label: name for name, score in SCORES.items()}
    scores_of_runs = {
        result.number: [scores_of_run(run, collection.classes) for run in result.network.runs.values()]
        for result in results
    }
    caption = (
        "Test scores in percent, mean over seeds. Each score is computed from all test images together; a score that "
        "is defined per class is the mean over the classes in the test masks."
    )

    def of_network(result: NetworkResult, label: str) -> float | None:
        return mean([values[names[label]] for values in scores_of_runs[result.number]])

    return Section("scores", "All scores", [scores(results, list(names), of_network, caption)])


def scores_of_run(run: FinishedRun, classes: list[str]) -> dict[str, Any]:
    """Return the test scores of a run by logged name, from metrics.json.

    A score that metrics.json lacks is computed from the confusion matrices: the run is older than the score.
    """
    paths = score_paths(classes)
    missing = {name for name, path in paths.items() if metric(run, "test", path[0]) is None}
    counted = logged_scores(run.matrices, classes) if missing else {}
    return {name: counted[name] if name in missing else metric(run, "test", *path) for name, path in paths.items()}
