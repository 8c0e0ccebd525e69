"""Whatever value is typed, its cell can be listed and read again, and no other cell is lost."""

import json

import pytest
from support.configs import configure

from segpipe.config.plan import Plan, make_cell
from segpipe.errors import UserError
from segpipe.runs import cells
from segpipe.runs.cells import Cell
from segpipe.runs.labels import labels
from segpipe.runs.records import SweepRecord, write_record
from segpipe.runs.storage import write_text

GOOD = Cell(["seed=0"], {"seed": 0}, run="good")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=[0,1]", "seed=[0,1]: allowed is a whole number"),
        ("seed={a:1}", "seed: nothing reads"),
        ("seed=true", "seed=True: allowed is a whole number"),
        ("seed=nan", "seed=nan: allowed"),
        ("seed=2x", "seed=2x: allowed"),
        ("seed=" + 400 * "9", "999: allowed is a finite whole number of 0 or more, at most 9007199254740992"),
        ("seed=18014398509481984", "seed=18014398509481984: allowed"),
        ("seed='${nothing}'", "Interpolation key 'nothing' not found"),
        ("seed=???", "seed is missing"),
        ("~seed", "seed is missing"),
        ("~decoder", "decoder is missing"),
        ("model.stride=[8,4]", "model.stride=[8,4]: allowed"),
        ("match=true", "match=True: allowed"),
        ("optimizer.lr=" + 400 * "9", "999: allowed is a number"),
        ("decoder.name=[1,2]", "decoder.name=[1,2]: allowed is a text"),
        ("decoder.name='a/b'", "decoder.name=a/b: allowed is a text"),
        ("task.clip='a\x01b'", r"task.clip=a\x01b: allowed"),
        ("data.root='\udcff'", "not UTF-8"),
        ("sweep.tuning_seeds=[-1]", "sweep.tuning_seeds=[-1]: allowed is a whole number of 0 or more"),
    ],
    ids=lambda value: value[:24],
)
def test_a_wrong_value_is_a_cell_with_an_error_and_the_list_stays_readable(tmp_path, override, said):
    cell = make_cell(configure(override, "run_dir=a/b"), [override])
    assert said in cell.error
    assert cell.run is None
    cells.add(tmp_path, GOOD)
    cells.add(tmp_path, cell)
    assert cells.read(tmp_path) == [GOOD, cell]
    assert len(labels(cells.read(tmp_path))) == 2


def test_a_whole_number_that_no_float_holds_is_a_level():
    override = "+trainer.x=" + 400 * "9"
    cell = make_cell(configure(override, "run_dir=a/b"), [override])
    assert cell.choices["trainer.x"] == 400 * "9"


@pytest.mark.parametrize(
    "content", ["{", '{"version": 2}', '{"cells": [{"overrides": [], "choices": {"match": true}}]}', ""]
)
def test_a_list_that_cannot_be_read_is_set_aside(tmp_path, capsys, content):
    for number in range(2):
        write_text(tmp_path / "sweep.json", content)
        assert cells.read(tmp_path) == []
        cells.add(tmp_path, GOOD)
        assert cells.read(tmp_path) == [GOOD]
        kept = tmp_path / f"sweep.json.damaged{number or ''}"
        assert kept.read_text() == content
        assert f"so it is now {kept.name}. A new list" in capsys.readouterr().err


def test_a_list_is_not_written_where_it_could_not_be_read(tmp_path):
    cells.add(tmp_path, GOOD)
    before = (tmp_path / "sweep.json").read_bytes()
    for wrong in (
        GOOD._replace(choices={"match": True}),
        GOOD._replace(overrides=["x=\x01"]),
        GOOD._replace(run="a/b"),
    ):
        with pytest.raises(UserError, match="a value could not be read again, so nothing was written"):
            cells.add(tmp_path, wrong)
        assert (tmp_path / "sweep.json").read_bytes() == before
    write_record(tmp_path / "other.json", json.loads(before), SweepRecord)
    assert json.loads((tmp_path / "other.json").read_bytes()) == json.loads(before)


def test_the_largest_seed_is_one_that_records_hold():
    assert Plan.of(configure("seed=9007199254740992"))
