"""Content-aware operators: the papers' definitions written a second time, exact special cases, counts, explanations."""

import pytest
import torch
import torch.nn.functional as F
from support.configs import configure
from support.maps import bilinear, random, same

from segpipe.config import build
from segpipe.config.choices import files
from segpipe.config.plan import Plan
from segpipe.config.schema import options
from segpipe.errors import UserError
from segpipe.models.cost import count
from segpipe.models.init import init_weights
from segpipe.models.upsample import (
    Carafe,
    DySample,
    Fade,
    Flow,
    LocalAttention,
    Sapa,
    Upsampler,
    assemble,
    crop_or_pad_to,
    sample,
)
from segpipe.models.upsample.kernels import square
from segpipe.models.upsample.local_attention import NEIGHBOURS
from segpipe.models.upsample.sampling import centres, gathered

C = 8  # channels of x and of the source
CONTENT_AWARE = [name for name, node in files("decoder").items() if build.operator(node).content_aware]


def filled(module, std=0.5):
    """In double precision, with random weights everywhere."""
    for number, parameter in enumerate(module.parameters()):
        torch.nn.init.normal_(parameter, std=std, generator=torch.Generator().manual_seed(number))
    return module.double().eval()


def maps(factor=2, channels=C, source=C):
    return random(2, channels, 3, 4), random(2, source, 3 * factor, 4 * factor, seed=1)


