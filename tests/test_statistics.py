"""Intervals and corrections against scipy, statsmodels and slow loops; contrasts against a grid that can be counted."""

import itertools
from math import ceil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from support.grid import grid, slow

from benchmarks.coverage import REGIMES, coverage, equal_grid
from benchmarks.simulated import MISSING, missing_errors
from benchmarks.simulated import REGIMES as NOISES
from segpipe.analysis import ordering
from segpipe.analysis.collect import Collection, TrainedNetwork, collect
from segpipe.analysis.design_points import MATCHED, SMOOTHED, UNMATCHED, DesignPoint
from segpipe.analysis.statistics import best, contrasts, effects
from segpipe.analysis.statistics.contrasts import Design
from segpipe.analysis.statistics.intervals import (
    common_correlation,
    estimate,
    holm,
    interval,
    seeds_needed,
    simultaneous,
)
from segpipe.analysis.statistics.resample import BootstrapScores, ScoreCounts, ratios, score_and_resample, weights
from segpipe.errors import UserError
from segpipe.metrics.confusion import iou_counts, mean_ratio, scores

KEPT = Path(__file__).parent.parent / "docs" / "sweeps"


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


def linear(random, *, seeds, pictures, seed_sd=1.0, picture_sd=1.0):
    """Scores that are plain means over pictures: then textbooks say what comes out."""
    values = 5 + random.normal(size=(1, seeds, pictures)) + seed_sd * random.normal(size=(1, seeds, 1))
    values = values + picture_sd * random.normal(size=(1, 1, pictures))
    ones = np.ones((1, seeds, pictures, 1))
    return ScoreCounts(values[..., None], ones, ones[0, 0])


def test_these_pictures_new_trainings_is_students_t():
    random = np.random.default_rng(2)
    found = score_and_resample(tallies(matrices(random, 2, 5, 8)), list("abcdefgh"), resamples=50)
    got = estimate(found, np.array([1.0, -1.0]), range(5))
    expected = stats.ttest_rel(*found.found)
    bounds = expected.confidence_interval(0.95)
    assert got.difference == pytest.approx(found.found[0].mean() - found.found[1].mean())
    assert (got.trainings.low, got.trainings.high) == pytest.approx((bounds.low, bounds.high))
    assert (got.trainings.p, got.trainings.dof) == pytest.approx((expected.pvalue, 4))


def test_new_pictures_too_is_the_two_way_analysis_of_variance():
    random = np.random.default_rng(3)
    given = linear(random, seeds=5, pictures=30, seed_sd=0.5)
    got = estimate(score_and_resample(given, [str(i) for i in range(30)], resamples=20_000), np.ones(1), range(5))
    rows = [{"y": given.over[0, s, i, 0], "s": s, "i": i} for s in range(5) for i in range(30)]
    table = anova_lm(ols("y ~ C(s) + C(i)", {key: [row[key] for row in rows] for key in rows[0]}).fit())
    squares = table["mean_sq"] / 150
    expected = {"seed": squares["C(s)"], "pictures": squares["C(i)"], "residual": squares["Residual"]}
    assert got.variance_components == pytest.approx(expected, rel=0.04)
    total = squares["C(s)"] + squares["C(i)"] - squares["Residual"]
    assert got.pictures.standard_error == pytest.approx(total**0.5, rel=0.03)
    degrees = total**2 / (squares["C(s)"] ** 2 / 4 + squares["C(i)"] ** 2 / 29 + squares["Residual"] ** 2 / 116)
    assert got.pictures.dof == pytest.approx(degrees, rel=0.05)


def test_of_new_pictures_nobody_is_surer():
    random = np.random.default_rng(4)
    for _ in range(20):
        given = linear(random, seeds=4, pictures=12, picture_sd=0.1)
        got = estimate(score_and_resample(given, list("abcdefghijkl"), resamples=200), np.ones(1), range(4))
        assert got.pictures.high - got.pictures.low >= got.trainings.high - got.trainings.low
        assert got.pictures.p >= got.trainings.p


def test_too_little_gives_no_interval():
    random = np.random.default_rng(5)
    one = np.array([1.0, -1.0])
    few = estimate(score_and_resample(tallies(matrices(random, 2, 2, 8)), list("abcdefgh"), resamples=9), one, range(2))
    assert few.trainings is None
    assert few.pictures is None
    assert few.seeds == (0, 1)
    assert np.isfinite(few.difference)
    pair = estimate(
        score_and_resample(tallies(matrices(random, 2, 4, 8)), list("aaaabbbb"), resamples=9), one, range(4)
    )
    assert pair.trainings is not None
    assert pair.pictures is None


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


