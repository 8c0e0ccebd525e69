"""The shared memory of a container is too small for a batch that a loader's process sends."""

import json
import subprocess
import sys

import pytest
from support.configs import TINY

pytestmark = pytest.mark.slow

MAIN = """
import runpy
from segpipe.data import module
module.LOADER_TIMEOUT = 5
runpy.run_module("segpipe.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("size", ["64k", "400k"])
def test_shared_memory_is_too_small(size, tmp_path):
    """The process cannot send a batch (of 300 kB), or not the second one, and no other process learns of it."""
    script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm || exit 77; exec "$@"'
    words = [*TINY, "data.workers=1", "data.cache=off", "hydra.run.dir=run"]
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", MAIN, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr}")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "et data.workers=0" in last
    if size == "64k":
        assert "but a batch needs 294,912" in last
        assert not (tmp_path / "run").exists()
    else:
        assert last.startswith("segpipe: The processes that load the data failed")
        assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
