"""Equal budget: what is solved, what is refused, what a run of it leaves behind."""

import pytest
import torch
from omegaconf import OmegaConf
from support.budgets import CLASSES, SIDE, SMALL, counted
from support.configs import configure
from support.grid import diagonal, grid, pairwise, slow

from segpipe.config import budget, build
from segpipe.config.budget import BudgetUnreachable
from segpipe.config.plan import Plan
from segpipe.config.schema import CONF, options

GRID = [
    *(("params", model, stride) for model in ("ladder", "unet") for stride in (16, 8, 4, 2, 1)),
    *(("multiply_adds", model, stride) for model, stride in (("ladder", 4), ("unet", 2))),
]


CELLS = options("decoder"), options("fusion")


QUICK = [("params", "ladder", 8), ("params", "unet", 2), ("multiply_adds", "ladder", 4)]


SOME = [(case, diagonal(*CELLS)) for case in QUICK]


PAIRS = pairwise(GRID, *CELLS)  # each operator with each case and, in turn, with each fusion


ALL = [slow((case, [cell for other, *cell in PAIRS if other == case])) for case in GRID]


@pytest.mark.parametrize(("case", "cells"), [*SOME, *ALL])
def test_every_cell_costs_what_its_model_costs_as_its_file_has_it(case, cells):
    what, model, stride = case
    allowed, shared = counted(configure(f"model={model}", "encoder=small"), what)
    cfg = configure(f"model={model}", "encoder=small", f"model.stride={stride}", f"match={what}")
    for decoder, fusion in cells:
        cfg.decoder, cfg.fusion = (  # as the command line would
            OmegaConf.load(CONF / group / f"{name}.yaml") for group, name in (("decoder", decoder), ("fusion", fusion))
        )
        cfg.model.width = None
        as_it_is = counted(cfg, what)[0]
        found = budget.solve_budget(cfg, num_classes=CLASSES, size=(SIDE, SIDE))
        cfg.model.width = found.width
        cost, again = counted(cfg, what)
        assert abs(cost - allowed) <= 0.02 * (allowed - shared), (decoder, fusion)
        assert (found.width is None) == (abs(as_it_is - allowed) <= 0.02 * (allowed - shared))
        assert (found.what, found.budget, found.cost, found.shared, shared) == (what, allowed, cost, shared, again)
        record = found.record()
        assert record["deviation"] == pytest.approx(cost / allowed - 1, abs=1e-6)
        assert record["decoder_deviation"] == pytest.approx((cost - allowed) / (allowed - shared), abs=1e-6)


@pytest.mark.parametrize("what", ["params", "multiply_adds"])
@pytest.mark.parametrize("given", ["model.width=null", "model.width=20", "decoder=bilinear", "fusion=none budget=3e7"])
def test_what_is_solved_is_solved_and_known(given, what):
    cfg = configure("model=ladder", *SMALL, "decoder=unpool", *given.split(), f"match={what}")
    solved = Plan.of(cfg).cfg
    assert solved.budget == budget.solve_budget(cfg).budget
    assert Plan.of(solved).cfg == solved
    assert Plan.of(solved).identity == Plan.of(cfg).identity


@pytest.mark.parametrize("name", options("model"))
def test_a_model_is_read_as_hydra_composes_it(name):
    own = budget.reference_config(configure("model=ladder", "decoder=nearest", f"model.name={name}"))
    composed = configure(f"model={name}")
    for group in ("model", "decoder", "fusion"):
        assert build.resolve(own)[group] == build.resolve(composed)[group]


def test_one_budget_whatever_else_is_chosen_and_another_one_may_be_given():
    others = ["model.enlarge=bilinear", "decoder.smooth=conv3x3", "model.refine.count=2", "model.width=40", "seed=3"]
    cells = [["model=ladder", *SMALL, other, "decoder=deconv", "match=params"] for other in others]
    own = counted(configure("model=ladder", *SMALL), "params")[0]
    assert {budget.solve_budget(configure(*cell)).budget for cell in cells} == {own}
    for cell in cells:
        found, shared = counted(Plan.of(configure(*cell, "budget=4e5")).cfg, "params")
        assert abs(found - 4e5) <= 0.02 * (4e5 - shared)
    assert budget.solve_budget(configure("model=ladder", *SMALL, "neck=double_conv", "match=params")).budget > own


def test_what_multiply_adds_are_for_is_the_picture_that_metrics_tell_them_for():
    cfg = configure("model=ladder", "decoder=deconv", *SMALL, "match=multiply_adds")
    assert budget.solve_budget(cfg) == budget.solve_budget(cfg, num_classes=CLASSES, size=(SIDE, SIDE))
    resized = configure("model=ladder", "decoder=deconv", *SMALL, "match=multiply_adds", "data.size=[64,128]")
    assert budget.solve_budget(resized) == budget.solve_budget(cfg, num_classes=CLASSES, size=(64, 128))
    assert budget.solve_budget(resized).width == budget.solve_budget(cfg).width  # which is a matter of shares


@pytest.mark.parametrize(("model", "decoder"), grid(["ladder", "unet"], options("decoder")))
def test_a_network_of_solved_width_computes_and_learns_everywhere(model, decoder):
    try:
        cfg = Plan.of(configure(f"model={model}", *SMALL, f"decoder={decoder}", "fusion=sum", "match=params")).cfg
    except BudgetUnreachable as refused:  # parameters that do not depend on the width take too much of it
        pytest.skip(str(refused))
    network = build.network(cfg, CLASSES)
    for parameter in network.parameters():  # what starts at zero would hide what hangs on it
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    logits = network(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255)
    assert logits.shape == (2, CLASSES, 64, 64)
    logits.square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
