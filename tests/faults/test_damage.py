"""Files are cut short, or a bit of them is flipped, after they were written: it is seen, said, and made good."""

import json
import os
import shutil
import signal

import pytest
from support.configs import TINY, configure
from support.sweeps import Sweep, weights

import segpipe
from segpipe import predict
from segpipe.errors import UserError
from segpipe.evaluate import evaluate
from segpipe.train import train

pytestmark = pytest.mark.slow


def cut(path):
    """Leave half of a file."""
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A sweep with a finished run and one in the middle, which each test damages in a copy at the same place."""
    folder = tmp_path_factory.mktemp("damage") / "sweep"
    folder.mkdir()
    two = Sweep(folder, "seed=0,1").begin()
    two.until(lambda: two.at_work_on(1))
    os.kill(two.process.pid, signal.SIGINT)
    two.end(130)
    shutil.copytree(folder / "outputs", folder / "kept")
    yield two
    two.clear()


@pytest.fixture
def two(interrupted):
    """See ``interrupted``."""
    shutil.rmtree(interrupted.folder / "outputs")
    shutil.copytree(interrupted.folder / "kept", interrupted.folder / "outputs")
    return interrupted


@pytest.mark.parametrize("damage", [cut, flip])
def test_the_last_checkpoint_is_damaged(two, damage):
    """The best one is whole: the run goes on from there. What a killed process has half written is removed unread."""
    last, before = two[1] / "checkpoints" / "last.ckpt", two.files(0)
    shutil.copy(last, half := last.with_name(".last.ckpt.99999.part"))
    cut(half)
    damage(last)
    two.run()
    assert "last.ckpt is damaged: resuming from" in (two[1] / "output.log").read_text()
    assert two.files(0) == before
    two.finished_as_if_nothing_had_been(0, 1)


def test_the_best_checkpoint_is_damaged(two):
    """It would be tested in the end, and may never be written again: the run begins anew, nothing is thrown away."""
    flip(two[1] / "checkpoints" / "best.ckpt")
    two.run()
    assert "the training starts from scratch. Renamed" in (two[1] / "output.log").read_text()
    assert {path.name for path in (two[1] / "checkpoints").glob("*.damaged")} == {
        "best.ckpt.damaged",
        "last.ckpt.damaged",
    }
    two.finished_as_if_nothing_had_been(0, 1)


def test_records_are_damaged(two):
    """The sweep's list is made again from the command, a run's record from its configuration; nothing trains twice."""
    checkpoints = {path: path.read_bytes() for path in (two[0] / "checkpoints").iterdir()}
    for path in (two[0] / "run.json", two[1] / "run.json", two.folder / "outputs" / "sweeps" / "x" / "sweep.json"):
        cut(path)
    two.run()
    assert {path: path.read_bytes() for path in (two[0] / "checkpoints").iterdir()} == checkpoints
    two.finished_as_if_nothing_had_been(0, 1)
    listed = json.loads((two.folder / "outputs" / "sweeps" / "x" / "sweep.json").read_text())["cells"]
    assert [cell["choices"]["seed"] for cell in listed] == [0, 1]


# a finished run


@pytest.mark.parametrize("damage", [cut, flip])
def test_weights_that_are_damaged_are_not_used(finished_run, tmp_path, damage, monkeypatch, capsys):
    """torch itself would take weights with a flipped bit. Trained anew as the message says, they are what they were."""
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    damage(run / "checkpoints" / "best.ckpt")
    for read in (segpipe.load, lambda run: evaluate(run, overrides=[], split="val")):
        with pytest.raises(UserError, match=r"best\.ckpt is damaged"):
            read(run)
    with pytest.raises(UserError, match=r"best\.ckpt is damaged"):
        train(configure(*TINY, f"warm_start={run}", f"run_dir={tmp_path / 'other'}"))
    with pytest.raises(UserError, match="resume=auto"):
        train(configure(f"resume={run}"))
    monkeypatch.setattr("sys.argv", ["predict", str(run), str(run / "pictures")])
    with pytest.raises(SystemExit):
        predict.main()
    assert capsys.readouterr().err.startswith("segpipe: ")
    train(configure(*TINY, "resume=auto", f"run_dir={run}"))
    again, before = weights(run, "best"), weights(finished_run, "best")
    assert all((again[name] == before[name]).all() for name in before)


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
def test_a_finished_run_without_its_record_is_made_whole(finished_run, tmp_path, name):
    """By the command that predict names, without a step of training; the configuration, by the command it came from."""
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    os.truncate(run / name, 100)
    if name == "run.json":
        with pytest.raises(UserError, match=r"python -m segpipe\.train resume="):
            segpipe.load(run)
        metrics = train(configure(f"resume={run}"))
    else:
        with pytest.raises(UserError, match=r"config\.yaml is damaged"):
            segpipe.load(run)
        metrics = train(configure(*TINY, "resume=auto", f"run_dir={run}"))
    assert metrics["test"]["miou"] == json.loads((finished_run / "metrics.json").read_text())["test"]["miou"]
    segpipe.load(run)
