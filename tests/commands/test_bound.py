import json
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.configs import configure

from segpipe.analysis.oracle import RESAMPLERS, STRIDES, area, class_fractions, majority, nearest
from segpipe.bound import bound, main
from segpipe.data.dataset import IGNORE_INDEX
from segpipe.data.datasets.camvid import CamVid
from segpipe.metrics.confusion import confusion_matrices, scores

I = IGNORE_INDEX  # noqa: E741


def random_mask(seed, shape=(21, 34), classes=4, side=3):
    draw = np.random.default_rng(seed)
    size = [-(-length // side) for length in shape]
    mask = np.kron(draw.integers(0, classes, size), np.ones((side, side), int))[: shape[0], : shape[1]]
    return np.where(draw.random(shape) < 0.1, I, mask).astype(np.uint8)


def test_nearest_takes_the_pixel_right_and_below_of_the_middle():
    mask = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert nearest(mask, 2, 16).tolist() == [[5, 5, 7, 7], [5, 5, 7, 7], [13, 13, 15, 15], [13, 13, 15, 15]]
    assert (nearest(mask, 4, 16) == 10).all()
    assert (nearest(mask, 32, 16) == 15).all()  # the last row and column, repeated
    mask[1, 1] = I
    assert (nearest(mask, 2, 16)[:2, :2] == 16).all()  # none of the classes


def test_majority_leaves_out_ignored_pixels_and_takes_the_first_of_two_alike():
    mask = np.array([[0, 1, 1, 2], [0, 1, 2, 2], [I, I, 2, 0], [I, 1, 0, 1]], np.uint8)
    assert majority(mask, 2, 3).tolist() == [[0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert majority(mask[:, :3], 2, 3)[:2, 2].tolist() == [1, 1]  # half a block, one pixel of each


def test_area_and_bilinear_find_a_straight_boundary_between_blocks_and_round_a_corner():
    straight = np.zeros((8, 8), np.uint8)
    straight[:, 4:] = 1
    assert (area(straight, 4, 2) == straight).all()
    corner = np.zeros((8, 8), np.uint8)
    corner[4:, 4:] = 1
    # Class 1 weighs 5/8 x 5/8 at (4, 4), which is under a half, and 5/8 x 7/8 beside it
    assert np.argwhere(area(corner, 4, 2) != corner).tolist() == [[4, 4]]


@pytest.mark.parametrize("way", RESAMPLERS)
@pytest.mark.parametrize("stride", STRIDES)
def test_a_class_alone_survives_any_stride(way, stride):
    """Also where a picture is smaller than the stride, or no multiple of it."""
    for shape in ((1, 1), (20, 37), (64, 64)):
        mask = np.full(shape, 2, np.uint8)
        assert (RESAMPLERS[way](mask, stride, 3) == mask).all()


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_shares_and_enlargement_are_those_of_torch(seed, stride):
    mask = random_mask(seed)
    one_hot = torch.from_numpy(np.stack([mask == index for index in range(4)])).float()[None]
    padded = F.pad(one_hot, (0, -mask.shape[1] % stride, 0, -mask.shape[0] % stride))
    small = F.avg_pool2d(padded, stride)
    assert np.array_equal(class_fractions(mask, stride, 4), small[0].numpy())
    large = F.interpolate(small, scale_factor=stride, mode="bilinear", align_corners=False)[0, :, :21, :34].numpy()
    chosen = area(mask, stride, 4)
    assert np.take_along_axis(large, chosen[None].astype(int), 0) == pytest.approx(large.max(0)[None], abs=1e-6)
    blocks = small[0].numpy()[:, np.arange(21)[:, None] // stride, np.arange(34) // stride]
    chosen = majority(mask, stride, 4)
    assert (np.take_along_axis(blocks, chosen[None].astype(int), 0) == blocks.max(0)).all()


def test_what_a_bound_holds(tmp_path):
    cfg = configure("data.dataset.train=2", "data.dataset.val=2", "data.dataset.test=3")
    found = bound(cfg, "test")
    assert (found["data"], found["split"], found["images"]) == ("shapes", "test", 3)
    assert list(found["strides"]) == [str(stride) for stride in STRIDES]
    for ways in found["strides"].values():
        assert list(ways) == list(RESAMPLERS)
        for way in ways.values():
            assert way["miou"] == pytest.approx(np.mean(list(way["per_class_iou"].values())))
            assert 0 <= way["boundaries"]["band_miou_1"] < way["boundaries"]["band_miou_32"] <= way["miou"]
    for way in RESAMPLERS:
        falling = [ways[way]["miou"] for ways in found["strides"].values()]
        assert falling == sorted(falling, reverse=True)


def test_the_command_says_where_it_wrote(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["data.dataset.train=2", "data.dataset.val=2", "data.dataset.test=2"]
    monkeypatch.setattr(sys, "argv", ["bound", *words[:1], "--split", "val", *words[1:]])
    main()
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "outputs" / "bounds" / "shapes-val.json").read_text())
    assert (found["split"], found["images"]) == ("val", 2)
    assert "outputs/bounds/shapes-val.json" in said
    assert f"{found['strides']['8']['area+bilinear']['miou']:.3f}" in said
    assert f"segpipe.train {' '.join(words)}" in said


def test_data_that_are_not_there_are_refused(tmp_path, monkeypatch, capsys):
    out = tmp_path / "bound.json"
    monkeypatch.setattr(sys, "argv", ["bound", "data=camvid", f"data.root={tmp_path / 'none'}", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "none" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_camvids_figures(camvid_root):
    """In percent, as the project's plan has them: nearest, majority and nearest, area and bilinear."""
    expected = {
        2: (92.1, 93.7, 97.1), 4: (87.0, 88.6, 92.6), 8: (78.9, 80.8, 84.8), 16: (68.9, 71.0, 75.3),
        32: (56.4, 58.5, 63.7),
    }  # fmt: skip
    dataset = CamVid(root=str(camvid_root), split="test")
    sums = {(stride, way): np.zeros((12, 12), np.int64) for stride in STRIDES for way in RESAMPLERS}
    for index in range(len(dataset)):
        mask = dataset.read(index).mask
        for stride, way in sums:
            guess = torch.from_numpy(RESAMPLERS[way](mask, stride, 11))[None].long()
            sums[stride, way] += confusion_matrices(guess, torch.from_numpy(mask)[None], 12)[0].numpy()
    for stride, figures in expected.items():
        found = [100 * scores(sums[stride, way])["miou"] for way in RESAMPLERS]
        assert found == pytest.approx(figures, abs=0.1), stride