def unfolded(x, kernel, side=5):
    """The official reassembly: neighbourhoods by ``unfold``, repeated, times the kernel."""
    n, c, h, w = x.shape
    patches = F.unfold(x, side, padding=side // 2).view(n, c * side**2, h, w)
    patches = F.interpolate(patches, scale_factor=kernel.shape[-1] // w).view(n, c, side**2, *kernel.shape[-2:])
    return torch.einsum("nckhw,nkhw->nchw", patches, kernel)


# ---- the papers' definitions


def test_carafe_is_the_papers():
    up = filled(Carafe(C, C, factor=2, source_channels=C, init="published"))
    x, source = maps()
    encoded = F.conv2d(F.conv2d(x, up.compress.weight, up.compress.bias), up.encode.weight, up.encode.bias, padding=1)
    expected = unfolded(x, F.pixel_shuffle(encoded, 2).softmax(1))
    torch.testing.assert_close(up(x, source), expected)


def test_fade_is_the_papers():
    """Its "semi-shift": four convolutions of stride 2 of the encoder's map, one for each pixel of a cell."""
    up = filled(Fade(C, C, factor=2, source_channels=C, init="published"))
    x, source = maps()
    fine = F.conv2d(source, up.compress_source.weight, up.compress_source.bias)
    coarse = F.conv2d(x, up.compress.weight)
    coarse = F.conv2d(coarse, up.encode.weight, up.encode.bias, padding=1)
    logits = torch.zeros(2, 25, 6, 8, dtype=torch.float64)
    for i in (0, 1):
        for j in (0, 1):
            shifted = F.pad(fine, (1 - j, j, 1 - i, i))
            of_pixel = F.conv2d(shifted, up.encode.weight, up.encode.bias, stride=2)
            logits[..., i::2, j::2] = of_pixel + coarse
    torch.testing.assert_close(up(x, source), unfolded(x, logits.softmax(1)))


@pytest.mark.parametrize("kind", ["inner", "bilinear", "gated"])
def test_sapa_is_the_papers(kind):
    up = filled(Sapa(C, C, factor=2, source_channels=C, kind=kind, init="published"))
    x, source = maps()
    query, key = source, x
    if kind != "inner":
        normal = F.group_norm(x, 1, up.normalise.weight, up.normalise.bias)
        y = F.group_norm(source, 1, up.normalise_source.weight, up.normalise_source.bias)
        query = F.conv2d(y, up.query.weight, up.query.bias)
        key = F.conv2d(normal, up.key.weight, up.key.bias)
    if kind == "gated":
        gate = F.interpolate(F.conv2d(normal, up.gate.weight, up.gate.bias).sigmoid(), scale_factor=2)
        of_x = F.conv2d(F.interpolate(x, scale_factor=2), up.query_of_x.weight, up.query_of_x.bias)
        query = gate * query + (1 - gate) * of_x
    keys = F.unfold(key, 5, padding=2).view(2, -1, 3, 4)
    keys = F.interpolate(keys, scale_factor=2).view(2, -1, 25, 6, 8)
    weights = torch.einsum("nchw,nckhw->nkhw", query, keys).softmax(1)
    torch.testing.assert_close(up(x, source), unfolded(x, weights))


def test_local_attention_is_the_papers():
    up = filled(LocalAttention(C, C, factor=2, source_channels=C, neighbours=9, init="published"))
    x, source = maps()
    weights = F.conv2d(source, up.attend.weight, up.attend.bias).softmax(1)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    expected = sum(
        F.interpolate(padded[..., 1 + down : 4 + down, 1 + right : 5 + right], scale_factor=2) * weights[:, tap, None]
        for tap, (down, right) in enumerate(square(3))
    )
    torch.testing.assert_close(up(x, source), expected)


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("factor", [2, 4])
def test_dysample_is_the_papers(factor, plus):
    up = filled(DySample(C, C, factor=factor, source_channels=C, plus=plus, init="published"), std=0.2)
    x, source = maps(factor)
    n, _, h, w = x.shape
    offset = F.conv2d(x, up.offset.weight, up.offset.bias)
    offset = offset * (F.conv2d(x, up.scope.weight).sigmoid() * 0.5 if plus else 0.25)
    steps = torch.arange((1 - factor) / 2, (factor - 1) / 2 + 1, dtype=torch.float64) / factor
    initial = torch.stack(torch.meshgrid(steps, steps, indexing="ij")).transpose(1, 2).repeat(1, 4, 1)
    offset = (offset + initial.reshape(1, -1, 1, 1)).view(n, 2, -1, h, w)
    rows, columns = torch.arange(h).double() + 0.5, torch.arange(w).double() + 0.5
    cells = torch.stack(torch.meshgrid(columns, rows, indexing="ij")).transpose(1, 2)[None, :, None]
    places = 2 * (cells + offset) / torch.tensor([w, h]).view(1, 2, 1, 1, 1) - 1
    places = F.pixel_shuffle(places.view(n, -1, h, w), factor).view(n, 2, -1, factor * h, factor * w)
    places = places.permute(0, 2, 3, 4, 1).flatten(0, 1)
    groups = x.reshape(n * 4, -1, h, w)
    expected = F.grid_sample(groups, places, align_corners=False, padding_mode="border").view(n, C, *source.shape[-2:])
    torch.testing.assert_close(up(x, source), expected)


def test_flow_is_the_papers():
    up = filled(Flow(C, C, factor=2, source_channels=C, init="published"))
    x, source = maps()
    both = torch.cat([bilinear(F.conv2d(x, up.compress.weight), 2), F.conv2d(source, up.compress_source.weight)], 1)
    flow = F.conv2d(both, up.flow.weight, padding=1).permute(0, 2, 3, 1)
    grid = F.affine_grid(torch.eye(2, 3).double().expand(2, 2, 3), [2, C, 6, 8], align_corners=False)
    grid = grid + flow / torch.tensor([8, 6])
    torch.testing.assert_close(up(x, source), F.grid_sample(x, grid, align_corners=False, padding_mode="border"))


# ---- exact special cases
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_dysample_without_offsets_is_bilinear(factor):
    x, source = maps(factor)
    for plus in (False, True):
        same(DySample(C, C, factor=factor, source_channels=C, plus=plus).double()(x, source), bilinear(x, factor))


def test_a_flow_of_zero_is_bilinear():
    same(Flow(C, C, factor=2, source_channels=C).double()(*maps()), bilinear(maps()[0], 2))


@pytest.mark.parametrize("kind", [Carafe, Fade, Sapa])
def test_logits_of_zero_are_a_box_blur_of_nearest(kind):
    up = kind(C, C, factor=2, source_channels=C, init="published").double()
    for parameter in up.parameters():
        torch.nn.init.zeros_(parameter)
    x, source = maps()
    same(up(x, source), F.interpolate(F.avg_pool2d(x, 5, stride=1, padding=2), scale_factor=2))


@pytest.mark.parametrize("neighbours", NEIGHBOURS)
def test_all_weight_on_the_cell_itself_is_nearest(neighbours):
    up = LocalAttention(C, C, factor=2, source_channels=C, neighbours=neighbours, init="published").double()
    torch.nn.init.zeros_(up.attend.weight)
    with torch.no_grad():
        up.attend.bias.copy_(100.0 * torch.tensor([offset == (0, 0) for offset in NEIGHBOURS[neighbours]]))
    x, source = maps()
    same(up(x, source), F.interpolate(x, scale_factor=2))


def test_a_kernel_of_the_guide_alone_is_the_same_for_any_order_of_channels():
    up = filled(LocalAttention(C, C, factor=2, source_channels=C))
    x, source = maps()
    order = torch.randperm(C, generator=torch.Generator().manual_seed(0))
    same(up(x[:, order], source), up(x, source)[:, order])


@pytest.mark.parametrize("kind", [Carafe, Fade, Sapa])
def test_one_kernel_is_for_all_channels(kind):
    """With the kernel as it is explained, the channels of x may come in any order, and in any number."""
    up = filled(kind(C, C, factor=2, source_channels=C, init="published"))
    x, source = maps()
    kernel = up.explain(x, source)["kernel"]
    order = torch.randperm(C, generator=torch.Generator().manual_seed(0))
    same(assemble(x[:, order], kernel), up(x, source)[:, order])
    same(assemble(x[:, :3], kernel), up(x, source)[:, :3])


@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize("kind", [Carafe, Fade])
def test_kernels_start_within_three_per_cent_of_bilinear(kind, side):
    up = kind(C, C, factor=2, source_channels=C, kernel=side)
    x, source = (each.float() for each in maps())
    kernel = up.explain(x, source)["kernel"]
    weight = kernel.sort(dim=1, descending=True).values[:, :4].sum(1)
    assert weight.min() > (0.97 if side < 7 else 0.95)
    assert (up(x, source) - bilinear(x, 2)).abs().max() < (0.03 if side < 7 else 0.05) * 2 * x.abs().max()


def test_the_published_start_is_a_blur():
    x, source = (each.float() for each in maps())
    for kind in (Carafe, Fade, Sapa):
        up = kind(C, C, factor=2, source_channels=C, init="published")
        init_weights(up, seed=0, prefix="up")
        assert up.explain(x, source)["kernel"].max() < 0.5


# ---- sampling in two ways


def test_gathering_is_sampling_with_the_same_gradients():
    x, positions = random(2, 3, 4, 5), 5 * random(2, 2, 6, 7, seed=1)  # many outside
    weight = random(2, 3, 6, 7, seed=2)
    results = []
    for function in (sample, gathered):
        given = x.clone().requires_grad_(), positions.clone().requires_grad_()
        y = function(*given)
        results.append((y.detach(), *torch.autograd.grad((y * weight).sum(), given)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(sample(x, positions), results[1][0])
    finally:
        torch.use_deterministic_algorithms(False)


def test_positions_are_computed_in_single_precision():
    x = torch.linspace(0, 1, 1001).expand(1, 1, 3, -1).bfloat16()
    found = sample(x, centres(x, 2))
    assert found.dtype == torch.bfloat16
    assert (found.float() - bilinear(x.float(), 2)).abs().max() < 2**-8


# ---- published numbers of parameters, and multiply-adds of a pixel of x
WIDE = {"factor": 2, "source_channels": 256}
OF_GATE = 257  # FADE's gate, which is a fusion here
PUBLISHED = {  # the last summands of dysample and flow are the products of the positions
    "dysample": (DySample, {}, 8_224, 32 * 256 + 16 * 256 + 32 + 32),
    "dysample+": (DySample, {"plus": True}, 16_416, 2 * 32 * 256 + 16 * 256 + 2 * 32 + 32),
    "carafe": (Carafe, {}, 74_148, 64 * 256 + 57_600 + 100 * 256),
    "fade": (Fade, {}, 47_514 - OF_GATE, 64 * 256 * 5 + 14_400 * 5 + 100 * 256),
    "sapa inner": (Sapa, {"kind": "inner"}, 0, 2 * 100 * 256),
    "sapa bilinear": (Sapa, {}, 17_472, 4 * 32 * 256 + 32 * 256 + 4 * 800 + 100 * 256),
    "local_attention": (LocalAttention, {}, 4_369, 4 * 17 * 256 + 4 * 17 * 256),
    "flow": (Flow, {}, 35_072, 5 * 64 * 256 + 16 * 64 + 72 * 128 + 16 * 256 + 8),
    "flow of half the width": (Flow, {"channels": 128}, 70_144, 5 * 128 * 256 + 16 * 128 + 72 * 256 + 16 * 256 + 8),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published(name):
    kind, arguments, parameters, operations = PUBLISHED[name]
    with torch.device("meta"):
        up = kind(256, 256, **WIDE, **arguments)
    assert sum(parameter.numel() for parameter in up.parameters()) == parameters
    x, source = torch.zeros(1, 256, 3, 4, device="meta"), torch.zeros(1, 256, 6, 8, device="meta")
    assert count(lambda: up(x, source)) == 12 * operations


# ---- what an operator shows of itself
def made(name, **arguments):
    factory = build.instantiate_group(configure(f"decoder={name}"), "decoder")
    return filled(factory(5, C, factor=2, source_channels=6, **arguments))


@pytest.mark.parametrize("name", options("decoder"))
def test_an_operator_explains_itself_if_it_is_content_aware(name):
    for size in ((6, 8), (7, 9), (5, 8)):  # and behind an encoder whose maps do not halve exactly
        x, source = random(2, 5, 3, 4), random(2, 6, *size, seed=1)
        up = made(name)
        found = up.explain(x, source)
        assert up.content_aware == (found is not None)
        if found is None:
            continue
        assert found.keys() in ({"kernel"}, {"offsets"}, {"offsets", "group_offsets"})
        assert all(tensor.shape[-2:] == size and len(tensor) == 2 for tensor in found.values())
        if "kernel" in found:
            same(found["kernel"].sum(1), torch.ones(2, *size, dtype=torch.float64))
        else:
            assert found["offsets"].shape == (2, 2, *size)


@pytest.mark.parametrize("name", CONTENT_AWARE)
def test_what_is_explained_is_what_is_computed(name):
    up = made(name)
    x, source = random(2, 5, 3, 4), random(2, 6, 6, 8, seed=1)
    found, values = up.explain(x, source), up.project(x)
    if "kernel" in found:
        same(up(x, source), assemble(values, found["kernel"], up.offsets, up.outside))
    elif "group_offsets" in found:
        offsets = found["group_offsets"]
        same(found["offsets"], offsets.mean(1))
        parts = [
            sample(part, centres(values, 2) + offsets[:, group])
            for group, part in enumerate(values.chunk(up.groups, dim=1))
        ]
        same(up(x, source), torch.cat(parts, dim=1))
    else:
        same(up(x, source), sample(values, centres(values, 2) + found["offsets"]))


def test_the_base_explains_nothing():
    assert Upsampler().explain(torch.zeros(1), torch.zeros(1)) is None


# ---- guides


@pytest.mark.parametrize("name", [n for n in CONTENT_AWARE if build.operator(files("decoder")[n]).guided])
def test_a_guide_is_the_lateral_or_the_raw_map(name):
    given = {"factor": 2, "source_channels": 6}
    factory = build.instantiate_group(configure(f"decoder={name}"), "decoder")
    assert factory(5, C, **given).guide.channels == C
    assert factory(5, C, **given, guide="raw").guide.channels == 6
    assert not list(factory(5, C, **given, guide="raw").guide.parameters())
    x, source = random(1, 5, 3, 4).float(), random(1, 6, 6, 8).float()
    for guide in ("lateral", "raw"):
        assert factory(5, C, **given, guide=guide)(x, source).shape == (1, C, 6, 8)
    assert not list(factory(5, 6, **given).guide.parameters())  # equal widths: nothing to project


def test_an_inner_product_needs_equal_widths():
    with pytest.raises(UserError, match=r"kind=inner: allowed is guide=lateral.* kind=bilinear"):
        Sapa(5, C, factor=2, source_channels=6, kind="inner", guide="raw")


def test_a_guide_of_another_size_is_centred():
    """Behind AlexNet: a guide of 5 x 8 for a map of 3 x 4 is brought to 6 x 8, as the result to 5 x 8."""
    up = filled(Fade(C, C, factor=2, source_channels=C))
    x, source = random(1, C, 3, 4), random(1, C, 5, 8, seed=1)
    same(up(x, source), crop_or_pad_to(up(x, crop_or_pad_to(source, (6, 8))), (5, 8)))


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (["decoder=carafe", "decoder.kernel=4"], r"decoder\.kernel=4: allowed is an odd number of 3 or more"),
        (["decoder=fade", "decoder.kernel=1"], r"decoder\.kernel=1: allowed is an odd number of 3 or more"),
        (["decoder=sapa", "decoder.kind=inner", "decoder.guide=raw"], r"decoder\.kind=inner: allowed is guide=lateral"),
        (["decoder=sapa", "decoder.kind=outer"], r"decoder\.kind=outer: allowed is inner or bilinear or gated"),
        (["decoder=local_attention", "decoder.neighbours=7"], r"decoder\.neighbours=7: allowed is 5 or 9 or 13"),
        (["decoder=dysample", "decoder.groups=0"], r"decoder\.groups=0: allowed is a whole number of 1 or more"),
        (["decoder=flow", "decoder.channels=0"], r"decoder\.channels=0: allowed is a whole number of 1 or more"),
        (["decoder=carafe", "decoder.init=random"], r"decoder\.init=random: allowed is interpolation or published"),
        (["decoder=fade", "decoder.guide=image"], r"decoder\.guide=image: allowed is lateral or raw"),
    ],
)
def test_arguments_that_cannot_be_used_are_rejected(cell, says):
    with pytest.raises(UserError, match=says):
        Plan.of(configure("model=ladder", *cell))


def test_positions_that_are_not_numbers_give_values_that_are_none():
    """``models.windows.reach`` sets a part of an image to NaN; NaN as an index would end a program on a GPU."""
    x = torch.rand(1, 2, 4, 4)
    positions = centres(x, 2).clone()
    positions[..., :3, :] = torch.nan
    found = gathered(x, positions)
    assert found[..., :3, :].isnan().all()
    assert torch.equal(found[..., 3:, :], gathered(x, centres(x, 2))[..., 3:, :])
