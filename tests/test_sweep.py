"""Sweeps: what is one network, what is listed, what is run, by whichever launcher."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, configure
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from support.commands import run
from support.grid import slow

from segpipe.config import build
from segpipe.config.plan import Plan, make_cell
from segpipe.engine import processes, scheduler, sweep
from segpipe.engine.predictor import Predictor
from segpipe.engine.progress import ProgressView
from segpipe.errors import UserError
from segpipe.runs import cells, checkpoints
from segpipe.runs.cells import Cell
from segpipe.runs.environment import cores
from segpipe.runs.run import Run
from segpipe.runs.storage import write_json
from segpipe.train import train

ROOT = Path(__file__).parent.parent
CHOICES = [*TINY, "trainer.max_epochs=1"]


def identity_of(*overrides):
    return Plan.of(configure(*overrides)).identity


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
    cfg = OmegaConf.load(Path(__file__).parent.parent / "conf" / "experiment" / f"{name}.yaml")
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
    conf = OmegaConf.load(Path(__file__).parent.parent / "conf" / "experiment" / "sweep_shapes.yaml").hydra
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
        ("decoder=deconv\nnonsense", "line 2: 'nonsense' is no override"),
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
        ("# nothing\n\n", "no line of overrides in it"),
    ],
)
def test_a_line_that_is_no_cell_is_rejected_with_its_number(tmp_path, text, said):
    file = tmp_path / "cells.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        sweep.read_lines(file)


def test_lines_are_split_as_a_shell_would(tmp_path):
    file = tmp_path / "cells.txt"
    file.write_text("# a comment\n\ndata.size=[1,2] 'data.root=\"a b\"'  # another\n~augment\n")
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


# ---- checkpoints that are kept


def copied(run, folder):
    shutil.copytree(run, folder)
    return Run(folder)


def test_the_best_weights_alone_predict_the_same_and_cannot_be_gone_on_with(tmp_path, finished_run):
    kept = copied(finished_run, tmp_path / "run")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    before = Predictor(kept.folder)(image)
    size = kept.checkpoint("best").stat().st_size
    assert checkpoints.latest_intact(kept) is not None
    checkpoints.compact(kept, "best")
    assert (Predictor(kept.folder)(image) == before).all()
    assert not kept.checkpoint("last").exists()
    assert kept.checkpoint("best").stat().st_size < size / 2
    assert build.weights_file(str(kept.folder)) == kept.checkpoint("best")
    assert checkpoints.latest_intact(kept) is None
    with pytest.raises(UserError, match="nothing to go on with"):
        train(configure(*TINY, f"resume={kept.folder}"))
    written = kept.checkpoint("best").stat().st_mtime_ns
    checkpoints.compact(kept, "best")
    assert kept.checkpoint("best").stat().st_mtime_ns == written


def test_checkpoints_stay_where_the_best_cannot_be_rewritten(tmp_path, finished_run, monkeypatch):
    kept = copied(finished_run, tmp_path / "run")
    names = sorted(path.name for path in (kept.folder / "checkpoints").iterdir())

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write", full)
    slots = scheduler.Scheduler(name="x", workers=1, gpu=False, keep="best")
    slots.compact(kept)
    assert sorted(path.name for path in (kept.folder / "checkpoints").iterdir()) == names
    monkeypatch.undo()
    slots.compact(kept)
    assert [path.name for path in (kept.folder / "checkpoints").iterdir()] == ["best.ckpt"]


def test_a_finished_run_whose_weights_were_not_kept_says_so(tmp_path, finished_run):
    kept = copied(finished_run, tmp_path / "run")
    checkpoints.compact(kept, "none")
    assert not (kept.folder / "checkpoints").exists()
    with pytest.raises(UserError, match=r"weights were not kept.*train it again: python -m segpipe.train"):
        Predictor(kept.folder)
    settings = configure(*TINY, "resume=auto", f"run_dir={kept.folder}")
    before = kept.record_path.stat().st_mtime_ns
    train(settings)  # it counts as finished
    assert kept.record_path.stat().st_mtime_ns == before


# ---- slots


def test_each_slot_has_its_share_of_the_devices(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert scheduler.split_devices(2, gpu=True) == [{"CUDA_VISIBLE_DEVICES": "3,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]
    with pytest.raises(UserError, match=r"allowed is 1 to 4, the GPUs"):
        scheduler.split_devices(5, gpu=True)
    monkeypatch.setattr(scheduler, "cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    assert scheduler.split_devices(4, gpu=False) == [{"OMP_NUM_THREADS": "2"}] * 4
    assert scheduler.split_devices(1, gpu=False) == [{"OMP_NUM_THREADS": "6"}]
    for workers in (0, 9):
        with pytest.raises(UserError, match=rf"sweep.workers={workers}: allowed is 1 to 8, the cores"):
            scheduler.split_devices(workers, gpu=False)


def test_the_view_leaves_the_streams_that_jobs_are_forked_with(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    before = sys.stdout, sys.stderr
    board = ProgressView(workers=1)
    try:
        assert board.live.is_started
        assert (sys.stdout, sys.stderr) == before
    finally:
        board.close()


def test_a_process_of_several_threads_is_not_forked():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    assert not processes.may_fork()
    done.set()
    thread.join()


@pytest.mark.parametrize("value", ["a b", "it's", "x=1,2", "back\\slash", "end\\", "both\\'", "(1)"])
def test_quoted_survives_hydras_grammar(value):
    (override,) = OverridesParser.create().parse_overrides([f"key={processes.quote_override(value)}"])
    assert override.value() == value


# ---- real sweeps


SWEEP = [
    "segpipe.train", "-m", *CHOICES, "model=fcn32s", "optimizer=sgd", "optimizer.lr=0.01,1e30", "decoder.kernel=4,3",
    "fusion=none,sum", "sweep.name=one",
]  # fmt: skip


def records(folder):
    return {path.name: json.loads((path / "run.json").read_text()) for path in folder.glob("[!.]*/")}


def test_a_sweep_runs_each_network_once_lists_what_is_refused_and_ends_with_1_if_one_fails(tmp_path):
    """Eight cells: four are refused, two and two are one network, of which one diverges."""
    folder = tmp_path / "outputs" / "sweeps" / "one"
    said = run(*SWEEP, "sweep.workers=2", cwd=tmp_path, status=1)
    found = records(folder)
    assert sorted(record["status"] for record in found.values()) == ["failed", "finished"]
    listed = json.loads((folder / "sweep.json").read_text())["cells"]
    assert len(listed) == 8
    assert sum(cell["refused"] is not None for cell in listed) == 4
    assert {cell["run"] for cell in listed if cell["run"]} == set(found)
    flat = re.sub(r"[\s│]+", " ", said)
    for expected in (
        "allowed is an even number", "Lower optimizer.lr", "the same network as", "8 cells, 2 networks",
        "2 cells finished, 4 refused, 2 to be done", "sweep.name=one", "optimizer.lr=1e",
    ):  # fmt: skip
        assert expected in flat
    assert "Interrupted" not in said
    assert all(record["threads"] == cores() // 2 for record in found.values())
    for log in folder.glob("*/output.log"):  # a job is no sweep of its own
        assert "Sweep:" not in log.read_text()
        assert "Traceback" not in log.read_text()

    finished = next(name for name, record in found.items() if record["status"] == "finished")
    before = (folder / finished / "run.json").stat().st_mtime_ns
    run(*SWEEP, cwd=tmp_path, status=1)
    assert (folder / finished / "run.json").stat().st_mtime_ns == before
    assert len(json.loads((folder / "sweep.json").read_text())["cells"]) == 8


@pytest.mark.slow
def test_a_job_is_trained_by_its_own_process_with_all_cores_and_ends_with_0(tmp_path):
    """Three jobs on one slot: while the first is at work, two wait; and none of them carries the others out."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    words = ["-m", "segpipe.train", "-m", *CHOICES, "seed=0,1,2", "sweep.name=x"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = records(tmp_path / "outputs" / "sweeps" / "x")
    assert len({record["pid"] for record in found.values()}) == 3
    assert {record["threads"] for record in found.values()} == {torch_threads()}
    for log in tmp_path.glob("outputs/sweeps/x/*/output.log"):
        assert "Sweep:" not in log.read_text()
        assert log.read_text().count("Training ") == 1


