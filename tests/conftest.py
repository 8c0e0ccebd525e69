import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # of children, too: nets this small only wait for their threads

os.environ["SEGPIPE_CACHE"] = tempfile.mkdtemp(prefix="segpipe-cache-")  # a process's own, and its children's

import pytest
from hydra import compose, initialize_config_dir

from segpipe.config import plan  # noqa: F401  (the resolver of run names)
from segpipe.config.schema import CONF

atexit.register(shutil.rmtree, os.environ["SEGPIPE_CACHE"], ignore_errors=True)
SHARED = Path(os.environ.get("SEGPIPE_SHARED", Path(__file__).parent.parent.parent / "shared"))
TINY = [
    "data.dataset.train=16", "data.dataset.val=5", "data.dataset.test=7", "data.eval_batch_size=4",
    "encoder.widths=[8,8,8,8,8]", "encoder.depths=[1,1,1,1,1]", "neck.width=8", "trainer=cpu", "trainer.max_epochs=2",
    "+trainer.enable_progress_bar=false", "logger=none",
]  # fmt: skip


def configure(*overrides):
    """A composed configuration, as the command line would make it."""
    return composed(overrides).copy()


@cache
def composed(overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


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
