"""What a part says of itself is so, and it is all that others know of it: operators, fusions, refinements."""

import ast
import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from support import own_parts
from support.configs import configure
from support.paths import ROOT
from torch import nn

from segpipe.config import build
from segpipe.config.choices import files
from segpipe.config.plan import Plan
from segpipe.config.schema import options
from segpipe.errors import UserError
from segpipe.models.cost import count, multiply_adds
from segpipe.models.fusion import Fusion
from segpipe.models.init import init_weights
from segpipe.models.refine import Refinement
from segpipe.models.upsample import Upsampler

OPERATORS, FUSIONS, MODELS = options("decoder"), options("fusion"), options("model")


CHANNELS = 3


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def started(module):
    """In double precision, with the start that a network of seed 0 would give it."""
    init_weights(module, seed=0, prefix="decoder")
    return module.double().eval()


def trained(module):
    """As training may leave it: nothing is zero. What starts at zero would hide what hangs on it."""
    for number, parameter in enumerate(module.parameters()):
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(number))
    return module


def made(group, name, *given, **more):
    """What a file makes, with its own arguments."""
    return started(build.instantiate_group(configure(f"{group}={name}"), group)(*given, **more))


def operator(name, before=CHANNELS, after=CHANNELS, *, factor=2, source=CHANNELS):
    return made("decoder", name, before, after, factor=factor, source_channels=source)


# ---- operators keep what they say


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_what_it_says(name):
    said = build.kind(files("decoder")[name], Upsampler)
    x, y, source = random(2, CHANNELS, 6, 5), random(2, CHANNELS, 6, 5, seed=1), random(2, CHANNELS, 12, 10, seed=2)
    up = operator(name)
    assert up(x, source).shape == source.shape
    assert said.parameter_free == (not list(up.parameters()))
    if said.initial in ("nearest", "bilinear"):
        inside = (..., slice(2, -2), slice(2, -2))
        expected = F.interpolate(x, scale_factor=2, mode=said.initial)
        torch.testing.assert_close(up(x, source)[inside], expected[inside], rtol=0, atol=1e-6)
    up = trained(up)
    assert said.guided == (not torch.equal(up(x, source), up(x, -source)))
    if said.linear:
        nothing = up(torch.zeros_like(x), source)
        torch.testing.assert_close(up(x + 2 * y, source), up(x, source) + 2 * up(y, source) - 2 * nothing)
    if said.linear and said.parameter_free:  # nothing that a 1x1 could become part of: it passes through
        mix = started(nn.Conv2d(CHANNELS, CHANNELS, 1))
        torch.testing.assert_close(up(mix(x), source), mix(up(x, source)))
    if said.one_step:
        assert operator(name, factor=8)(x, random(2, CHANNELS, 48, 40)).shape == (2, CHANNELS, 48, 40)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("before", "after", "source"), [(4, 4, 4), (4, 3, 5), (5, 5, 3)])
