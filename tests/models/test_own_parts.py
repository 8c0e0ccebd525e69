"""Parts of a user's own: identities, arguments, starts and costs follow from what the classes say."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from support import own_parts
from support.configs import configure
from torch import nn

from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.config.schema import options
from segpipe.errors import UserError
from segpipe.models.cost import count, multiply_adds

OPERATORS = options("decoder")


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
    ("encoder", "enlarge"), itertools.product(["small", "alexnet", "resnet18"], ["auto", "same", "bilinear"])
)
@pytest.mark.parametrize("name", ["Stepwise", "ContentAware", "Sampled"])
def test_an_own_operator_reaches_the_full_size_behind_any_encoder_or_is_rejected(name, encoder, enlarge):
    """A guided one would read maps there that are finer than the model's stride."""
    cfg = own(name, "model=fcn8s", f"encoder={encoder}", "neck.width=8", f"model.enlarge={enlarge}")
    if name == "Sampled" and enlarge == "same":
        with pytest.raises(UserError, match=r"decoder=sampled is guided.* take model\.enlarge=bilinear"):
            Plan.of(cfg)
        return
    network = build.network(Plan.of(cfg).cfg, 3).eval()
    x, features = network.encode(torch.zeros(1, 3, 64, 96))
    assert network.decode(x, features).shape == (1, 3, 64, 96)


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
        (["decoder=deconv", "decoder.kernel=5"], r"decoder\.kernel=5: allowed is an even number"),
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
