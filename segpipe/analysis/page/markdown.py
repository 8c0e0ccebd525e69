"""The page's words and tables as Markdown, for a place that shows no HTML."""

import re

from segpipe.analysis.page.blocks import Block, Fold, Items
from segpipe.analysis.page.content import EXPLAINED, Content
from segpipe.analysis.page.figures import Figure
from segpipe.analysis.page.tables import Table

LONGEST = 60  # rows of a table


def markdown(page: Content) -> str:
    """Verdict, differences, networks, what is missing; figures and pictures are the page's alone."""
    lines = [f"# {safe(page.title)}", "", safe(page.subtitle), "", "## Verdict", ""]
    for paragraph in page.verdict:
        if paragraph.title:
            lines += [f"### {safe(paragraph.title)}", ""]
        for finding in paragraph.findings:
            head = f" **{safe(finding.headline)}**." if finding.headline else ""
            lines += [f"- {safe(finding.about)}:{head} {safe(finding.text)}"]
        lines.append("")
    lines += [EXPLAINED, ""]
    for section in page.sections:
        body = [line for block in section.blocks for line in block_lines(block)]
        if any(line and not line.startswith("#") for line in body):
            lines += [f"## {safe(section.title)}", "", *body]
    return "\n".join(lines).rstrip() + "\n"


def block_lines(block: Block) -> list[str]:
    """One block, with an empty line behind it."""
    if isinstance(block, Table):
        return [*table_lines(block), "", safe(block.caption), ""]
    if isinstance(block, Items):
        return [*(f"- {safe(item)}" for item in block.items), ""]
    if isinstance(block, Fold):
        return [line for inner in block.blocks for line in block_lines(inner)]
    if isinstance(block, Figure) or block.kind == "pictures":
        return []
    text = getattr(block, "text", "")
    if block.kind == "command":
        return ["```bash", text, "```", ""]
    return [f"### {safe(text)}" if block.kind == "heading" else safe(text), ""]


def table_lines(table: Table) -> list[str]:
    """A table; numbers to the right."""
    rule = ["---"] * (len(table.columns) - table.numeric) + ["--:"] * table.numeric
    rows = [[cell.text for cell in row] for row in table.rows[:LONGEST]]
    lines = ["| " + " | ".join(map(safe, row)) + " |" for row in [table.columns, *rows]]
    lines.insert(1, "|" + "|".join(rule) + "|")
    more = len(table.rows) - LONGEST
    return lines + ([f"\n{more} more rows are in report.html."] if more > 0 else [])


def safe(text: str) -> str:
    """Text that Markdown is to leave alone, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
