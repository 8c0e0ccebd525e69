"""Sweeps, run for real by whichever launcher."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys

import pytest
from support.commands import run
from support.configs import TINY
from support.paths import ROOT

from segpipe.runs import cells
from segpipe.runs.cells import Cell
from segpipe.runs.environment import cores
from segpipe.runs.run import Run
from segpipe.runs.storage import write_json

CHOICES = [*TINY, "trainer.max_epochs=1"]


# ---- real sweeps
SWEEP = [
    "segpipe.train", "-m", *CHOICES, "model=fcn32s", "optimizer=sgd", "optimizer.lr=0.01,1e30", "decoder.kernel=4,5",
    "fusion=none,sum", "sweep.name=one",
]  # fmt: skip


def records(folder):
    return {path.name: json.loads((path / "run.json").read_text()) for path in folder.glob("[!.]*/")}


@pytest.mark.slow
def test_the_name_of_a_sweep_may_be_a_number(tmp_path):
    """Hydra reads 2026 as a number, and an environment variable has to be a text."""
    run("segpipe.train", "-m", *CHOICES, "model=fcn32s", "sweep.name=2026", cwd=tmp_path)
    (record,) = records(tmp_path / "outputs" / "sweeps" / "2026").values()
    assert record["status"] == "finished"


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
    run("segpipe.train", "-m", *CHOICES, "decoder.kernel=5,7", "sweep.name=none", cwd=tmp_path, status=1)
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
    assert "2 cells, 1 network: 2 cells finished." in said
    assert not list(tmp_path.glob("outputs/sweeps/x/*/checkpoints"))
    again = run(*command, cwd=tmp_path, cold=True)
    assert "2 cells, 1 network: 2 cells finished." in again
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


def test_restoring_never_overwrites_a_run(tmp_path, capsys):
    keep = runpy.run_path(str(ROOT / "docs" / "sweeps" / "keep.py"))
    kept, folder = tmp_path / "kept", tmp_path / "x"
    for name, status in (("a", "finished"), ("b", "finished")):
        write_json(kept / name / "run.json", {"status": status})
        cells.add(kept, Cell([f"decoder={name}"], {}, run=name))
    write_json(folder / "a" / "run.json", {"status": "interrupted"})
    (folder / "b").mkdir()
    cells.add(folder, Cell(["decoder=b", "data.root=here"], {}, run="b"), tuning_seeds=[3])
    keep["restore"](kept, folder)
    assert f"{folder}: 1 runs restored." in capsys.readouterr().out
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
        ("decoder=deconv seed=3", ["seed=0,1"], ["cells.txt, line 2: seed is also given on the command line"]),
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
    assert "this key needs a sweep with Hydra's basic sweeper. Add -m" in said
