"""Content-aware operators: what they say of themselves, on boundaries and away from them."""

import base64
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.configs import configure
from support.tiny_networks import OPERATORS, build_tiny

from segpipe.analysis.lab import content_section
from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.data.dataset import Sample
from segpipe.errors import UserError
from segpipe.lab.content import (
    ContentMeasures,
    Strengths,
    as_square,
    boundaries,
    content_measures,
    examples,
    measure_content,
    neighbours_of,
    passes,
    strength,
)
from segpipe.lab.facts import Inspection, RunFacts, ShownImage
from segpipe.lab.look import look
from segpipe.lab.split import RunMeasures, SplitMeasures

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


@pytest.mark.parametrize("size", [(40, 50), (33, 64), (36, 33)])
def test_the_padding_is_left_out(size):
    """The network pads to 64 x 64: beyond the image the operator looks sharp, and a click cannot get there."""
    height, width = (-(-side // 4) for side in size)

    def sharp_in_the_padding(x, source):
        kernel = torch.full((1, 9, *source.shape[-2:]), 1 / 9)
        kernel[..., height:, :] = kernel[..., width:] = 0
        kernel[:, 4, height:], kernel[:, 4, :, width:] = 1, 1
        return {"kernel": kernel}

    mask = np.zeros(size, np.uint8)
    mask[:, 12:] = 1
    image = torch.rand(1, 3, *size) * 255
    (facts,) = look(network_with(sharp_in_the_padding), image, size=size, truth=mask).content
    assert facts.on == pytest.approx(1 / 9)
    assert facts.away == pytest.approx(1 / 9)
    assert facts.values.shape[1:] == facts.strengths.shape == facts.boundary.shape == (height, width)
    assert facts.found.pixels_on == 2 * height
    layer = content_section.layer(facts)
    assert (layer.rows, layer.columns) == (height, width)
    assert (layer.height, layer.width) == (size[0] / 4, size[1] / 4)


def test_a_long_offset_keeps_its_direction_on_the_page():
    (facts,) = seen(lambda x, source: {"offsets": torch.ones(1, 2, *source.shape[-2:]).mul_(8)}).content
    facts.values[1] = 2
    values = np.frombuffer(base64.b64decode(content_section.layer(facts).data), np.uint8)[:2] / 255.0 * 8 - 4
    assert values.tolist() == pytest.approx([4, 1], abs=0.02)


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
    assert neighbours_of(object(), 1) == ((0, 0),)
    for count in (4, 5, 16):
        with pytest.raises(UserError, match=f"{count} weights.*attribute offsets"):
            neighbours_of(object(), count)
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


# ---- every content-aware operator


VARIANTS = [
    *([name] for name in sorted(OPERATORS) if OPERATORS[name].content_aware),
    *(["sapa", f"decoder.kind={kind}"] for kind in ("inner", "gated")),
    ["dysample", "decoder.plus=true"],
    ["local_attention", "decoder.neighbours=13"],
    ["carafe", "decoder.kernel=3", "decoder.residual=true"],
]


def test_these_are_the_content_aware_operators():
    named = {"carafe", "fade", "sapa", "local_attention", "dysample", "flow"}
    assert named <= {name for name, *_ in VARIANTS}


@pytest.fixture(scope="module", params=VARIANTS, ids=" ".join)
def network(request):
    """A network to stride 4 of narrow maps, with weights that are nowhere zero."""
    name, *more = request.param
    cfg = configure("model=ladder", "model.stride=4", "encoder.widths=[8,8,8,8,8]", f"decoder={name}", *more)
    made = build.network(Plan.of(cfg).cfg, 3).eval()
    for number, parameter in enumerate(made.decoder.parameters()):
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(number))
    return made


def scenes(count=3):
    random = np.random.default_rng(0)
    masks = [np.roll(MASK, 7 * number, axis=1) for number in range(count)]
    return [Sample(random.integers(0, 256, (64, 64, 3), dtype=np.uint8), mask) for mask in masks]


def batch_of(image):
    return torch.from_numpy(image)[None].permute(0, 3, 1, 2).float()


def test_the_page_shows_each_operator_at_points_and_over_a_split(network):
    samples, seen = scenes(), []
    images = [look(network, batch_of(image), size=(64, 64), truth=mask) for image, mask in samples]
    shown = [ShownImage(str(number), image, mask) for number, (image, mask) in enumerate(samples)]
    run = RunFacts("run", images=images)
    section = content_section.section(Inspection(["a", "b", "c"], [(0, 0, 0)] * 3, shown, [run]))
    clickables = [block for block in section.blocks if block.kind == "clickable"]
    assert [len(block.layers) for block in clickables] == [3, 3, 3]  # to strides 16, 8 and 4
    for layer, facts in zip(clickables[0].layers, images[0].content, strict=True):
        values = np.frombuffer(base64.b64decode(layer.data), np.uint8)
        assert len(values) == layer.rows * layer.columns * layer.depth
        assert len(layer.neighbours.split()) == (layer.depth if layer.name == "kernel" else 0)
        assert facts.strengths.shape == facts.values.shape[1:]
    measured = measure_content(network, samples, groups=list("abc"), advance=seen.append)
    assert (seen, passes(network, 3)) == ([1, 1, 1], 3)
    assert [one.stride for one in measured] == [16, 8, 4]
    for number, one in enumerate(measured):
        sums = np.sum([image.content[number].found for image in images], axis=0)
        assert one.pixels == sums[1]
        assert one.on.value == pytest.approx(sums[0] / sums[1])
        assert one.away.value is None if not sums[3] else one.away.value == pytest.approx(sums[2] / sums[3])
    table = content_section.split_section(split_of(measured)).blocks[-1]
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert [row[1].text for row in table.rows] == ["stride 16", "stride 8", "stride 4"]


def split_of(content):
    run = RunMeasures("run", data="shapes", split="test", images=3, total=9, resampled="images", content=content)
    return SplitMeasures("test", [run, RunMeasures("other", "no weights")], [])


def test_means_over_a_split_count_pixels_and_their_intervals_resample_images():
    (facts,) = seen(sharp_on_the_boundary).content
    equal = content_measures([facts] * 4, list("abcd"))
    assert isinstance(equal, ContentMeasures)
    assert (equal.ratio.low, equal.ratio.value, equal.ratio.high) == pytest.approx((9, 9, 9))
    assert equal.pixels == 4 * 16 * 2
    many = replace(facts, found=Strengths(on=10.0, pixels_on=30, away=1.0, pixels_away=10))
    few = replace(facts, found=Strengths(on=10.0, pixels_on=10, away=0.0, pixels_away=0))
    mixed = content_measures([many, few, few], list("abc"))
    assert mixed.on.value == pytest.approx(30 / 50)
    assert mixed.on.low < 30 / 50 < mixed.on.high
    assert mixed.away.value == pytest.approx(0.1)
    assert content_measures([few] * 3, list("abc")).away.value is None


def test_offsets_of_groups_do_not_cancel():
    def opposite(x, source):
        groups = torch.zeros(1, 2, 2, *source.shape[-2:])
        groups[:, 0, 0], groups[:, 1, 0] = 3, -3
        return {"offsets": groups.mean(1), "group_offsets": groups}

    (facts,) = seen(opposite).content
    assert facts.on == facts.away == 3
    assert not facts.values.any()


def test_a_network_that_looks_at_nothing_is_not_run():
    network = build_tiny("unet", encoder="small").eval()
    assert passes(network, 3) == 0
    assert measure_content(network, scenes(), groups=list("abc"), advance=lambda passes: None) == []
    assert "No operator" in content_section.split_section(split_of([])).blocks[0].text
