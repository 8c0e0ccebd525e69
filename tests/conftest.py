import atexit
import os
import shutil
import tempfile

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

os.environ["OMP_NUM_THREADS"] = "1"  # of children, too: nets this small only wait for their threads

os.environ["SEGPIPE_CACHE"] = tempfile.mkdtemp(prefix="segpipe-cache-")  # a process's own, and its children's


import pytest
from support.configs import SHARED, TINY, configure

from segpipe.config import plan  # noqa: F401  (the resolver of run names)

atexit.register(shutil.rmtree, os.environ["SEGPIPE_CACHE"], ignore_errors=True)


pytest_plugins = [  # fixtures that several folders use
    "support.reports",
    "support.sweeps",
    "support.wandb_alone",
    "support.wandb_server",
]


@pytest.fixture(scope="session")
def camvid_root():
    root = SHARED / "data" / "camvid"
    if not root.is_dir():
        pytest.skip("CamVid is not here: it is looked for in shared/data/camvid beside the checkout")
    return root


@pytest.fixture(scope="session")
def nuclei_root():
    root = SHARED / "data" / "nuclei"
    if not root.is_dir():
        pytest.skip("The nuclei are not here: they are looked for in shared/data/nuclei beside the checkout")
    return root


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """The user's cache, as a test has it for itself."""
    monkeypatch.setenv("SEGPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A tiny training, done once for all who read a run."""
    from segpipe.train import train

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(configure(*TINY, f"run_dir={folder}"))
    return folder