def test_an_operator_takes_any_widths_and_keeps_its_start(name, before, after, source):
    up, again = (operator(name, before, after, source=source) for _ in range(2))
    assert up(random(1, before, 3, 4), random(1, source, 6, 8)).shape == (1, after, 6, 8)
    assert all(torch.equal(one, other) for one, other in zip(up.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_is_what_it_says(name):
    said = build.kind(files("fusion")[name], Fusion)
    x, skip = random(2, CHANNELS, 6, 5), random(2, CHANNELS, 6, 5, seed=1)
    fuse = made("fusion", name, CHANNELS, CHANNELS)
    if said.initial != "other":
        expected = {"none": x, "sum": x + skip, "concat": torch.cat([x, skip], 1)}[said.initial]
        torch.testing.assert_close(fuse(x, skip), expected)
    fuse = trained(fuse)
    found = fuse(x, skip)
    assert found.shape == (2, fuse.out_channels, 6, 5)
    assert said.uses_skip == (not torch.equal(found, fuse(x, -skip)))
    if not said.uses_skip:
        assert torch.equal(found, x)
        assert not list(made("fusion", name, 2 * CHANNELS, CHANNELS).parameters())
    if said.linear:
        nothing = fuse(torch.zeros_like(x), torch.zeros_like(x))
        torch.testing.assert_close(fuse(x + 2 * skip, skip - x), found + fuse(2 * skip, -x) - nothing)


@pytest.mark.parametrize("model", MODELS)
def test_a_refinement_is_what_it_says(model):
    cfg = configure(f"model={model}")
    said = build.kind(cfg.model.refine, Refinement)
    factory = build.instantiate_group(cfg, "model").keywords["refine"]
    refine, wider = (started(factory(width, 4, 4, 2)) for width in (4, 8))
    x, other = random(2, 4, 7, 6), random(2, 4, 7, 6)
    other[:, :, 3, 3] += 1
    assert said.empty == (not list(refine.parameters()))
    elsewhere = torch.ones(7, 6, dtype=torch.bool)
    elsewhere[3, 3] = False
    assert said.convolves == (not torch.equal(refine(x)[..., elsewhere], refine(other)[..., elsewhere]))
    if said.linear:
        y = random(2, 8, 7, 6)
        torch.testing.assert_close(wider(3 * y), 3 * wider(y))
        assert not said.convolves


# ---- nothing else knows their names
NAMES = {*options("decoder"), *options("fusion"), *options("encoder")}


def strings(node):
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def compared(path):
    """Comparisons of something with the name of a part, and questions after the end of a class's path."""
    for node in ast.walk(ast.parse(path.read_text())):
        text = ast.unparse(node) if isinstance(node, ast.Compare | ast.Call) else ""
        if isinstance(node, ast.Compare) and strings(node) & NAMES and re.search("decoder|fusion|encoder|name", text):
            yield text
        if isinstance(node, ast.Call) and re.search(
            r"(target\w*|_target_)\.(endswith|startswith)$", ast.unparse(node.func)
        ):
            yield text


@pytest.mark.parametrize("folder", ["analysis", "config", "data", "engine", "metrics", "runs", "training", "."])
def test_no_parts_name_is_compared_outside_models(folder):
    paths = (ROOT / "segpipe" / folder).glob("*.py" if folder == "." else "**/*.py")
    assert [(path.name, text) for path in paths for text in compared(path)] == []


def test_a_comparison_with_a_name_would_be_found(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        'a = cfg.decoder.name == "unpool"\nb = fusion in {"sum", "none"}\nc = refine._target_.endswith("Merge1x1")'
    )
    assert len([*compared(path)]) == 3


# ---- identities of networks that were trained when names were compared


KEPT = {  # model, encoder, decoder, fusion, decoder.smooth, model.enlarge: the run's name
    "fcn8s small nearest none null same": "fcn32s-nearest-none-s0-22aa6f84",
    "fcn8s small nearest sum conv3x3 same": "fcn8s-nearest-sum-s0-0c5c4395",
    "fcn8s small nearest none null bilinear": "fcn8s-nearest-none-s0-5043a116",
    "fcn8s small bilinear none null same": "fcn8s-bilinear-none-s0-a1ee00c1",
    "fcn8s small bilinear sum conv3x3 same": "fcn8s-bilinear-sum-s0-f375dcbd",
    "fcn8s small bilinear none null bilinear": "fcn8s-bilinear-none-s0-a1ee00c1",
    "fcn8s small deconv none null same": "fcn8s-deconv-none-s0-af8c189e",
    "fcn8s small deconv sum conv3x3 same": "fcn8s-deconv-sum-s0-8c2d0a78",
    "fcn8s small deconv none null bilinear": "fcn8s-deconv-none-s0-ebf15cda",
    "fcn8s small unpool none null same": "fcn32s-unpool-none-s0-31996bbb",
    "fcn8s small unpool sum conv3x3 same": "fcn8s-unpool-sum-s0-a311bdb5",
    "fcn8s small unpool none null bilinear": "fcn8s-unpool-none-s0-ab6a8734",
    "fcn8s small pixelshuffle none null same": "fcn8s-pixelshuffle-none-s0-2b8e9c4e",
    "fcn8s small pixelshuffle sum conv3x3 same": "fcn8s-pixelshuffle-sum-s0-43085faf",
    "fcn8s small pixelshuffle none null bilinear": "fcn8s-pixelshuffle-none-s0-9878d7b3",
    "ladder alexnet nearest none null same": "ladder8-nearest-none-s0-de56bad1",
    "ladder alexnet nearest sum conv3x3 same": "ladder8-nearest-sum-s0-05a754b1",
    "ladder alexnet nearest none null bilinear": "ladder8-nearest-none-s0-0f27d5f3",
    "ladder alexnet bilinear none null same": "ladder8-bilinear-none-s0-52b63ca8",
    "ladder alexnet bilinear sum conv3x3 same": "ladder8-bilinear-sum-s0-f797274d",
    "ladder alexnet bilinear none null bilinear": "ladder8-bilinear-none-s0-52b63ca8",
    "ladder alexnet deconv none null same": "ladder8-deconv-none-s0-f75fe64e",
    "ladder alexnet deconv sum conv3x3 same": "ladder8-deconv-sum-s0-eef2605b",
    "ladder alexnet deconv none null bilinear": "ladder8-deconv-none-s0-11440727",
    "ladder alexnet pixelshuffle none null same": "ladder8-pixelshuffle-none-s0-65268d44",
    "ladder alexnet pixelshuffle sum conv3x3 same": "ladder8-pixelshuffle-sum-s0-69997f65",
    "ladder alexnet pixelshuffle none null bilinear": "ladder8-pixelshuffle-none-s0-97d8a0ac",
}


@pytest.mark.parametrize("network", sorted({cell.partition(" ")[0] for cell in KEPT}))
def test_a_network_keeps_its_name_and_identity(network):
    found = {}
    for cell in KEPT:
        model, encoder, decoder, fusion, smooth, enlarge = cell.split()
        if model == network:
            cfg = configure(f"model={model}", f"encoder={encoder}")
            cfg.decoder, cfg.fusion = files("decoder")[decoder].copy(), files("fusion")[fusion].copy()
            cfg.decoder.smooth, cfg.model.enlarge = None if smooth == "null" else smooth, enlarge
            found[cell] = Plan.of(cfg).name()
    assert found == {cell: name for cell, name in KEPT.items() if cell in found}


# ---- own operators
def own(name, *overrides, **arguments):
    """A configuration with an operator of ``own_parts``."""
    cfg = configure(*overrides)
    cfg.decoder = {"_target_": f"{own_parts.__name__}.{name}", "_partial_": True, "name": name.lower(), **arguments}
    return cfg


def shapes(cfg):
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build.network(cfg, 6).state_dict().items()}


CELLS = [
    ["model=fcn32s"], ["model=fcn8s", "fusion=none"], ["model=fcn8s"], ["model=ladder"],
    ["model=ladder", "model.stride=1"], ["model=fcn32s", "model.enlarge=bilinear"],
    ["model=fcn8s", "model.enlarge=bilinear"],
]  # fmt: skip


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ["Stepwise", "Nearest", "ContentAware"])
def test_smoothing_changes_the_identity_where_it_changes_the_network(cell, name):
    """The fault was: climbing to full size in steps of 2, smoothed or not, had one identity."""
    if name == "Nearest":
        cfgs = [configure(*cell, "decoder=nearest", f"decoder.smooth={smooth}") for smooth in ("null", "conv3x3")]
    else:
        cfgs = [own(name, *cell, smooth=smooth) for smooth in (None, "conv3x3")]
    plans = [Plan.of(cfg) for cfg in cfgs]
    assert (shapes(cfgs[0]) == shapes(cfgs[1])) == (plans[0].identity == plans[1].identity)
    assert (plans[0].identity == plans[1].identity) == any("has no effect here" in note for note in plans[1].notes)


