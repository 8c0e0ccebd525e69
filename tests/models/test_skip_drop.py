"""Skips that training drops: a function of (seed, image, stride), whatever the order and the number of devices."""

import pytest
import torch
from support.configs import TINY, configure

from segpipe.config import build
from segpipe.lab.slots import recording, replaced_skip
from segpipe.models.decoder import SkipTap, keyed_drops

IMAGES = 255 * torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network():
    return build.network(configure(*TINY, "fusion.drop=0.5"), 6)


def kept(network, images, *, seed=0):
    with keyed_drops(network, seed=seed, images=lambda: images):
        return torch.stack([step.tap.kept for step in network.decoder.steps.values()])  # (steps, N)


KEYS = [f"epoch 0 image {number}" for number in range(400)]


def test_the_choice_is_one_of_the_image_and_not_of_its_batch(network):
    whole = kept(network, KEYS)
    shares = [kept(network, KEYS[rank::2]) for rank in range(2)]
    assert torch.equal(torch.stack(shares, 2).flatten(1), whole)
    assert torch.equal(kept(network, KEYS[::-1]).flip(1), whole)
    assert not torch.equal(kept(network, KEYS, seed=1), whole)
    assert not torch.equal(kept(network, [key.replace("epoch 0", "epoch 1") for key in KEYS]), whole)
    assert not torch.equal(whole[0], whole[1])  # each step has its own
    assert abs(whole.float().mean() - 0.5) < 0.06


def test_a_dropped_skip_is_zero_and_a_kept_one_is_as_in_evaluation(network):
    network.train()
    with keyed_drops(network, seed=0, images=lambda: KEYS[:4]), recording(network) as record, torch.no_grad():
        network(IMAGES)
        flags = [step.tap.kept for step in network.decoder.steps.values()]
    steps = [step for step in record.steps() if step.skip is not None]
    assert len(steps) == len(flags) == 2
    assert 0 < sum(int(flag.sum()) for flag in flags) < 8
    for flag, step in zip(flags, steps, strict=True):
        whole = [bool(image.any()) for image in step.skip]
        assert whole == flag.tolist()
    assert all(tap.kept is None for tap in network.modules() if isinstance(tap, SkipTap))


def test_evaluation_drops_nothing(network):
    network.eval()
    other = build.network(configure(*TINY), 6).eval()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(network(IMAGES), other(IMAGES))


def test_without_a_task_the_choice_is_drawn(network):
    network.train()
    torch.manual_seed(0)
    with recording(network) as record, torch.no_grad():
        found = []
        for _ in range(10):
            network(IMAGES)
            found += [bool(image.any()) for step in record.steps() if step.skip is not None for image in step.skip]
    assert 10 < sum(found) < 70


def test_a_dropped_skip_is_what_evaluation_with_zeros_has(network):
    network.eval()
    with torch.no_grad(), replaced_skip(network, 16, torch.zeros_like), replaced_skip(network, 8, torch.zeros_like):
        zeros = network(IMAGES)
    for step in network.decoder.steps.values():
        step.tap.train()
        step.tap.kept = torch.zeros(4, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(network(IMAGES), zeros)
    for step in network.decoder.steps.values():
        step.tap.kept = None


def test_values_that_are_not_finite_are_dropped_too(network):
    tap = network.decoder.steps["16"].tap.train()
    tap.kept = torch.tensor([True, False])
    skip = torch.full((2, tap.channels, 4, 4), torch.inf)
    features = {tap.source: torch.nn.functional.interpolate(skip, scale_factor=2) if tap.pool else skip}
    dropped = tap(features)
    tap.kept = None
    assert dropped[0].isinf().all()
    assert not dropped[1].any()


def test_the_task_names_images_by_epoch_and_index():
    cfg = configure(*TINY, "fusion.drop=0.5")
    task = build.task(cfg, build.data(cfg))
    with task.keyed_drops(torch.tensor([3, 5])):
        found = torch.stack([step.tap.kept for step in task.network.decoder.steps.values()])
    assert torch.equal(found, kept(task.network, ["epoch 0 image 3", "epoch 0 image 5"]))
    nothing = configure(*TINY)
    task = build.task(nothing, build.data(nothing))
    with task.keyed_drops(None):  # the indices are not read where nothing can be dropped
        pass
