"""Intervals and corrections against scipy, statsmodels and slow loops; contrasts against a grid that can be counted."""

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

from benchmarks.coverage import REGIMES, coverage, equal_grid
from segpipe.analysis import contrasts, effects
from segpipe.analysis.collect import Network, collect
from segpipe.analysis.contrasts import Design
from segpipe.analysis.intervals import common_correlation, estimate, holm, interval, seeds_needed, simultaneous
from segpipe.analysis.places import AS_THEY_ARE, MATCHED, SMOOTHED, Place
from segpipe.analysis.resample import Scored, Tallies, ratios, scored, weights
from segpipe.errors import UserError
from segpipe.metrics import scores, tally, tally_score

KEPT = Path(__file__).parent.parent / "docs" / "sweeps"


def matrices(random, *shape, classes=3, rare=False):
    found = random.integers(0, 50, (*shape, classes, classes))
    if rare:  # the last class is in the first picture alone
        found[..., 1:, -1, :] = 0
    return found


def tallies(found):
    kept = tally(found.reshape(-1, *found.shape[-2:]))
    shape = found.shape[:-1]
    return Tallies(kept.over.reshape(shape), kept.under.reshape(shape), kept.present.reshape(shape)[0, 0])


def test_a_tally_scores_as_the_matrix_does():
    found = matrices(np.random.default_rng(0), 7, rare=True)
    assert tally_score(tally(found)) == pytest.approx(scores(found.sum(0))["miou"], abs=1e-15)
    assert np.isnan(tally_score(tally(np.zeros((2, 3, 3), int))))


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
    return Tallies(values[..., None], ones, ones[0, 0])


def test_these_pictures_new_trainings_is_students_t():
    random = np.random.default_rng(2)
    found = scored(tallies(matrices(random, 2, 5, 8)), list("abcdefgh"), resamples=50)
    got = estimate(found, np.array([1.0, -1.0]), range(5))
    expected = stats.ttest_rel(*found.found)
    bounds = expected.confidence_interval(0.95)
    assert got.difference == pytest.approx(found.found[0].mean() - found.found[1].mean())
    assert (got.trainings.low, got.trainings.high) == pytest.approx((bounds.low, bounds.high))
    assert (got.trainings.p, got.trainings.freedom) == pytest.approx((expected.pvalue, 4))


def test_new_pictures_too_is_the_two_way_analysis_of_variance():
    random = np.random.default_rng(3)
    given = linear(random, seeds=5, pictures=30, seed_sd=0.5)
    got = estimate(scored(given, [str(i) for i in range(30)], resamples=20_000), np.ones(1), range(5))
    rows = [{"y": given.over[0, s, i, 0], "s": s, "i": i} for s in range(5) for i in range(30)]
    table = anova_lm(ols("y ~ C(s) + C(i)", {key: [row[key] for row in rows] for key in rows[0]}).fit())
    squares = table["mean_sq"] / 150
    expected = {"seed": squares["C(s)"], "pictures": squares["C(i)"], "residual": squares["Residual"]}
    assert got.parts == pytest.approx(expected, rel=0.04)
    total = squares["C(s)"] + squares["C(i)"] - squares["Residual"]
    assert got.pictures.error == pytest.approx(total**0.5, rel=0.03)
    degrees = total**2 / (squares["C(s)"] ** 2 / 4 + squares["C(i)"] ** 2 / 29 + squares["Residual"] ** 2 / 116)
    assert got.pictures.freedom == pytest.approx(degrees, rel=0.05)


def test_of_new_pictures_nobody_is_surer():
    random = np.random.default_rng(4)
    for _ in range(20):
        given = linear(random, seeds=4, pictures=12, picture_sd=0.1)
        got = estimate(scored(given, list("abcdefghijkl"), resamples=200), np.ones(1), range(4))
        assert got.pictures.high - got.pictures.low >= got.trainings.high - got.trainings.low
        assert got.pictures.p >= got.trainings.p


def test_too_little_gives_no_interval():
    random = np.random.default_rng(5)
    one = np.array([1.0, -1.0])
    few = estimate(scored(tallies(matrices(random, 2, 2, 8)), list("abcdefgh"), resamples=9), one, range(2))
    assert few.trainings is None
    assert few.pictures is None
    assert len(few.by_seed) == 2
    assert np.isfinite(few.difference)
    pair = estimate(scored(tallies(matrices(random, 2, 4, 8)), list("aaaabbbb"), resamples=9), one, range(4))
    assert pair.trainings is not None
    assert pair.pictures is None


def test_seeds_are_those_that_both_were_trained_with():
    found = np.array([[1.0, 2.0, np.nan, 4.0, 7.0], [0.5, 1.0, 3.0, np.nan, 2.0]])
    drawn = np.repeat(found[None], 4, axis=0)
    got = estimate(Scored(found, drawn, drawn), np.array([1.0, -1.0]), [10, 11, 12, 13, 14])
    assert got.seeds == (10, 11, 14)
    assert got.by_seed == (0.5, 1.0, 5.0)


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
        assert one.weights.sum() == pytest.approx(0)
        assert one.weights[one.weights > 0].sum() == pytest.approx(1)
        assert one.dropped == ()


