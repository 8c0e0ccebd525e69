"""The scripts of docs/sweeps, which import each other as neighbours."""

import runpy

import pytest

from support.paths import ROOT

SWEEPS = ROOT / "docs" / "sweeps"


def script(name):
    """Return the names that a script of docs/sweeps defines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SWEEPS))
        return runpy.run_path(str(SWEEPS / name))
