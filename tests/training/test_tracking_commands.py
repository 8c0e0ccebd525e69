"""W&B in processes of their own: at a terminal, and in a sweep."""

import contextlib
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.wandb_alone import MARKS, SMALL, synced_later, whole
from support.wandb_file import read_wandb

pytestmark = MARKS


@pytest.fixture(scope="module")
def ended(alone, children):
    """By name: wait for a child; its status, what it printed, and its working directory."""

    def wait(name):
        status = children[name].wait(timeout=120)
        return SimpleNamespace(status=status, said=(alone / f"{name}.txt").read_text(), cwd=alone / f"{name}.cwd")

    return wait


# ---- the children's tests stand last: they have had time to end


def test_no_key_at_a_terminal(ended, alone):
    child = ended("terminal")
    assert child.status == 0, child.said
    assert "no API key was found" in synced_later(child.said, alone / "terminal")
    assert "Enter your choice" not in child.said
    assert whole(alone / "terminal")
    file = read_wandb(alone / "terminal")
    assert (file.exit_code, file.group) == (0, "")
    assert not list(child.cwd.iterdir())


def test_each_job_of_a_sweep_is_a_run_of_its_group(ended, alone):
    child = ended("sweep")
    assert child.status == 1  # one of its jobs diverges
    assert f"wandb sync {alone}/sweeps/rates/*/wandb/offline-run-*" in child.said.replace("\n", "")
    files = {}
    for folder in (alone / "sweeps" / "rates").glob("fcn8s-*"):
        (rate,) = re.findall(r"(?m)^  lr: (\S+)", (folder / "config.yaml").read_text())
        files[float(rate)] = read_wandb(folder)
        assert f"wandb sync {files[float(rate)].path.parent}" in (folder / "output.log").read_text()
    assert {rate: file.exit_code for rate, file in files.items()} == {3e-3: 0, 1e30: 1}
    assert len({file.run_id for file in files.values()}) == 2
    for rate, file in files.items():
        assert file.group == "rates"
        *common, last = file.tags  # as Hydra writes them: 0.003, False
        assert [tag.lower() for tag in common] == [*SMALL, "trainer.max_epochs=1"]
        assert last.startswith("optimizer.lr=")
        assert float(last.partition("=")[2]) == rate
        assert file.config["optimizer"]["lr"] == rate
    assert not list(child.cwd.iterdir())


def test_no_process_of_wandb_is_left(ended):
    for name in ("terminal", "sweep"):
        ended(name)
    deadline = time.monotonic() + 60
    while (orphans := orphaned_cores()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not orphans


def orphaned_cores():
    """Processes of W&B whose ``--pid``, the process they serve, is there no more."""
    lines = [path.read_bytes().split(b"\0") for path in readable(Path("/proc").glob("[0-9]*/cmdline"))]
    served = [line[line.index(b"--pid") + 1] for line in lines if b"wandb-core" in line[0] and b"--pid" in line]
    return [pid for pid in served if not Path(f"/proc/{pid.decode()}").exists()]


def readable(paths):
    """Of processes, those that have not ended meanwhile."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.read_bytes()
            yield path
