"""Run, sweep and data folders of strangers: seeded mutations of every file, through every command (``fuzz.py``)."""

import pytest
from fuzz import fuzz

pytestmark = pytest.mark.slow

GROUP = 30  # cases of one test


@pytest.mark.parametrize("first", range(0, 300, GROUP))
def test_hostile_folders_do_no_harm(first):
    assert [said for said in fuzz(GROUP, seed=first) if said] == []