def test_steps_of_2_are_one_network_wherever_the_decoder_stops():
    alike = [
        own("Stepwise", f"model={model}", "fusion=none", smooth="conv3x3") for model in ("fcn32s", "fcn16s", "fcn8s")
    ]
    assert len({Plan.of(cfg).identity for cfg in alike}) == 1
    assert len({tuple(sorted(shapes(cfg).values())) for cfg in alike}) == 1
    apart = [own("ContentAware", f"model={model}", "fusion=none") for model in ("fcn32s", "fcn16s", "fcn8s")]
    assert len({Plan.of(cfg).identity for cfg in apart}) == 3


def test_an_own_operator_is_never_taken_for_one_of_ours():
    for cell in CELLS:
        found = {Plan.of(own(name, *cell)).identity for name in ("Stepwise", "ContentAware", "KeepsItsLayer")}
        ours = {Plan.of(configure(*cell, f"decoder={name}")).identity for name in OPERATORS}
        fixed = "model.enlarge=bilinear" in cell and "model=fcn32s" in cell  # then nothing of the operator is left
        assert (len(found), found <= ours) == ((1, True) if fixed else (3, False))


@pytest.mark.parametrize(
    ("encoder", "enlarge"), itertools.product(["small", "alexnet", "resnet18"], ["same", "bilinear"])
)
@pytest.mark.parametrize("name", ["Stepwise", "ContentAware", "Sampled"])
def test_an_own_operator_reaches_the_full_size_behind_any_encoder_or_is_rejected(name, encoder, enlarge):
    """Behind resnet18 the map of stride 1 is the image, whose channels a guided operator is built for."""
    cfg = own(name, "model=fcn8s", f"encoder={encoder}", "neck.width=8", f"model.enlarge={enlarge}")
    if name == "Stepwise" and encoder != "small" and enlarge == "same":
        with pytest.raises(
            UserError, match=r"decoder=stepwise upsamples in steps of 2.* take decoder=deconv, or encoder=small"
        ):
            Plan.of(cfg)
        return
    Plan.of(cfg)
    assert build.network(cfg, 3).eval()(torch.zeros(1, 3, 64, 96)).shape == (1, 3, 64, 96)


