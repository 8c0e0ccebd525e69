import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from segpipe.data.dataset import IGNORE_INDEX
from segpipe.data.datasets.camvid import CamVid
from segpipe.metrics.confusion import confusion_matrices, named_scores, scores


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


def test_hand_made():
    found = scores(np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))
    assert found["per_class_iou"][:2] == [3 / 6, 4 / 7]
    assert math.isnan(found["per_class_iou"][2])
    assert found["miou"] == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert found["pixel_accuracy"] == pytest.approx(7 / 10)
    assert found["mean_class_accuracy"] == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert found["frequency_weighted_iou"] == pytest.approx(0.4 * 3 / 6 + 0.6 * 4 / 7)
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
