"""Linear probes: the ridge regression, and what is known of maps whose content is known."""

import numpy as np
import pytest
import torch
from support.grid import grid
from support.planes import CLASSES, Planes, blocks, drawn, ignore, planes
from support.tiny_networks import build_tiny

from segpipe.analysis.oracle import area
from segpipe.config.schema import options
from segpipe.lab.probes import CELLS, Gram, add_cells, layers_of, measure_probes, passes
from segpipe.lab.regions import NEAR, filled_prediction, truth_of
from segpipe.metrics.confusion import confusion_matrices, scores


def measured(network, test, *, fit=None, untrained=None, advance=ignore):
    fit, test = ([drawn(mask) for mask in masks] for masks in (fit or test, test))
    groups = [str(number) for number in range(len(test))]
    return measure_probes(network, untrained, fit=fit, test=test, groups=groups, num_classes=CLASSES, advance=advance)


def closed_form(x, y, ridge):
    """Features divided by their standard deviation, targets of any kind, one row for each pixel."""
    mean, deviation = x.mean(0), x.std(0)
    z, target = (x - mean) / deviation, y - y.mean(0)
    weights = np.linalg.solve(z.T @ z / len(x) + ridge * np.eye(x.shape[1]), z.T @ target / len(x))
    return (weights / deviation[:, None]).T, y.mean(0) - (mean / deviation) @ weights


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 10.0])
def test_ridge_is_the_closed_form(ridge):
    draw = np.random.default_rng(0)
    x = draw.normal(5, 3, (300, 7)) @ draw.normal(size=(7, 7))
    y = np.eye(4)[draw.integers(0, 4, 300)]
    gram = Gram(7, 4)
    for part in np.array_split(np.arange(300), 3):
        gram.add(x[part], y[part])
    weights, biases = gram.solve(ridge)
    expected = closed_form(x, y, ridge)
    assert weights == pytest.approx(expected[0], abs=1e-9)
    assert biases == pytest.approx(expected[1], abs=1e-9)


def test_a_cell_counts_as_its_labelled_pixels():
    """Cells of 4 pixels with the shares of their classes: the same as one row for each pixel."""
    draw = np.random.default_rng(1)
    x, labels = draw.normal(size=(50, 3)), draw.integers(-1, 2, (50, 4))  # -1: not labelled
    labels[0] = -1
    fractions = np.stack([(labels == index).mean(1) for index in range(2)], axis=1)
    gram = Gram(3, 2)
    gram.add(x, fractions)
    pixels = np.repeat(x, 4, axis=0)[labels.ravel() >= 0]
    weights, biases = gram.solve(1e-3)
    expected = closed_form(pixels, np.eye(2)[labels[labels >= 0]], 1e-3)
    assert weights == pytest.approx(expected[0], abs=1e-9)
    assert biases == pytest.approx(expected[1], abs=1e-9)


def test_constant_channels_get_no_weight_and_what_is_not_finite_no_probe():
    draw = np.random.default_rng(2)
    x = np.concatenate([draw.normal(size=(40, 2)), np.full((40, 1), 1e6)], axis=1)
    y = np.eye(2)[draw.integers(0, 2, 40)]
    gram = Gram(3, 2)
    gram.add(x, y)
    weights, _ = gram.solve()
    assert (weights[:, 2] == 0).all()
    assert weights[:, :2].any()
    assert Gram(3, 2).solve() is None
    gram.add(np.full((1, 3), np.nan), y[:1])
    assert gram.solve() is None


def test_cells_are_drawn_without_replacement_and_without_ignored_ones():
    gram = Gram(1, 2)
    fractions = np.zeros((2, 64, 64), np.float32)
    fractions[0, :, 32:] = 1
    values = torch.arange(64.0 * 64).reshape(1, 1, 64, 64)
    add_cells(gram, values, fractions, seed=0)
    assert gram.weight == CELLS
    few = fractions * 0
    few[1, 3, 4:6] = 1
    gram = Gram(1, 2)
    add_cells(gram, values, few, seed=0)
    assert (gram.weight, gram.x[0]) == (2, 3 * 64 * 2 + 9)


STRIDES = (1, 2, 4, 8)