def test_own_fusions_and_refinements_are_used_as_they_say():
    cfg = configure("model=ladder")
    cfg.fusion = {"_target_": "support.own_parts.Smallest", "_partial_": True, "name": "smallest"}
    cfg.model.refine = {"_target_": "support.own_parts.Squeeze", "_partial_": True}
    cfg.decoder.smooth = "conv3x3"
    plan = Plan.of(cfg)
    assert plan.name().startswith("ladder8-bilinear-smallest-")
    assert plan.notes == []
    network = build.network(cfg, 3).eval()
    assert {type(step.smooth).__name__ for step in network.decoder.steps.values()} == {"SmoothConv"}
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("node", "target"),
    [
        ("decoder", "torch.nn.ReLU"),
        ("fusion", "torch.nn.Identity"),
        ("model.refine", "torch.nn.Identity"),
        ("decoder", "x.Y"),
    ],
)
def test_what_is_no_such_part_is_rejected(node, target):
    cfg = configure("decoder=bilinear")
    OmegaConf.update(cfg, f"{node}._target_", target)
    with pytest.raises(UserError, match=rf"{node}.*{target}|{target}"):
        Plan.of(cfg)


# ---- arguments of any name


def test_arguments_may_have_any_name_and_value():
    values = {"kernel": 3, "gamma": -1.0, "side": 2, "share": 7, "width": -3}
    cfg = own("AnyArguments", "model=fcn8s", **values)
    Plan.of(cfg)
    assert build.network(cfg, 3).decoder.steps["16"].upsample.blur.kernel_size == (3, 3)
    cfg = configure("model=ladder")
    cfg.model.refine = {"_target_": "support.own_parts.Squeeze", "_partial_": True, "kernel": 2}
    cfg.encoder = {"_target_": "support.own_parts.EvenEncoder", "name": "even", "kernel": 2}
    Plan.of(cfg)
    assert build.network(cfg, 3).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (["decoder=deconv", "decoder.kernel=3"], r"decoder\.kernel=3: allowed is an even number"),
        (["decoder=deconv", "decoder.kernel=0"], r"decoder\.kernel=0: allowed is an even number of 2 or more"),
        (["model=segnet_basic", "model.refine.kernel=4"], r"model\.refine\.kernel=4: allowed is an odd number"),
        (["model=unet", "model.refine.count=0"], r"model\.refine\.count=0: allowed is a whole number of 1 or more"),
        (["encoder=basic", "encoder.kernel=4"], r"encoder\.kernel=4: allowed is an odd number"),
    ],
)
def test_a_part_rejects_the_arguments_that_it_cannot_use(cell, says):
    with pytest.raises(UserError, match=says):
        Plan.of(configure(*cell))


def test_an_own_part_may_reject_its_arguments_too():
    Plan.of(own("Picky", kernel=5))
    with pytest.raises(UserError, match=r"decoder\.kernel=4: allowed is an odd number here"):
        Plan.of(own("Picky", kernel=4))


