"""Boundary measures against slow references."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from support.masks import I, blobs, filled_up, pair, pixels, slow_contour

from segpipe.metrics import boundaries as module
from segpipe.metrics import contours as contours_module
from segpipe.metrics.boundaries import (
    BANDS,
    NAMES,
    RATIOS,
    REGIONS,
    boundary_scores,
    count_boundaries,
)
from segpipe.metrics.components import SIZES, components
from segpipe.metrics.confusion import confusion_matrices, scores


def slow_f(prediction, truth, kept, classes, radius, points):
    """By class, over the contour pixels among ``points``; NaN where there are none."""
    found = []
    for label in range(classes):
        guess, true = (slow_contour(labels, label) & points for labels in (prediction, truth))
        close = [
            sum(any(math.dist(one, other) < radius for other in others) for one in own)
            for own, others in ((guess, true), (true, guess))
        ]
        if not guess and not true:
            found.append(math.nan)
        elif 0 in close:
            found.append(0.0)
        else:
            precision, recall = close[0] / len(guess), close[1] / len(true)
            found.append(2 * precision * recall / (precision + recall))
    present = [any(truth[place] == label for place in kept) for label in range(classes)]
    paper = [one for one, there in zip(found, present, strict=True) if there and not math.isnan(one)]
    script = [one for one in found if not math.isnan(one)]
    return [sum(paper) / len(paper) if paper else math.nan, sum(script) / len(script) if script else 0.0]


def slow_mask_band(mask, depth):
    """A mask without its erosions, in a picture with a border of zeros."""
    eroded = np.pad(mask, 1)
    for _ in range(depth):
        eroded = np.array([[eroded[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2].all() for c in range(eroded.shape[1])]
                           for r in range(eroded.shape[0])])  # fmt: skip
    return mask & ~eroded[1:-1, 1:-1]


def slow_boundary_iou(prediction, truth, kept, classes, depth):
    counted = np.zeros(truth.shape, bool)
    counted[tuple(zip(*kept, strict=True))] = True
    found = []
    for label in range(classes):
        guess, true = (slow_mask_band(labels == label, depth) & counted for labels in (prediction, truth))
        found.append([(guess & true).sum(), (guess | true).sum(), true.sum()])
    return np.array(found).T


def slow_band(prediction, truth, kept, classes, distance, *, beyond=False):
    found = np.zeros((3, classes), int)
    for row, column in kept:
        top, left = max(row - distance, 0), max(column - distance, 0)
        window = truth[top : row + distance + 1, left : column + distance + 1]
        if (window != truth[row, column]).any() != beyond:
            true, guess = truth[row, column], prediction[row, column]
            found[2, true] += 1
            found[1, true] += 1
            found[1, guess] += true != guess
            found[0, true] += true == guess
    return found


def slow_objects(labels, label):
    left, found = {place for place in pixels(labels.shape) if labels[place] == label}, []
    while left:
        todo, one = [min(left)], set()
        while todo:
            row, column = todo.pop()
            if (row, column) in left:
                left.remove((row, column))
                one.add((row, column))
                todo += [(row + r, column + c) for r in (-1, 0, 1) for c in (-1, 0, 1)]
        found.append(one)
    return found


def slow_object_counts(prediction, truth, kept, classes):
    found = np.zeros((3, 3, classes), int)
    limits = [limit * truth.size for limit in list(SIZES.values())[:2]]
    for label in range(classes):
        trues = [one & kept for one in slow_objects(truth, label)]
        for one in trues:
            size = sum(len(one) >= limit for limit in limits)
            hits = sum(prediction[place] == label for place in one)
            found[size, :, label] += [hits, len(one), len(one)]
        for one in slow_objects(prediction, label):
            one = one & kept
            shares = [len(one & true) for true in trues]
            owner = trues[shares.index(max(shares))] if any(shares) else one
            size = sum(len(owner) >= limit for limit in limits)
            found[size, 1, label] += sum(truth[place] != label for place in one)
    return found


@pytest.mark.parametrize("ignored", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (13, 17), (24, 20)])
@pytest.mark.parametrize("seed", range(4))
def test_all_agree_with_slow_references(seed, shape, ignored, monkeypatch):
    """With wider tolerances than the real ones, which would be under a pixel here."""
    ratios, tolerance = ((0.15, 0.07), 0.11) if seed % 2 else (RATIOS, contours_module.TOLERANCE)
    monkeypatch.setattr(module, "RATIOS", ratios)
    monkeypatch.setattr(contours_module, "TOLERANCE", tolerance)
    prediction, truth = pair(seed, shape, ignored=ignored)
    found = count_boundaries(prediction[None], truth[None], num_classes=4)
    kept = {place for place in pixels(shape) if truth[place] != I}
    if not kept:
        assert not found.counts.any()
        return
    diagonal = math.hypot(*shape)
    points = {place for place in pixels(shape) if any(math.dist(place, one) < tolerance * diagonal for one in kept)}
    if ignored == 0:
        assert points == kept
    slow = (*filled_up(prediction, truth), kept, 4)
    expected = [slow_boundary_iou(*slow, max(1, round(ratio * diagonal))) for ratio in ratios]
    expected += [slow_band(*slow, distance) for distance in BANDS] + [slow_band(*slow, 8, beyond=True)]
    expected += list(slow_object_counts(*slow))
    for name, ours, reference in zip(REGIONS, found.counts[0], expected, strict=True):
        assert (ours == reference).all(), name
    assert found.averages[0] == pytest.approx(slow_f(*slow, tolerance * diagonal, points), nan_ok=True)


@pytest.mark.parametrize("seed", range(2))
def test_a_larger_picture_agrees_with_scipy(seed):
    """At the real tolerances: 3 and 1 pixels of boundary IoU, 1.2 of boundary F."""
    prediction, truth = pair(seed, (100, 120), coarse=12)
    found = count_boundaries(prediction[None], truth[None], num_classes=4)
    square, measures = np.ones((3, 3)), []
    for label in range(4):
        masks = [labels == label for labels in (prediction, truth)]
        for ratio, depth in zip(RATIOS, (3, 1), strict=True):
            guess, true = (mask & ~ndimage.binary_erosion(mask, square, depth, border_value=0) for mask in masks)
            counts = found.counts[0, REGIONS.index(f"boundary_iou_{ratio}"), :, label]
            assert counts.tolist() == [(guess & true).sum(), (guess | true).sum(), true.sum()]
        guess, true = (mask & ~ndimage.binary_erosion(mask, square, border_value=1) for mask in masks)
        if guess.any() and true.any():
            near_true, near_guess = (ndimage.distance_transform_edt(~one) < 0.0075 * 156.2 for one in (true, guess))
            precision, recall = near_true[guess].mean(), near_guess[true].mean()
            measures.append(2 * precision * recall / (precision + recall))
        elif guess.any():
            measures.append(0.0)
        assert len(np.unique(components(truth[None]).numbers[0][masks[1]])) == ndimage.label(masks[1], square)[1]
    assert found.averages[0, 1] == pytest.approx(np.mean(measures))
    for distance in BANDS:
        window = 2 * distance + 1
        band = ndimage.maximum_filter(truth, window) != ndimage.minimum_filter(truth, window)
        matrix = confusion_matrices(torch.tensor(prediction)[None], torch.tensor(np.where(band, truth, I))[None], 4)
        expected = scores(matrix.sum(0).numpy())["miou"]
        assert boundary_scores(found)[f"band_miou_{distance}"] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_the_parts_make_the_whole(seed):
    prediction, truth = pair(seed, (60, 70), ignored=0.2, coarse=25, grain=0.001)
    counts = dict(zip(REGIONS, count_boundaries(prediction[None], truth[None], num_classes=4).counts[0], strict=True))
    matrix = confusion_matrices(torch.tensor(prediction)[None].long(), torch.tensor(truth)[None], 4)[0].numpy()
    whole = [matrix.diagonal(), matrix.sum(0) + matrix.sum(1) - matrix.diagonal(), matrix.sum(1)]
    assert (counts["band_miou_8"] + counts["far_miou_8"] == whole).all()
    assert (sum(counts[f"object_iou_{size}"] for size in SIZES) == whole).all()
    assert counts["far_miou_8"].any()


@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_the_truth_itself_scores_1_whatever_it_says_of_ignored_pixels(ignored):
    truth = np.stack([blobs(3, (90, 100), ignored=ignored, coarse=side, grain=0.002) for side in (30, 15)])
    guess = np.where(truth == I, np.random.default_rng(0).integers(0, 4, truth.shape), truth)
    assert boundary_scores(count_boundaries(guess, truth, num_classes=4)) == dict.fromkeys(NAMES, 1.0)
