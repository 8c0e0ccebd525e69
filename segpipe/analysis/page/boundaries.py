"""Scores at boundaries and by the size of objects, where the runs have counted them."""

from collections.abc import Mapping, Sequence

import numpy as np

from segpipe.analysis.collect import Collection, FinishedRun
from segpipe.analysis.ordering import order
from segpipe.analysis.page.blocks import Block, Fold, Items, Section, Text
from segpipe.analysis.page.curves import Curve, over_seeds, small_multiples
from segpipe.analysis.page.tables import differences, mean, scores
from segpipe.analysis.scores import Score
from segpipe.analysis.standings import NetworkResult, grids, metric, stratum_label
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.contrasts import Stratum
from segpipe.analysis.statistics.effects import marginal, tallies_of
from segpipe.analysis.statistics.resample import score_and_resample
from segpipe.metrics.confusion import RatioCounts
from segpipe.runs.counts import read_boundaries

NONE = (
    "These runs have not counted boundaries (metrics.json has no test.boundaries). "
    "python -m segpipe.evaluate RUN counts them for a single run that has its checkpoint; new trainings do so "
    "themselves."
)
COMPARED = ("boundary_f", "band_miou_2")
RESAMPLES = 2000  # at most, for what is exploratory
BAND = "band_miou_"


def section(
    collection: Collection, found: Sequence[NetworkResult], exploratory: Mapping[str, Sequence[Comparison]]
) -> Section:
    """Tables, curves over the distance, and the marginal differences of two of the scores."""
    names = list(dict.fromkeys(name for run in collection.runs for name in counted(run)))
    blocks: list[Block] = []
    if not names:
        return Section("boundaries", "Boundaries and small objects", [Text(NONE)])
    lacking = sum(not counted(run) for run in collection.runs)
    if lacking:
        blocks.append(
            Text(f"{lacking} of {len(collection.runs)} runs have not counted boundaries and are left out here.")
        )
    caption = (
        "Mean over seeds, in percent. boundary_f: F-measure of the boundaries (Csurka et al. 2013), boundary_f_script "
        "as "
        "SegNet's script averages it; boundary_iou: Cheng et al. 2021, by the share of the diagonal; band_miou: mIoU "
        "of the "
        "pixels at most so many pixels from a true boundary; far_miou: of those further away; object_iou: by objects' "
        "size."
    )
    blocks.append(scores(found, names, lambda standing, name: of_network(standing, name), caption))
    for grid in grids(found):
        about = "mIoU of the pixels at most d pixels from a true boundary: mean over seeds, and their range."
        drawn = small_multiples(grid, band_curve, xlabel="d (pixels)", ylabel="band mIoU (%)", caption=about, log=True)
        if drawn is not None:
            blocks.append(Fold(f"mIoU by the distance from boundaries: {grid.label}", [drawn]))
    blocks += [Items(orders(name, compared)) for name, compared in exploratory.items()]
    for name, compared in exploratory.items():
        summary = f"Differences of {name}: exploratory, a family of its own, of {RESAMPLES:,} resamples at most"
        blocks.append(Fold(summary, [differences(compared)]))
    return Section("boundaries", "Boundaries and small objects", blocks)


def orders(name: str, compared: Sequence[Comparison]) -> list[str]:
    """In which order a score puts the levels of each factor."""
    found: dict[tuple[Stratum | None, str], list[Comparison]] = {}
    for one in compared:
        found.setdefault((one.contrast.stratum, one.contrast.factor), []).append(one)
    return [
        f"{name}, {factor} ({stratum_label(stratum) if stratum else 'all'}): {order(family).label}"
        for (stratum, factor), family in found.items()
    ]


def counted(run: FinishedRun) -> dict[str, float | None]:
    """What a run says of boundaries."""
    found = metric(run, "test", "boundaries")
    return found if isinstance(found, dict) else {}


def of_network(standing: NetworkResult, name: str) -> float | None:
    """Mean over seeds."""
    return mean([counted(run).get(name) for run in standing.network.runs.values()])


def band_curve(standing: NetworkResult) -> Curve | None:
    """Band mIoU in percent by distance."""
    return over_seeds([bands(run) for run in standing.network.runs.values()])


def bands(run: FinishedRun) -> dict[int, float]:
    """Of one run."""
    return {
        int(name.removeprefix(BAND)): 100 * value
        for name, value in counted(run).items()
        if name.startswith(BAND) and isinstance(value, int | float) and np.isfinite(value)
    }


def exploratory(collection: Collection, *, resamples: int) -> dict[str, list[Comparison]]:
    """Marginal differences of some of the scores, where runs have counted them picture by picture."""
    counts = {run: read(run) for run in collection.runs if counted(run)}
    found = {}
    for name in COMPARED:
        if any(name in tallies for tallies in counts.values()):
            tallies = tallies_of(collection, lambda run, name=name: counts.get(run, {}).get(name))  # type: ignore[misc]
            of_all = score_and_resample(tallies, collection.groups, resamples=min(resamples, RESAMPLES))
            found[name] = marginal(collection, of_all, Score(name, name))
    return {name: compared for name, compared in found.items() if compared}


def read(run: FinishedRun) -> dict[str, RatioCounts]:
    """A run's counts by score; none where they cannot be read, or are of other pictures."""
    try:
        found = read_boundaries(run.run.boundaries("test"))
    except Exception:  # of whatever kind a damaged file raises; one file is not to cost the report
        return {}
    return {name: found[name] for name in COMPARED if len(found[name].numerator) == len(run.matrices)}
