import pytest
import torch
import torch.nn.functional as F

from segpipe.losses import CrossEntropy, Dice, WeightedSum
from segpipe.schedules import constant, cosine, poly


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


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropy(),
        CrossEntropy(weight=[1.0, 2.0, 0.5]),
        Dice(),
        WeightedSum(terms=[CrossEntropy(), Dice()], factors=[1.0, 0.5]),
    ],
)
def test_sums_over_parts_give_the_loss_of_the_whole(loss):
    """Unequal numbers of valid pixels: a mean of the parts' means would differ."""
    logits, mask = example()
    counts = loss.counts(mask).float()
    parts = [loss.combine(loss(part, m), counts) for part, m in zip(logits.split(1), mask.split(1), strict=True)]
    torch.testing.assert_close(sum(parts), value(loss, logits, mask))
    torch.testing.assert_close(sum(loss.counts(m).float() for m in mask.split(1)), counts)
    assert torch.isfinite(value(loss, logits, torch.full_like(mask, 255)))


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
