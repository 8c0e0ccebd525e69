import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassF1Score, MulticlassJaccardIndex

from segpipe.data.dataset import IGNORE_INDEX
from segpipe.data.datasets.camvid import CamVid
from segpipe.metrics.confusion import (
    SCORES,
    Score,
    class_totals,
    confusion_matrices,
    logged_scores,
    named_scores,
    score_paths,
    scores,
)


def slow_matrix(prediction, mask, classes):
    matrix = np.zeros((classes, classes), np.int64)
    for true, predicted in zip(mask.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if true != IGNORE_INDEX:
            matrix[true, predicted] += 1
    return matrix


def random_pair(seed, classes=5, shape=(3, 13, 17)):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(0, classes, shape, generator=generator)
    mask = torch.randint(0, classes, shape, generator=generator)
    mask[torch.rand(shape, generator=generator) < 0.2] = IGNORE_INDEX
    return prediction, mask


@pytest.mark.parametrize("seed", range(3))
def test_one_matrix_for_each_picture_as_a_slow_loop_counts_it(seed):
    prediction, mask = random_pair(seed)
    found = confusion_matrices(prediction, mask, 5)
    for one, p, m in zip(found, prediction, mask, strict=True):
        assert (one.numpy() == slow_matrix(p, m, 5)).all()


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_torchmetrics_where_that_is_right(seed):
    prediction, mask = random_pair(seed)
    ours = confusion_matrices(prediction, mask, 5).sum(0)
    theirs = MulticlassConfusionMatrix(5, ignore_index=IGNORE_INDEX)(prediction, mask)
    assert torch.equal(ours, theirs)
    iou = MulticlassJaccardIndex(5, ignore_index=IGNORE_INDEX)(prediction, mask)
    assert scores(ours.numpy())["miou"] == pytest.approx(float(iou), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_dice_agrees_with_torchmetrics_and_with_a_slow_loop(seed):
    prediction, mask = random_pair(seed)
    mask[mask == 2] = 3  # a class that is predicted only
    found = scores(confusion_matrices(prediction, mask, 5).sum(0).numpy())
    theirs = MulticlassF1Score(5, average="none", ignore_index=IGNORE_INDEX)(prediction, mask)
    present = [0, 1, 3, 4]
    assert [found["per_class_dice"][k] for k in present] == pytest.approx(theirs[present].tolist(), abs=1e-6)
    pairs = [pair for pair in zip(prediction.flatten().tolist(), mask.flatten().tolist(), strict=True) if pair[1] < 255]
    slow = []
    for k in present:
        both = sum(p == k and m == k for p, m in pairs)
        slow.append(2 * both / (sum(p == k for p, _ in pairs) + sum(m == k for _, m in pairs)))
    assert [found["per_class_dice"][k] for k in present] == pytest.approx(slow)
    assert math.isnan(found["per_class_dice"][2])
    assert found["dice"] == pytest.approx(np.mean(slow))
    assert found["dice"] == pytest.approx(np.mean([2 * j / (1 + j) for j in np.array(found["per_class_iou"])[present]]))


@pytest.mark.parametrize("name", SCORES)
def test_every_score_keeps_the_contract(name):
    """Shape, range, order of classes, stacks of matrices, absent classes, and 1 for a perfect prediction alone."""
    score, random = SCORES[name], np.random.default_rng(0)
    matrices = random.integers(1, 50, (2, 3, 5, 5))
    matrices[1, :, 2] = 0  # absent from the truth, predicted all the same
    matrices[..., 3] = 0  # never predicted
    values = score.value(matrices)
    assert values.shape == (2, 3)
    assert (values >= 0).all()
    assert (values < 1).all()
    assert all(values[place] == score.value(matrices[place]) for place in np.ndindex(2, 3))
    order = [3, 1, 4, 0, 2]
    assert score.value(matrices[..., order, :][..., order]) == pytest.approx(values)
    assert float(score.value(np.diag([5, 4, 0, 3, 1]))) == 1
    assert math.isnan(score.value(np.zeros((3, 3), np.int64)))
    if score.per_class:
        each = score.by_class(matrices)
        assert each.shape == (2, 3, 5)
        assert np.isnan(each[1, :, 2]).all()
        assert np.isfinite(np.delete(each, 2, axis=-1)).all()
        assert np.nanmean(each, axis=-1) == pytest.approx(values)


def test_names_of_scores_are_used_once():
    keys = [*SCORES, *(f"per_class_{score.per_class}" for score in SCORES.values() if score.per_class)]
    assert len({*keys, "pixels", "images", "loss", "boundaries"}) == len(keys) + 4
    assert len({score.label for score in SCORES.values()}) == len(SCORES)
    by_class = sum(1 for score in SCORES.values() if score.per_class and score.log_classes)
    assert len(score_paths(["a", "b"])) == len(SCORES) + 2 * by_class


def test_a_score_of_another_shape_is_an_error_that_says_what_is_needed():
    matrix = np.ones((3, 3), np.int64)
    with pytest.raises(
        ValueError, match=r"score hits of .* \(3,\)\. The shape must be \(\): one value for each matrix"
    ):
        Score(lambda matrices: class_totals(matrices)[0], "hits").value(matrix)
    with pytest.raises(
        ValueError, match=r"shape \(\)\. The shape must be \(3,\): one value for each class of each matrix"
    ):
        Score(lambda matrices: class_totals(matrices)[0].sum(-1), "hits", per_class="hits").by_class(matrix)


def test_hand_made():
    found = scores(np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))
    assert found["per_class_iou"][:2] == [3 / 6, 4 / 7]
    assert math.isnan(found["per_class_iou"][2])
    assert found["miou"] == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert found["pixel_accuracy"] == pytest.approx(7 / 10)
    assert found["mean_class_accuracy"] == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert found["frequency_weighted_iou"] == pytest.approx(0.4 * 3 / 6 + 0.6 * 4 / 7)
    assert found["per_class_dice"][:2] == [2 * 3 / (2 * 3 + 2 + 1), 2 * 4 / (2 * 4 + 1 + 2)]
    assert found["dice"] == pytest.approx((6 / 9 + 8 / 11) / 2)
    assert found["pixels"] == [4, 6, 0]


def test_an_absent_class_that_is_predicted_lowers_the_others_only():
    found = scores(np.array([[3, 0, 1], [0, 4, 0], [0, 0, 0]]))
    assert found["miou"] == pytest.approx((3 / 4 + 1) / 2)


def test_segnets_script_divides_by_all_classes():
    matrix = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    assert scores(matrix, divide_by_all=True)["miou"] == pytest.approx((3 / 6 + 4 / 7) / 3)


def test_nothing_to_score_is_nan():
    assert math.isnan(scores(np.zeros((2, 2), np.int64))["miou"])


def test_names():
    found = named_scores(np.array([[[1, 0], [1, 2]], [[1, 0], [0, 0]]]), ["a", "b"])
    assert found["per_class_iou"] == {"a": 2 / 3, "b": 2 / 3}
    assert found["images"] == 2
    logged = logged_scores(np.array([[[1, 0], [1, 2]], [[1, 0], [0, 0]]]), ["a", "b"])
    assert {key: logged[key] for key in SCORES} == {key: found[key] for key in SCORES}
    assert (logged["iou/a"], logged["dice/b"]) == (found["per_class_iou"]["a"], found["per_class_dice"]["b"])
    assert "accuracy/a" not in logged


def test_camvids_two_baselines(camvid_root):
    """All road, and the training masks' most frequent class at each pixel: 2.44 and 17.03 % mIoU on test."""
    train, test = CamVid(root=str(camvid_root), split="train"), CamVid(root=str(camvid_root), split="test")
    counts = np.zeros((11, 360, 480), np.int64)
    for index in range(len(train)):
        mask = train.read(index).mask
        counts[mask[mask != IGNORE_INDEX], *np.nonzero(mask != IGNORE_INDEX)] += 1
    guesses = {"road": np.full((360, 480), 3), "mode": counts.argmax(0)}
    sums = {name: np.zeros((11, 11), np.int64) for name in guesses}
    for index in range(len(test)):
        mask = torch.from_numpy(test.read(index).mask)[None]
        for name, guess in guesses.items():
            sums[name] += confusion_matrices(torch.from_numpy(guess)[None], mask, 11)[0].numpy()
    assert 100 * scores(sums["road"])["miou"] == pytest.approx(2.44, abs=0.005)
    assert 100 * scores(sums["mode"])["miou"] == pytest.approx(17.03, abs=0.005)
