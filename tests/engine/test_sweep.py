"""Sweeps: what is listed, lines of cells, slots."""

import os
import threading
import time
from types import SimpleNamespace

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from support.cells import identity_of
from support.commands import time_limit
from support.configs import configure
from support.paths import ROOT

from segpipe.config.plan import make_cell
from segpipe.engine import scheduler, sweep
from segpipe.engine.listing import Listing
from segpipe.engine.progress import print_cells
from segpipe.errors import UserError
from segpipe.runs import cells
from segpipe.runs.cells import Cell
from segpipe.runs.run import Run, remove_if_empty
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
    choices = [], ["decoder.kernel=5"], ["task.clip=x"]
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


@pytest.mark.parametrize("interrupted", [True, False], ids=["ctrl_c", "killed"])
@pytest.mark.parametrize("before", [{}, {"status": "running", "pid": 1}], ids=["new", "known"])
def test_the_end_of_a_job_that_waits_leaves_the_record_of_the_process_that_trains(tmp_path, before, interrupted):
    """The same sweep is started twice; the job of the second start waits for that of the first, and is ended."""
    if before:
        write_json(tmp_path / "run.json", before)
    waiting = job(tmp_path, -9)
    with Run(tmp_path).lock():
        write_json(tmp_path / "run.json", {"status": "running", "pid": 1})
        assert scheduler.settle(waiting, interrupted=interrupted) == "running"
        assert Run(tmp_path).record == {"status": "running", "pid": 1}
    expected = "interrupted" if interrupted else "failed"
    assert scheduler.settle(waiting, interrupted=interrupted) == expected
    assert Run(tmp_path).record["status"] == expected


def test_a_folder_in_which_another_process_begins_is_not_removed(tmp_path):
    """The same command is given twice, and the second one is ended before the first has written anything."""
    folder = tmp_path / "run"
    with Run(folder).lock():
        remove_if_empty(folder)
        assert folder.is_dir()
    remove_if_empty(folder)
    assert not folder.exists()


def test_a_process_of_a_killed_job_may_hold_the_lock_for_a_moment(tmp_path):
    write_json(tmp_path / "run.json", {"status": "running"})
    killed, locked = job(tmp_path, -9), threading.Event()

    def hold():
        with Run(tmp_path).lock():
            locked.set()
            time.sleep(0.3)

    holder = threading.Thread(target=hold)
    holder.start()
    locked.wait()
    assert scheduler.settle(killed) == "failed"
    holder.join()


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
def test_the_jobs_of_a_sweep_are_those_of_hydra(given, jobs):
    params = OmegaConf.load(ROOT / "conf" / "experiment" / "sweep_shapes.yaml").hydra.sweeper.params
    sweeper = sweep.ProductSweeper(params=params)
    sweeper.hydra_context = SimpleNamespace(config_loader=None)
    made = sweeper.jobs(given)
    assert len(made) == jobs
    words = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()] + given)
    assert made == BasicSweeper.split_arguments(words, None)[0]


class Composed:
    """Stands for Hydra's loader of configurations: counts what is composed."""

    def __init__(self):
        self.jobs = []

    def get_group_options(self, key):
        return ["a", "b"] if key in ("decoder", "fusion") else []

    def load_sweep_config(self, config, job):
        self.jobs.append(job)
        return config


@pytest.mark.parametrize(
    ("given", "composed"), [(["seed=range(0,2000)"], 1), (["seed=0,1", "decoder=a,b", "fusion=a,b", "x=1,2,3"], 3)]
)
def test_a_job_is_launched_before_the_next_one_is_composed(monkeypatch, given, composed):
    """In advance, each choice of a group is composed once, so that a wrong name is found before any training."""
    loader, launched = Composed(), []
    sweeper = sweep.ProductSweeper()
    sweeper.hydra_context = SimpleNamespace(config_loader=loader)
    target = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
    hydra = {"launcher": {"_target_": target}, "sweep": {"dir": "sweeps/${sweep.name}"}}
    sweeper.config = OmegaConf.create({"hydra": hydra, "sweep": {"name": "one"}})

    def launch(jobs, initial_job_idx):
        launched.append((initial_job_idx, jobs))
        return []

    sweeper.launcher = SimpleNamespace(launch=launch)
    monkeypatch.setattr(sweep.SweepCallback, "jobs", 0)
    monkeypatch.setattr(sweep.SweepCallback, "requested", None)
    sweeper.sweep(given)
    jobs = sweeper.jobs(given)
    assert len(loader.jobs) == composed
    assert launched == [(number, [job]) for number, job in enumerate(jobs)]
    sweeper.max_batch_size = 100
    launched.clear()
    sweeper.sweep(given)
    assert [number for number, _ in launched] == list(range(0, len(jobs), 100))


def test_a_long_list_of_cells_is_written_now_and_then(tmp_path, monkeypatch):
    """Ten thousand cells are listed in seconds, and none is lost."""
    monkeypatch.setattr(sweep.SweepCallback, "options", ["--config-dir=mine"])
    began = time.process_time()  # of this process: other work on the machine does not count
    listing = Listing(tmp_path / "x")
    for seed in range(10_000):
        listing.add(Cell([f"seed={seed}"], {"seed": seed}, run=f"r{seed}"), tuning_seeds=[3])
    listing.write()
    assert time.process_time() - began < 30
    assert [cell.choices["seed"] for cell in cells.read(tmp_path / "x")] == list(range(10_000))
    assert (cells.read_tuning_seeds(tmp_path / "x"), cells.read_options(tmp_path / "x")) == ([3], ["--config-dir=mine"])


