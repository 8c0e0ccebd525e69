"""Boundary measures in cases that can be counted by eye; sums over images, and files."""

import math

import numpy as np
import pytest
from support.masks import I, counted, filled_up, pair, pixels, slow_contour

from segpipe.errors import UserError
from segpipe.metrics import contours as contours_module
from segpipe.metrics.boundaries import (
    NAMES,
    REGIONS,
    arrays,
    boundary_scores,
    concatenate,
    count_boundaries,
    tallies,
)
from segpipe.metrics.components import SIZES, components, unique_counts
from segpipe.metrics.confusion import mean_ratio
from segpipe.metrics.contours import NO_CONTOUR, contours, count_within, match
from segpipe.runs.counts import read_boundaries, write_boundaries


def drawn(*rows):
    """A mask of digits; a dot is ignored."""
    return np.array([[I if one == "." else int(one) for one in row] for row in rows], np.uint8)


def scored(prediction, truth, classes=3):
    return boundary_scores(count_boundaries(prediction[None], truth[None], num_classes=classes))


# Cases that can be counted by eye


def test_a_boundary_is_two_pixels_wide_and_the_frame_is_none():
    mask = drawn("0011", "0011")
    assert (contours(mask[None])[0] == np.array([[NO_CONTOUR, 0, 1, NO_CONTOUR]] * 2)).all()


