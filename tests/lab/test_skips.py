"""What a skip carries, on networks whose answer is known."""

import numpy as np
import pytest
import torch
from support.grid import grid
from support.planes import CLASSES, blocks, drawn, ignore, planes
from support.tiny_networks import build_tiny
from torch import nn

from segpipe.config.schema import options
from segpipe.errors import UserError
from segpipe.lab.skips import REPLACEMENTS, blur, measure_skips, passes, skip_places
from segpipe.metrics.boundaries import boundary_scores, count_boundaries
from segpipe.metrics.confusion import confusion_matrices, scores
from segpipe.models.fusion import Concat, NoFusion, Sum
from segpipe.models.refine import Merge1x1


def measured(network, masks, groups=None, **given):
    samples = [drawn(mask) for mask in masks]
    groups = groups or [str(number) for number in range(len(samples))]
    return measure_skips(network, samples, groups=groups, num_classes=CLASSES, advance=given.get("advance", ignore))


def miou(predictions, masks):
    pairs = zip(predictions, masks, strict=True)
    matrices = [
        confusion_matrices(*(torch.tensor(np.asarray(one))[None] for one in pair), CLASSES)[0] for pair in pairs
    ]
    return scores(np.asarray(torch.stack(matrices).sum(0)))["miou"]


def losses(skip):
    return {loss.replacement: loss for loss in skip.losses}


def test_a_skip_that_is_the_mask_carries_all():
    masks = [blocks(seed) for seed in range(4)]
    found = measured(planes(), masks)
    (skip,) = found.skips
    assert (found.miou.value, found.boundary_f.value) == (1.0, 1.0)
    assert (skip.stride, skip.energy.value) == (1, 1.0)
    assert [one.value for one in skip.class_energy] == [1.0] * CLASSES
    lost = losses(skip)
    assert list(lost) == list(REPLACEMENTS)
    commonest = int(np.bincount(np.stack(masks).ravel()).argmax())
    for replacement, predictions in {
        "zero": [np.zeros_like(mask) for mask in masks],  # equal scores: the first class
        "mean": [np.full_like(mask, commonest) for mask in masks],
        "shuffled": [masks[(number + 2) % 4] for number in range(4)],
    }.items():
        assert lost[replacement].miou.value == pytest.approx(1 - miou(predictions, masks), abs=1e-12), replacement
    assert lost["zero"].class_iou[1].value == 1.0
    assert 0 < lost["blurred"].miou.value < lost["mean"].miou.value


def test_boundary_f_that_is_lost_is_that_of_a_test():
    masks = [blocks(seed) for seed in range(3)]
    (skip,) = measured(planes(), masks).skips
    predictions = np.stack([masks[(number + 1) % 3] for number in range(3)])
    expected = boundary_scores(count_boundaries(predictions, np.stack(masks), num_classes=CLASSES))["boundary_f"]
    assert losses(skip)["shuffled"].boundary_f.value == pytest.approx(1 - expected, abs=1e-12)


@pytest.mark.parametrize("model", ["fcn8s", "fcn16s"])
def test_a_decoder_that_ignores_its_skip_loses_exactly_nothing(model):
    """The laterals of FCN start at zero."""
    samples = [blocks(seed, (33, 40)) for seed in range(3)]
    found = measured(build_tiny(model).eval(), samples)
    assert found.skips
    for skip in found.skips:
        assert skip.energy.value == 0.0
        for loss in skip.losses:
            every = [loss.miou, loss.boundary_f, *loss.class_iou, *loss.class_boundary_f]
            assert {one.value for one in every} <= {0.0, None}
            assert {one.low for one in every} | {one.high for one in every} <= {0.0, None}


def test_energy_is_the_laterals_share_for_sum_and_concatenation():
    """The skip is c times the shares of the classes; the deep map is d times their means over 2 x 2 pixels."""
    mask = blocks(0, side=2)  # constant in each cell of stride 2: both maps have equal energy at equal factors
    for fusion in (Sum, Concat):
        for scale, deep in ((1.0, 1.0), (2.0, 1.0), (1.0, 3.0)):
            network = planes(fusion=fusion, deep=deep, scale=scale)
            (skip,) = measured(network, [mask]).skips
            assert skip.energy.value == pytest.approx(1 / (1 + deep**2), abs=1e-6)


def test_energy_of_a_class_is_that_of_its_pixels():
    """The skip is there in the cells of class 2 alone; the deep map is there everywhere."""

    class OnlyBlue(nn.Module):
        def forward(self, image):
            return image / 255 * torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)

    mask = blocks(0, side=2)
    network = planes(deep=1.0)
    network.decoder.steps["1"].upsample.forward = lambda x, source: torch.ones_like(source)
    network.normalise = OnlyBlue()
    (skip,) = measured(network, [mask]).skips
    assert [one.value for one in skip.class_energy] == pytest.approx([0, 0, 1 / 4])  # 1 beside 3 channels of 1


