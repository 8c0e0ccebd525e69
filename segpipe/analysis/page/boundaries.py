"""The section on scores at boundaries and by object size, if the runs have counted them."""

from collections.abc import Mapping, Sequence

import numpy as np

from segpipe.analysis.collection import Collection, FinishedRun
from segpipe.analysis.design_points import Stratum
from segpipe.analysis.network_results import NetworkResult, grids, metric, stratum_label
from segpipe.analysis.ordering import order
from segpipe.analysis.page.blocks import Block, Fold, Items, Section, Text
from segpipe.analysis.page.curves import Curve, over_seeds, small_multiples
from segpipe.analysis.page.tables import differences, mean, scores
from segpipe.analysis.scores import ReportScore
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.effects import marginal, ratio_counts, resample
from segpipe.metrics.confusion import RatioCounts
from segpipe.runs.counts import read_boundaries

NONE = (
    "These runs have no boundary scores (metrics.json has no test.boundaries). New trainings compute them; "
    "python -m segpipe.evaluate RUN computes them for a run that has its checkpoint."
)
COMPARED = ("boundary_f", "band_miou_2")
RESAMPLES = 2000  # at most, of exploratory comparisons
BAND = "band_miou_"


def section(
    collection: Collection, results: Sequence[NetworkResult], exploratory: Mapping[str, Sequence[Comparison]]
) -> Section:
    """Return tables, curves over the distance, and the marginal differences of two of the scores."""
    names = list(dict.fromkeys(name for run in collection.runs for name in boundary_scores_of(run)))
    blocks: list[Block] = []
    if not names:
        return Section("boundaries", "Boundaries and small objects", [Text(NONE)])
    lacking = sum(not boundary_scores_of(run) for run in collection.runs)
    if lacking:
        blocks.append(Text(f"Runs without boundary scores, excluded here: {lacking} of {len(collection.runs)}."))
    caption = (
        "Test scores in percent, mean over seeds. boundary_f: boundary F-measure (Csurka et al. 2013); "
        "boundary_f_script: the same, averaged as in SegNet's script; boundary_iou: boundary IoU (Cheng et al. 2021), "
        "with the depth as a share of the image diagonal; band_miou: mIoU of the pixels within the given number of "
        "pixels of a true boundary; far_miou: mIoU of the pixels that are farther away; object_iou: mIoU by object "
        "size (docs/boundaries.md)."
    )
    blocks.append(scores(results, names, lambda result, name: mean_over_seeds(result, name), caption))
    for grid in grids(results, collection.averaged):
        curve_caption = (
            "Test mIoU in percent of the pixels within d pixels of a true boundary. Lines: mean over seeds; bands: "
            "range over seeds."
        )
        figure = small_multiples(
            grid, band_curve, xlabel="d (pixels)", ylabel="band mIoU (%)", caption=curve_caption, log=True
        )
        if figure is not None:
            blocks.append(Fold(f"mIoU by distance from a boundary: {grid.label}", [figure]))
    blocks += [Items(order_texts(name, compared)) for name, compared in exploratory.items()]
    for name, compared in exploratory.items():
        summary = f"Differences in {name}: exploratory, a separate family, at most {RESAMPLES:,} resamples"
        blocks.append(Fold(summary, [differences(compared)]))
    return Section("boundaries", "Boundaries and small objects", blocks)


def order_texts(name: str, compared: Sequence[Comparison]) -> list[str]:
    """Return the order of the levels of each factor by a score."""
    families: dict[tuple[Stratum | None, str], list[Comparison]] = {}
    for one in compared:
        families.setdefault((one.contrast.stratum, one.contrast.factor), []).append(one)
    return [
        f"{name}, {factor} ({stratum_label(stratum) if stratum else 'all'}): {order(family).label}"
        for (stratum, factor), family in families.items()
    ]


def boundary_scores_of(run: FinishedRun) -> dict[str, float | None]:
    """Return the boundary scores (0 to 1) of a run by name; empty without any."""
    scores = metric(run, "test", "boundaries")
    return scores if isinstance(scores, dict) else {}


def mean_over_seeds(result: NetworkResult, name: str) -> float | None:
    """Return the mean of a boundary score over seeds."""
    return mean([boundary_scores_of(run).get(name) for run in result.network.runs.values()])


def band_curve(result: NetworkResult) -> Curve | None:
    """Return the band mIoU of a network, in percent, by distance in pixels."""
    return over_seeds([bands(run) for run in result.network.runs.values()])


def bands(run: FinishedRun) -> dict[int, float]:
    """Return the band mIoU of one run, in percent, by distance in pixels."""
    return {
        int(name.removeprefix(BAND)): 100 * value
        for name, value in boundary_scores_of(run).items()
        if name.startswith(BAND) and isinstance(value, int | float) and np.isfinite(value)
    }


def exploratory(collection: Collection, *, resamples: int) -> dict[str, list[Comparison]]:
    """Return the marginal differences of the scores in COMPARED, if runs have counted them for each image."""
    counts = {run: read_counts(run) for run in collection.runs if boundary_scores_of(run)}
    families = {}
    for name in COMPARED:
        if name != collection.score.key and any(name in counts_of_run for counts_of_run in counts.values()):
            of_score = ratio_counts(collection, lambda run, name=name: counts.get(run, {}).get(name))  # type: ignore[misc]
            bootstrap = resample(collection, of_score, resamples=min(resamples, RESAMPLES))
            families[name] = marginal(collection, bootstrap, ReportScore(name, name))
    return {name: compared for name, compared in families.items() if compared}


def read_counts(run: FinishedRun) -> dict[str, RatioCounts]:
    """Return a run's counts by score; empty if they cannot be read or belong to other images."""
    try:
        counts = read_boundaries(run.run.boundaries("test"))
    except Exception:  # a damaged file raises errors of many kinds; it must not stop the report
        return {}
    return {name: counts[name] for name in COMPARED if len(counts[name].numerator) == len(run.matrices)}
