"""Intervals and corrections against scipy, statsmodels and slow loops."""

from math import ceil

import numpy as np
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from support.networks import matrices, tallies

from benchmarks.coverage import REGIMES, coverage
from segpipe.analysis.statistics.intervals import (
    common_correlation,
    estimate,
    holm,
    interval,
    seeds_needed,
    simultaneous,
)
from segpipe.analysis.statistics.resample import BootstrapScores, ScoreCounts, ratios, score_and_resample, weights
from segpipe.metrics.confusion import iou_counts, mean_ratio, scores


def test_a_tally_scores_as_the_matrix_does():
    found = matrices(np.random.default_rng(0), 7, rare=True)
    assert mean_ratio(iou_counts(found)) == pytest.approx(scores(found.sum(0))["miou"], abs=1e-15)
    assert np.isnan(mean_ratio(iou_counts(np.zeros((2, 3, 3), int))))


@pytest.mark.parametrize("rare", [False, True])
def test_resampled_scores_are_those_of_resampled_matrices(rare):
    random = np.random.default_rng(1)
    truth = matrices(random, 6, rare=rare)
    moved = random.permuted(np.broadcast_to(truth, (2, 3, 6, 3, 3)), axis=-1)  # other predictions of the same truth
    drawn = weights([str(i) for i in range(6)], resamples=40)
    found = ratios(tallies(moved), drawn)
    assert found.shape == (40, 2, 3)
    if rare:
        assert (drawn[:, 0] == 0).any()  # some lack the class
    for b, network, seed in np.ndindex(found.shape):
        whole = sum(int(times) * moved[network, seed, i] for i, times in enumerate(drawn[b]))
        assert found[b, network, seed] == pytest.approx(scores(whole)["miou"], abs=1e-12)


def test_groups_are_drawn_whole_and_the_same_for_all():
    drawn = weights(["a", "b", "a", "c", "b", "a"], resamples=500)
    assert drawn.shape == (500, 6)
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, 1] == drawn[:, 4]).all()
    assert (drawn[:, [0, 1, 3]].sum(1) == 3).all()
    assert drawn[:, [0, 1, 3]].mean() == pytest.approx(1)
    assert (weights(["a", "b"], resamples=9) == weights(["a", "b"], resamples=9)).all()


def linear(random, *, seeds, images, seed_sd=1.0, picture_sd=1.0):
    """Scores that are plain means over pictures: then textbooks say what comes out."""
    values = 5 + random.normal(size=(1, seeds, images)) + seed_sd * random.normal(size=(1, seeds, 1))
    values = values + picture_sd * random.normal(size=(1, 1, images))
    ones = np.ones((1, seeds, images, 1))
    return ScoreCounts(values[..., None], ones, ones[0, 0])


def test_these_pictures_new_trainings_is_students_t():
    random = np.random.default_rng(2)
    found = score_and_resample(tallies(matrices(random, 2, 5, 8)), list("abcdefgh"), resamples=50)
    got = estimate(found, np.array([1.0, -1.0]), range(5))
    expected = stats.ttest_rel(*found.observed)
    bounds = expected.confidence_interval(0.95)
    assert got.difference == pytest.approx(found.observed[0].mean() - found.observed[1].mean())
    assert (got.trainings.low, got.trainings.high) == pytest.approx((bounds.low, bounds.high))
    assert (got.trainings.p, got.trainings.dof) == pytest.approx((expected.pvalue, 4))


def test_new_pictures_too_is_the_two_way_analysis_of_variance():
    random = np.random.default_rng(3)
    given = linear(random, seeds=5, images=30, seed_sd=0.5)
    got = estimate(score_and_resample(given, [str(i) for i in range(30)], resamples=20_000), np.ones(1), range(5))
    rows = [{"y": given.numerator[0, s, i, 0], "s": s, "i": i} for s in range(5) for i in range(30)]
    table = anova_lm(ols("y ~ C(s) + C(i)", {key: [row[key] for row in rows] for key in rows[0]}).fit())
    squares = table["mean_sq"] / 150
    expected = {"seed": squares["C(s)"], "pictures": squares["C(i)"], "residual": squares["Residual"]}
    assert got.variance_components == pytest.approx(expected, rel=0.04)
    total = squares["C(s)"] + squares["C(i)"] - squares["Residual"]
    assert got.images.standard_error == pytest.approx(total**0.5, rel=0.03)
    degrees = total**2 / (squares["C(s)"] ** 2 / 4 + squares["C(i)"] ** 2 / 29 + squares["Residual"] ** 2 / 116)
    assert got.images.dof == pytest.approx(degrees, rel=0.05)


