"""Content-aware operators: what they say of themselves, on boundaries and away from them."""

import base64

import numpy as np
import pytest
import torch
from support.tiny_networks import build_tiny

from segpipe.analysis.lab import content_section
from segpipe.lab.content import as_square, boundaries, examples, neighbours_of, strength
from segpipe.lab.facts import Inspection, RunFacts, ShownImage
from segpipe.lab.look import look

MASK = np.zeros((64, 64), np.uint8)
MASK[:, 32:] = 1


def network_with(explain):
    """A network whose operator to stride 4 says of itself what a test wants."""
    network = build_tiny("unet", encoder="small", decoder="nearest").eval()
    network.decoder.steps["4"].upsample.explain = explain
    return network


def seen(explain):
    return look(network_with(explain), torch.rand(1, 3, 64, 64) * 255, size=(64, 64), truth=MASK)


def sharp_on_the_boundary(x, source):
    """Nine weights: one neighbour in the columns of the boundary, all nine elsewhere."""
    height, width = source.shape[-2:]
    kernel = torch.full((1, 9, height, width), 1 / 9)
    kernel[..., width // 2 - 1 : width // 2 + 1] = 0
    kernel[:, 4, :, width // 2 - 1 : width // 2 + 1] = 1
    return {"kernel": kernel}


def test_sharpness_on_boundaries_and_away():
    (facts,) = seen(sharp_on_the_boundary).content
    assert (facts.place, facts.kind, facts.factor) == ("stride 4", "kernel", 2)
    assert facts.on == pytest.approx(1)
    assert facts.away == pytest.approx(1 / 9)
    assert facts.neighbours[4] == (0, 0)


def test_the_length_of_offsets():
    (facts,) = seen(lambda x, source: {"offsets": torch.full((1, 2, *source.shape[-2:]), 3.0)}).content
    assert facts.on == facts.away == pytest.approx(18**0.5)
    assert facts.neighbours == ()


def test_operators_that_look_at_nothing_are_left_out():
    assert not seen(lambda x, source: None).content
    assert not look(build_tiny("unet", encoder="small").eval(), torch.zeros(1, 3, 64, 64), size=(64, 64)).content


def test_boundaries_have_surroundings():
    on, near = boundaries(MASK, (64, 64), (32, 32))
    assert np.flatnonzero(on.any(0)).tolist() == [15, 16]
    assert np.flatnonzero(near.any(0)).tolist() == list(range(14, 18))


def test_neighbours_are_those_of_the_operator():
    class Cross:
        offsets = ((-1, 0), (0, -1), (0, 0), (0, 1), (1, 0))

    assert neighbours_of(Cross(), 5) == Cross.offsets
    assert neighbours_of(object(), 9)[0] == (-1, -1)
    square = as_square(np.arange(1, 6, dtype=np.float32), Cross.offsets)
    assert square.tolist() == [[0, 1, 0], [2, 3, 4], [0, 5, 0]]


def test_strength_by_hand():
    assert strength(np.array([[[0.5]], [[0.5]]], np.float32), "kernel")[0, 0] == 0.5
    assert strength(np.array([[[3.0]], [[4.0]]], np.float32), "offsets")[0, 0] == 5


def test_the_page_has_the_bytes_of_each_point():
    facts = seen(sharp_on_the_boundary)
    assert [on for _, _, on in examples(facts.content[0], 2)] == [True, True, False, False]
    shown = ShownImage("one", np.zeros((64, 64, 3), np.uint8), MASK)
    inspection = Inspection(["a", "b", "c"], [(0, 0, 0)] * 3, [shown], [RunFacts("run", images=[facts])])
    section = content_section.section(inspection)
    (clickable,) = [block for block in section.blocks if block.kind == "clickable"]
    (layer,) = clickable.layers
    values = np.frombuffer(base64.b64decode(layer.data), np.uint8).reshape(layer.rows, layer.columns, layer.depth)
    assert values.shape == (16, 16, 9)
    assert values[3, 8].tolist() == [0, 0, 0, 0, 255, 0, 0, 0, 0]
    assert values[3, 0].tolist() == [28] * 9
