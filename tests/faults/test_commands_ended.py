"""Ctrl-C at any time ends a command in one line with status 130; a command needs no standard streams."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.configs import TINY

from segpipe.engine.processes import OOM_SCORE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(autouse=True)
def interruptible():
    """A shell's & lets what it starts ignore SIGINT, and their children as well."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def command(folder, *words, module="train"):
    """``python -m segpipe.MODULE WORDS`` in a new interpreter, with its output in files."""
    with (folder / "output.txt").open("w") as output, (folder / "errors.txt").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", f"segpipe.{module}", *words],
            cwd=folder,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )


def wait_for(process, event, seconds=300):
    """Wait until something is so while a process runs."""
    until = time.monotonic() + seconds
    while not event():
        assert process.poll() is None, "the process has ended"
        assert time.monotonic() < until
        time.sleep(0.005)


def mapped(process, library):
    """Whether a process has loaded a library."""
    with suppress(OSError):
        return library in Path(f"/proc/{process.pid}/maps").read_text()
    return False


@pytest.mark.parametrize(
    ("module", "library"),
    [("train", "_multiarray_umath"), ("train", "libtorch"), ("predict", "libtorch"), ("report", "_multiarray_umath")],
)
def test_an_interruption_during_the_imports(module, library, tmp_path):
    """While numpy and torch are imported."""
    process = command(tmp_path, *(TINY if module == "train" else ["run", "images"]), module=module)
    wait_for(process, lambda: mapped(process, library))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert (tmp_path / "errors.txt").read_text() == "segpipe: interrupted.\n"
    assert (tmp_path / "output.txt").read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [False, True])
@pytest.mark.parametrize("gaps", [(0.0,), (0.3,), (0.1, 0.1, 0.1)])
def test_several_interruptions_during_a_training(gaps, sweep, tmp_path):
    long = [*(choice for choice in TINY if "max_epochs" not in choice), "trainer.max_epochs=1000"]
    where = ["-m", "sweep.name=x", "seed=0,1"] if sweep else ["hydra.run.dir=run"]
    process = command(tmp_path, *where, *long)
    wait_for(process, lambda: list(tmp_path.glob("**/last.ckpt")))
    process.send_signal(signal.SIGINT)
    for gap in gaps:
        time.sleep(gap)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    errors = (tmp_path / "errors.txt").read_text()
    assert "Traceback" not in errors
    assert errors.count("segpipe: interrupted.") == 1
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("**/run.json"))
    assert record["status"] == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("words", [["hydra.run.dir=run"], ["-m", "sweep.name=x", "seed=0,1"], ["trainer=ddp_cpu"]])
def test_a_command_without_standard_streams(words, tmp_path):
    """As started by a daemon that has closed them: <&- >&- 2>&-. Its files do not get their numbers."""
    given = [choice for choice in TINY if words[0] != "trainer=ddp_cpu" or choice != "trainer=cpu"]
    line = 'exec "$0" -m segpipe.train "$@" <&- >&- 2>&-'
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    arguments = ["sh", "-c", line, sys.executable, *words, *given, "data.workers=1"]
    assert subprocess.run(arguments, cwd=tmp_path, env=environment, timeout=300).returncode == 0
    records = [json.loads(path.read_text()) for path in tmp_path.glob("**/run.json")]
    assert {record["status"] for record in records} == {"finished"}
    assert len(records) == (2 if words[0] == "-m" else 1)


@pytest.mark.slow
def test_the_system_ends_a_job_before_its_sweep_where_memory_runs_out(tmp_path):
    process = command(tmp_path, "-m", *TINY, "trainer.max_epochs=1000", "sweep.name=x", "seed=0")
    wait_for(process, lambda: list(tmp_path.glob("**/last.ckpt")))
    (record,) = tmp_path.glob("**/run.json")
    job = json.loads(record.read_text())["pid"]
    parent, child = (int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (process.pid, job))
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert child == min(parent + OOM_SCORE, 1000)