def test_of_new_pictures_nobody_is_surer():
    random = np.random.default_rng(4)
    for _ in range(20):
        given = linear(random, seeds=4, images=12, picture_sd=0.1)
        got = estimate(score_and_resample(given, list("abcdefghijkl"), resamples=200), np.ones(1), range(4))
        assert got.images.high - got.images.low >= got.trainings.high - got.trainings.low
        assert got.images.p >= got.trainings.p


def test_too_little_gives_no_interval():
    random = np.random.default_rng(5)
    one = np.array([1.0, -1.0])
    few = estimate(score_and_resample(tallies(matrices(random, 2, 2, 8)), list("abcdefgh"), resamples=9), one, range(2))
    assert few.trainings is None
    assert few.images is None
    assert few.seeds == (0, 1)
    assert np.isfinite(few.difference)
    pair = estimate(
        score_and_resample(tallies(matrices(random, 2, 4, 8)), list("aaaabbbb"), resamples=9), one, range(4)
    )
    assert pair.trainings is not None
    assert pair.images is None


def test_seeds_are_those_that_both_were_trained_with():
    found = np.array([[1.0, 2.0, np.nan, 4.0, 7.0], [0.5, 1.0, 3.0, np.nan, 2.0]])
    drawn = np.repeat(found[None], 4, axis=0)
    got = estimate(BootstrapScores(found, drawn, drawn), np.array([1.0, -1.0]), [10, 11, 12, 13, 14])
    assert got.seeds == (10, 11, 14)
    assert got.difference == pytest.approx(np.mean([0.5, 1.0, 5.0]))


def test_holm_agrees_with_statsmodels():
    p = np.random.default_rng(6).random(20) ** 4
    intervals = [interval(stats.t.isf(one / 2, 7), 1.0, 7, 0.95) for one in p]
    got = holm([None, *intervals])
    assert got[0] is None
    assert [one.adjusted for one in got[1:]] == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert holm([None]) == [None]


@pytest.mark.parametrize(("correlation", "freedom"), [(0.5, 1e7), (0.0, 1e7), (0.0, 4), (0.0, 11.5)])
def test_simultaneous_bounds_are_dunnetts(correlation, freedom):
    count = 6
    got = simultaneous([0.0] * count, [interval(0.0, 1.0, freedom, 0.95)] * count, correlation)[0].high
    if correlation:
        matrix = np.full((count, count), correlation) + (1 - correlation) * np.eye(count)
        normal = stats.multivariate_normal(cov=matrix)
        held = normal.cdf(np.full(count, got), lower_limit=np.full(count, -got))
        assert held == pytest.approx(0.95, abs=0.004)
    else:  # Sidak: independent
        assert got == pytest.approx(stats.t.ppf(1 - (1 - 0.95 ** (1 / count)) / 2, freedom), rel=0.03)


def test_simultaneous_p_and_bounds_say_the_same():
    differences = [0.5, 2.0, 3.0, 9.0]
    intervals = [interval(mean, 1.0, df, 0.95) for mean, df in zip(differences, (4, 6, 20, 9.3), strict=True)]
    for one in simultaneous(differences, intervals, 0.3):
        assert (one.low > 0) == (one.adjusted < 0.05)
    assert simultaneous(differences, [None] * 4, 0.3) == [None] * 4


def test_common_correlation():
    assert common_correlation(np.array([[4.0, 1.0], [1.0, 1.0]])) == pytest.approx(0.5)
    assert common_correlation(np.diag([1.0, 2.0, 3.0])) == 0
    assert common_correlation(np.zeros((3, 3))) == 0


@pytest.mark.parametrize("effect", [0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 16])
def test_seeds_needed_agrees_with_statsmodels(effect, alpha):
    assert seeds_needed(1.0, effect, alpha=alpha) == ceil(TTestPower().solve_power(effect, None, alpha, 0.8))


def test_seeds_needed_at_the_ends():
    assert seeds_needed(1.0, 0.0, alpha=0.05) is None
    assert seeds_needed(1.0, 0.01, alpha=0.05) is None
    assert seeds_needed(0.0, 0.01, alpha=0.05) == 3
    assert seeds_needed(1.0, 1e6, alpha=0.001) == 3


@pytest.mark.slow
@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime.name)
def test_intervals_hold_what_is_true(regime):
    """Few trials: a wrong formula holds far less in one of the regimes. benchmarks/coverage.py has the figures."""
    held, general, _ = coverage(regime, seeds=5, trials=120, resamples=100)
    assert held > 0.87
    assert general > 0.87
