"""Switches: where the maxima are, and how often that is on a boundary."""

import numpy as np
import pytest
import torch
from support.tiny_networks import build_tiny

from segpipe.data.dataset import Sample
from segpipe.lab.look import look
from segpipe.lab.slots import places
from segpipe.lab.switches import Agreement, agreement, measure_switches, step_measures, switch_shares


def test_shares_by_hand():
    source = torch.zeros(1, 4, 4, 5)
    source[0, 0, 0, 1] = 1
    source[0, 1, 0, 1] = 2
    source[0, 2, 1, 0] = 1
    source[0, 3, 0, 0] = 1
    shares = switch_shares(source)[0]
    assert shares[:2, :2].tolist() == [[0.25, 0.5], [0.25, 0.0]]
    assert shares[2:, :2].tolist() == [[1.0, 0.0], [0.0, 0.0]]  # equal values: the first
    assert not shares[:, 4].any()  # in no cell
    assert shares.sum() == 4


def half(size=8, at=3):
    mask = np.zeros((size, size), np.uint8)
    mask[:, at:] = 1
    return mask


def test_switches_on_boundaries_are_counted():
    mask = half()  # boundary pixels: columns 2 and 3; cells of columns 2 and 3 are boundary altogether
    assert agreement(np.full((8, 8), 0.25), mask, (8, 8)).cells == 0
    mask = half(at=2)  # columns 1 and 2: every cell of the first two rows of cells is mixed
    chance = agreement(np.full((8, 8), 0.25), mask, (8, 8))
    assert chance == Agreement(8, 4.0, 4.0)
    assert chance.ratio == 1
    shares = np.zeros((8, 8))
    shares[::2, 1] = shares[::2, 2] = 1
    assert agreement(shares, mask, (8, 8)).ratio == 2  # always on it, of a chance of one half
    shares = np.zeros((8, 8))
    shares[::2, 0] = shares[::2, 3] = 1
    assert agreement(shares, mask, (8, 8)).ratio == 0
    assert chance + chance == Agreement(16, 8.0, 8.0)


def test_ignored_pixels_and_padding_have_no_boundary():
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    found = agreement(np.full((16, 16), 0.25), mask, (16, 16))
    assert found.cells == 0
    assert np.isnan(found.ratio)
    chance = np.full((16, 16), 0.25)  # the boundary goes on in the padding, where no cell counts
    assert agreement(chance, half(at=2), (16, 16)) == agreement(chance[:8, :8], half(at=2), (8, 8))


@pytest.mark.parametrize("model", ["segnet", "deconvnet"])
def test_unpooling_leaves_three_quarters_of_zeros(model):
    network = build_tiny(model, encoder="small").eval()
    facts = look(network, torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255, size=(64, 64))
    for one in facts.switches:
        assert one.sparsity.upsampled >= 0.75
        assert list(one.sparsity.later) == ["refine"]
        assert one.sparsity.later["refine"] < one.sparsity.upsampled
        assert one.shares.shape == (64 // one.stride, 64 // one.stride)


def test_a_network_without_unpooling_has_none():
    network = build_tiny("unet", encoder="small").eval()
    assert look(network, torch.zeros(1, 3, 64, 64), size=(64, 64)).switches == []


def test_the_measures_of_a_split_are_those_of_its_images():
    network = build_tiny("segnet", encoder="small").eval()
    generator = np.random.default_rng(0)
    samples = [Sample(generator.integers(0, 256, (64, 64, 3), np.uint8), half(64, at)) for at in (22, 30, 42)]
    seen = []
    found = measure_switches(network, samples, groups=list("abc"), advance=seen.append)
    assert seen == [1, 1, 1]
    assert [one.stride for one in found] == [16, 8, 4, 2, 1]
    images = [
        look(network, torch.from_numpy(image)[None].permute(0, 3, 1, 2), size=(64, 64), truth=mask)
        for image, mask in samples
    ]
    for number, one in enumerate(found):
        total = sum((facts.switches[number].agreement for facts in images), Agreement(0, 0.0, 0.0))
        assert one.cells == total.cells
        assert one.ratio.value == pytest.approx(total.ratio, nan_ok=True) or total.cells == 0
        assert one.zeros == pytest.approx(np.mean([facts.switches[number].sparsity.upsampled for facts in images]))


def test_intervals_resample_images():
    place = places(build_tiny("segnet", encoder="small"))[0]
    equal = step_measures(place, [Agreement(8, 6.0, 4.0)] * 4, np.array([0.75, np.nan]), list("abcd"))
    assert (equal.ratio.low, equal.ratio.value, equal.ratio.high) == pytest.approx((1.5, 1.5, 1.5))
    assert equal.zeros_later is None
    apart = step_measures(place, [Agreement(8, hits, 4.0) for hits in (2.0, 4.0, 6.0, 8.0)], np.zeros(2), list("abcd"))
    assert apart.ratio.low < 1.25 < apart.ratio.high
    assert apart.ratio.value == 1.25
    nothing = step_measures(place, [Agreement(0, 0.0, 0.0)] * 3, np.zeros(2), list("abc"))
    assert nothing.ratio.value is None


def test_a_network_without_switches_is_not_run():
    assert measure_switches(build_tiny("unet", encoder="small"), [], groups=[], advance=lambda passes: None) == []
