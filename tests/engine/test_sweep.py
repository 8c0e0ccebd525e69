"""Sweeps: what is listed, lines of cells, slots."""

import threading
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from support.cells import identity_of
from support.configs import configure
from support.paths import ROOT

from segpipe.config.plan import make_cell
from segpipe.engine import scheduler, sweep
from segpipe.errors import UserError
from segpipe.runs import cells
from segpipe.runs.cells import Cell
from segpipe.runs.run import Run
from segpipe.runs.storage import write_json

# ---- what lies in sweep.json


def test_a_cell_keeps_its_place_and_several_may_be_written_at_once(tmp_path):
    made = [Cell([f"seed={i}"], {"seed": i}, run=f"r{i}") for i in range(12)]
    threads = [threading.Thread(target=cells.add, args=(tmp_path, cell)) for cell in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    order = cells.read(tmp_path)
    assert sorted(order) == sorted(made)
    cells.add(tmp_path, order[3]._replace(refused="why", run=None))
    assert [cell.overrides for cell in cells.read(tmp_path)] == [cell.overrides for cell in order]
    assert cells.read(tmp_path)[3].refused == "why"


def test_a_cell_says_whether_it_is_refused_or_wrong():
    choices = [], ["decoder.kernel=3"], ["task.clip=x"]
    good, odd, wrong = (make_cell(configure(*choice, "run_dir=a/b"), choice) for choice in choices)
    assert (good.run, good.refused, good.error) == ("b", None, None)
    assert odd.run is None
    assert "allowed is an even number" in odd.refused
    assert wrong.run is None
    assert "task.clip=x" in wrong.error


@pytest.mark.parametrize(
    ("record", "alive", "status"),
    [
        (None, False, "missing"),
        ({"status": "finished"}, False, "finished"),
        ({"status": "running"}, True, "running"),
        ({"status": "running"}, False, "interrupted"),
    ],
)
def test_the_status_of_a_cell_is_its_runs(tmp_path, record, alive, status):
    cell = Cell([], {}, run="r")
    if record:
        write_json(tmp_path / "r" / "run.json", record)
    if alive:
        with Run(tmp_path / "r").lock():
            assert cells.status(tmp_path, cell) == status
    else:
        assert cells.status(tmp_path, cell) == status


def job(folder, status, *, printed=0):
    """A job whose process has ended, and that began with what its folder's record says now."""
    ended = SimpleNamespace(poll=lambda: status)
    return scheduler.Job(ended, Run(folder), 0, 0.0, dict(Run(folder).record), printed)


def test_what_a_process_could_not_write_is_written_when_it_has_ended(tmp_path):
    (tmp_path / "killed").mkdir()
    killed = job(tmp_path / "killed", -9)
    write_json(tmp_path / "killed" / "run.json", {"status": "running"})
    assert scheduler.settle(killed) == "failed"
    assert "SIGKILL" in Run(tmp_path / "killed").record["error"]

    write_json(tmp_path / "finished" / "run.json", {"status": "finished"})
    assert scheduler.settle(job(tmp_path / "finished", 1)) == "finished"

    (tmp_path / "own").mkdir()
    own = job(tmp_path / "own", 1)
    write_json(tmp_path / "own" / "run.json", {"status": "failed", "error": "its own"})
    assert scheduler.settle(own) == "failed"
    assert Run(tmp_path / "own").record["error"] == "its own"


def test_a_job_that_is_refused_says_why_and_not_what_the_start_before_said(tmp_path):
    write_json(tmp_path / "run.json", {"status": "interrupted", "error": "KeyboardInterrupt: "})
    (tmp_path / scheduler.LOG).write_text("segpipe: old.\n")
    again = job(tmp_path, 1, printed=len("segpipe: old.\n"))
    with (tmp_path / scheduler.LOG).open("a") as log:
        log.write("Note: x\nsegpipe: no data here.\n")
    assert scheduler.settle(again) == "failed"
    assert Run(tmp_path).record["error"] == "no data here."


@pytest.mark.parametrize(
    ("given", "jobs"), [([], 225), (["seed=0"], 45), (["seed=0,1", "decoder=deconv"], 18), (["+task.x=1,2"], 450)]
)
def test_the_jobs_of_a_sweep_are_counted_as_hydra_will(monkeypatch, given, jobs):
    conf = OmegaConf.load(ROOT / "conf" / "experiment" / "sweep_shapes.yaml").hydra
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": conf.sweeper.params}
    hydra = {"sweep": {"dir": "a"}, "sweeper": sweeper, "overrides": {"task": given}}
    monkeypatch.setattr(scheduler.SweepCallback, "folder", None)
    monkeypatch.setattr(scheduler.SweepCallback, "jobs", 0)
    scheduler.SweepCallback().on_multirun_start(OmegaConf.create({"hydra": hydra}))
    assert scheduler.SweepCallback.jobs == jobs


# ---- lines of cells


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("decoder=deconv\nnonsense", "line 2: 'nonsense' is not an override"),
        ("decoder=deconv,bilinear", "line 1: decoder=deconv,bilinear has several values"),
        (
            "decoder=deconv optimizer.lr=1e-3\n\n# x\noptimizer.lr=0.001 decoder=deconv",
            "line 4: the same cell as line 1",
        ),
        ("decoder=deconv decoder=bilinear", "line 1: decoder is given twice"),
        ("decoder='deconv", "line 1: No closing quotation"),
        ("decoder=[1", "line 1: decoder=.1 cannot be read"),
        ("hydra.sweep.dir=x", "line 1: hydra.sweep.dir is not part of a cell"),
        ("sweep.name=x", "line 1: sweep.name is not part of a cell"),
        ("# nothing\n\n", "the file has no line of overrides"),
    ],
)
def test_a_line_that_is_no_cell_is_rejected_with_its_number(tmp_path, text, said):
    file = tmp_path / "cells.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        sweep.read_lines(file)


