"""Shared by the tests that were test_tracking.py."""

import contextlib
import io
import json
import os
import re
from pathlib import Path

import pytest
import torch
import wandb

from segpipe import train as training
from support import commands
from support.configs import TINY, configure
from support.wandb_file import wandb_files

MARKS = [
    pytest.mark.usefixtures("alone"),
    pytest.mark.usefixtures("settings_anew"),  # Lightning's own, of workers, of log intervals and of PyTorch's pytrees
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]


SMALL = [override for override in TINY if not override.startswith(("logger", "trainer.max_epochs"))]


EPOCHS = 2


TOUCHED = ("WANDB_", "NETRC", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "XDG_", "HYDRA_")


AT_A_TERMINAL = """
import contextlib, os, pty, runpy, sys
pid, terminal = pty.fork()
if pid == 0:
    sys.modules.pop("segpipe.train", None)
    runpy.run_module("segpipe.train", run_name="__main__", alter_sys=True)
with contextlib.suppress(OSError):  # the terminal is closed
    while read := os.read(terminal, 1024):
        os.write(1, read)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def lonely_environment(home):
    """An environment in which W&B finds nobody's key, settings or proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(TOUCHED)}
    return kept | {"HOME": str(home), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """For all tests here: a home, a working directory and an environment of their own, and one thread."""
    base, threads = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
    (base / "home").mkdir()
    (base / "cwd").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(lonely_environment(base)):
            patch.delenv(name)
        patch.setenv("HOME", str(base / "home"))
        patch.chdir(base / "cwd")
        torch.set_num_threads(1)
        yield base
        torch.set_num_threads(threads)
        stop_wandb()
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_SERVICE"):
            os.environ.pop(name, None)


@pytest.fixture
def settings_anew():
    """W&B reads the environment once a session: each test is one."""
    yield
    stop_wandb()


def stop_wandb():
    """End W&B's session and its process; by then all files are whole."""
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()


def train_tiny(folder, *overrides):
    """Train in this process; what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        training.train(configure(*SMALL, f"trainer.max_epochs={EPOCHS}", *overrides, f"run_dir={folder}"))
    stop_wandb()
    return said.getvalue()


def synced_later(said, folder, *, options=""):
    """Check the one line that says how to sync: it names the folder of the run's one W&B file."""
    found = re.findall(rf"^W&B: (.*) To upload[\w ]*: wandb sync {options}(\S+)\r?$", said, re.MULTILINE)
    assert len(found) == 1, said
    reason, path = found[0]
    assert Path(path) in [file.parent for file in wandb_files(folder)]
    assert Path(path).name.startswith("run-" if options else "offline-run-")
    return reason


def whole(folder):
    """Check that a run's folder says all of a finished training."""
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert 0 <= json.loads((folder / "metrics.json").read_text())["test"]["miou"] <= 1
    for name in (
        "config.yaml",
        "history.csv",
        "checkpoints/best.ckpt",
        "confusion/test.npz",
        "boundaries/test.npz",
        "pictures/predictions.png",
    ):
        assert (folder / name).stat().st_size > 0
    return True


# ---- two children in the background: a sweep with pipes for a terminal, and a training at a real one
@pytest.fixture(scope="module")
def children(alone):
    """Both children, started; what they print goes into files."""
    chosen = [*SMALL, "trainer.max_epochs=1"]
    sweep = ["optimizer.lr=3e-3,1e30", "sweep.name=rates", f"hydra.sweep.dir={alone}/sweeps/rates"]
    started = {
        "sweep": ["-m", "segpipe.train", "-m", *chosen, *sweep],
        "terminal": ["-c", AT_A_TERMINAL, *chosen, f"hydra.run.dir={alone}/terminal"],
    }
    running = {}
    for name, words in started.items():
        (alone / f"{name}.cwd").mkdir()
        printed = alone / f"{name}.txt"
        running[name] = commands.forker().start(
            words,
            cwd=alone / f"{name}.cwd",
            environment=lonely_environment(alone / "home"),
            output=printed,
            errors=printed,
        )
    yield running
    for child in running.values():
        if child.poll() is None:
            child.kill()
            child.wait(timeout=60)