# ---- starts
LOST = [
    "SetsItsLayer", "SetsItsLayersData", "ReplacesAParameter", "AppliesToAll", "ResetsItsLayer", "SetsItself",
    "BareParameter",
]  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", LOST)
def test_a_start_that_would_be_lost_is_rejected(name, device):
    """The fault was: 0.001, set in ``__init__``, became 0.226, and nobody was told."""
    if name == "SetsItsLayersData" and device == "meta":
        return  # which has no values, and torch counts no changes of ``data``
    cfg = own(name, "model=fcn8s", "neck.width=8")
    where = r"upsample\.conv" if name != "BareParameter" else "upsample"
    with torch.device(device), pytest.raises(UserError, match=rf"decoder\.steps\.16\.{where} .*reset_parameters"):
        build.network(cfg, 12)


@pytest.mark.parametrize("name", ["KeepsItsLayer", "Scale", "TorchsOwn", "WithLayer"])
def test_a_start_that_a_layer_sets_itself_is_kept_and_hangs_on_seed_and_name_alone(name):
    one, again, other = (
        build.network(own(name, "model=fcn8s", "neck.width=8", f"seed={seed}", *more), 12).state_dict()
        for seed, more in ((0, []), (0, ["fusion=concat"]), (1, []))
    )
    kept = [key for key in one if "upsample" in key]
    assert [key for key in kept if not torch.equal(one[key], again[key])] == []
    if name == "Scale":
        assert [float(one[key]) for key in kept] == pytest.approx([0.001] * len(kept))
        return
    assert [key for key in kept if key.endswith("weight") and not torch.equal(one[key], other[key])] != []
    if name == "KeepsItsLayer":
        assert {round(float(one[key].std()), 3) for key in kept if key.endswith("weight")} == {0.001}


# ---- costs
def decoder_cost(cfg):
    with torch.device("meta"):
        return multiply_adds(build.network(cfg, 6), (64, 96))


def test_products_and_samplings_count_in_an_operator():
    x, source = torch.zeros(1, 4, 8, 12, device="meta"), torch.zeros(1, 5, 16, 24, device="meta")
    given = {"factor": 2, "source_channels": 5}
    with torch.device("meta"):
        content, sampled, known = (
            kind(4, 4, **given) for kind in (own_parts.ContentAware, own_parts.Sampled, own_parts.KnowsItsCost)
        )
    taps = 4 * 9 * 16 * 24  # one product a tap, a channel and a pixel; unfold and softmax are free
    assert count(lambda: content(x, source)) == 8 * 12 * (4 * 4 + 4 * 36) + taps
    assert count(lambda: sampled(x, source)) == 8 * 12 * 4 * 4 + 16 * 24 * 5 * 2 + 4 * (4 * 16 * 24)
    assert count(lambda: known(x, source)) == 7 * 24
    assert count(lambda: nn.Sequential(known)[0](x, source) * 2) == 7 * 24  # a product elsewhere is none


def test_products_count_in_fusions_and_refinements_and_nowhere_else():
    x = torch.zeros(1, 4, 8, 12, device="meta")
    with torch.device("meta"):
        squeeze = own_parts.Squeeze(4, 4, 4, 1)
    assert count(lambda: squeeze(x)) == 8 * 12 * 16 + 16 + 8 * 12 * 4
    assert count(lambda: x * x) == 0
    scaled = configure("model=fcn8s", "model.skip_scales=[0.01,0.0001]")
    assert decoder_cost(scaled) == decoder_cost(configure("model=fcn8s"))


@pytest.mark.parametrize(("mode", "each"), [("nearest", 0), ("bilinear", 4), ("bicubic", 16)])
def test_interpolation_and_sampling_cost_the_same(mode, each):
    x, grid = torch.zeros(1, 3, 4, 5, device="meta"), torch.zeros(1, 8, 10, 2, device="meta")
    assert count(lambda: F.interpolate(x, scale_factor=2, mode=mode)) == each * 3 * 80
    assert count(lambda: F.grid_sample(x, grid, mode=mode, align_corners=False)) == each * 3 * 80


def test_a_budget_counts_what_an_operator_does():
    cell = ["model=ladder", "encoder.widths=[8,16,32,64,64]", "match=multiply_adds"]
    plan = Plan.of(own("ContentAware", *cell), num_classes=6, size=(96, 96))
    assert decoder_cost(plan.cfg) == pytest.approx(decoder_cost(configure(*cell[:2])), rel=0.02)