@pytest.mark.parametrize("name", ["", None, ".", "..", "../x", "/tmp/x", "a//b", "a/", "a\x1bb", 256 * "x"])
def test_a_name_that_is_no_folder_is_rejected(name):
    with pytest.raises(UserError, match="allowed is the name of a folder, NAME or GROUP/NAME"):
        sweep.check_name(name)


@pytest.mark.parametrize("name", ["x", 7, "a/b", "[red]", "a b", "नमस्ते", "2026-01-01_10-00-00"])
def test_a_name_of_a_folder_is_accepted(name):
    sweep.check_name(name)


def test_lines_are_split_as_a_shell_would(tmp_path):
    file = tmp_path / "cells.txt"
    file.write_text("\ufeff# a comment\n\ndata.size=[1,2] 'data.root=\"a b\"'  # another\n~augment\n")
    assert [line.words for line in sweep.read_lines(file)] == [["data.size=[1,2]", 'data.root="a b"'], ["~augment"]]


def test_lines_replace_what_the_experiment_sweeps_and_change_fastest(tmp_path):
    """The second line leaves fusion to the experiment, so it has two jobs a seed."""
    file = tmp_path / "cells.txt"
    file.write_text("decoder=deconv fusion=sum optimizer.lr=1e-3\ndecoder=bilinear\n")
    sweeper = sweep.CellsSweeper(params={"seed": "8,9", "decoder": "a,b", "fusion": "none,sum"})
    sweeper.config = OmegaConf.create({"sweep": {"cells": str(file)}})
    loader = SimpleNamespace(load_sweep_config=lambda config, overrides: None)
    sweeper.hydra_context = SimpleNamespace(config_loader=loader)
    jobs = sweeper.jobs(["seed=0,1", "experiment=x", f"sweep.cells={file}"])
    assert {job[3] for job in jobs} == {"experiment=x"}
    assert {job[4] for job in jobs} == {"sweep.cells=null"}
    assert [job[:3] + job[5:] for job in jobs] == [
        ["seed=0", "decoder=deconv", "fusion=sum", "optimizer.lr=0.001"],
        ["seed=0", "decoder=bilinear", "fusion=none"],
        ["seed=1", "decoder=deconv", "fusion=sum", "optimizer.lr=0.001"],
        ["seed=0", "decoder=bilinear", "fusion=sum"],
        ["seed=1", "decoder=bilinear", "fusion=none"],
        ["seed=1", "decoder=bilinear", "fusion=sum"],
    ]


def test_tuning_seeds_are_noted_and_stay(tmp_path):
    cells.add(tmp_path, Cell(["seed=0"], {"seed": 0}, run="a"), tuning_seeds=[100, 101])
    cells.add(tmp_path, Cell(["seed=1"], {"seed": 1}, run="b"))
    assert cells.read_tuning_seeds(tmp_path) == [100, 101]
    assert len(cells.read(tmp_path)) == 2
    cells.add(tmp_path, Cell(["seed=1"], {"seed": 1}, run="b"), tuning_seeds=[7])
    assert cells.read_tuning_seeds(tmp_path) == [7]


def test_what_is_of_a_sweep_does_not_change_a_runs_identity():
    given = identity_of(), identity_of("sweep.tuning_seeds=[100]", "sweep.keep=none", "sweep.cells=x")
    assert given[0] == given[1]
