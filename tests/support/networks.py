"""Shared by the tests that were test_statistics.py."""

from benchmarks.coverage import equal_grid
from segpipe.analysis.statistics.resample import ScoreCounts
from segpipe.metrics.confusion import iou_counts


def matrices(random, *shape, classes=3, rare=False):
    found = random.integers(0, 50, (*shape, classes, classes))
    if rare:  # the last class is in the first picture alone
        found[..., 1:, -1, :] = 0
    return found


def tallies(found):
    kept = iou_counts(found.reshape(-1, *found.shape[-2:]))
    shape = found.shape[:-1]
    return ScoreCounts(
        kept.numerator.reshape(shape), kept.denominator.reshape(shape), kept.present.reshape(shape)[0, 0]
    )


GRID = equal_grid(5)
