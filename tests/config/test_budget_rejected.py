"""Budgets that are rejected, cells and runs with a budget, smoothing that fills no slot."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from support.budgets import CLASSES, SIDE, SMALL, counted
from support.commands import run
from support.configs import TINY, configure
from support.grid import grid
from support.paths import ROOT

import segpipe
from segpipe.analysis.design_points import find_levels
from segpipe.architectures import model_table
from segpipe.config import budget, build
from segpipe.config.plan import Plan, make_cell, run_name
from segpipe.errors import UserError
from segpipe.runs import cells
from segpipe.runs.archive import as_folder
from segpipe.runs.labels import labels
from segpipe.runs.run import Run
from segpipe.runs.storage import read_json

# ---- what is refused
REFUSED = [
    ("model=fcn8s match=params", ["one channel for each class", "decoder.smooth=conv3x3", "model=ladder"]),
    ("model=fcn8s match=multiply_adds fusion=concat", ["match=multiply_adds", "no width to solve"]),
    (
        "model=ladder model.stride=32 match=params",
        ["stops at stride 32", "the decoder has no steps", "smaller model.stride"],
    ),
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
    ("decoder=deconv model.width=[9,9]", ["model.width=[9,9] sets", "the budget is 219,750", "Remove model.width"]),
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
    assert any("budget=1e+06 has no effect" in note for note in Plan.of(configure("budget=1e6")).notes)


# ---- cells


def test_a_matched_cell_is_the_network_that_it_was_solved_to():
    cell = ["model=ladder", *SMALL, "decoder=deconv"]
    solved = Plan.of(configure(*cell, "match=params")).cfg
    by_hand = configure(*cell, f"model.width={budget.shown(list(solved.model.width))}")
    names = {run_name(cfg) for cfg in (configure(*cell, "match=params"), solved, by_hand)}
    assert len(names) == 1
    assert "-w34-" in (name := names.pop()) or "-w34_34_34-" in name
    assert run_name(configure(*cell)) != name
    assert OmegaConf.to_container(solved.model) == {
        **configure(*cell, "model.enlarge=same").model,
        "width": [34, 34, 34],
    }


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
    cell = make_cell(configure("optimizer.lr=1e-3", "run_dir=a/b"), ["optimizer.lr=1e-3", "data.workers=0", "seed=1"])
    assert cell.choices.keys() - raw.choices.keys() == {"optimizer.lr"}
    assert cell.choices["optimizer.lr"] == 0.001
    assert labels([raw, matched]) == ["unmodified operators", "equal parameters"]
    assert (raw.label, matched.label) == (
        "ladder8 bilinear sum seed=0",
        "ladder8 bilinear sum equal parameters seed=0",
    )


def test_a_report_has_a_run_in_both_views_where_it_is_in_both():
    choices = {"model": "ladder", "stride": 8, "decoder": "bilinear", "fusion": "sum", "seed": 0}
    listed = [cells.Cell([f"match={what}"], {**choices, "match": what}, run="one") for what in (None, "params")]
    for config in (None, "params"):  # of whichever was trained
        found = find_levels(listed, {"one": {"match": config}})
        assert found.columns == {"view": ["unmodified operators", "equal parameters"]}
    found = find_levels([cells.Cell([], choices, run="one")], {"one": {"match": "params"}})
    assert found.views == ["equal parameters"]


def test_sweeps_that_are_kept_from_before_are_read_and_known():
    ladder, shapes = (as_folder(ROOT / "docs" / "sweeps" / name) for name in ("sweep_ladder.zip", "sweep_shapes.zip"))
    listed = cells.read(ladder)
    assert listed[0].label == "ladder16 nearest none seed=0"
    for folder, name in ((ladder, "ladder4-unpool-concat-s0-*"), (shapes, "fcn32s-unpool-none-s0-*")):
        (kept,) = (Run(path) for path in folder.glob(name))
        cfg = OmegaConf.load(kept.config)
        assert Plan.of(cfg).identity == kept.record["identity"]
        assert Plan.of(cfg).name(Plan.of(cfg).identity) == kept.record["name"]


def test_the_table_of_models_shows_equal_budgets(capsys):
    table = model_table(["match=params", "decoder=deconv", "encoder=small", "fusion=concat"], (SIDE, SIDE), CLASSES)
    columns = {column.header: list(column.cells) for column in table.columns}
    found = dict(zip(columns["model"], columns["M parameters"], strict=True))
    assert found["fcn8s"] == "invalid"
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
    assert "is already finished" in run("segpipe.train", *auto, cwd=tmp_path)
    other = run("segpipe.train", *auto, "fusion=none", cwd=tmp_path, status=1)
    assert "has another configuration" in other


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
        assert any("decoder.smooth=conv3x3 has no effect" in note for note in Plan.of(cfgs[1]).notes)


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
