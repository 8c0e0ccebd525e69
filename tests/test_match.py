"""Equal budget: what is solved, what is refused, what a run of it leaves behind."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from conftest import TINY, configure
from omegaconf import OmegaConf
from support.commands import run
from support.grid import diagonal, grid, slow

import segpipe
from segpipe.analysis.design_points import design_points
from segpipe.architectures import model_table
from segpipe.config import budget, build
from segpipe.config.plan import Plan, make_cell, run_name
from segpipe.config.schema import CONF, options
from segpipe.config.width_search import Search
from segpipe.errors import UserError
from segpipe.models.cost import multiply_adds
from segpipe.runs import cells
from segpipe.runs.run import Run
from segpipe.runs.storage import read_json

SIDE = 96  # of the scenes, whose classes are
CLASSES = 6
SMALL = ["encoder=small", "encoder.widths=[8,16,32,64,64]"]


def counted(cfg, what):
    """What the network of a configuration costs in all, and its encoder and neck: parameters one by one, or a pass."""
    with torch.device("meta"):
        network = build.network_factory(cfg, build.meta_encoder(cfg), CLASSES)()
    if what == "params":
        shared = [*network.encoder.parameters(), *network.neck.parameters()]
        return sum(p.numel() for p in network.parameters()), sum(p.numel() for p in shared)
    network.decode = lambda x, features: x
    shared = multiply_adds(network, (SIDE, SIDE))
    del network.decode
    return multiply_adds(network, (SIDE, SIDE)), shared


GRID = [
    *(("params", model, stride) for model in ("ladder", "unet") for stride in (16, 8, 4, 2, 1)),
    *(("multiply_adds", model, stride) for model, stride in (("ladder", 4), ("unet", 2))),
]


CELLS = options("decoder"), options("fusion")
QUICK = [("params", "ladder", 8), ("params", "unet", 2), ("multiply_adds", "ladder", 4)]
SOME = [(case, diagonal(*CELLS)) for case in QUICK]
ALL = [slow((case, list(itertools.product(*CELLS)))) for case in GRID]


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
    cfg = Plan.of(configure(f"model={model}", *SMALL, f"decoder={decoder}", "fusion=sum", "match=params")).cfg
    network = build.network(cfg, CLASSES)
    for parameter in network.parameters():  # what starts at zero would hide what hangs on it
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    logits = network(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255)
    assert logits.shape == (2, CLASSES, 64, 64)
    logits.square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


# ---- widths


def test_a_list_of_widths_may_begin_with_the_coarsest_map():
    network = build.network(configure("model=ladder", "model.width=[24,20,12]", "fusion=sum"), 3)
    first, second = network.decoder.steps.values()
    assert (network.decoder.project.in_channels, network.decoder.project.out_channels) == (128, 24)
    assert [first.refine[0][0].in_channels, first.refine[0][0].out_channels] == [24, 12]
    assert [second.refine[0][0].in_channels, second.refine[0][0].out_channels] == [12, 12]
    with pytest.raises(UserError, match=r"model.width=\[24\] has 1 entries: give one for each of the 2 steps up"):
        build.network(configure("model=ladder", "model.width=[24]"), 3)


ALIKE = [  # of encoder=small, whose channels are 128 at strides 32, 16 and 8
    ["null", "[128,128]", "[128,128,128]", "128"],
    ["40", "[40,40,40]"],
    ["[40,20]", "[128,40,20]"],
]


@pytest.mark.parametrize("widths", ALIKE)
def test_widths_that_are_one_network_have_one_identity_and_one_name(widths):
    cfgs = [configure("model=ladder", f"model.width={width}") for width in widths]
    assert len({Plan.of(cfg).identity for cfg in cfgs}) == 1
    assert len({Plan.of(cfg).name("") for cfg in cfgs}) == 1
    states = [build.network(cfg, 3).state_dict() for cfg in cfgs]
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name], states[0][name]) for name in state)


def test_widths_that_are_other_networks_are_kept_apart():
    cfgs = [configure("model=ladder", f"model.width={width}") for width, *_ in ALIKE]
    assert len({Plan.of(cfg).identity for cfg in cfgs}) == len({Plan.of(cfg).name("") for cfg in cfgs}) == 3


def test_channels_are_dealt_out_in_proportion():
    search = Search(sum, 100, avoid=set())
    base = [64, 64, 32, 16]
    assert search.distribute(base, sum(base)) == base
    before = [0, 0, 0, 0]
    for total in range(1, 400):
        widths = search.distribute(base, total)
        assert all(b <= w <= b + 1 for b, w in zip(before, widths, strict=True))
        assert all(w == 1 or abs(w - own * total / sum(base)) < 1 for own, w in zip(base, widths, strict=True))
        before = widths
    avoiding = Search(sum, 100, avoid={16, 17, 32})
    assert all({16, 17, 32}.isdisjoint(avoiding.distribute(base, total)) for total in range(1, 400))


@pytest.mark.parametrize("room", [1, 50, 5000, 123456, 1e7])
def test_the_nearest_is_found_in_few_tries(room):
    tries = []

    def weigh(widths):
        tries.append(widths)
        return sum(9 * a * b + 7 * a + 3 for a, b in itertools.pairwise([*widths, widths[-1]]))

    base = [64, 64, 32, 16]
    search = Search(weigh, room, avoid=set())
    search.proportional(base)
    assert len(tries) <= 22
    by_hand = [search.distribute(base, total) for total in range(1, 3 * max(sum(base), *map(sum, tries)))]
    assert abs(search.cost - room) == min(abs(weigh(widths) - room) for widths in by_hand)
    coarse = search.cost
    search.one_by_one()
    assert abs(search.cost - room) <= abs(coarse - room)
    assert search.cost == weigh(search.nearest)


# ---- what is refused


REFUSED = [
    ("model=fcn8s match=params", ["one channel for each class", "decoder.smooth=conv3x3", "model=ladder"]),
    ("model=fcn8s match=multiply_adds fusion=concat", ["match=multiply_adds", "no width to solve"]),
    ("model=ladder model.stride=32 match=params", ["stops at stride 32", "nothing is climbed", "smaller model.stride"]),
    ("model=segnet encoder=resnet18 decoder=deconv match=params", ["as its own file has it", "budget=NUMBER"]),
    ("model=ladder model.name=mine match=params", ["conf/model/mine.yaml", "budget=NUMBER"]),
    ("model=ladder match=flops", ["match=flops", "params or multiply_adds or null"]),
    ("model=ladder match=params budget=0", ["budget=0", "from 1 to"]),
]


@pytest.mark.parametrize(("overrides", "says"), REFUSED)
def test_what_cannot_be_matched_is_refused_with_what_to_do(overrides, says):
    with pytest.raises(UserError) as error:
        Plan.of(configure(*overrides.split()))
    assert [word for word in says if word not in str(error.value)] == []


UNMET = [
    ("budget=1e5", ["encoder and neck alone cost 145,248 parameters", "the budget is 100,000", "larger"]),
    (
        "decoder=pixelshuffle model.stride=16",
        ["model.width=[1,1], with 84,", "budget=NUMBER, above 229,", "enlarge=bilinear"],
    ),
    ("decoder=deconv model.width=[9,9]", ["model.width=[9,9] says", "the budget is 219,750", "Leave model.width out"]),
]


@pytest.mark.parametrize(("overrides", "says"), UNMET)
def test_a_budget_that_no_width_meets_is_refused_with_the_closest(overrides, says):
    cfg = configure("model=ladder", *SMALL, *overrides.split(), "match=params", "run_dir=a/b")
    with pytest.raises(budget.BudgetUnreachable) as error:
        Plan.of(cfg)
    assert [word for word in says if word not in str(error.value)] == []
    assert make_cell(cfg, []).refused == str(error.value)


def test_the_bilinear_enlargement_that_is_advised_is_met():
    cell = ["model=ladder", *SMALL, "decoder=pixelshuffle", "model.stride=16", "match=params"]
    assert budget.solve_budget(configure(*cell, "model.enlarge=bilinear")).factor < 1


def test_data_that_are_missing_are_no_refusal_and_explained():
    cfg = configure("model=ladder", "decoder=deconv", "data=camvid", "data.root=nowhere", "match=params", "run_dir=a/b")
    with pytest.raises(UserError, match="nowhere") as error:
        Plan.of(cfg)
    assert not isinstance(error.value, budget.BudgetUnreachable)
    cell = make_cell(cfg, [])
    assert (cell.run, cell.refused, cell.error) == (None, None, str(error.value))
    assert run_name(cfg).endswith("-refused")


def test_a_budget_without_match_is_said_to_say_nothing():
    assert any("budget=1e+06 says nothing" in note for note in Plan.of(configure("budget=1e6")).notes)


# ---- cells


def test_a_matched_cell_is_the_network_that_it_was_solved_to():
    cell = ["model=ladder", *SMALL, "decoder=deconv"]
    solved = Plan.of(configure(*cell, "match=params")).cfg
    by_hand = configure(*cell, f"model.width={budget.shown(list(solved.model.width))}")
    names = {run_name(cfg) for cfg in (configure(*cell, "match=params"), solved, by_hand)}
    assert len(names) == 1
    assert "-w34-" in (name := names.pop()) or "-w34_34_34-" in name
    assert run_name(configure(*cell)) != name
    assert OmegaConf.to_container(solved.model) == {**configure(*cell).model, "width": [34, 34, 34]}


def test_a_cell_that_meets_the_budget_as_it_is_is_the_cell_without_match():
    own = configure("model=ladder", *SMALL)
    matched = configure("model=ladder", *SMALL, "match=params")
    assert run_name(own) == run_name(matched)
    assert budget.solve_budget(matched).record()["deviation"] == 0


def test_choices_tell_matched_cells_from_raw_ones():
    raw, matched = (
        make_cell(configure("model=ladder", *SMALL, f"match={what}", "run_dir=a/b"), []) for what in ("null", "params")
    )
    assert (raw.choices["match"], matched.choices["match"]) == (None, "params")
    assert (raw.label, matched.label) == ("ladder 8 bilinear sum 0", "ladder 8 bilinear sum params 0")


def test_a_report_has_a_run_in_both_views_where_it_is_in_both():
    choices = {"model": "ladder", "stride": 8, "decoder": "bilinear", "fusion": "sum", "seed": 0}
    listed = [cells.Cell([f"match={what}"], {**choices, "match": what}, run="one") for what in (None, "params")]
    for config in (None, "params"):  # of whichever was trained
        spots = design_points(listed, {"one": {"match": config}})
        assert [spot.place.view for spot in spots] == ["operators as they are", "equal parameters"]
        assert [(spot.seed, spot.run) for spot in spots] == [(0, "one")] * 2
    (spot,) = design_points([cells.Cell([], choices, run="one")], {"one": {"match": "params"}})
    assert spot.place.view == "equal parameters"


def test_sweeps_that_are_kept_from_before_are_read_and_known():
    folder = Path(__file__).parent.parent / "docs" / "sweeps" / "sweep_ladder"
    listed = cells.read(folder)
    assert listed[0].label == "ladder 16 nearest none 0"
    for name in ("sweep_ladder/ladder4-unpool-concat-s0-*", "sweep_shapes/fcn32s-unpool-none-s0-*"):
        (kept,) = (Run(path) for path in folder.parent.glob(name))
        cfg = OmegaConf.load(kept.config)
        assert Plan.of(cfg).identity == kept.record["identity"]
        assert Plan.of(cfg).name(Plan.of(cfg).identity) == kept.record["name"]


def test_the_table_of_models_shows_equal_budgets(capsys):
    table = model_table(["match=params", "decoder=deconv", "encoder=small", "fusion=concat"], (SIDE, SIDE), CLASSES)
    columns = {column.header: list(column.cells) for column in table.columns}
    found = dict(zip(columns["model"], columns["M parameters"], strict=True))
    assert found["fcn8s"] == "refused"
    own = counted(configure("model=unet", "encoder=small"), "params")[0]
    assert float(found["unet"]) == pytest.approx(own / 1e6, abs=5e-4)
    assert "fcn8s: match=params" in capsys.readouterr().out


# ---- a run


TRAINED = [*TINY, "encoder.widths=[8,16,32,32,32]", "model=ladder", "decoder=deconv", "trainer.max_epochs=1"]
TRAINED = [word for word in TRAINED if not word.startswith("neck.")]


@pytest.mark.parametrize("what", grid(["params", "multiply_adds"], quick=["params"]))
def test_a_run_says_what_was_matched_and_goes_on(what, tmp_path):
    said = run("segpipe.train", *TRAINED, f"match={what}", "hydra.run.dir=run", cwd=tmp_path)
    assert f"Note: match={what}: width 0." in said
    folder = tmp_path / "run"
    record, cost = read_json(folder / "run.json"), read_json(folder / "metrics.json")["cost"]
    cfg = OmegaConf.load(folder / "config.yaml")
    assert record["match"]["what"] == cfg.match == what
    assert record["match"]["found"] == (cost["parameters"] if what == "params" else round(cost["gmac"] * 1e9))
    assert record["match"]["budget"] == cfg.budget
    assert abs(record["match"]["decoder_deviation"]) <= 0.02
    assert len(cfg.model.width) == 3
    assert f"-w{'_'.join(map(str, cfg.model.width))}-" in record["name"] or len(set(cfg.model.width)) == 1
    assert segpipe.load(folder)(torch.zeros(40, 50, 3, dtype=torch.uint8).numpy()).shape == (40, 50)
    if what == "multiply_adds":
        return  # the rest is the same
    run("segpipe.train", "resume=run", "trainer.max_epochs=2", cwd=tmp_path)
    again = read_json(folder / "run.json")
    assert [again[key] for key in ("match", "extended_from", "name")] == [
        record[key] for key in ("match", "identity", "name")
    ]
    assert again["status"] == "finished"
    auto = [*TRAINED[:-1], "trainer.max_epochs=2", f"match={what}", "resume=auto", "hydra.run.dir=run"]
    assert "is finished already" in run("segpipe.train", *auto, cwd=tmp_path)
    other = run("segpipe.train", *auto, "fusion=none", cwd=tmp_path, status=1)
    assert "a run of another configuration" in other


def test_a_sweep_lists_raw_and_matched_cells_side_by_side(tmp_path):
    sweep = ["segpipe.train", "-m", *TRAINED, "match=null,params", "decoder=bilinear,deconv", "sweep.name=x"]
    said = run(*sweep, cwd=tmp_path)
    folder = tmp_path / "outputs" / "sweeps" / "x"
    listed = json.loads((folder / "sweep.json").read_text())["cells"]
    runs = {(cell["choices"]["decoder"], cell["choices"]["match"]): cell["run"] for cell in listed}
    assert runs["bilinear", None] == runs["bilinear", "params"]  # the model's own: it is what the budget is
    assert len(set(runs.values())) == 3
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(runs.values())
    assert "4 cells, 3 networks: 4 cells finished." in said
    assert read_json(folder / runs["deconv", None] / "run.json")["match"] is None


# ---- smoothing that fills no slot


NOT_HEARD = [
    ["model=fcn32s", "decoder=deconv"],
    ["model=fcn32s", "decoder=nearest"],
    ["model=ladder", "model.stride=32", "decoder=bilinear"],
    ["model=unet", "encoder=small", "decoder=nearest"],
    ["model=unet", "encoder=small", "decoder=unpool"],
    ["model=fcn32s", "decoder=unpool", "model.enlarge=bilinear"],
]


@pytest.mark.parametrize("cell", NOT_HEARD)
def test_smoothing_that_fills_no_slot_changes_neither_network_nor_identity(cell):
    cfgs = [configure(*cell, f"decoder.smooth={smooth}") for smooth in ("null", "conv3x3")]
    states = [build.network(cfg, 3).state_dict() for cfg in cfgs]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert len({Plan.of(cfg).identity for cfg in cfgs}) == 1
    if "decoder=unpool" not in cell:
        assert any("decoder.smooth=conv3x3 changes nothing" in note for note in Plan.of(cfgs[1]).notes)


HEARD = [
    ["model=fcn16s", "decoder=deconv"],
    ["model=fcn32s", "decoder=unpool"],
    ["model=fcn8s", "decoder=unpool", "fusion=none"],
    ["model=ladder", "decoder=unpool"],
    ["model=fcn8s", "decoder=unpool", "model.enlarge=bilinear"],
]


@pytest.mark.parametrize("cell", HEARD)
def test_smoothing_that_fills_a_slot_makes_another_network(cell):
    cfgs = [configure(*cell, f"decoder.smooth={smooth}") for smooth in ("null", "conv3x3")]
    one, other = (set(build.network(cfg, 3).state_dict()) for cfg in cfgs)
    assert one < other
    assert len({Plan.of(cfg).identity for cfg in cfgs}) == 2