def torch_threads():
    """The threads that torch takes where nothing is said."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    words = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
    return int(subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout)


def test_refusals_alone_fail_only_a_sweep_that_has_nothing_else(tmp_path):
    run("segpipe.train", "-m", *CHOICES, "decoder.kernel=3,5", "sweep.name=none", cwd=tmp_path, status=1)
    assert [path.name for path in (tmp_path / "outputs/sweeps/none").iterdir() if path.is_dir()] == []


def test_more_workers_than_cores_are_refused_before_any_work(tmp_path):
    said = run("segpipe.train", "-m", *CHOICES, "seed=0,1", "sweep.workers=99", cwd=tmp_path, status=1)
    assert "sweep.workers=99: allowed is 1 to" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null"],
    ],
    ids=["joblib", "submitit"],
)
def test_hydras_own_launchers_give_the_same_sweep(tmp_path, launcher):
    """Two cells that are one network, which two processes want at once: one trains, the other waits."""
    pytest.importorskip(f"hydra_plugins.hydra_{launcher[0].rpartition('=')[2].partition('_')[0]}_launcher")
    command = ["segpipe.train", "-m", *CHOICES, *launcher, "model=fcn32s", "fusion=none,sum", "sweep.name=x"]
    command.append("sweep.keep=none")
    said = run(*command, cwd=tmp_path, cold=True)
    (record,) = records(tmp_path / "outputs/sweeps/x").values()
    assert record["status"] == "finished"
    assert "2 cells, 1 networks: 2 cells finished." in said
    assert not list(tmp_path.glob("outputs/sweeps/x/*/checkpoints"))
    again = run(*command, cwd=tmp_path, cold=True)
    assert "2 cells, 1 networks: 2 cells finished." in again
    assert records(tmp_path / "outputs/sweeps/x") == {record["name"]: record}  # nothing was trained


CELLS = """
# two cells
model=fcn8s decoder=deconv fusion=sum
model=fcn8s decoder=bilinear fusion=sum
"""


def test_lines_are_the_cells_that_hydra_would_have_made_and_runs_that_were_kept_count_as_finished(tmp_path):
    """A sweep by Hydra's product is reduced to what keep.py keeps, restored, and started again by lines."""
    keep = runpy.run_path(str(ROOT / "docs" / "sweeps" / "keep.py"))
    keep["main"].__globals__["__file__"] = str(tmp_path / "docs" / "keep.py")
    (tmp_path / "cells.txt").write_text(CELLS)
    words = ["segpipe.train", "experiment=sweep_shapes", *CHOICES, "sweep.name=x", "sweep.tuning_seeds=[1]"]
    run(*words, "seed=0,1", "model=fcn8s", "decoder=deconv,bilinear", "fusion=sum", "sweep.keep=best", cwd=tmp_path)
    folder = tmp_path / "outputs" / "sweeps" / "x"
    before, listed = records(folder), cells.read(folder)
    assert len(before) == 4
    assert {path.name for path in folder.glob("*/checkpoints/*")} == {"best.ckpt"}
    keep["main"](folder)
    kept = tmp_path / "docs" / "x"
    first = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    keep["main"](folder)
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == first
    assert "| 8 | `deconv` | (tuning seeds) | - |" in (kept / "README.md").read_text()

    shutil.rmtree(folder)
    keep["restore"](kept, folder)
    assert cells.read_tuning_seeds(folder) == [1]
    said = run(*words, "seed=0,1", "sweep.cells=cells.txt", cwd=tmp_path)
    assert "4 cells, 4 networks: 4 cells finished." in said
    assert not list(folder.glob("*/output.log"))  # nothing was trained
    assert records(folder).keys() == before.keys()
    assert cells.read(folder) == listed

    name = listed[0].run
    (tmp_path / "photo.png").touch()
    said = run("segpipe.predict", folder / name, "photo.png", cwd=tmp_path, status=1)
    assert "weights were not kept" in said
    assert len(said.splitlines()) == 1
    write_json(kept / "not-there" / "run.json", {})
    with pytest.raises(SystemExit, match=r"1 of the runs kept there are not in .*not-there.*--restore"):
        keep["main"](folder)


