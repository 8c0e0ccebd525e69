"""Missing runs, and the kept sweeps."""

import itertools

import numpy as np
import pytest
from scipy import stats
from support.grid import grid
from support.networks import GRID
from support.paths import ROOT

from benchmarks.simulated import MISSING, missing_errors
from benchmarks.simulated import REGIMES as NOISES
from segpipe.analysis import ordering
from segpipe.analysis.collect import collect
from segpipe.analysis.design_points import DesignPoint
from segpipe.analysis.statistics import effects
from segpipe.analysis.statistics.contrasts import Design
from segpipe.analysis.statistics.intervals import (
    estimate,
)
from segpipe.analysis.statistics.resample import BootstrapScores, ScoreCounts, score_and_resample
from segpipe.errors import UserError
from segpipe.runs.archive import as_folder
from segpipe.runs.labels import MATCHED, SMOOTHED, UNMATCHED

KEPT = ROOT / "docs" / "sweeps"


def slowly(contexts):
    """Mean, variance and seeds of the mean over contexts {seed: difference}, in loops."""
    means = [np.mean(list(one.values())) for one in contexts]
    variance = 0.0
    for (one, mean), (two, other) in itertools.product(zip(contexts, means, strict=True), repeat=2):
        both = one.keys() & two.keys()
        if both:
            products = sum((one[seed] - mean) * (two[seed] - other) for seed in both)
            a, b, c = len(one), len(two), len(both)
            variance += c / (a * b) * products / (c * (1 - 1 / a - 1 / b + c / (a * b)))
    return np.mean(means), variance / len(contexts) ** 2


def test_a_missing_run_costs_its_own_context_alone():
    random = np.random.default_rng(15)
    scores = random.standard_normal((6, 7)) + random.standard_normal(7) + 3 * np.arange(6)[:, None]
    for network, seed in ((0, 0), (1, 1), (3, 2), (4, 0), (4, 6)):
        scores[network, seed] = np.nan
    found = BootstrapScores(scores, np.stack([scores] * 5), np.stack([scores] * 5))
    weights = np.array([[1, -1, 0, 0, 0, 0], [0, 0, 1, -1, 0, 0], [0, 0, 0, 0, 1, -1]])
    got = estimate(found, weights, range(7))
    pairs = [scores[0] - scores[1], scores[2] - scores[3], scores[4] - scores[5]]
    mean, variance = slowly([{seed: value for seed, value in enumerate(one) if np.isfinite(value)} for one in pairs])
    assert got.difference == pytest.approx(mean)
    assert got.trainings.standard_error == pytest.approx(variance**0.5)
    assert 4 <= got.trainings.dof <= 6
    assert got.seeds == tuple(range(7))
    assert (got.variance_components["pictures"], got.variance_components["residual"]) == pytest.approx((0, 0))


def test_degrees_of_freedom_are_those_of_the_noisy_context():
    random = np.random.default_rng(16)
    scores = 1e-3 * random.standard_normal((4, 9))
    scores[0] *= 1e4
    scores[0, 4:] = np.nan
    found = BootstrapScores(scores, np.stack([scores] * 5), np.stack([scores] * 5))
    weights = np.array([[1, -1, 0, 0], [0, 0, 1, -1]])
    assert estimate(found, weights, range(9)).trainings.dof == pytest.approx(3, abs=1e-3)
    assert estimate(found, weights[1:], range(9)).trainings.dof == pytest.approx(8)


def test_with_new_pictures_a_missing_run_costs_its_own_context_alone():
    """The pictures' part is the variance of the mean of means; the residual's, that over seeds of a draw."""
    random = np.random.default_rng(17)
    over = random.standard_normal((4, 5, 12, 1)) + random.standard_normal((4, 1, 12, 1))
    over[0, 4] = over[3, 0] = np.nan
    found = score_and_resample(
        ScoreCounts(over, np.ones(over.shape), np.ones((12, 1))), list("abcdefghijkl"), resamples=80
    )
    got = estimate(found, np.array([[1, -1, 0, 0], [0, 0, 1, -1]]), range(5))
    drawn = found.resampled[:, [0, 2]] - found.resampled[:, [1, 3]]  # (B, contexts, S)
    moved = np.nanmean(drawn, axis=2).mean(1)
    assert got.variance_components["pictures"] == pytest.approx(moved.var() * 12 / 11)
    rest = drawn - drawn.mean(0)
    kept = [[{s: v for s, v in enumerate(row) if np.isfinite(v)} for row in one] for one in rest.tolist()]
    assert got.variance_components["residual"] == pytest.approx(np.mean([slowly(one)[1] for one in kept]) * 12 / 11)
    assert got.images.high - got.images.low >= got.trainings.high - got.trainings.low


