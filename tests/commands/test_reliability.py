"""The commands in the table of docs/reliability.md print the lines that stand beside them."""

import re
import shlex

import pytest
from support.commands import run
from support.grid import slow
from support.paths import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(segpipe\.[^`]+)` \| `([^`]+)` \|$", PAGE, re.MULTILINE)


def test_the_table_is_found():
    assert len(ROWS) > 8


@pytest.mark.parametrize(("typed", "printed"), [*ROWS[:4], *map(slow, ROWS[4:])])
def test_a_wrong_command_prints_the_line_of_the_table(typed, printed, tmp_path):
    said = run(*shlex.split(typed), cwd=tmp_path, status=2 if "Help:" in printed else 1)
    assert said == f"segpipe: {printed}\n"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
