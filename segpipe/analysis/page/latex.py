r"""The tables of the page as LaTeX, for ``\input`` in a paper with the packages booktabs and longtable."""

from segpipe.analysis.page.blocks import Block, Fold
from segpipe.analysis.page.content import Content
from segpipe.analysis.page.tables import Table

LONGEST = 35  # rows of a table that fits on a page; longer ones are broken over pages
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "\N{MINUS SIGN}": r"$-$", "\N{EN DASH}": "--", "≈": r"$\approx$",
    "±": r"$\pm$", "[": "{[}",  # a row that begins with [ would be an argument of the line break
}  # fmt: skip


def latex(page: Content) -> str:
    """Return the verdict as comments, and every table of the page as a ``table`` or a ``longtable``."""
    lines = [
        f"% {comment(page.title)}: {comment(page.subtitle)}",
        "% Tables for \\usepackage{booktabs,longtable}; \\input this file, or copy single tables.",
    ]
    for paragraph in page.verdict:
        for finding in paragraph.findings:
            words = [paragraph.title, finding.topic, finding.headline, finding.text]
            lines.append(f"% {comment(': '.join(filter(None, words)))}")
    for section in page.sections:
        tables = [table for block in section.blocks for table in tables_of(block)]
        for number, table in enumerate(tables, start=1):
            label = section.id if len(tables) == 1 else f"{section.id}-{number}"
            lines += ["", *table_lines(table, f"tab:{label}")]
    return "\n".join(lines) + "\n"


def tables_of(block: Block) -> list[Table]:
    """Return the tables of a block with at least one row."""
    if isinstance(block, Fold):
        return [table for inner in block.blocks for table in tables_of(inner)]
    return [block] if isinstance(block, Table) and block.rows else []


def table_lines(table: Table, label: str) -> list[str]:
    """Return the lines of one table. Numbers are right-aligned; headings may be broken over lines."""
    count = len(table.columns)
    columns = "l" * (count - table.numeric) + "r" * table.numeric
    head = [" & ".join(heading(column) for column in table.columns) + r" \\"]
    rows = [" & ".join(escape(cell.text) for cell in row) + r" \\" for row in table.rows]
    caption = rf"\caption{{{escape(table.caption)}}}\label{{{label}}}"
    if len(rows) > LONGEST:
        head = [r"\toprule", *head, r"\midrule"]
        return [
            "{\\footnotesize", rf"\begin{{longtable}}{{{columns}}}", caption + r"\\", *head, r"\endfirsthead",
            *head, r"\endhead", *rows, r"\bottomrule", r"\end{longtable}}",
        ]  # fmt: skip
    return [
        r"\begin{table}", r"\centering\footnotesize", caption, rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *head,
        r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}",
    ]  # fmt: skip


def heading(text: str) -> str:
    """Return a column's heading, broken after commas."""
    parts = [escape(part) for part in text.split(", ")]
    return parts[0] if len(parts) == 1 else r"\shortstack{" + r",\\".join(parts) + "}"


def escape(text: str) -> str:
    """Return text on one line with LaTeX's special characters escaped."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))


def comment(text: str) -> str:
    """Return text on one line, for a comment."""
    return " ".join(text.split())
