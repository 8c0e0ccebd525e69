"""Contrasts of a grid with known counts; networks that may be the best."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from support.grid import slow
from support.networks import GRID, matrices, tallies

from segpipe.analysis.collection import Collection, TrainedNetwork
from segpipe.analysis.design_points import DesignPoint
from segpipe.analysis.statistics import best, contrasts, effects
from segpipe.analysis.statistics.contrasts import Design
from segpipe.analysis.statistics.intervals import (
    estimate,
)
from segpipe.analysis.statistics.resample import ScoreCounts, score_and_resample
from segpipe.runs.labels import UNMATCHED


def of(name, design):
    return next(one for one in design.marginal() if f"{one.a} {one.b}" in (name, " ".join(reversed(name.split()))))


def test_the_grid_has_sixteen_marginal_contrasts():
    design = Design(GRID, GRID[0].points[0].stratum)
    found = list(design.marginal())
    assert [one.factor for one in found] == ["decoder"] * 10 + ["fusion"] * 3 + ["stride"] * 3
    assert len(GRID) == 35
    for one in found:
        assert (one.weights.sum(1) == 0).all()
        assert (one.weights.clip(min=0).sum(1) == 1).all()
        assert one.dropped == ()


def test_equal_networks_are_counted_once():
    design = Design(GRID, GRID[0].points[0].stratum)
    assert of("nearest bilinear", design).contexts == 7  # stride 32 once, 16 and 8 with three fusions each
    assert of("sum concat", design).contexts == 10  # nothing to join at 32
    assert of("8 16", design).contexts == 10  # without skips, the stride is no depth of a skip
    merged = [TrainedNetwork([*one.points], one.runs) for one in GRID]
    alike = [
        one for one in merged if one.points[0].level("decoder") == "nearest" and one.points[0].level("fusion") == "none"
    ]
    alike[0].points += alike[1].points + alike[2].points  # nearest x2 x2 x8 is nearest x32
    alike[1].points, alike[2].points = [], []
    design = Design(merged, GRID[0].points[0].stratum)
    assert of("nearest bilinear", design).contexts == 7  # the other side still differs
    assert of("none sum", design).contexts == 10


def test_interactions_are_differences_of_differences():
    design = Design(GRID, GRID[0].points[0].stratum)
    found = list(design.interactions())
    assert {one.factor for one in found} == {"decoder x fusion", "decoder x stride", "fusion x stride"}
    for one in found:
        assert (one.weights.sum(1) == 0).all()
        assert (np.abs(one.weights).sum(1) == 4).all()
    values = np.array([
        float((one.points[0].level("decoder"), one.points[0].level("fusion")) == ("deconv", "concat")) for one in GRID
    ])  # fmt: skip
    for one in (one for one in found if one.factor == "decoder x fusion"):
        deconv = {"deconv -": 1, "- deconv": -1}
        sign = next((s for text, s in deconv.items() if text in one.a.split(" at ")[0]), 0)
        concat = 1 if one.a.endswith("concat") else -1 if one.b.endswith("concat") else 0
        assert (one.weights @ values).mean() == pytest.approx(sign * concat)


def test_contexts_without_runs_are_left_out_and_named():
    networks = [TrainedNetwork(one.points, dict(one.runs)) for one in GRID]
    gone = next(one for one in networks if one.points[0].levels == ("deconv", "sum", 8))
    for seed in (0, 1, 2):
        del gone.runs[seed]
    design = Design(networks, GRID[0].points[0].stratum)
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
    images = [str(number) for number in range(4)]
    return Collection(Path(), networks, seeds, ["a"], [], images, images, [])


def plain(scores, *, images=4):
    """Tallies whose score is the given one, NaN without a run, on every picture the same."""
    over = np.repeat(np.asarray(scores, float)[:, :, None, None], images, axis=2)
    return ScoreCounts(over, np.ones_like(over), np.ones((images, 1)))


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
        wrong += any(one.significant for one in found.single_networks)
    assert wrong / trials <= 0.06


def test_validation_does_not_change_what_is_said_of_single_networks():
    scores = 0.5 + 0.01 * np.random.default_rng(12).standard_normal((6, 5)) + 0.03 * np.arange(6)[:, None]
    both = [
        effects.analyse(collection_of([dict.fromkeys(range(5), val) for val in order]), plain(scores), resamples=9)
        for order in (np.arange(6.0), -np.arange(6.0))
    ]
    for one, two in zip(both[0].single_networks, both[1].single_networks, strict=True):
        assert (one.contrast.a, one.estimate) == (two.contrast.a, two.estimate)
        assert one.contrast.b == "the best of the others"
    assert both[0].single_networks[0].significant
    assert not both[0].single_networks[-1].significant
    assert both[0].single_networks[0].estimate.difference == pytest.approx(scores[0].mean() - scores.mean(1).max())


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
    over = tallies(matrices(random, 4, 6, 8)).numerator.astype(float)
    over[0, 1] = over[2, 5] = np.nan
    found = score_and_resample(
        ScoreCounts(over, np.full_like(over, 100), np.ones((8, 3))), list("aabcdefg"), resamples=60
    )
    rows = np.arange(4)
    difference, seeds = best.paired(found.observed)
    images = best.with_images(found, rows, seeds)
    for one, two in itertools.permutations(range(4), 2):
        weights = np.zeros(4)
        weights[[one, two]] = 1, -1
        expected = estimate(found, weights, range(6))
        assert difference[one, two] == pytest.approx(expected.difference)
        assert seeds.standard_error[one, two] == pytest.approx(expected.trainings.standard_error)
        assert seeds.dof[one, two] == expected.trainings.dof
        parts = expected.variance_components
        total = max(parts["seed"] + parts["pictures"] - parts["residual"], parts["seed"], parts["pictures"])
        assert images.standard_error[one, two] == pytest.approx(total**0.5)
        if images.standard_error[one, two] > 1.01 * seeds.standard_error[one, two] and images.dof[one, two] < 6:
            assert images.dof[one, two] == pytest.approx(expected.images.dof)
    assert best.with_images(found._replace(influence=found.influence[:2]), rows, seeds) is None


def test_networks_without_enough_seeds_in_common_are_no_candidates():
    there = np.ones((4, 8), bool)
    there[0, 2:] = False  # two seeds
    there[1, :4] = False  # four, of which few with the next
    there[2, 4:] = False
    assert best.candidates(there).tolist() == [1, 3]
    scores = np.where(there, np.random.default_rng(14).standard_normal((4, 8)), np.nan)
    runs = [dict.fromkeys(np.flatnonzero(row).tolist(), 0.5) for row in there]
    found = effects.analyse(collection_of(runs), plain(scores), resamples=9)
    assert [one.estimate.trainings is None for one in found.single_networks] == [True, False, True, False]