def test_ignored_pixels_are_of_no_class():
    mask = blocks(1)
    mask[:8] = 255
    found = measured(planes(), [mask, blocks(2), blocks(3)])
    assert found.miou.value == 1.0
    nothing = measured(planes(), [np.full((8, 8), 255)] * 3)
    assert nothing.miou.value is None
    assert nothing.skips[0].losses[0].miou.value is None
    assert [one.value for one in nothing.skips[0].class_energy] == [None] * CLASSES


def test_one_image_has_no_other_to_shuffle_with_and_no_interval():
    (skip,) = measured(planes(), [blocks(0)]).skips
    assert list(losses(skip)) == ["zero", "mean", "blurred"]
    assert (losses(skip)["zero"].miou.low, losses(skip)["zero"].miou.high) == (None, None)


def test_images_of_different_sizes_are_shuffled_too():
    found = measured(planes(), [blocks(0, (16, 24)), blocks(1, (12, 20)), blocks(2, (9, 31))])
    assert losses(found.skips[0])["shuffled"].miou.value > 0.1


def test_intervals_contain_the_loss_and_resample_groups():
    masks = [blocks(seed) for seed in range(8)]
    by_image = losses(measured(planes(), masks).skips[0])["shuffled"].miou
    assert by_image.low < by_image.value < by_image.high
    by_group = losses(measured(planes(), masks, groups=list("aabbccdd")).skips[0])["shuffled"].miou
    assert by_group.value == by_image.value
    assert (by_group.low, by_group.high) != (by_image.low, by_image.high)


def test_blur_keeps_constants_and_spreads_a_point_by_its_window():
    assert torch.allclose(blur(torch.full((2, 3, 4, 5), 7.0), deviation=2.0), torch.full((2, 3, 4, 5), 7.0))
    point = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    point[0, 0, 15, 15] = 1
    blurred = blur(point, deviation=2.0)[0, 0]
    assert float(blurred.sum()) == pytest.approx(1)
    line, at = blurred.sum(1), torch.arange(31.0) - 15
    assert float((line * at**2).sum() ** 0.5) == pytest.approx(2, rel=0.02)


def test_a_diverged_network_has_no_shares_but_does_not_fail():
    network = planes(deep=1.0)
    network.encoder.scale = float("inf")
    (skip,) = measured(network, [blocks(0), blocks(1), blocks(2)]).skips
    assert skip.energy.value is None


def test_a_network_without_skips_has_none():
    found = measured(planes(fusion=NoFusion, deep=1.0), [blocks(0)])
    assert found.skips == []
    assert found.miou.value is not None


@pytest.mark.parametrize(
    ("model", "choice"),
    grid(
        ["fcn8s", "ladder", "unet", "segnet", "deconvnet"],
        [*(("fusion", name) for name in options("fusion")), *(("decoder", name) for name in options("decoder"))],
        quick=[
            *(("ladder", ("decoder", name)) for name in options("decoder")),
            *(("fcn8s", ("fusion", name)) for name in options("fusion")),
        ],
    ),
)
def test_every_model_operator_and_fusion_is_measured(model, choice):
    """Progress ends at the announced number, and a decoder that ran with a replaced skip is unchanged after it."""
    try:
        network = build_tiny(model, **dict([choice])).eval()
    except UserError:
        pytest.skip("not a valid combination: tests/models/test_contract.py says why")
    reported = []
    masks = [blocks(seed, (33, 40)) for seed in range(2)]
    image = torch.from_numpy(drawn(masks[0]).image)[None].permute(0, 3, 1, 2)
    before = network(image)
    found = measured(network, masks, advance=reported.append)
    assert torch.equal(before, network(image))
    assert sum(reported) == passes(network, 2)
    assert [skip.stride for skip in found.skips] == [place.stride for place in skip_places(network)]
    shares = [skip.energy.value for skip in found.skips]
    assert all(0 <= share <= 1 for share in shares if share is not None)
    assert None not in shares or model == "deconvnet"  # with 8 channels its deepest map is zero for some images
    assert bool(found.skips) == any(step.fuse.uses_skip for step in network.decoder.steps.values())


def test_merging_refinements_read_both_halves():
    """Concatenation and its merge start as a sum: the same losses."""
    masks = [blocks(seed) for seed in range(3)]
    one, other = (measured(planes(fusion=fusion, refine=Merge1x1), masks) for fusion in (Sum, Concat))
    assert other.miou == one.miou
