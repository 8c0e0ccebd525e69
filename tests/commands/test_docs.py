"""Every Python example of the documentation runs, and prints what the page says it prints."""

import importlib.util
import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.paths import ROOT

DOCS = ROOT / "docs"


FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    """A fenced Python block: its place in the documentation, and the output that a text block next to it states."""

    page: Path
    line: int
    code: str
    output: str | None


def examples() -> list[Example]:
    """All Python blocks of docs/*.md; the output of one is the fenced block after it, if that is a text block."""
    found = []
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        blocks = list(FENCE.finditer(text))
        for block, after in zip(blocks, [*blocks[1:], None], strict=False):  # a page may have none
            if block["language"] == "python":
                output = after["content"] if after is not None and after["language"] == "text" else None
                found.append(Example(page, text.count("\n", 0, block.start()) + 1, block["content"], output))
    assert found, f"no Python block in {DOCS}/*.md: are its fences written as ```python?"
    return found


@pytest.mark.parametrize("example", examples(), ids=lambda example: f"{example.page.name}:{example.line}")
def test_example_prints_what_the_page_says(example: Example) -> None:
    """Each in a namespace of its own, as a reader would paste it."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    code = compile("\n" * example.line + example.code, str(example.page), "exec")  # errors then name the page's line
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(code, namespace)
    if example.output is not None:
        assert printed.getvalue() == example.output


def test_the_table_of_operators_is_that_of_their_classes():
    """``python docs/figures/draw_operators.py`` writes it, and draws the figures."""
    spec = importlib.util.spec_from_file_location("draw_operators", DOCS / "figures" / "draw_operators.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "operators.md").read_text(encoding="utf-8")
    table = page.partition("<!-- operators -->\n")[2].partition("<!-- end -->")[0]
    assert table == module.table()
    facts = module.operator_facts()
    assert [one.name for one in facts if not (one.limits and (one.paper or not one.parameters))] == []
    assert all(
        (DOCS / "figures" / f"operators_{name}.png").is_file() for name in ("map", "edges", "trained", "trained_map")
    )
