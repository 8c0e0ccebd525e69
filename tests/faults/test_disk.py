"""The disk is full: in the middle of a checkpoint, and so that not even a record can be written."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from segpipe.runs.checkpoints import is_intact

pytestmark = pytest.mark.slow


SIZE = 8 * 2**20


PAGE = 4096


class Disk:
    """A file system of SIZE bytes in a mount namespace of its own, which is gone when its process is.

    root: where its files are seen from outside. inside: what a command that is to see them is put behind.
    """

    def __init__(self, folder):
        script = f'mount -t tmpfs -o size={SIZE} tmpfs "$0" && echo ready && exec cat'
        self.holder = subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self.holder.stdout.readline() != "ready\n":
            pytest.skip(f"no file system can be mounted here: {self.holder.communicate()[1].strip()}")
        self.root = f"/proc/{self.holder.pid}/root{folder}"
        self.inside = [
            *("nsenter", "--target", str(self.holder.pid), "--user", "--mount", "--preserve-credentials"),
            *("env", "--chdir", str(folder)),
        ]

    def fill(self, *, but=0):
        """Take all space, less some bytes."""
        free = os.statvfs(self.root)
        with open(f"{self.root}/filler", "wb") as file, suppress(OSError):
            file.write(bytes(max(free.f_bavail * free.f_frsize - but, 0)))

    def free(self):
        """Give it back."""
        os.unlink(f"{self.root}/filler")

    def close(self):
        """Remove it."""
        self.holder.communicate("")


@contextmanager
def stopped(pid):
    """Inside, a process does nothing."""
    os.kill(pid, signal.SIGSTOP)
    while "\nState:\tT" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.001)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    made = Disk(folder)
    yield made
    made.close()


def run_out_of_space(two, disk, *, left):
    """Start a sweep, and take all but ``left`` bytes while its second run is between two writes; return its end."""
    two.begin()
    two.until(lambda: two.at_work_on(1))
    job = two.record(1)["pid"]
    while not os.path.exists(f"{disk.root}/filler"):
        with stopped(job):
            if not list(two[1].rglob("*.part")):
                disk.fill(but=left)
    return two.end(1)


def test_a_checkpoint_finds_no_space(disk, sweep):
    """There is some for the history, not for the checkpoint: the last one stays, the record says what happened."""
    two = sweep("seed=0,1", folder=disk.root, inside=disk.inside)
    said = run_out_of_space(two, disk, left=25 * PAGE)
    assert "No space left on device. Free some space" in said
    assert (two.status(0), two.status(1)) == ("finished", "failed")
    assert is_intact(two[1] / "checkpoints" / "last.ckpt")
    assert not list(two[1].rglob("*.part"))
    before = two.files(0)
    disk.free()
    two.run()
    assert two.files(0) == before
    two.finished_as_if_nothing_had_been(0, 1)


def test_nothing_can_be_written(disk, sweep):
    """Not a line of the history, not the record, not the log. A start on the full disk says so, and loses nothing."""
    two = sweep("seed=0,1", folder=disk.root, inside=disk.inside)
    said = run_out_of_space(two, disk, left=0)
    assert "the status could not be written ([Errno 28] No space left on device)" in said
    assert "its process ended without writing the reason" in said
    assert (two.status(0), two.status(1)) == ("finished", "running")
    before = two.files(0)
    assert "No space left on device" in two.run(1)
    assert two.files(0) == before
    disk.free()
    two.run()
    assert two.files(0) == before
    two.finished_as_if_nothing_had_been(0, 1)
