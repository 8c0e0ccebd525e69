import math

import pytest
import torch
import torch.nn.functional as F
from support.configs import configure

from segpipe.config import build
from segpipe.config.schema import options
from segpipe.data.module import SegmentationData
from segpipe.errors import UserError
from segpipe.training.losses import CrossEntropy, Dice, Focal, HardCrossEntropy, WeightedSum
from segpipe.training.lovasz import Lovasz
from segpipe.training.schedules import constant, cosine, poly


def example(seed=0, pictures=4, classes=3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(pictures, classes, 5, 6, generator=generator)
    mask = torch.randint(0, classes, (pictures, 5, 6), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < 0.3] = 255
    mask[-1] = 255  # a picture with nothing to learn from
    return logits, mask


def value(loss, logits, mask):
    return loss.combine(loss(logits, mask), loss.counts(mask).float())


@pytest.mark.parametrize(("weight", "smoothing"), [(None, 0.0), ([1.0, 2.0, 0.5], 0.0), (None, 0.1)])
def test_cross_entropy_is_torchs_mean(weight, smoothing):
    logits, mask = example()
    tensor = None if weight is None else torch.tensor(weight)
    expected = F.cross_entropy(logits, mask, weight=tensor, ignore_index=255, label_smoothing=smoothing)
    torch.testing.assert_close(value(CrossEntropy(weight=weight, label_smoothing=smoothing), logits, mask), expected)


def test_dice_by_hand():
    logits = torch.tensor([[[[20.0, -20.0]], [[-20.0, 20.0]]]])  # class 0, then class 1
    right, wrong = torch.tensor([[[0, 1]]]), torch.tensor([[[1, 0]]])
    assert value(Dice(), logits, right) == pytest.approx(0.0, abs=1e-6)
    assert value(Dice(), logits, wrong) == pytest.approx(1.0, abs=1e-6)
    ignored = torch.tensor([[[0, 255]]])  # class 1 is absent and counts nothing
    assert value(Dice(), logits, ignored) == pytest.approx(0.0, abs=1e-6)


EVERY = {  # every file under conf, and losses with other arguments
    **{name: build.instantiate_group(configure(f"loss={name}"), "loss") for name in options("loss")},
    "weighted cross_entropy": CrossEntropy(weight=[1.0, 2.0, 0.5]),
    "weighted focal": Focal(gamma=0.5, weight=[1.0, 2.0, 0.5]),
    "cross_entropy and half dice": WeightedSum(terms=[CrossEntropy(), Dice()], factors=[1.0, 0.5]),
    "ohem of 0.3": HardCrossEntropy(share=0.3),
}


every_loss = pytest.mark.parametrize("loss", EVERY.values(), ids=list(EVERY))


@every_loss
def test_sums_over_parts_give_the_loss_of_the_whole(loss):
    """Unequal numbers of valid pixels: a mean of the parts' means would differ."""
    logits, mask = example()
    counts = loss.counts(mask).float()
    assert loss(logits, mask).shape == counts.shape == loss.term_weights.shape
    parts = [loss.combine(loss(part, m), counts) for part, m in zip(logits.split(1), mask.split(1), strict=True)]
    torch.testing.assert_close(sum(parts), value(loss, logits, mask))
    torch.testing.assert_close(sum(loss.counts(m).float() for m in mask.split(1)), counts)
    assert torch.isfinite(value(loss, logits, torch.full_like(mask, 255)))


@every_loss
def test_what_is_ignored_does_nothing(loss):
    """No gradient reaches it, whatever the logits there; where nothing is left the loss is zero, its gradient too."""
    logits, mask = example()
    changed = logits.where((mask != 255)[:, None], 30 * torch.randn_like(logits)).requires_grad_()
    torch.testing.assert_close(value(loss, changed, mask), value(loss, logits, mask))
    (gradient,) = torch.autograd.grad(value(loss, changed, mask), changed)
    assert (gradient.permute(0, 2, 3, 1)[mask == 255] == 0).all()
    assert (gradient.permute(0, 2, 3, 1)[mask != 255] != 0).any()
    nothing = value(loss, changed, torch.full_like(mask, 255))
    (gradient,) = torch.autograd.grad(nothing, changed)
    assert nothing == 0
    assert (gradient == 0).all()


@every_loss
def test_gradients_are_the_slopes(loss):
    logits, mask = example(pictures=2)
    assert torch.autograd.gradcheck(
        lambda x: loss.double().combine(loss(x, mask), loss.counts(mask)), logits.double().requires_grad_()
    )
    loss.float()


@every_loss
@pytest.mark.parametrize("certain", [30.0, 200.0])
def test_a_certain_network_gets_finite_gradients(loss, certain):
    """Softmax is then exactly 0 and 1: no logarithm or power of that may spoil a training."""
    logits, mask = example()
    logits = (certain * logits.sign()).requires_grad_()
    (gradient,) = torch.autograd.grad(value(loss, logits, mask), logits)
    assert torch.isfinite(value(loss, logits, mask))
    assert torch.isfinite(gradient).all()


# Focal


def test_focal_without_gamma_is_cross_entropy():
    logits, mask = example()
    for weight in (None, [1.0, 2.0, 0.5]):
        expected = value(CrossEntropy(weight=weight), logits, mask)
        torch.testing.assert_close(value(Focal(gamma=0.0, weight=weight), logits, mask), expected)


def test_focal_pixel_by_pixel():
    logits, mask = example()
    weight, total, divisor = [1.0, 2.0, 0.5], 0.0, 0.0
    for n, row, column in (mask != 255).nonzero().tolist():
        true = mask[n, row, column].item()
        p = logits[n, :, row, column].double().softmax(0)[true].item()
        total -= weight[true] * (1 - p) ** 3 * math.log(p)
        divisor += weight[true]
    assert value(Focal(gamma=3.0, weight=weight), logits, mask).item() == pytest.approx(total / divisor, rel=1e-5)


def test_whole_numbers_are_weights_too():
    logits, mask = torch.randn(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=torch.long)
    assert torch.equal(CrossEntropy(weight=[1, 2])(logits, mask), CrossEntropy(weight=[1.0, 2.0])(logits, mask))


def test_class_weights_are_made_and_refused_alike_for_all_that_take_them():
    cfg = configure("data.dataset.train=8", "loss=focal", "loss.weight=median_frequency")
    data: SegmentationData = build.data(cfg)
    assert torch.equal(build.loss(cfg, data).weight, data.median_frequency().float())
    cfg.loss.weight = [1.0, 2.0]
    with pytest.raises(UserError, match="2 entries for 6 classes"):
        build.loss(cfg, data)


@pytest.mark.parametrize("weight", [[0.0] * 6, [1.0] * 5 + [-1.0], [1.0] * 5 + [float("nan")]])
def test_class_weights_without_a_meaning_are_refused(weight):
    cfg = configure("data.dataset.train=8", "loss=focal")
    cfg.loss.weight = weight
    with pytest.raises(UserError, match="allowed are numbers of 0 or more, of which one is above 0"):
        build.loss(cfg, build.data(cfg))


# The hardest pixels


def test_hard_cross_entropy_of_all_is_cross_entropy():
    logits, mask = example()
    torch.testing.assert_close(value(HardCrossEntropy(share=1.0), logits, mask), value(CrossEntropy(), logits, mask))


@pytest.mark.parametrize("share", [0.01, 0.25, 0.7])
def test_hard_cross_entropy_keeps_a_share_of_each_picture(share):
    logits, mask = example()
    total, kept = 0.0, 0
    for scores, truth in zip(logits, mask, strict=True):
        losses = F.cross_entropy(scores.flatten(1).T, truth.flatten(), ignore_index=255, reduction="none")
        losses = losses[truth.flatten() != 255]
        number = max(round(share * len(losses)), 1) if len(losses) else 0
        total, kept = total + sum(sorted(losses.tolist(), reverse=True)[:number]), kept + number
    loss = HardCrossEntropy(share=share)
    assert loss.counts(mask).item() == kept
    assert value(loss, logits, mask).item() == pytest.approx(total / kept, rel=1e-5)


# Lovasz
def jaccard_by_sorting(logits, mask):
    """The definition: errors from large to small, each times what 1 - IoU gains when its pixel, too, is wrong."""
    pictures = []
    for scores, truth in zip(logits.double().softmax(1), mask, strict=True):
        classes = []
        for name in sorted(set(truth[truth != 255].tolist())):
            own, p = (truth == name)[truth != 255].tolist(), scores[name][truth != 255].tolist()
            errors = [abs(o - q) for o, q in zip(own, p, strict=True)]
            wrong, before, total = set(), 0.0, 0.0
            for pixel in sorted(range(len(own)), key=lambda i: -errors[i]):
                wrong.add(pixel)
                right = sum(own) - sum(own[i] for i in wrong)
                union = sum(own) + sum(not own[i] for i in wrong)
                total += errors[pixel] * (1 - right / union - before)
                before = 1 - right / union
            classes.append(total)
        pictures += [sum(classes) / len(classes)] if classes else []
    return sum(pictures) / len(pictures)


@pytest.mark.parametrize("seed", range(3))
def test_lovasz_is_its_definition(seed):
    logits, mask = example(seed)
    assert value(Lovasz(), logits, mask).item() == pytest.approx(jaccard_by_sorting(logits, mask), rel=1e-5)


def test_lovasz_of_hard_predictions_is_one_minus_iou():
    logits, mask = example()
    hard = 1e4 * F.one_hot(logits.argmax(1), 3).permute(0, 3, 1, 2).float()
    expected = []
    for prediction, truth in zip(logits.argmax(1), mask, strict=True):
        valid = truth != 255
        ious = [
            (((prediction == c) & (truth == c)).sum() / (((prediction == c) | (truth == c)) & valid).sum()).item()
            for c in set(truth[valid].tolist())
        ]
        expected += [1 - sum(ious) / len(ious)] if ious else []
    assert value(Lovasz(), hard, mask).item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    right = 1e4 * F.one_hot(mask.where(mask != 255, 0), 3).permute(0, 3, 1, 2).float()
    assert value(Lovasz(), right, mask) == 0


def test_weighted_sum():
    logits, mask = example()
    both = WeightedSum(terms=[CrossEntropy(), Dice()], factors=[2.0, 0.5])
    expected = 2 * value(CrossEntropy(), logits, mask) + 0.5 * value(Dice(), logits, mask)
    torch.testing.assert_close(value(both, logits, mask), expected)


def test_schedules():
    assert [constant(step, 10) for step in (0, 9)] == [1.0, 1.0]
    assert poly(5, 10, power=0.9) == pytest.approx(0.5**0.9)
    assert cosine(5, 10) == pytest.approx(0.5)
    assert [constant(step, 10, warmup=4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert poly(10, 10) == cosine(10, 10) == 0.0
