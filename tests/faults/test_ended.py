"""A sweep or a job is ended by a signal: what is finished stays, nothing lives on, the next start goes on."""

import os
import signal

import pytest

pytestmark = pytest.mark.slow


CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_asked_to_end(sweep, number):
    """Ctrl-C in the terminal; what a batch system sends when the time is over."""
    two = sweep("seed=0,1").begin()
    two.until(lambda: two.at_work_on(1))
    before = two.files(0)
    os.kill(two.process.pid, number)
    said = two.end(130)
    assert "sweep.name=x" in said
    assert (two.status(0), two.status(1)) == ("finished", "interrupted")
    done = two.epochs(1)
    two.run()
    assert two.files(0) == before
    assert done >= 2
    two.finished_as_if_nothing_had_been(0, 1)


@pytest.mark.parametrize("job_too", [False, True], ids=["parent", "parent_and_job"])
def test_a_sweep_that_is_killed(sweep, job_too):
    """kill -9 leaves it no word to say. Its job ends by itself; the job's loader, when both are killed, does as well.

    The next start comes at once, while the job may still be ending.
    """
    two = sweep("seed=0,1", "data.workers=1").begin()
    two.until(lambda: two.at_work_on(1))
    before = two.files(0)
    job = two.record(1)["pid"]
    os.kill(two.process.pid, signal.SIGKILL)
    if job_too:
        os.kill(job, signal.SIGKILL)
    assert two.process.wait() == -signal.SIGKILL
    two.run()
    assert two.files(0) == before
    two.finished_as_if_nothing_had_been(0, 1)


def test_orphans_of_a_killed_sweep_end_by_themselves(sweep):
    """Nobody starts it again; the jobs write that they were interrupted."""
    two = sweep("seed=0,1", f"sweep.workers={min(2, CORES)}").begin()
    two.until(lambda: two.at_work_on(0))
    os.kill(two.process.pid, signal.SIGKILL)
    two.process.wait()
    two.leaves_nothing()
    assert two.status(0) == "interrupted"


def test_a_job_that_is_killed(sweep):
    """Its neighbour is not touched, the sweep says which it was; the next start goes on where that one was.

    It is killed when a checkpoint is half written, as far as that can be met from outside.
    """
    two = sweep("seed=0,1", f"sweep.workers={min(2, CORES)}").begin()
    two.until(
        lambda: two.at_work_on(1) and (two.epochs(1) > 4 or any((two[1] / "checkpoints").glob(".last.ckpt.*.part")))
    )
    os.kill(two.record(1)["pid"], signal.SIGKILL)
    said = two.end(1)
    assert "SIGKILL, as the system does where memory runs out" in said
    assert "1 to be done" in said
    assert (two.status(0), two.status(1)) == ("finished", "failed")
    before = two.files(0)
    two.run()
    assert two.files(0) == before
    two.finished_as_if_nothing_had_been(0, 1)
