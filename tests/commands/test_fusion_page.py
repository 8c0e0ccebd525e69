"""docs/fusions.md: its table is that of the classes, and it says what each fusion does."""

import importlib.util
import re

from support.paths import ROOT

from segpipe.config import build
from segpipe.config.choices import files
from segpipe.config.schema import options
from segpipe.models.fusion import Fusion

PAGE = (ROOT / "docs" / "fusions.md").read_text(encoding="utf-8")


def table():
    spec = importlib.util.spec_from_file_location("fusion_table", ROOT / "docs" / "fusion_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_that_of_the_classes():
    assert table().written(PAGE) == PAGE, "run: python docs/fusion_table.py"


def test_the_page_has_a_row_for_each_fusion_and_says_which_do_not_start_as_the_coarser_network():
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (\S+) \|$", PAGE, re.MULTILINE))
    said = {name: build.kind(node, Fusion).starts_as_coarser for name, node in files("fusion").items()}
    assert {name: rows.get(name) for name in options("fusion")} == {
        name: "yes" if coarser else "**no**" for name, coarser in said.items()
    }
    for name, coarser in said.items():
        if not coarser:
            doc = " ".join(build.kind(files("fusion")[name], Fusion).__doc__.split())
            assert "does not start as the coarser one" in doc
