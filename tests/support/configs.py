"""Configurations of tiny trainings, and where the data sets of this machine lie."""

import os
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir

from segpipe.config import plan  # noqa: F401  (the resolver of run names)
from segpipe.config.schema import CONF
from support.paths import ROOT

SHARED = Path(os.environ.get("SEGPIPE_SHARED", ROOT.parent / "shared"))


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
