"""docs/encoders.md: its table is that of the classes."""

import importlib.util

import pytest
from support.paths import ROOT

from segpipe.config.schema import options

PAGE = (ROOT / "docs" / "encoders.md").read_text(encoding="utf-8")


def test_the_page_has_a_row_for_each_encoder():
    assert [name for name in options("encoder") if f"\n| `{name}`" not in PAGE] == []


@pytest.mark.slow  # some seconds on the meta device
def test_the_table_is_that_of_the_classes():
    pytest.importorskip("timm", reason="timm is an extra")
    spec = importlib.util.spec_from_file_location("encoder_table", ROOT / "docs" / "encoder_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.written(PAGE) == PAGE, "run: python docs/encoder_table.py"