def test_equal_networks_are_counted_once():
    design = Design(GRID, GRID[0].places[0].stratum)
    assert of("nearest bilinear", design).contexts == 7  # stride 32 once, 16 and 8 with three fusions each
    assert of("sum concat", design).contexts == 10  # nothing to join at 32
    assert of("8 16", design).contexts == 10  # without skips, the stride is no depth of a skip
    merged = [Network([*one.places], one.runs) for one in GRID]
    alike = [one for one in merged if one.places[0].decoder == "nearest" and one.places[0].fusion == "none"]
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
        assert one.weights.sum() == pytest.approx(0)
        assert np.abs(one.weights).sum() == pytest.approx(4)
    values = np.array([
        {"deconv": 1.0}.get(one.places[0].decoder, 0.0) * (one.places[0].fusion == "concat") for one in GRID
    ])  # fmt: skip
    for one in (one for one in found if one.factor == "decoder x fusion"):
        deconv = {"deconv -": 1, "- deconv": -1}
        sign = next((s for text, s in deconv.items() if text in one.a.split(" at ")[0]), 0)
        concat = 1 if one.a.endswith("concat") else -1 if one.b.endswith("concat") else 0
        assert one.weights @ values == pytest.approx(sign * concat)


def test_contexts_without_runs_are_left_out_and_named():
    networks = [Network(one.places, dict(one.runs)) for one in GRID]
    gone = next(one for one in networks if one.places[0][3:] == (8, "deconv", "sum"))
    for seed in (0, 1, 2):
        del gone.runs[seed]
    design = Design(networks, GRID[0].places[0].stratum)
    assert of("bilinear deconv", design).contexts == 6
    assert of("bilinear deconv", design).dropped == ("sum 8",)
    assert of("nearest bilinear", design).dropped == ()


def test_best_is_chosen_by_validation():
    runs = [{0: SimpleNamespace(val_miou=score)} for score in (0.2, 0.9, 0.9)] + [{}]
    places = [Place("", AS_THEY_ARE, "fcn", 8, name, "sum") for name in "abcd"]
    networks = [Network([place], run) for place, run in zip(places, runs, strict=True)]
    assert contrasts.best(networks) == 1
    assert [one.a for one in contrasts.against(networks, 1)] == ["fcn8s a sum", "fcn8s c sum"]


def test_places_say_how_they_differ():
    assert Place("", AS_THEY_ARE, "fcn", 8, "deconv", "sum").said == "fcn8s deconv sum"
    assert Place("", SMOOTHED, "ladder", 4, "nearest", "concat").said == "ladder4 nearest concat smoothed"
    given = Place("optimizer.lr=0.1", MATCHED["params"], "unet", 1, "deconv", "sum")
    assert given.said == "unet1 deconv sum equal parameters optimizer.lr=0.1"


def test_the_kept_sweeps_are_read_and_compared():
    shapes, ladder = collect(KEPT / "sweep_shapes"), collect(KEPT / "sweep_ladder")
    assert (len(shapes.networks), len(shapes.places), len(shapes.runs), shapes.problems) == (31, 45, 155, [])
    assert (len(ladder.networks), len(ladder.places), len(ladder.runs), ladder.problems) == (45, 45, 225, [])
    found = effects.analyse(ladder, resamples=50)
    assert len(found.marginal) == 16
    for number, network in enumerate(ladder.networks):
        reported = [network.runs[seed].metrics["test"]["miou"] for seed in ladder.seeds]
        assert found.scored.found[number] == pytest.approx(reported)
    assert ladder.networks[found.reference].val_miou == max(network.val_miou for network in ladder.networks)
    for one in [*found.marginal, *found.interactions, *found.cells]:
        here, everywhere = one.estimate.trainings, one.estimate.pictures
        assert everywhere.low <= here.low <= one.estimate.difference <= here.high <= everywhere.high
        assert everywhere.adjusted >= here.adjusted
    again = effects.analyse(ladder, reference="ladder8 deconv sum", resamples=50)
    assert ladder.networks[again.reference].said == "ladder8 deconv sum"
    with pytest.raises(UserError, match=r"'fcn8s': no network here is called so\. There are: ladder16 bilinear concat"):
        effects.analyse(ladder, reference="fcn8s", resamples=50)


def test_a_run_itself_is_no_folder_of_runs():
    one = next(path for path in sorted((KEPT / "sweep_ladder").iterdir()) if path.is_dir())
    with pytest.raises(UserError, match=r"a single run. Give the folder that it lies in, .*sweep_ladder\."):
        collect(one)