GRID = equal_grid(5)


def of(name, design):
    return next(one for one in design.marginal() if f"{one.a} {one.b}" in (name, " ".join(reversed(name.split()))))


def test_the_grid_has_sixteen_marginal_contrasts():
    design = Design(GRID, GRID[0].places[0].stratum)
    found = list(design.marginal())
    assert [one.factor for one in found] == ["decoder"] * 10 + ["fusion"] * 3 + ["stride"] * 3
    assert len(GRID) == 35
    for one in found:
        assert (one.weights.sum(1) == 0).all()
        assert (one.weights.clip(min=0).sum(1) == 1).all()
        assert one.dropped == ()


def test_equal_networks_are_counted_once():
    design = Design(GRID, GRID[0].places[0].stratum)
    assert of("nearest bilinear", design).contexts == 7  # stride 32 once, 16 and 8 with three fusions each
    assert of("sum concat", design).contexts == 10  # nothing to join at 32
    assert of("8 16", design).contexts == 10  # without skips, the stride is no depth of a skip
    merged = [TrainedNetwork([*one.places], one.runs) for one in GRID]
    alike = [
        one for one in merged if one.places[0].level("decoder") == "nearest" and one.places[0].level("fusion") == "none"
    ]
    alike[0].places += alike[1].places + alike[2].places  # nearest x2 x2 x8 is nearest x32
    alike[1].places, alike[2].places = [], []
    design = Design(merged, GRID[0].places[0].stratum)
    assert of("nearest bilinear", design).contexts == 7  # the other side still differs
    assert of("none sum", design).contexts == 10


def test_interactions_are_differences_of_differences():
    design = Design(GRID, GRID[0].places[0].stratum)
    found = list(design.interactions())
    assert {one.factor for one in found} == {"decoder x fusion", "decoder x stride", "fusion x stride"}
    for one in found:
        assert (one.weights.sum(1) == 0).all()
        assert (np.abs(one.weights).sum(1) == 4).all()
    values = np.array([
        float((one.places[0].level("decoder"), one.places[0].level("fusion")) == ("deconv", "concat")) for one in GRID
    ])  # fmt: skip
    for one in (one for one in found if one.factor == "decoder x fusion"):
        deconv = {"deconv -": 1, "- deconv": -1}
        sign = next((s for text, s in deconv.items() if text in one.a.split(" at ")[0]), 0)
        concat = 1 if one.a.endswith("concat") else -1 if one.b.endswith("concat") else 0
        assert (one.weights @ values).mean() == pytest.approx(sign * concat)


def test_contexts_without_runs_are_left_out_and_named():
    networks = [TrainedNetwork(one.places, dict(one.runs)) for one in GRID]
    gone = next(one for one in networks if one.places[0].levels == ("deconv", "sum", 8))
    for seed in (0, 1, 2):
        del gone.runs[seed]
    design = Design(networks, GRID[0].places[0].stratum)
    assert of("bilinear deconv", design).contexts == 6
    assert {one.dropped for one in design.interactions() if "deconv" in one.a and "sum" in one.b} >= {("8",)}
    assert of("bilinear deconv", design).dropped == ("sum 8",)
    assert of("nearest bilinear", design).dropped == ()


def collection_of(runs):
    """Networks with these runs, {seed: validation mIoU}, which no single factor tells apart."""
    places = [DesignPoint("", UNMATCHED, f"m{number}-", ("deconv", "sum", 8)) for number in range(len(runs))]
    networks = [
        TrainedNetwork([place], {seed: SimpleNamespace(val=val) for seed, val in given.items()})
        for place, given in zip(places, runs, strict=True)
    ]
    seeds = sorted({seed for given in runs for seed in given})
    pictures = [str(number) for number in range(4)]
    return Collection(Path(), networks, seeds, ["a"], [], pictures, pictures, [])


def plain(scores, *, pictures=4):
    """Tallies whose score is the given one, NaN without a run, on every picture the same."""
    over = np.repeat(np.asarray(scores, float)[:, :, None, None], pictures, axis=2)
    return ScoreCounts(over, np.ones_like(over), np.ones((pictures, 1)))


