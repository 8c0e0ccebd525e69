"""Planted errors are counted as what they are."""

import numpy as np
import pytest
from support.masks import blobs, pair

from segpipe.data.dataset import IGNORE_INDEX
from segpipe.lab.errors import DISPLACED, HOLE, MISSED, TYPES, WRONG_CLASS, beside_of, find_errors
from segpipe.lab.regions import truth_of

CLASSES = 4


def scene():
    """Ground (0) with a square (1) at rows and columns 8 to 15, and a far away strip of class 2 at the right edge."""
    truth = np.zeros((24, 32), np.uint8)
    truth[8:16, 8:16] = 1
    truth[:, 30:] = 2
    return truth


def errors(prediction, truth, classes=CLASSES):
    known = truth_of(truth)
    return find_errors(prediction, known, beside_of(known, classes), classes)


def counted(found):
    """Events and pixels by (type, class)."""
    kinds, classes = np.nonzero(found.pixels)
    return {
        (TYPES[kind], int(index)): (int(found.events[kind, index]), int(found.pixels[kind, index]))
        for kind, index in zip(kinds, classes, strict=True)
    }


def test_a_perfect_prediction_has_no_errors():
    found = errors(scene(), scene())
    assert counted(found) == {}
    assert not found.events.any()
    assert not found.types.any()


def test_an_erased_object_is_missed():
    prediction = scene()
    prediction[8:16, 8:16] = 0
    assert counted(errors(prediction, scene())) == {("missed object", 1): (1, 64)}


def test_an_object_of_another_class_is_of_a_wrong_class():
    """Class 3 is nowhere beside it."""
    prediction = scene()
    prediction[8:16, 8:16] = 3
    assert counted(errors(prediction, scene())) == {("wrong class", 1): (1, 64)}


def test_a_shifted_object_has_displaced_boundaries():
    """Its column at the left is lost to the ground, and a column of the ground at the right to it."""
    prediction = scene()
    prediction[8:16, 8:16] = 0
    prediction[8:16, 9:17] = 1
    assert counted(errors(prediction, scene())) == {
        ("displaced boundary", 1): (1, 8), ("displaced boundary", 0): (1, 8),
    }  # fmt: skip


@pytest.mark.parametrize("inside", [0, 2, 3])
def test_a_hole_in_an_object_is_one(inside):
    """Whatever its class, if it touches no true region of it."""
    prediction = scene()
    prediction[11:13, 11:13] = inside
    assert counted(errors(prediction, scene())) == {("hole", 1): (1, 4)}


def test_an_object_that_is_not_there_is_a_hole_in_the_ground():
    prediction = scene()
    prediction[2:4, 2:4] = 1
    prediction[20:22, 20:23] = 3
    assert counted(errors(prediction, scene())) == {("hole", 0): (2, 10)}


def test_a_patch_between_two_classes_that_is_of_neither_is_a_hole():
    prediction = scene()
    prediction[8:16, 15] = 3
    assert counted(errors(prediction, scene())) == {("hole", 1): (1, 8)}


def test_half_of_an_object_is_enough_to_find_it():
    prediction = scene()
    prediction[8:12, 8:16] = 0
    assert counted(errors(prediction, scene())) == {("displaced boundary", 1): (1, 32)}
    prediction[12, 8] = 0
    assert counted(errors(prediction, scene())) == {("missed object", 1): (1, 33)}


def test_patches_that_touch_at_a_corner_are_one():
    prediction = scene()
    prediction[10, 10] = prediction[11, 11] = 2
    prediction[13, 13] = 2
    assert counted(errors(prediction, scene())) == {("hole", 1): (2, 3)}


def test_ignored_pixels_are_no_errors_and_hide_none():
    truth, prediction = scene(), scene()
    truth[8:16, 8:10] = IGNORE_INDEX
    prediction[8:16, 8:16] = 3
    assert counted(errors(prediction, truth)) == {("wrong class", 1): (1, 48)}
    everywhere = errors(prediction, np.full_like(truth, IGNORE_INDEX))
    assert counted(everywhere) == {}


def slow(prediction, truth):
    """The definition, region by region and patch by patch, for masks without ignored pixels."""
    import cv2

    def around(mask):
        return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~mask

    types = np.zeros(truth.shape, np.uint8)
    for index in np.unique(truth):
        count, numbered = cv2.connectedComponents((truth == index).astype(np.uint8), connectivity=8)
        for number in range(1, count):
            region = numbered == number
            wrong = region & (prediction != index)
            if 2 * wrong.sum() > region.sum():
                most = np.bincount(prediction[wrong]).argmax()
                types[wrong] = MISSED if (truth[around(region)] == most).any() else WRONG_CLASS
                continue
            for guess in np.unique(prediction[wrong]):
                patches, labels = cv2.connectedComponents(
                    (wrong & (prediction == guess)).astype(np.uint8), connectivity=8
                )
                for patch in range(1, patches):
                    here = labels == patch
                    types[here] = DISPLACED if (truth[around(here)] == guess).any() else HOLE
    return types


@pytest.mark.parametrize("seed", range(6))
def test_types_are_those_of_a_slow_loop(seed):
    prediction, truth = pair(seed, (27, 34))
    found = errors(prediction, truth)
    assert np.array_equal(found.types, slow(prediction, truth))
    assert found.pixels.sum() == (prediction != truth).sum()
    assert np.array_equal(found.pixels.sum(0), np.bincount(truth[prediction != truth], minlength=CLASSES))


@pytest.mark.parametrize("seed", range(3))
def test_every_wrong_pixel_has_one_type_where_pixels_are_ignored(seed):
    prediction, truth = pair(seed, (27, 34), ignored=0.2)
    found = errors(prediction, truth)
    wrong = (truth != IGNORE_INDEX) & (prediction != truth)
    assert np.array_equal(found.types > 0, wrong)
    assert found.pixels.sum() == wrong.sum()


def test_more_classes_than_a_byte_has_pairs():
    truth = blobs(0, (40, 40), classes=200, coarse=2)
    prediction = blobs(1, (40, 40), classes=200, coarse=2)
    found = errors(prediction, truth, classes=200)
    assert np.array_equal(found.types, slow(prediction, truth))