def test_restoring_never_overwrites_a_run(tmp_path):
    keep = runpy.run_path(str(ROOT / "docs" / "sweeps" / "keep.py"))
    kept, folder = tmp_path / "kept", tmp_path / "x"
    for name, status in (("a", "finished"), ("b", "finished")):
        write_json(kept / name / "run.json", {"status": status})
        cells.add(kept, Cell([f"decoder={name}"], {}, run=name))
    write_json(folder / "a" / "run.json", {"status": "interrupted"})
    (folder / "b").mkdir()
    cells.add(folder, Cell(["decoder=b", "data.root=here"], {}, run="b"), tuning_seeds=[3])
    keep["restore"](kept, folder)
    assert [Run(folder / name).record["status"] for name in "ab"] == ["interrupted", "finished"]
    assert [cell.overrides for cell in cells.read(folder)] == [["decoder=b", "data.root=here"], ["decoder=a"]]
    assert cells.read_tuning_seeds(folder) == [3]


def test_what_is_kept_names_no_path_of_the_machine():
    keep = runpy.run_path(str(ROOT / "docs" / "sweeps" / "keep.py"))
    given = {
        "root": "/some/where/camvid",
        "overrides": ["data.root=/some/where/camvid", "data.root='/a b/c'", "lr=1/2"],
    }
    found = keep["without_paths"](given)
    assert found == {"root": "camvid", "overrides": ["data.root=camvid", "data.root='c'", "lr=1/2"]}


@pytest.mark.parametrize(
    ("line", "given", "said"),
    [
        ("decoder=deconv decodr.kernel=4", [], ["cells.txt, line 2: ", "decodr"]),
        ("decoder=decnv", [], ["cells.txt, line 2: decoder=decnv: allowed is one of", "Did you mean 'deconv'?"]),
        ("decoder=deconv seed=3", ["seed=0,1"], ["cells.txt, line 2: seed is given on the command line too"]),
        ("decoder=deconv", ["sweep.cells=nowhere"], ["sweep.cells=nowhere: no such file"]),
    ],
)
def test_lines_that_cannot_be_run_end_the_command_before_any_work(tmp_path, line, given, said):
    (tmp_path / "cells.txt").write_text(f"decoder=bilinear\n{line}\n")
    words = ["segpipe.train", "-m", *CHOICES, "sweep.name=x", "sweep.cells=cells.txt", *given]
    found = run(*words, cwd=tmp_path, status=1)
    for expected in said:
        assert expected in found
    assert not (tmp_path / "outputs" / "sweeps" / "x" / "sweep.json").exists()


def test_cells_without_a_sweep_are_rejected(tmp_path):
    said = run("segpipe.train", *CHOICES, "sweep.cells=cells.txt", cwd=tmp_path, status=1)
    assert "it needs a sweep with Hydra's basic sweeper. Add -m" in said