def test_the_progress_of_the_list_is_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep.SweepCallback, "jobs", 60)
    monkeypatch.setattr(sweep.SweepCallback, "total", 100)
    listing, lines = Listing(tmp_path), []
    listing.listed = 40
    listing.report(lines.append)
    assert lines == []
    listing.began, listing.reported = listing.began - 400, listing.reported - 400
    listing.report(lines.append)
    listing.report(lines.append)
    assert lines == ["Checked 40 of 100 cells; 10 min for the rest."]


def test_the_list_of_an_ended_sweep_hides_no_error(tmp_path, monkeypatch):
    """A list that could not be written is the error itself; raised again, its line would be printed twice."""
    listing = Listing(tmp_path)
    monkeypatch.setattr(scheduler, "listings", [listing])
    monkeypatch.setattr(listing, "write", lambda: os.mkdir(tmp_path))
    scheduler.cancel()
    assert scheduler.listings == []


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
        ("decoder=[1", r"line 1: decoder=\[1: \[ is not closed. Write 'decoder=\[1\]'"),
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


@pytest.mark.parametrize("name", [float("nan"), 1e3, True])
def test_a_name_that_hydra_reads_as_another_value_is_quoted(name):
    with pytest.raises(UserError, match=rf"""Quote it twice: "sweep.name='{str(name).lower()}'\""""):
        sweep.check_name(name)


@pytest.mark.parametrize("name", ["x", 7, "a/b", "[red]", "a b", "नमस्ते", "2026-01-01_10-00-00"])
def test_a_name_of_a_folder_is_accepted(name):
    sweep.check_name(name)


def test_a_pipe_is_no_list_of_cells(tmp_path):
    """Reading it would wait for ever for a writer."""
    os.mkfifo(tmp_path / "cells.txt")
    with time_limit(30), pytest.raises(UserError, match=r"sweep\.cells=.*a named pipe, not a file"):
        sweep.read_lines(tmp_path / "cells.txt")


def test_lines_are_split_as_a_shell_would(tmp_path):
    file = tmp_path / "cells.txt"
    file.write_text("\ufeff# a comment\n\ndata.size=[1,2] 'data.root=\"a b\"'  # another\n~augment\n")
    assert [line.words for line in sweep.read_lines(file)] == [["data.size=[1,2]", 'data.root="a b"'], ["~augment"]]


def test_a_hash_within_a_word_cuts_no_line(tmp_path):
    """Without its last override, the line would train another network. Hydra reads # in quotation marks only."""
    file = tmp_path / "cells.txt"
    file.write_text("decoder=deconv \"logger.notes='run #1'\" fusion=concat # why\n")
    words = ["decoder=deconv", "logger.notes='run #1'", "fusion=concat"]
    assert [line.words for line in sweep.read_lines(file)] == [words]
    file.write_text("decoder=deconv logger.notes=run#1 fusion=concat\n")
    with pytest.raises(UserError, match=r"line 1: logger.notes=run#1: .* quote it twice: \"logger.notes='run#1'\""):
        sweep.read_lines(file)


def test_lines_replace_what_the_experiment_sweeps_and_change_fastest(tmp_path):
    """The second line leaves fusion to the experiment, so it has two jobs a seed."""
    file = tmp_path / "cells.txt"
    file.write_text("decoder=deconv fusion=sum optimizer.lr=1e-3\ndecoder=bilinear\n")
    sweeper = sweep.CellsSweeper(params={"seed": "8,9", "decoder": "a,b", "fusion": "none,sum"})
    sweeper.config = OmegaConf.create({"sweep": {"cells": str(file)}, "hydra": {"sweep": {"dir": "x"}}})
    loader = SimpleNamespace(load_sweep_config=lambda config, overrides: config)
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


# ---- other code, and narrow terminals


def test_a_sweep_that_goes_on_with_other_code_says_so_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scheduler, "code_version", lambda: "b" * 40)
    made = scheduler.Scheduler(name="x", workers=1, gpu=False)
    for number, version in enumerate(("a" * 40, "a" * 40, "b" * 40, None)):
        write_json(tmp_path / str(number) / "run.json", {"status": "finished", "git": version})
        made.submit(tmp_path / str(number), [])
    said = capsys.readouterr().out
    assert said.count("goes on with other code") == 1
    assert f"0 was trained by {'a' * 40}" in said
    assert made.other_code == {"a" * 40: 2}
    made.close()


@pytest.mark.parametrize(("width", "name"), [(80, "12345678"), (200, "ladder8-deconv-concat-w34-s0-12345678")])
def test_the_table_of_cells_fits_the_terminal(tmp_path, monkeypatch, capsys, width, name):
    monkeypatch.setenv("COLUMNS", str(width))
    choices = {"model": "ladder", "stride": 8, "decoder": "deconv", "fusion": "concat", "match": "params", "seed": 0}
    cells.add(tmp_path, Cell(["seed=0"], choices, run="ladder8-deconv-concat-w34-s0-12345678"))
    write_json(tmp_path / "ladder8-deconv-concat-w34-s0-12345678" / "run.json", {"status": "failed", "error": "x"})
    assert not print_cells(tmp_path, tmp_path.name, options=["--config-dir=my conf"])
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line[:1] in "┏┃┡│└"]
    assert table
    assert max(map(len, table)) <= width
    assert any(f"│ {name} │" in line for line in table)
    assert any("segpipe.train '--config-dir=my conf' seed=0" in line for line in lines)