def test_against_looks_at_those_with_a_seed_in_common():
    networks = collection_of([{0: 0.2}, {0: 0.9}, {0: 0.9}, {}]).networks
    assert [one.a for one in contrasts.against(networks, 1)] == ["m0-8 deconv sum", "m2-8 deconv sum"]


def test_of_equal_networks_none_is_called_worse_though_one_is_always_the_highest():
    """The best on validation is of the same trainings as the test: no reference that was chosen beforehand."""
    random, wrong, trials = np.random.default_rng(11), 0, 200
    for _ in range(trials):
        scores = 0.5 + 0.01 * random.standard_normal((16, 5))
        val = scores + 0.002 * random.standard_normal(scores.shape)  # correlation 0.98
        runs = [dict(enumerate(row)) for row in val.tolist()]
        found = effects.analyse(collection_of(runs), plain(scores), resamples=2)
        wrong += any(one.significant for one in found.cells)
    assert wrong / trials <= 0.06


def test_validation_does_not_change_what_is_said_of_single_networks():
    scores = 0.5 + 0.01 * np.random.default_rng(12).standard_normal((6, 5)) + 0.03 * np.arange(6)[:, None]
    both = [
        effects.analyse(collection_of([dict.fromkeys(range(5), val) for val in order]), plain(scores), resamples=9)
        for order in (np.arange(6.0), -np.arange(6.0))
    ]
    for one, two in zip(both[0].cells, both[1].cells, strict=True):
        assert (one.contrast.a, one.estimate) == (two.contrast.a, two.estimate)
        assert one.contrast.b == "the best of the others"
    assert both[0].cells[0].significant
    assert not both[0].cells[-1].significant
    assert both[0].cells[0].estimate.difference == pytest.approx(scores[0].mean() - scores.mean(1).max())


@pytest.mark.parametrize(("seeds", "rounds"), [(3, 2), (5, 3), slow((3, 20)), slow((5, 20))])
def test_the_best_of_many_is_hsus_with_holms_correction(seeds, rounds):
    """A slow loop over networks and rivals; the set is the fixed point of "5 % over its size"."""
    random = np.random.default_rng(seeds)
    for _ in range(rounds):
        scores = random.standard_normal((7, seeds)) * random.choice([0.2, 1, 5], (7, 1)) + 4 * np.arange(7)[:, None]
        difference, spread = best.paired(scores)
        got = best.best_of(difference, [spread])
        p = []
        for number, one in enumerate(scores):
            rivals = np.delete(scores, number, axis=0)
            p.append(min(1, 6 * min(stats.ttest_rel(one, other, alternative="less").pvalue for other in rivals)))
        adjusted = multipletests(p, method="holm")[1]
        assert got.adjusted == pytest.approx(adjusted)
        may = [number for number in range(7) if adjusted[number] >= 0.05]
        for number in range(7):
            apart = [scores[number] - scores[other] for other in range(7) if other != number]
            high = min(one.mean() + bound(0.05 / 6 / len(may), one) for one in apart)
            assert got.high[number] == pytest.approx(max(high, 0), abs=1e-9)
            assert (got.high[number] > 0) == (number in may)
            apart = [scores[number] - scores[other] for other in may if other != number]
            low = min((one.mean() - bound(0.05 / 6, one) for one in apart), default=0)
            assert got.low[number] == pytest.approx(min(low, 0))


