"""Effective receptive fields of networks whose gradient is known."""

import numpy as np
import pytest
import torch
from support.grid import grid
from support.planes import blocks, drawn, ignore, planes
from support.tiny_networks import build_tiny
from torch import nn

from segpipe.config.schema import options
from segpipe.lab.receptive_field import IMAGES, centre_cell, energy_by_side, field_of, measure_fields, passes
from segpipe.lab.slots import places
from segpipe.models.fusion import NoFusion


def shares(field):
    return dict(zip(field.sides, field.shares, strict=True))


def test_repetition_of_a_mean_looks_at_its_block():
    """The cell nearest to the middle of 8 pixels is pixel 3 (position 3.5), in the block of pixels 2 and 3."""
    (field,) = measure_fields(planes(fusion=NoFusion, deep=1.0), [drawn(blocks(0, (8, 8)))], advance=ignore)
    assert (field.label, field.stride, field.side, field.image_side) == ("stride 1", 1, 3, 8)
    assert shares(field)[1] == pytest.approx(1 / 4)
    assert shares(field)[3] == pytest.approx(1)


def test_a_skip_that_is_the_image_looks_at_one_pixel():
    (field,) = measure_fields(planes(deep=0.0), [drawn(blocks(0, (8, 8)))], advance=ignore)
    assert field.side == 1
    assert field.shares == pytest.approx([1.0] * len(field.shares))


def test_a_convolution_of_ones_looks_at_its_window():
    network = planes(deep=0.0, refine=lambda *sizes: nn.Conv2d(3, 3, 5, padding=2, bias=False))
    nn.init.ones_(network.decoder.steps["1"].refine.weight)
    (field,) = measure_fields(network, [drawn(blocks(0, (21, 21)))], advance=ignore)
    assert field.side == 5
    assert {side: shares(field)[side] for side in (1, 3, 5)} == pytest.approx({1: 1 / 25, 3: 9 / 25, 5: 1})


def test_coarse_cells_are_measured_around_their_own_centre():
    """A step to stride 2: its cell covers 2 x 2 pixels around its centre, all of the square of side 2."""
    network = planes((2, 4), deep=0.0)
    fields = measure_fields(network, [drawn(blocks(0, (16, 16)))], advance=ignore)
    assert (fields[0].label, fields[0].side) == ("stride 2", 2)


def test_cells_lie_where_the_encoder_says():
    assert centre_cell(8, 8, 1, 8) == (3, 3.5)
    assert centre_cell(9, 16, 2, 8) == (1, 3.0) or centre_cell(9, 16, 2, 8)[1] in (3.0, 5.0)
    assert centre_cell(224, 224, 4, 54)[1] in (110.0, 114.0)  # AlexNet's map is smaller and centred


def test_energy_by_side():
    gradient = np.zeros((3, 5, 5))
    gradient[:, 2, 2], gradient[0, 1, 2] = 1, 2
    assert energy_by_side(gradient, 2.5, 2.5).tolist() == [0, 3, 0, 4, 0, 0]


@pytest.mark.parametrize("energies", [np.zeros(9), np.array([0, np.nan, 1.0]), np.array([0, np.inf])])
def test_without_a_finite_gradient_there_is_no_side(energies):
    field = field_of("stride 1", 1, energies, 8)
    assert (field.side, field.sides, field.shares) == (None, [], [])


@pytest.mark.parametrize("model", grid(options("model"), quick=["fcn8s", "segnet"]))
def test_every_model_has_a_field_for_each_step(model):
    network, reported = build_tiny(model).eval(), []
    samples = [drawn(blocks(seed, (96, 90))) for seed in range(2)]  # on 33 x 40, DeconvNet starts with dead ReLUs
    fields = measure_fields(network, samples, advance=reported.append)
    assert [field.label for field in fields] == [place.label for place in places(network)]
    assert all(field.side is None or 1 <= field.side <= 2 * 96 for field in fields)
    assert any(field.side for field in fields)
    assert sum(reported) == passes(network, 2)
    assert passes(network, 100) == IMAGES * (1 + len(fields))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.is_grad_enabled()
