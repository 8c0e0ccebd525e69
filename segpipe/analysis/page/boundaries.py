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
    "These runs have no boundary scores (metrics.json has no test.boundaries). New trainings compute them; "
    "python -m segpipe.evaluate RUN computes them for a run that has its checkpoint."
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
        blocks.append(Text(f"Runs without boundary scores, excluded here: {lacking} of {len(collection.runs)}."))
    caption = (
        "Test scores in percent, mean over seeds. boundary_f: boundary F-measure (Csurka et al. 2013); "
        "boundary_f_script: the same, averaged as in SegNet's script; boundary_iou: boundary IoU (Cheng et al. 2021), "
        "with the depth as a share of the image diagonal; band_miou: mIoU of the pixels within the given number of "
        "pixels of a true boundary; far_miou: mIoU of the pixels that are farther away; object_iou: mIoU by object "
        "size (docs/boundaries.md)."
    )
    blocks.append(scores(found, names, lambda standing, name: of_network(standing, name), caption))
    for grid in grids(found):
        about = (
            "Test mIoU in percent of the pixels within d pixels of a true boundary. Lines: mean over seeds; bands: "
            "range over seeds."
        )
        drawn = small_multiples(grid, band_curve, xlabel="d (pixels)", ylabel="band mIoU (%)", caption=about, log=True)
        if drawn is not None:
            blocks.append(Fold(f"mIoU by distance from a boundary: {grid.label}", [drawn]))
    blocks += [Items(orders(name, compared)) for name, compared in exploratory.items()]
    for name, compared in exploratory.items():
        summary = f"Differences in {name}: exploratory, a separate family, at most {RESAMPLES:,} resamples"
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
