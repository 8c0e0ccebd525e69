"""The order of the levels of a factor, and its sentences."""

import pytest
from support.reports import comparison, comparison_without_runs

from segpipe.analysis import formatting, ordering
from segpipe.analysis.factors import DECODER, STRIDE
from segpipe.analysis.findings import about_factor


def test_levels_are_ordered_by_effect_and_ties_joined():
    compared = [comparison("a", "b", -0.02, significant=False), comparison("b", "c", 0.1), comparison("a", "c", 0.08)]
    assert ordering.order(compared).label == "b ≈ a > c"
    assert ordering.comparison_of(compared, "a", "b").contrast.a == "b"
    assert ordering.comparison_of(compared, "a", "d") is None


def test_what_is_not_known_is_no_difference_of_0():
    compared = [
        comparison_without_runs("deconv", "pixelshuffle"),
        comparison_without_runs("nearest", "pixelshuffle"),
        comparison("deconv", "nearest", -0.1),
    ]
    ordered = ordering.order(compared)
    assert (ordered.levels, ordered.unordered) == (["nearest", "deconv"], ["pixelshuffle"])
    found = about_factor(DECODER, compared)
    assert found.headline == "nearest > deconv (not ordered: pixelshuffle)"
    assert "Not ordered: pixelshuffle, because too few runs" in found.text


def test_only_what_is_connected_is_ordered():
    compared = [
        comparison("a", "b", 0.1),
        comparison_without_runs("a", "c"),
        comparison_without_runs("a", "d"),
        comparison_without_runs("a", "e"),
        comparison("b", "e", 0.1),
    ]
    compared += [comparison("c", "d", 0.3), comparison_without_runs("b", "c"), comparison_without_runs("b", "d")]
    found = about_factor(DECODER, compared)
    assert found.headline == "a > b > e (not ordered: c, d)"
    assert "Also significant: c is 30.0 (29.0 to 31.0) above d." in found.text
    nothing = about_factor(STRIDE, [comparison_without_runs("8", "16", factor="stride")])
    assert nothing.headline == "not ordered: 8, 16"
    assert "Not ordered: stride 8 and stride 16, because" in nothing.text


def test_what_the_order_hides_is_said():
    compared = [
        comparison("a", "b", 0.02, significant=False),
        comparison("b", "c", 0.02, significant=False),
        comparison("a", "c", 0.05),
    ]
    found = about_factor(DECODER, compared)
    assert found.headline == "a ≈ b ≈ c"
    assert "1 of 3 differences is significant. a is 5.0 (4.0 to 6.0) above c, in points of mIoU." in found.text
    assert found.text.count("are not significantly different") == 2
    steps = [
        comparison("a", "b", 0.01, significant=False),
        comparison("b", "c", 0.01, significant=False),
        comparison("c", "d", 0.01, significant=False),
    ]
    found = about_factor(
        DECODER,
        [*steps, comparison("a", "c", 0.02, significant=False), comparison("b", "d", 0.02), comparison("a", "d", 0.03)],
    )
    assert found.headline == "a ≈ b ≈ c ≈ d"
    assert "Also significant: b is 2.0 (1.0 to 3.0) above d." in found.text


def test_what_does_not_hold_for_new_pictures_is_said():
    compared = [comparison("a", "b", 0.02, on_new_images=False), comparison("b", "c", 0.02), comparison("a", "c", 0.05)]
    assert "Not significant for new images: a above b." in about_factor(DECODER, compared).text
    alone = [comparison("a", "b", 0.02, on_new_images=False)]
    assert "None of these differences is significant for new images." in about_factor(DECODER, alone).text


def test_a_declared_difference_goes_before_the_fit():
    contradiction = [comparison("a", "b", 0.01), comparison("a", "c", -0.5), comparison("b", "c", 0.1)]
    assert [one.significant for one in contradiction] == [True] * 3
    ordered = ordering.order(contradiction)
    neighbours = list(zip(ordered.levels, ordered.levels[1:], strict=False))
    for (a, b), sign in zip(neighbours, ordered.signs, strict=True):
        assert sign == ">"
        assert ordering.comparison_of(contradiction, a, b).contrast.a == a


@pytest.mark.parametrize(
    ("count", "total", "text"),
    [
        (0, 1, "0 of 1 network is"),
        (1, 1, "1 of 1 network is"),
        (0, 3, "0 of 3 networks are"),
        (1, 3, "1 of 3 networks is"),
        (2, 1_000, "2 of 1,000 networks are"),
    ],
)
def test_counts_have_singular_and_plural(count, total, text):
    assert formatting.count_of(count, total, "network") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1234, "12.3"),
        (-0.0004, "0.0"),
        (-0.1, "\N{MINUS SIGN}10.0"),
        (float("nan"), "\N{EN DASH}"),
        (None, "\N{EN DASH}"),
    ],
)
def test_points(value, text):
    assert formatting.format_score(value) == text
