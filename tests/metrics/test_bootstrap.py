"""Intervals over images, against values that are known."""

import numpy as np
import pytest

from segpipe.metrics.bootstrap import MIN_UNITS, Estimate, as_estimates, class_ratios, estimate, mean_of_classes, units
from segpipe.metrics.confusion import RatioCounts, iou_counts, mean_ratio


def mean_of(values):
    return lambda weights: weights @ values / weights.sum(1)


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide():
    values = np.random.default_rng(0).normal(5, 2, 400)
    observed, low, high = estimate(mean_of(values), [str(index) for index in range(400)])
    assert observed == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(values.mean() + np.array([-1.96, 1.96]) * values.std() / 20, abs=0.02)


def test_equal_scores_have_a_difference_of_exactly_zero():
    """The same images are drawn for both."""
    values = np.random.default_rng(0).normal(size=(2, 50))
    values[1] = values[0]
    found = estimate(lambda weights: weights @ values[0] - weights @ values[1], list(map(str, range(50))))
    assert [float(one) for one in found] == [0, 0, 0]


def test_groups_are_resampled_where_there_are_three():
    assert units(["a", "a", "b", "c"]) == ["a", "a", "b", "c"]
    assert units(["a", "a", "b", "b"]) == ["0", "1", "2", "3"]
    values = np.array([0.0] * 5 + [1.0] * 5 + [2.0] * 5)
    _, low, high = estimate(mean_of(values), ["a"] * 5 + ["b"] * 5 + ["c"] * 5)
    assert (low, high) == (pytest.approx(0.0), pytest.approx(2.0))  # one group alone, in 1 of 27 draws each


def test_few_images_have_no_interval():
    for count in range(1, MIN_UNITS):
        (found,) = as_estimates(*estimate(mean_of(np.ones(count)), ["a"] * count))
        assert found == Estimate(1.0, None, None)


def test_ratios_are_of_sums_and_classes_that_are_absent_have_none():
    matrices = np.random.default_rng(1).integers(0, 9, (6, 4, 4))
    matrices[:, 3] = 0  # class 3 is predicted, and nowhere true
    matrices[1:, 2] = 0  # class 2 is in the first image alone
    counts = iou_counts(matrices)
    stacked = RatioCounts(counts.numerator[None], counts.denominator[None], counts.present)
    weights = np.array([[1.0] * 6, [0, 2, 0, 1, 1, 2]])
    ratios = class_ratios(stacked, weights)
    assert ratios.shape == (2, 1, 4)
    assert np.isnan(ratios[:, 0]).tolist() == [[False, False, False, True], [False, False, True, True]]
    repeated = iou_counts(matrices[[1, 1, 3, 4, 5, 5]])
    assert mean_of_classes(ratios)[:, 0] == pytest.approx([mean_ratio(counts), mean_ratio(repeated)])
    assert np.isnan(mean_of_classes(np.full((2, 3), np.nan))).all()


def test_values_that_are_undefined_in_some_draws_are_left_out_of_them():
    values, known = np.array([[[1.0], [0.0], [0.0], [0.0]]]), np.array([[[1.0], [0.0], [0.0], [0.0]]])
    counts = RatioCounts(values, known, known)
    (found,) = as_estimates(*estimate(lambda weights: class_ratios(counts, weights)[:, 0], list("abcd")))
    assert found == Estimate(1.0, 1.0, 1.0)
    nowhere = RatioCounts(values * 0, known * 0, known * 0)
    (found,) = as_estimates(*estimate(lambda weights: class_ratios(nowhere, weights)[:, 0], list("abcd")))
    assert found == Estimate(None, None, None)