def test_a_probe_of_the_masks_own_shares_reaches_the_ceiling():
    masks = [blocks(seed, (48, 64), side=5) for seed in range(6)]
    found = measured(planes(STRIDES, deep=1.0), masks[:3], fit=masks[3:], untrained=planes(STRIDES, deep=1.0))
    encoder = [probe for probe in found.probes if probe.part == "encoder"]
    assert [probe.stride for probe in encoder] == list(STRIDES)
    assert [probe.cells for probe in encoder] == [48 * 64 // stride**2 for stride in STRIDES]
    for probe in encoder:
        assert probe.share.value == pytest.approx(1, abs=0.01), probe.label
        bound = np.sum([matrix(area(mask.astype(np.uint8), probe.stride, CLASSES), mask) for mask in masks[:3]], axis=0)
        assert probe.ceiling.miou.value == pytest.approx(scores(bound)["miou"], abs=1e-12)
    first, *_, last = encoder
    assert (first.scores.miou.value, first.scores.recall, first.scores.precision) == (1.0, 1.0, 1.0)
    assert first.scores.regions == first.ceiling.regions == found.regions
    assert last.scores.recall < 0.9
    recalls = [probe.ceiling.recall for probe in encoder]
    assert recalls == sorted(recalls, reverse=True)
    beside = [probe for probe in found.probes if probe.part == "untrained encoder"]
    assert [probe.scores for probe in beside] == [probe.scores for probe in encoder]  # it is the same here
    assert found.fitted_on == 3


def matrix(prediction, mask):
    return confusion_matrices(torch.from_numpy(prediction)[None].long(), torch.from_numpy(mask)[None], CLASSES)[
        0
    ].numpy()


def test_a_map_without_information_knows_the_commonest_class():
    masks = [np.where(np.random.default_rng(seed).random((16, 16)) < 0.2, 1, 0) for seed in range(3)]
    found = measured(planes((1, 2), deep=0.0), masks)
    (coarse,) = (probe for probe in found.probes if (probe.part, probe.stride) == ("encoder", 2))
    share = np.mean([mask == 0 for mask in masks])
    assert coarse.scores.miou.value == pytest.approx(share / 2)
    assert (coarse.scores.recall, coarse.scores.precision) == (0.0, None)  # no contour is predicted
    zeros = sum(int((truth_of(mask.astype(np.uint8)).classes == 0).sum()) for mask in masks)
    assert coarse.scores.regions == zeros


def test_contours_are_found_within_one_pixel():
    mask = np.zeros((12, 12), np.uint8)
    mask[:, 6:] = 1
    truth = truth_of(mask)
    for shift, recalled in ((0, 24), (1, 24), (2, 12), (3, 0)):
        moved = np.zeros_like(mask)
        moved[:, 6 + shift :] = 1
        _, drawn_contours = filled_prediction(moved, truth)
        assert int((truth.contour & drawn_contours.near).sum()) == recalled
        assert int((drawn_contours.contour & truth.near).sum()) == recalled
    assert NEAR == 1


def test_a_boundary_inside_an_ignored_outline_is_scored_at_its_middle():
    """As in VOC: the prediction takes the classes beside the outline, so both contours are in its middle."""
    mask = np.zeros((12, 20), np.uint8)
    mask[:, 10:] = 1
    mask[:, 8:12] = 255
    prediction = np.zeros((12, 20), np.uint8)
    prediction[:, 9:] = 1
    truth = truth_of(mask)
    filled, drawn_contours = filled_prediction(prediction, truth)
    assert truth.contour.sum() == 0 or (truth.contour == drawn_contours.contour).all()
    assert np.array_equal(filled, truth.filled)


def test_a_diverged_network_has_no_scores():
    network = planes((1, 2), deep=1.0, scale=float("inf"))
    found = measured(network, [blocks(seed) for seed in range(3)])
    assert {probe.scores.miou.value for probe in found.probes} == {None}
    assert all(probe.share.value is None and probe.ceiling.miou.value for probe in found.probes)


def test_masks_without_labels_give_no_scores():
    found = measured(planes((1, 2), deep=1.0), [np.full((8, 8), 255)] * 3, fit=[blocks(0)])
    assert (found.regions, found.probes[0].scores.miou.value, found.probes[0].share.value) == (0, None, None)


@pytest.mark.parametrize(("model", "encoder"), grid(options("model"), ["small", "alexnet", "resnet18"], quick=[
    ("fcn8s", "alexnet"), ("segnet", "small"), ("ladder", "resnet18"),
]))  # fmt: skip
def test_every_model_has_a_probe_for_each_map(model, encoder):
    if encoder != "small" and model in ("segnet", "segnet_basic", "deconvnet", "unet", "fcn_basic", "fcn2s"):
        pytest.skip("needs maps that the encoder does not have")
    network = build_tiny(model, encoder=encoder).eval()
    reported = []
    masks = [blocks(seed, (70, 66), side=9) for seed in range(2)]
    found = measured(
        network, masks, untrained=build_tiny(model, encoder=encoder, seed=1).eval(), advance=reported.append
    )
    with torch.no_grad():
        layers = layers_of(network, torch.zeros(1, 3, 70, 66), network)
    assert [probe.label for probe in found.probes] == [layer.label for layer in layers]
    assert len({probe.label for probe in found.probes}) == len(layers)
    parts = [probe.part for probe in found.probes]
    assert parts.count("encoder") == parts.count("untrained encoder") == len(network.encoder.strides)
    assert sum(reported) == passes(2, 2)
    assert all(0 <= probe.scores.miou.value <= 1 for probe in found.probes)


def test_planes_are_what_the_docstring_says():
    maps = Planes((1, 2), deep=2.0)(torch.ones(1, 3, 4, 4))
    assert maps[1].unique().tolist() == [1.0]
    assert maps[2].unique().tolist() == [2.0]