def test_where_nothing_is_missing_the_numbers_are_those_of_the_mean_of_all_contexts():
    ladder = collect(KEPT / "sweep_ladder")
    found = effects.analyse(ladder, resamples=200)
    for one in [*found.marginal, *found.interactions]:
        by_seed = one.contrast.weights.mean(0) @ found.scores.observed
        expected = stats.ttest_1samp(by_seed, 0)
        limits = expected.confidence_interval(0.95)
        got = one.estimate.trainings
        assert one.estimate.difference == pytest.approx(by_seed.mean(), abs=1e-14)
        assert (got.low, got.high) == pytest.approx((limits.low, limits.high), abs=1e-12)
        assert (got.p, got.dof) == pytest.approx((expected.pvalue, 4), rel=1e-9)
        drawn = np.einsum("n,bns->bs", one.contrast.weights.mean(0), found.scores.resampled)
        small = len(found.scores.influence) / (len(found.scores.influence) - 1)
        moved = drawn.mean(1)
        assert one.estimate.variance_components["pictures"] == pytest.approx(moved.var() * small, rel=1e-9)
        residual = (drawn - moved[:, None]).var(0).sum() * small / 20
        assert one.estimate.variance_components["residual"] == pytest.approx(residual, rel=1e-9)


def test_five_missing_runs_of_225_leave_every_difference_an_interval():
    ladder = collect(KEPT / "sweep_ladder")
    bilinear = [one for one in ladder.networks if one.points[0].level("decoder") == "bilinear"]
    for seed, network in zip(ladder.seeds, bilinear, strict=False):
        del network.runs[seed]
    found = effects.analyse(ladder, resamples=50)
    assert len(found.marginal) == 16
    for one in [*found.marginal, *found.interactions]:
        assert one.estimate.trainings is not None
        assert one.contrast.dropped == () or one.contrast.factor == "fusion x stride"  # four of bilinear's networks
    order = ordering.order([one for one in found.marginal if one.contrast.factor == "decoder"])
    assert order.label == "deconv > pixelshuffle > bilinear > nearest > unpool"


@pytest.mark.parametrize("missing", grid(MISSING[:4], quick=MISSING[1:2]), ids=lambda missing: f"{missing.share:.0%}")
def test_differences_with_missing_runs_hold(missing):
    """Few sweeps; benchmarks/coverage.py has the figures. All contexts sharing seeds fails: nothing would be known."""
    family = list(Design(GRID, GRID[0].points[0].stratum).marginal())
    got = missing_errors(family, NOISES[1], missing, seeds=5, trials=400)
    assert got["single"] < 0.065
    assert got["declared"] < 0.08
    assert got["unknown"] < 0.01


def test_places_say_how_they_differ():
    assert DesignPoint("", UNMATCHED, "fcn", ("deconv", "sum", 8)).label == "fcn8s deconv sum"
    assert DesignPoint("", SMOOTHED, "ladder", ("nearest", "concat", 4)).label == "ladder4 nearest concat smoothed"
    given = DesignPoint("optimizer.lr=0.1", MATCHED["params"], "unet", ("deconv", "sum", 1))
    assert given.label == "unet1 deconv sum equal parameters optimizer.lr=0.1"


def test_the_kept_sweeps_are_read_and_compared():
    shapes, ladder = collect(KEPT / "sweep_shapes"), collect(KEPT / "sweep_ladder")
    assert (len(shapes.networks), len(shapes.points), len(shapes.runs), shapes.problems) == (31, 45, 155, [])
    assert (len(ladder.networks), len(ladder.points), len(ladder.runs), ladder.problems) == (45, 45, 225, [])
    found = effects.analyse(ladder, resamples=50)
    assert len(found.marginal) == 16
    for number, network in enumerate(ladder.networks):
        reported = [network.runs[seed].metrics["test"]["miou"] for seed in ladder.seeds]
        assert found.scores.observed[number] == pytest.approx(reported)
    assert found.reference is None
    assert len(found.single_networks) == 45
    for one in [*found.marginal, *found.interactions, *found.single_networks]:
        here, everywhere = one.estimate.trainings, one.estimate.images
        assert everywhere.low <= here.low <= one.estimate.difference <= here.high <= everywhere.high
        assert everywhere.adjusted >= here.adjusted
    again = effects.analyse(ladder, reference="ladder8 deconv sum", resamples=50)
    assert ladder.networks[again.reference].label == "ladder8 deconv sum"
    with pytest.raises(UserError, match=r"'fcn8s': no network has this name\. Give one of: ladder16 bilinear concat"):
        effects.analyse(ladder, reference="fcn8s", resamples=50)


def test_a_run_itself_is_no_folder_of_runs():
    one = next(path for path in sorted(as_folder(KEPT / "sweep_ladder.zip").iterdir()) if path.is_dir())
    with pytest.raises(UserError, match=r"a single run. Give the folder that contains it, .*sweep_ladder\."):
        collect(one)
