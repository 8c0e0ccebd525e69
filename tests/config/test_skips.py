"""Options of the skips: which cells are one network, which values are rejected, what a budget counts."""

import pytest
import torch
from support.cells import identity_of
from support.configs import TINY, configure
from support.grid import grid

from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.config.schema import options
from segpipe.errors import UserError

ALIKE = [
    [[], ["fusion.at=[16,8]"], ["fusion.at=[8,16,8]"], ["fusion.drop=0"], ["fusion.drop=0.0"], ["fusion.at=null"]],
    [["fusion=none"], ["fusion.at=[]"], ["fusion=none", "fusion.at=[16]", "fusion.drop=0.2"]],
    [["model=fcn32s"], ["model=fcn32s", "fusion=aff", "fusion.attention=scse"]],
    [["decoder=nearest", "fusion.at=[16]"], ["decoder=nearest", "model=fcn16s", "fusion=sum"]],
    [["decoder=unpool", "fusion.at=[16]"], ["decoder=unpool", "model=fcn16s", "fusion.at=[16]"]],
]
DIFFERENT = [
    [[], ["fusion.at=[16]"], ["fusion.at=[8]"], ["fusion.at=[]"], ["fusion.drop=0.2"], ["fusion.attention=scse"]],
    [[f"fusion={name}"] for name in options("fusion")],
    [["fusion=gated_sum"], ["fusion=gated_sum", "fusion.total=1"]],
    [["decoder=bilinear", "fusion.at=[16]"], ["decoder=bilinear", "model=fcn16s"]],
    [
        ["decoder=nearest", "model.enlarge=bilinear", "fusion.at=[16]"],
        ["decoder=nearest", "model.enlarge=bilinear", "model=fcn16s"],
    ],
    [["decoder=nearest", "fusion.at=[8]"], ["decoder=nearest"], ["decoder=nearest", "fusion=none"]],
    [
        ["model=ladder", "decoder=nearest", "fusion.at=[16]"],
        ["model=ladder", "model.stride=16", "decoder=nearest"],
    ],
]


@pytest.mark.parametrize("cells", ALIKE)
def test_cells_that_are_one_network_have_one_identity_and_one_name(cells):
    assert len({identity_of(*cell) for cell in cells}) == 1
    assert len({Plan.of(configure(*cell)).name("") for cell in cells}) == 1


@pytest.mark.parametrize("cells", DIFFERENT)
def test_cells_that_are_different_networks_are_kept_apart(cells):
    assert len({identity_of(*cell) for cell in cells}) == len(cells)


@pytest.mark.parametrize("decoder", ["nearest", "unpool"])
def test_what_is_said_to_be_one_network_computes_the_same(decoder):
    """With the weights of the one put into the other."""
    given = [*TINY, f"decoder={decoder}"]
    one, other = (
        build.network(configure(*given, *more), 6).eval()
        for more in (["fusion.at=[16]"], ["model=fcn16s", "fusion=sum"])
    )
    state = one.state_dict()
    assert len(state) == len(other.state_dict())
    renamed = {name: state.get(name, state.get(name.replace("enlarge", "decoder"))) for name in other.state_dict()}
    other.load_state_dict(renamed)
    image = 255 * torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(one(image), other(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["fusion.at=[32]"], r"fusion\.at=\[32\]: allowed are the strides of the decoder's steps, \[16,8\] for"),
        (["fusion.at=[16,4]"], r"fusion\.at=\[16,4\]: allowed are .*or null for all"),
        (["fusion.at=16"], r"fusion\.at=16: allowed is a list of whole numbers or null"),
        (["fusion.at=[16.5]"], r"fusion\.at=\[16\.5\]: allowed is a list of whole numbers"),
        (["fusion.drop=1"], r"fusion\.drop=1: allowed is a number from 0 to 0\.999"),
        (["fusion.drop=-0.1"], r"fusion\.drop=-0\.1: allowed is a number from 0 to 0\.999"),
        (["fusion.drop=null"], r"fusion\.drop=null: allowed is a number"),
        (["fusion.attention=se"], r"fusion\.attention=se: allowed is scse or null"),
        (["fusion=aff", "fusion.total=0"], r"fusion\.total=0: allowed is a number above 0"),
        (["fusion=sum", "+fusion.total=1"], r"fusion.*takes no 'total'"),
    ],
)
def test_what_is_invalid_is_rejected_with_what_is_allowed(overrides, says):
    with pytest.raises(UserError, match=says):
        Plan.of(configure(*overrides))


@pytest.mark.parametrize(
    ("overrides", "notes"),
    [
        (["fusion.at=[16]", "fusion.drop=0.2"], []),
        (["fusion.at=[]"], ["fusion=sum has no skip connection with fusion.at=[]: the same as fusion=none."]),
        (["fusion=none", "fusion.drop=0.2"], ["fusion.drop=0.2 has no effect here: the network has no skip."]),
        (
            ["model=segnet", "encoder=small", "fusion.at=[8,4]", "fusion.attention=scse"],
            [
                "fusion.at=[8,4] has no effect here: the network has no skip.",
                "fusion.attention=scse has no effect here: the network has no skip.",
            ],
        ),
    ],
)
def test_what_has_no_effect_is_said(overrides, notes):
    assert Plan.of(configure(*overrides)).notes == notes


@pytest.mark.parametrize(
    ("fusion", "what"), grid(options("fusion"), ["params", "multiply_adds"], quick=[("aff", "multiply_adds")])
)
def test_a_budget_is_met_with_every_fusion(fusion, what):
    cell = ["model=ladder", "encoder.widths=[8,16,32,64,64]", f"match={what}", "fusion.attention=scse"]
    plan = Plan.of(configure(*cell, f"fusion={fusion}"), num_classes=6, size=(96, 96))
    assert abs(plan.budget.record()["decoder_deviation"]) <= 0.02


def test_a_run_of_before_has_the_identity_that_it_had():
    """Its file has none of the keys that were added."""
    now, before = configure("model=ladder"), configure("model=ladder", "model.enlarge=same").copy()
    before.fusion = {"_target_": now.fusion._target_, "_partial_": True, "name": "sum"}
    assert Plan.of(now).identity == Plan.of(before).identity == Plan.of_trained(before).identity
