"""Ranks that end: nothing is left behind, and the record says why."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.ranks import SMALL, driver, record, status

from segpipe.runs.run import Run


# ranks that end
def descendants(pid):
    """The processes below one, by Linux's own list."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parents = dict(zip(map(int, found[::2]), map(int, found[1::2]), strict=True))
    below = [child for child, parent in parents.items() if parent == pid]
    return [*below, *(one for child in below for one in descendants(child))]


def wait(condition, seconds):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes as Linux lists them")
def test_whatever_ends_nothing_is_left_and_the_record_says_why(tmp_path):
    """Of three trainings, one loses rank 1 to a kill -9 and one to SIGTERM; of the third, the command is killed."""
    names = ("killed", "ended", "orphaned")
    choices = [*SMALL, "trainer=ddp_cpu", "trainer.max_epochs=1000", "logger=none"]
    process = driver(tmp_path, [[(name, choices) for name in names]])
    try:
        wait(lambda: all((tmp_path / name / "checkpoints" / "last.ckpt").is_file() for name in names), 300)
        commands = {name: int((tmp_path / name).with_suffix(".pid").read_text()) for name in names}
        ranks = {name: sorted(descendants(pid)) for name, pid in commands.items()}
        assert [len(pids) for pids in ranks.values()] == [2, 2, 2]
        os.kill(ranks["killed"][1], signal.SIGKILL)
        os.kill(ranks["ended"][1], signal.SIGTERM)
        os.kill(commands["orphaned"], signal.SIGKILL)
        assert process.wait(timeout=300) == 0
        wait(lambda: all(gone(pid) for pids in ranks.values() for pid in pids), 300)
        assert [status(tmp_path / name) for name in names] == [1, 1, -signal.SIGKILL]
        found = {name: record(tmp_path / name) for name in names}
        assert [found[name]["status"] for name in names] == ["failed", "failed", "running"]
        assert not Run(tmp_path / "orphaned").is_running  # and so read as interrupted
        assert "rank 1 was ended by SIGKILL" in found["killed"]["error"]
        assert "rank 1 ended with status 1: interrupted" in found["ended"]["error"]
        assert "rank 1 was ended by SIGKILL" in (tmp_path / "killed.txt").read_text()
    finally:
        process.kill()  # and, by their leashes, whatever is left
        process.wait(timeout=60)
