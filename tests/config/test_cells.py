"""Which cells are one network."""

import pytest
import torch
from omegaconf import OmegaConf
from support.cells import identity_of
from support.configs import TINY, configure
from support.grid import slow
from support.paths import ROOT

from segpipe.config import build
from segpipe.config.plan import Plan

# ---- which cells are one network
FUSIONS = ("none", "sum", "concat")


ALIKE = [
    [["model=fcn32s", f"fusion={fusion}"] for fusion in FUSIONS],
    [[f"model=fcn{stride}s", "decoder=nearest", "fusion=none"] for stride in (32, 16, 8, 4, 2)],
    [[f"model=fcn{stride}s", "decoder=unpool", "fusion=none"] for stride in (32, 16, 8)],
    [["model=fcn32s", "model.enlarge=bilinear", f"decoder={decoder}"] for decoder in ("deconv", "bilinear", "unpool")],
    [["model=fcn8s", "decoder=bilinear", f"model.enlarge={enlarge}"] for enlarge in ("same", "bilinear")],
]


@pytest.mark.parametrize("cells", ALIKE)
def test_cells_that_are_one_network_have_one_identity_and_one_name(cells):
    assert len({identity_of(*cell) for cell in cells}) == 1
    assert len({Plan.of(configure(*cell)).name("") for cell in cells}) == 1


DIFFERENT = [
    [["model=fcn16s", f"fusion={fusion}"] for fusion in FUSIONS],
    *(
        [[f"model=fcn{stride}s", "fusion=none", *decoder] for stride in (32, 16, 8)]
        for decoder in (
            ["decoder=bilinear"],
            ["decoder=deconv"],
            ["decoder=pixelshuffle"],
            ["decoder=nearest", "decoder.smooth=conv3x3"],
            ["decoder=nearest", "model.enlarge=bilinear"],
            ["decoder=unpool", "model.width=null"],
            ["decoder=nearest", "encoder=alexnet", "neck=none"],
        )
    ),
    [["model=ladder", f"model.stride={stride}", "decoder=nearest", "fusion=none"] for stride in (16, 8, 4)],
]


@pytest.mark.parametrize("cells", DIFFERENT)
def test_cells_that_only_look_alike_are_kept_apart(cells):
    assert len({identity_of(*cell) for cell in cells}) == len(cells)
    assert len({Plan.of(configure(*cell)).name("") for cell in cells}) == len(cells)


@pytest.mark.parametrize(
    "choices",
    [
        [["model=fcn32s", "decoder=nearest"], ["model=fcn8s", "decoder=nearest"]],
        [["model=fcn32s", "decoder=unpool"], ["model=fcn8s", "decoder=unpool"]],
        [["decoder=bilinear", "model.enlarge=same"], ["decoder=bilinear", "model.enlarge=bilinear"]],
    ],
)
def test_what_is_said_to_be_one_network_computes_the_same(choices):
    """With the weights of the one put into the other; a step that the one takes to enlarge, the other decodes with."""
    one, other = (build.network(configure(*TINY, *chosen, "fusion=none"), 6).eval() for chosen in choices)
    given = one.state_dict()
    assert len(given) == len(other.state_dict())
    other.load_state_dict(
        {name: given[name if name in given else name.replace("decoder", "enlarge")] for name in other.state_dict()}
    )
    image = 255 * torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(one(image), other(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "networks"), [("sweep_shapes", 31), slow(("sweep_ladder", 45))])
def test_the_sweeps_that_are_kept_have_so_many_networks(name, networks):
    cfg = OmegaConf.load(ROOT / "conf" / "experiment" / f"{name}.yaml")
    params = cfg.hydra.sweeper.params
    lists = [[f"{key}={value}" for value in str(params[key]).split(",")] for key in params if key != "seed"]
    found = {
        identity_of(f"experiment={name}", first, decoder, fusion)
        for first in lists[0]
        for decoder in lists[1]
        for fusion in lists[2]
    }
    assert [len(values) for values in lists] == [3, 5, 3]
    assert len(found) == networks
