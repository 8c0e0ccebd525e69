"""The text and tables of the page as Markdown."""

import re

from segpipe.analysis.page.blocks import Block, Fold, Items
from segpipe.analysis.page.content import EXPLAINED, Content
from segpipe.analysis.page.figures import Figure
from segpipe.analysis.page.tables import Table

LONGEST = 60  # rows of a table


def markdown(page: Content) -> str:
    """Return verdict, tables and notes; figures and images are only in the page."""
    lines = [f"# {escape(page.title)}", "", escape(page.subtitle), "", "## Verdict", ""]
    for paragraph in page.verdict:
        if paragraph.title:
            lines += [f"### {escape(paragraph.title)}", ""]
        for finding in paragraph.findings:
            head = f" **{escape(finding.headline)}**." if finding.headline else ""
            lines += [f"- {escape(finding.topic)}:{head} {escape(finding.text)}"]
        lines.append("")
    lines += [EXPLAINED, ""]
    for section in page.sections:
        body = [line for block in section.blocks for line in block_lines(block)]
        if any(line and not line.startswith("#") for line in body):
            lines += [f"## {escape(section.title)}", "", *body]
    return "\n".join(lines).rstrip() + "\n"


def block_lines(block: Block) -> list[str]:
    """Return the lines of one block, followed by an empty line."""
    if isinstance(block, Table):
        return [*table_lines(block), "", escape(block.caption), ""]
    if isinstance(block, Items):
        return [*(f"- {escape(item)}" for item in block.items), ""]
    if isinstance(block, Fold):
        return [line for inner in block.blocks for line in block_lines(inner)]
    if isinstance(block, Figure) or block.kind == "images":
        return []
    text = getattr(block, "text", "")
    if block.kind == "command":
        return ["```bash", text, "```", ""]
    return [f"### {escape(text)}" if block.kind == "heading" else escape(text), ""]


def table_lines(table: Table) -> list[str]:
    """Return the lines of a table with at most LONGEST rows; numbers are right-aligned."""
    rule = ["---"] * (len(table.columns) - table.numeric) + ["--:"] * table.numeric
    rows = [[cell.text for cell in row] for row in table.rows[:LONGEST]]
    lines = ["| " + " | ".join(map(escape, row)) + " |" for row in [table.columns, *rows]]
    lines.insert(1, "|" + "|".join(rule) + "|")
    more = len(table.rows) - LONGEST
    return lines + ([f"\n{more} more rows are in report.html."] if more > 0 else [])


def escape(text: str) -> str:
    """Return text on one line with Markdown's special characters escaped."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