def bound(alpha, values):
    return stats.t.isf(alpha, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5


def test_pairs_are_compared_as_single_contrasts_are():
    """All pairs at once, seeds missing here and there: error and degrees of freedom for both questions."""
    random = np.random.default_rng(13)
    over = tallies(matrices(random, 4, 6, 8)).over.astype(float)
    over[0, 1] = over[2, 5] = np.nan
    found = score_and_resample(
        ScoreCounts(over, np.full_like(over, 100), np.ones((8, 3))), list("aabcdefg"), resamples=60
    )
    rows = np.arange(4)
    difference, seeds = best.paired(found.found)
    pictures = best.with_pictures(found, rows, seeds)
    for one, two in itertools.permutations(range(4), 2):
        weights = np.zeros(4)
        weights[[one, two]] = 1, -1
        expected = estimate(found, weights, range(6))
        assert difference[one, two] == pytest.approx(expected.difference)
        assert seeds.standard_error[one, two] == pytest.approx(expected.trainings.standard_error)
        assert seeds.dof[one, two] == expected.trainings.dof
        parts = expected.variance_components
        total = max(parts["seed"] + parts["pictures"] - parts["residual"], parts["seed"], parts["pictures"])
        assert pictures.standard_error[one, two] == pytest.approx(total**0.5)
        if pictures.standard_error[one, two] > 1.01 * seeds.standard_error[one, two] and pictures.dof[one, two] < 6:
            assert pictures.dof[one, two] == pytest.approx(expected.pictures.dof)
    assert best.with_pictures(found._replace(influence=found.influence[:2]), rows, seeds) is None


def test_networks_without_enough_seeds_in_common_are_no_candidates():
    there = np.ones((4, 8), bool)
    there[0, 2:] = False  # two seeds
    there[1, :4] = False  # four, of which few with the next
    there[2, 4:] = False
    assert best.candidates(there).tolist() == [1, 3]
    scores = np.where(there, np.random.default_rng(14).standard_normal((4, 8)), np.nan)
    runs = [dict.fromkeys(np.flatnonzero(row).tolist(), 0.5) for row in there]
    found = effects.analyse(collection_of(runs), plain(scores), resamples=9)
    assert [one.estimate.trainings is None for one in found.cells] == [True, False, True, False]


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
    assert got.pictures.high - got.pictures.low >= got.trainings.high - got.trainings.low


def test_where_nothing_is_missing_the_numbers_are_those_of_the_mean_of_all_contexts():
    ladder = collect(KEPT / "sweep_ladder")
    found = effects.analyse(ladder, resamples=200)
    for one in [*found.marginal, *found.interactions]:
        by_seed = one.contrast.weights.mean(0) @ found.scored.found
        expected = stats.ttest_1samp(by_seed, 0)
        limits = expected.confidence_interval(0.95)
        got = one.estimate.trainings
        assert one.estimate.difference == pytest.approx(by_seed.mean(), abs=1e-14)
        assert (got.low, got.high) == pytest.approx((limits.low, limits.high), abs=1e-12)
        assert (got.p, got.dof) == pytest.approx((expected.pvalue, 4), rel=1e-9)
        drawn = np.einsum("n,bns->bs", one.contrast.weights.mean(0), found.scored.resampled)
        small = len(found.scored.influence) / (len(found.scored.influence) - 1)
        moved = drawn.mean(1)
        assert one.estimate.variance_components["pictures"] == pytest.approx(moved.var() * small, rel=1e-9)
        residual = (drawn - moved[:, None]).var(0).sum() * small / 20
        assert one.estimate.variance_components["residual"] == pytest.approx(residual, rel=1e-9)


def test_five_missing_runs_of_225_leave_every_difference_an_interval():
    ladder = collect(KEPT / "sweep_ladder")
    bilinear = [one for one in ladder.networks if one.places[0].level("decoder") == "bilinear"]
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
    family = list(Design(GRID, GRID[0].places[0].stratum).marginal())
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
    assert (len(shapes.networks), len(shapes.places), len(shapes.runs), shapes.problems) == (31, 45, 155, [])
    assert (len(ladder.networks), len(ladder.places), len(ladder.runs), ladder.problems) == (45, 45, 225, [])
    found = effects.analyse(ladder, resamples=50)
    assert len(found.marginal) == 16
    for number, network in enumerate(ladder.networks):
        reported = [network.runs[seed].metrics["test"]["miou"] for seed in ladder.seeds]
        assert found.scored.found[number] == pytest.approx(reported)
    assert found.reference is None
    assert len(found.cells) == 45
    for one in [*found.marginal, *found.interactions, *found.cells]:
        here, everywhere = one.estimate.trainings, one.estimate.pictures
        assert everywhere.low <= here.low <= one.estimate.difference <= here.high <= everywhere.high
        assert everywhere.adjusted >= here.adjusted
    again = effects.analyse(ladder, reference="ladder8 deconv sum", resamples=50)
    assert ladder.networks[again.reference].label == "ladder8 deconv sum"
    with pytest.raises(UserError, match=r"'fcn8s': no network here is called so\. There are: ladder16 bilinear concat"):
        effects.analyse(ladder, reference="fcn8s", resamples=50)


def test_a_run_itself_is_no_folder_of_runs():
    one = next(path for path in sorted((KEPT / "sweep_ladder").iterdir()) if path.is_dir())
    with pytest.raises(UserError, match=r"a single run. Give the folder that it lies in, .*sweep_ladder\."):
        collect(one)