def test_distances_are_a_kings():
    corner = np.full((1, 4, 4), NO_CONTOUR)
    corner[0, 0, 0] = 0
    assert count_within(corner, (1, 2, 4))[0].tolist() == [[3, 2, 1, 1], [2, 2, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert count_within(corner, (1, 2), value=5, frame=True)[0, 1].tolist() == [10, 5, 5, 10]


@pytest.mark.parametrize("radius", [0.5, 1.0, 1.1, 1.5, 2.0, 3.3])
def test_a_bit_spreads_to_what_is_nearer_than_the_radius(radius):
    bits = np.zeros((9, 8), np.uint8)
    bits[4, 4], bits[0, 0] = 1, 2
    found = contours_module.dilate_bits(bits[None], radius)[0]
    for place in pixels(bits.shape):
        assert found[place] == (math.dist(place, (4, 4)) < radius) + 2 * (math.dist(place, (0, 0)) < radius)


def test_an_ignored_region_inside_a_class_is_no_boundary():
    truth = drawn("00000", "0...0", "00000")
    prediction, full = filled_up(np.ones_like(truth), truth)
    assert (full == 0).all()
    assert (prediction == 1).all()
    assert counted(np.zeros_like(truth), truth, "band_miou_32") == [[0, 0, 0]] * 3


def test_an_ignored_strip_between_two_classes_hides_their_boundary_midway():
    """As the outlines of VOC do: the strip's middle is 3 columns from either side."""
    truth = drawn(*["0000.....1111"] * 3)
    prediction = drawn(*["0000111111111"] * 3)
    guess, full = filled_up(prediction, truth)
    assert (full[:, [5, 7]] == [0, 1]).all()
    assert (guess == full).all()
    assert counted(prediction, truth, "band_miou_2") == [[0, 0, 0]] * 3
    assert counted(prediction, truth, "band_miou_4")[2] in ([3 * 2, 3 * 1, 0], [3 * 1, 3 * 2, 0])
    assert counted(prediction, truth, "band_miou_32")[0] == [12, 12, 0]


def test_contours_midway_count_where_the_ignored_region_is_thin(monkeypatch):
    truth = drawn(*["00...11"] * 40)
    wrong = np.where(truth == I, 2, np.uint8(0))
    for tolerance, expected in ((0.75 / 100, math.nan), (2.5 / math.hypot(40, 7), 0)):
        monkeypatch.setattr(contours_module, "TOLERANCE", tolerance)
        assert scored(wrong, truth)["boundary_f"] == pytest.approx(expected, nan_ok=True)


def test_nothing_is_counted_of_what_is_ignored_altogether():
    found = scored(drawn("012", "012"), drawn("...", "..."))
    assert found.pop("boundary_f_script") == 0
    assert all(math.isnan(score) for score in found.values())


def test_boundary_f_takes_one_pixel_for_right_and_two_for_wrong():
    """In 100 x 100 the tolerance is 1.06 pixels."""
    truth = np.zeros((100, 100), np.uint8)
    truth[:, 50:] = 1
    assert scored(np.roll(truth, 1, 1)[:, 1:], truth[:, 1:])["boundary_f"] == 1
    shifted = np.zeros_like(truth)
    shifted[:, 52:] = 1
    assert scored(shifted, truth)["boundary_f"] == 0
    half = truth.copy()
    half[50:] = shifted[50:]
    # Of either class: 100 true contour pixels in a column, of which rows 0 to 49 match
    contour = slow_contour(half, 0)
    precision = sum(column == 49 for _, column in contour) / len(contour)
    assert scored(half, truth)["boundary_f"] == pytest.approx(2 * precision * 0.5 / (precision + 0.5), abs=0.01)


def test_the_papers_average_leaves_out_what_is_predicted_by_mistake_and_the_scripts_does_not():
    truth = np.zeros((40, 40), np.uint8)
    truth[:, 20:] = 1
    prediction = truth.copy()
    prediction[5:8, 5:8] = 2
    column, ring = 40, 8 + 16  # class 0: its straight contour, the hole and what surrounds it
    precision = column / (column + 16)
    first = 2 * precision / (precision + 1)
    assert ring == 24
    found = scored(prediction, truth)
    assert found["boundary_f"] == pytest.approx((first + 1) / 2)
    assert found["boundary_f_script"] == pytest.approx((first + 1 + 0) / 3)


def test_pictures_count_alike_in_boundary_f_and_one_without_boundary_is_left_out():
    plain, halves = np.zeros((2, 20, 20), np.uint8)
    halves[:, 10:] = 1
    both = count_boundaries(np.stack([plain, halves]), np.stack([plain, halves]), num_classes=2)
    assert np.isnan(both.averages[0, 0])
    assert boundary_scores(both)["boundary_f"] == 1
    assert boundary_scores(both)["boundary_f_script"] == 0.5  # it divides by the number of pictures
    wrong = count_boundaries(np.stack([halves, halves]), np.stack([plain, halves]), num_classes=2)
    assert boundary_scores(wrong)["boundary_f"] == 0.5  # class 0 has a contour now, where there should be none


def test_boundary_iou_of_a_class_that_fills_the_picture_is_of_its_frame():
    truth = np.zeros((10, 10), np.uint8)
    assert counted(truth, truth, "boundary_iou_0.02") == [[36, 0, 0], [36, 0, 0], [36, 0, 0]]
    prediction = truth.copy()
    prediction[:, 5:] = 1
    # Class 0 is predicted in 10 x 5, whose ring has 26; 8 of them, column 4, are not in the picture's frame
    assert counted(prediction, truth, "boundary_iou_0.005") == [[18, 0, 0], [44, 26, 0], [36, 0, 0]]


def test_bands_count_the_pixels_beside_true_boundaries():
    truth = drawn("00001111", "00001111")
    prediction = drawn("00000111", "00000111")
    assert counted(prediction, truth, "band_miou_1") == [[2, 0, 0], [4, 2, 0], [2, 2, 0]]
    assert counted(prediction, truth, "band_miou_2") == [[4, 2, 0], [6, 4, 0], [4, 4, 0]]
    assert counted(prediction, truth, "band_miou_4") == counted(prediction, truth, "band_miou_32")
    assert counted(prediction, truth, "far_miou_8") == [[0, 0, 0]] * 3


def test_objects_and_mistakes_by_size():
    """In 20 x 20, small is below 2 pixels and medium below 20."""
    truth = np.zeros((20, 20), np.uint8)
    truth[2:5, 2:5] = 1  # medium: 9
    truth[10:15, 10:15] = 1  # large: 25
    truth[0, 19] = 1  # small
    prediction = np.zeros_like(truth)
    prediction[2:5, 2:7] = 1  # all 9 of the medium one, and 6 too many
    prediction[10:15, 10:12] = 1  # 10 of the 25
    prediction[18, 2] = 1  # nothing there: small itself
    prediction[18, 8:12] = 1  # nothing there: medium itself
    assert [counted(prediction, truth, f"object_iou_{size}")[0][1] for size in SIZES] == [0, 9, 10]
    assert [counted(prediction, truth, f"object_iou_{size}")[1][1] for size in SIZES] == [1 + 1, 9 + 6 + 4, 25]
    assert [counted(prediction, truth, f"object_iou_{size}")[2][1] for size in SIZES] == [1, 9, 25]


def test_a_mistake_belongs_to_the_object_that_is_covered_most():
    truth = np.zeros((20, 20), np.uint8)
    truth[0, 0:4] = 1  # medium
    truth[10:16, 0:6] = 1  # large
    prediction = np.zeros_like(truth)
    prediction[0:12, 0:3] = 1  # covers 3 of the one, 6 of the other, and 27 of neither
    assert counted(prediction, truth, "object_iou_medium")[1][1] == 4
    assert counted(prediction, truth, "object_iou_large")[1][1] == 36 + 27
    prediction[:] = 0
    prediction[0:11, 0] = prediction[[0, 10], 1] = prediction[[0, 10], 2] = 1  # 3 of either: the first one's
    assert counted(prediction, truth, "object_iou_medium")[1][1] == 4 + 9
    assert counted(prediction, truth, "object_iou_large")[1][1] == 36


def test_what_touches_at_a_corner_is_one_object():
    assert len(components(drawn("01", "10")[None]).classes) == 2


def test_pairs_of_noise_are_counted_as_few_are():
    values = np.random.default_rng(0).integers(0, 1000, 5000)
    for ours, theirs in zip(unique_counts(values, 1000), unique_counts(values, 10**9), strict=True):
        assert (ours == theirs).all()


@pytest.mark.parametrize("word", [64, 1])
def test_match_counts_by_class(word, monkeypatch):
    """With as many classes to a word as it has bits, and with more classes than that."""
    monkeypatch.setattr(contours_module, "WORD", word)
    own, other = np.full((2, 2, 5, 9), NO_CONTOUR)
    own[1, 2, [1, 4, 7]] = [0, 1, 1]
    other[1, 2, [2, 4, 7]] = [0, 1, 0]
    found, back = match(own, other, radius=1.5, num_classes=2)
    assert (found.pixels.tolist(), found.matched.tolist()) == ([[0, 0], [1, 2]], [[0, 0], [1, 1]])
    assert (back.pixels.tolist(), back.matched.tolist()) == ([[0, 0], [2, 1]], [[0, 0], [1, 1]])
    own[own == 1], other[other == 1] = 200, 200
    found, _ = match(own, other, radius=1.5, num_classes=201)
    assert (found.pixels[1, [0, 200]].tolist(), found.matched[1, [0, 200]].tolist()) == ([1, 2], [1, 1])


def test_a_prediction_of_no_class_is_missed_and_nobodys_mistake():
    truth = drawn(*["00001111"] * 4)
    prediction = drawn(*["00001122"] * 4)
    assert counted(prediction, truth, "band_miou_4", 2) == [[16, 8], [16, 16], [16, 16]]
    assert counted(prediction, truth, "object_iou_large", 2) == [[16, 8], [16, 16], [16, 16]]
    found, with_it = scored(prediction, truth, 2), scored(prediction, truth, 3)
    assert found["boundary_f"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["boundary_f_script"] == with_it["boundary_f"] == found["boundary_f"]
    assert with_it["boundary_f_script"] == pytest.approx((1 + 2 / 3) / 3)


# Sums over pictures, and files


def test_scores_are_of_sums_over_pictures():
    pairs = [pair(seed, (30, 30)) for seed in range(3)]
    guesses, truths = (np.stack(side) for side in zip(*pairs, strict=True))
    together = count_boundaries(guesses, truths, num_classes=4)
    parts = [count_boundaries(one[None], truth[None], num_classes=4) for one, truth in pairs]
    assert all((a == b).all() for a, b in zip(together, concatenate(parts), strict=True))
    found, index = tallies(together), REGIONS.index("band_miou_2")
    hits, union, true = together.counts[:, index].sum(0)
    assert tuple(found) == NAMES
    assert (true[:3] > 0).all()
    assert true[3] == 0 < union[3]  # it is predicted, but not there: no part in the mean
    assert mean_ratio(found["band_miou_2"]) == pytest.approx((hits[:3] / union[:3]).mean())
    assert mean_ratio(found["boundary_f"]) == pytest.approx(together.averages[:, 0].mean())
    swapped = together.select(np.array([2, 0, 1]))
    assert (swapped.counts[0] == together.counts[2]).all()
    assert swapped.averages[1, 0] == together.averages[0, 0]


def test_read_what_was_written(tmp_path):
    guess, truth = pair(0, (30, 40))
    found = count_boundaries(np.stack([guess, guess]), np.stack([truth, np.full_like(truth, I)]), num_classes=4)
    path = tmp_path / "boundaries" / "test.npz"
    write_boundaries(path, names=["a", "b"], counts=found)
    again = read_boundaries(path)
    assert list(again) == list(NAMES)
    for name, tally in tallies(found).items():
        assert all((a == b).all() for a, b in zip(again[name], tally, strict=True))


def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "test.npz"
    with pytest.raises(UserError, match=r"no such file.*segpipe\.evaluate"):
        read_boundaries(path)
    path.write_bytes(b"PK and no more")
    with pytest.raises(UserError, match="damaged"):
        read_boundaries(path)
    write_boundaries(path, names=["a"], counts=count_boundaries(*np.zeros((2, 1, 3, 3), int), num_classes=2))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        read_boundaries(path)


def test_a_file_may_hold_some_of_the_scores(tmp_path):
    found = count_boundaries(*np.zeros((2, 1, 3, 3), int), num_classes=2)
    np.savez(tmp_path / "some.npz", names=["a"], band_miou_2=arrays(found)["band_miou_2"], strange=np.zeros(3))
    assert list(read_boundaries(tmp_path / "some.npz")) == ["band_miou_2"]
