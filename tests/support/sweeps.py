"""A sweep as a person starts it, in processes of its own, and what can be done to it while it runs."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
import torch

from segpipe.train import train
from support.configs import TINY, configure

PATIENCE = 300  # seconds: a busy machine is no fault


EPOCHS = 8


MARK = "SEGPIPE_FAULT"  # in the environment of all that a sweep starts


SMALL = [*(choice for choice in TINY if "max_epochs" not in choice), f"trainer.max_epochs={EPOCHS}", "data.workers=0"]


class Sweep:
    """``seed=0,1``, say, of a tiny network, named x, in ``folder``.

    choices: further overrides. inside: what the command is put behind, as nsenter. main: Python that runs the module.
    """

    def __init__(self, folder, *choices, inside=(), main=("-m", "segpipe.train")):
        self.folder = folder
        self.mark = f"{MARK}={folder}"
        self.inside, self.main = list(inside), list(main)
        self.choices = [*SMALL, "sweep.name=x", *choices]
        self.output = folder.parent / f"{folder.name}.txt"  # beside it: the folder may be on a disk that is full
        self.process = None

    def begin(self):
        """Start it, or go on with it."""
        environment = os.environ | {MARK: str(self.folder), "CUDA_VISIBLE_DEVICES": ""}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*self.inside, sys.executable, *self.main, "-m", *self.choices],
                cwd=None if self.inside else self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def end(self, status):
        """Wait until it has ended by itself, with ``status`` and nothing left behind; return what it printed."""
        found = self.process.wait(timeout=PATIENCE)
        said = self.output.read_text()
        assert found == status, said
        assert "Traceback" not in said, said
        self.leaves_nothing()
        return said

    def run(self, status=0):
        """Start it, and wait for its end."""
        return self.begin().end(status)

    def until(self, event):
        """Wait for something to be so while the sweep runs."""
        until = time.monotonic() + PATIENCE
        while not event():
            assert self.process.poll() is None, f"over before it was so:\n{self.output.read_text()}"
            assert time.monotonic() < until, f"never so:\n{self.output.read_text()}"
            time.sleep(0.002)

    def at_work_on(self, seed, *, epochs=2):
        """Whether a run has done some epochs, with a checkpoint to show for it, and is not near its end."""
        return (self[seed] / "checkpoints" / "last.ckpt").is_file() and epochs <= self.epochs(seed) < EPOCHS - 1

    def epochs(self, seed):
        """Lines of its history."""
        with suppress(FileNotFoundError):
            return len((self[seed] / "history.csv").read_text().splitlines()) - 1
        return 0

    def __getitem__(self, seed):
        """The folder of the run with a seed; one that is not there before the sweep knows of it."""
        return next((self.folder / "outputs" / "sweeps" / "x").glob(f"*-s{seed}-*"), self.folder / "not yet")

    def record(self, seed):
        """What its run.json says."""
        return json.loads((self[seed] / "run.json").read_text())

    def status(self, seed):
        """What its run.json says of how it went."""
        return self.record(seed)["status"]

    def files(self, seed):
        """Every file of a run, and when it was written."""
        return {path: path.stat().st_mtime_ns for path in self[seed].rglob("*") if path.is_file()}

    def running(self):
        """The processes that it has started and that live, by their environment."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self.mark in (folder / "environ").read_text(errors="replace").split("\0"):
                    found.append(int(folder.name))
        return found

    def leaves_nothing(self, *, seconds=60):
        """All its processes end, soon and by themselves."""
        until = time.monotonic() + seconds
        while found := self.running():
            assert time.monotonic() < until, f"orphans: {found}"
            time.sleep(0.05)

    def clear(self):
        """Whatever a test that failed has left."""
        for pid in self.running():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process:
            self.process.wait()

    def finished_as_if_nothing_had_been(self, *seeds):
        """Runs are finished, with a line for each epoch, and their weights are those of uninterrupted ones."""
        for seed in seeds:
            assert self.status(seed) == "finished"
            assert self.epochs(seed) == EPOCHS
            assert json.loads((self[seed] / "metrics.json").read_text())["training"]["epochs"] == EPOCHS
            assert not list(self[seed].rglob("*.part"))
            for name in ("last", "best"):
                found, expected = weights(self[seed], name), weights(whole(seed), name)
                assert found.keys() == expected.keys()
                assert all(torch.equal(found[key], expected[key]) for key in found), f"seed {seed}: {name}.ckpt differs"


def weights(folder, name):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


@cache
def whole(seed):
    """The folder of the same training, done in one go."""
    folder = Path(os.environ["SEGPIPE_CACHE"]) / "whole" / str(seed)  # removed at exit
    train(configure(*SMALL, f"seed={seed}", f"run_dir={folder}"))
    return folder


@pytest.fixture
def sweep(tmp_path):
    """Makes sweeps, and ends what is left of them."""
    made = []

    def make(*choices, folder=None, **more):
        if folder is None:
            folder = tmp_path / str(len(made))
            folder.mkdir()
        made.append(Sweep(Path(folder), *choices, **more))
        return made[-1]

    yield make
    for one in made:
        one.clear()
