"""Memory runs out: the allocator says no, or the system kills. The rest of the sweep is carried out."""

import os
import signal

import pytest

pytestmark = pytest.mark.slow


LIMITED = """
import re, resource, runpy, pathlib, segpipe.train
size = int(re.search(r"VmSize:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 400 * 2**20,) * 2)
runpy.run_module("segpipe.train", run_name="__main__", alter_sys=True)
"""


def test_a_job_that_gets_no_more_memory(sweep):
    """Its address space is limited, so that torch's allocator fails in the first step with the larger crop."""
    small = sweep("data.crop=[96,96],[640,640]", "trainer.max_epochs=1", main=("-W", "ignore", "-c", LIMITED))
    said = small.run(1)
    failed, finished = sorted((small.folder / "outputs" / "sweeps" / "x").glob("*-s0-*"), key=has_failed)[::-1]
    assert "failed" in said
    assert "Out of memory" in said
    assert "Take a smaller data.batch_size" in said
    assert "can't allocate memory" in (failed / "run.json").read_text()
    before = (finished / "run.json").stat().st_mtime_ns
    small.main = ["-m", "segpipe.train"]  # on a larger machine
    small.run()
    assert not has_failed(failed)
    assert (finished / "run.json").stat().st_mtime_ns == before


def has_failed(folder):
    return '"status": "failed"' in (folder / "run.json").read_text()


def test_a_sweep_whose_job_and_loader_are_killed(sweep):
    """As the system does it where memory runs out: SIGKILL to whichever process is largest, here the loader's worker.

    The job tells of its worker's end; the next start goes on.
    """
    one = sweep("seed=1", "data.workers=1").begin()
    one.until(lambda: one.at_work_on(1))
    job = one.record(1)["pid"]
    for pid in one.running():
        if pid not in (one.process.pid, job):
            os.kill(pid, signal.SIGKILL)
    said = one.end(1)
    assert "DataLoader worker" in said
    assert one.status(1) == "failed"
    one.run()
    one.finished_as_if_nothing_had_been(1)
