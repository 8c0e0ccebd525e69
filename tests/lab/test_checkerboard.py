"""Checkerboards: planted ones are measured exactly, and operators without any have none."""

import math

import numpy as np
import pytest
import torch
from support.tiny_networks import OPERATORS, build_tiny

from segpipe.config.choices import files
from segpipe.errors import UserError
from segpipe.lab import checkerboard
from segpipe.lab.checkerboard import inner_third, on_constant_image, phase_share, spectral_share, triplet_share
from segpipe.lab.look import look
from segpipe.lab.monitor import small_steps
from segpipe.lab.slots import places


def planted(height, amplitude, size=24):
    """A constant with a checkerboard of period 2."""
    sign = (-1.0) ** (torch.arange(size)[:, None] + torch.arange(size)).double()
    return (height + amplitude * sign)[None, None]


@pytest.mark.parametrize("amplitude", [0.0, 0.1, 2.0])
def test_a_planted_checkerboard_has_its_share(amplitude):
    share = phase_share(planted(1.0, amplitude), 2)
    assert share == pytest.approx(amplitude**2 / (1 + amplitude**2), abs=1e-15)
    assert phase_share(planted(1.0, amplitude), 4) == pytest.approx(share)  # 4 is a multiple of the period


def test_a_pattern_of_another_period_is_not_seen():
    x = torch.ones(1, 1, 24, 24)
    x[..., ::3] = 2
    assert phase_share(x, 2) == pytest.approx(0)
    assert phase_share(x, 3) > 0.05


def test_zeros_have_none():
    assert phase_share(torch.zeros(1, 2, 8, 8), 2) == 0
    assert math.isnan(spectral_share(torch.ones(1, 2, 8, 8), 2))


def test_the_spectral_share_is_that_of_the_spectrum():
    x = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0)).double()
    spectrum = np.abs(np.fft.fft2(x.numpy())) ** 2
    spectrum[..., 0, 0] = 0
    there = spectrum[..., ::3, ::4].sum()  # multiples of 1/4 cycle a pixel
    assert spectral_share(x, 4) == pytest.approx(there / spectrum.sum())


def test_triplets():
    ramp = torch.arange(10.0).expand(1, 1, 10, 10)
    assert triplet_share(ramp) == 0
    assert triplet_share(planted(0, 1)) == 1


@pytest.mark.parametrize(("size", "factor"), [(36, 4), (96, 32), (17, 2)])
def test_the_inner_third_keeps_the_phases(size, factor):
    position = torch.arange(size)
    part = inner_third(position.expand(size, size), factor)
    assert part.shape[-1] % factor == 0
    assert part[0, 0] % factor == 0
    assert size / 3 <= part[0, 0] < size / 3 + factor
    assert size / 3 - factor < part.shape[-1] <= size / 3


def test_too_small_a_map_is_refused():
    with pytest.raises(ValueError, match="larger image"):
        inner_third(torch.zeros(8, 8), 4)


@pytest.mark.parametrize("model", ["fcn32s", "fcn8s", "unet", "ladder", "segnet"])
@pytest.mark.parametrize("decoder", sorted(files("decoder")))
def test_before_training_only_operators_of_other_starts_draw_patterns(model, decoder):
    try:
        network = build_tiny(model, encoder="small", decoder=decoder)
    except UserError as refused:
        pytest.skip(str(refused))
    kind, phases = OPERATORS[decoder], on_constant_image(network.eval())
    assert [step.place for step in phases.steps] == [place.label for place in places(network)]
    for step, maps in zip(phases.steps, small_steps(network), strict=True):
        if kind.initial in ("nearest", "bilinear") and maps.before.shape[1] == maps.upsampled.shape[1]:
            assert step.upsampled < 1e-11  # operators that change the width begin at random
    if kind.needs_pooling:
        assert max(step.upsampled for step in phases.steps) > 0.5  # equal values have one switch


@pytest.mark.parametrize("decoder", ["bilinear", "nearest"])
def test_fixed_operators_never_draw_one(decoder):
    network = build_tiny("ladder", encoder="small", decoder=decoder).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    phases = on_constant_image(network)
    assert max(step.upsampled for step in phases.steps) < 1e-11


def test_a_learned_operator_draws_one():
    network = build_tiny("ladder", encoder="small", decoder="deconv").eval()
    with torch.no_grad():
        network.decoder.steps["8"].upsample.weight[..., ::2, ::2].mul_(1.5)
    phases = {step.stride: step for step in on_constant_image(network).steps}
    assert phases[16].upsampled < 1e-11
    assert phases[8].upsampled > 1e-3


def test_the_mode_is_restored():
    network = build_tiny("fcn8s", encoder="small").train()
    on_constant_image(network)
    assert network.training


def test_real_images_have_bilinear_beside():
    network = build_tiny("ladder", encoder="small", decoder="bilinear").eval()
    facts = look(network, torch.rand(1, 3, 64, 96) * 255, size=(64, 96))
    for one in facts.on_image:
        assert one.phase[0] == pytest.approx(one.phase[1], abs=1e-6)
        assert one.triplets[0] == pytest.approx(one.triplets[1], abs=0.02)


def test_the_constant_image_grows_until_no_border_is_felt():
    network = build_tiny("segnet", encoder="small", decoder="deconv").eval()
    small = checkerboard.first_side(network)
    phases = on_constant_image(network)
    assert phases.side > small
    assert phases.side % (3 * network.encoder.coarsest) == 0
    assert on_constant_image(network, side=phases.side) == phases


def test_a_border_is_felt_where_a_map_does_not_repeat():
    x = torch.ones(1, 1, 24, 24)
    assert checkerboard.border_share(x, 4) == 0
    x[..., 12:] = 2
    assert checkerboard.border_share(x, 4) > 0.1
    assert checkerboard.border_share(x, 8) == math.inf
