"""Write the table of docs/fusions.md from the classes: ``python docs/fusion_table.py``."""

import inspect
from functools import partial
from pathlib import Path

import torch

from segpipe.config import build
from segpipe.config.choices import files
from segpipe.models.cost import count
from segpipe.models.fusion import Fusion

PAGE = Path(__file__).parent / "fusions.md"
BEGIN, END = "<!-- written by docs/fusion_table.py -->\n", "<!-- end -->\n"
WIDTH = 256  # channels of map and skip
STARTS = {
    "none": "the map", "sum": "the sum", "concat": "the concatenation", "max": "the maximum",
    "product": "the product", "other": "other",
}  # fmt: skip
HEADINGS = (
    "`fusion=`", "what it does", "weights", "multiply-adds", "linear", "starts as", "starts as the coarser network",
)  # fmt: skip


def table() -> str:
    """Return the table: a row for each file under conf/fusion, those without weights first."""
    rows = sorted((parameters, name, cells) for name, (parameters, cells) in map(row, files("fusion")))
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(cells for _, _, cells in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def row(name: str) -> tuple[str, tuple[int, list[str]]]:
    """Return the name of a fusion, and its number of weights with the cells of its row."""
    kind = build.kind(files("fusion")[name], Fusion)
    maps = [torch.zeros(1, WIDTH, 1, pixels, device="meta") for pixels in (1, 2)]
    with torch.device("meta"):
        module = kind(WIDTH, WIDTH)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    does = (inspect.getdoc(kind) or "").splitlines()[0].removesuffix(".")
    coarser = "yes" if kind.starts_as_coarser else "**no**"
    one, two = (count(partial(module, x, x)) for x in maps)
    numbers = [f"{parameters:,}", f"{two - one:,}"]
    cells = [f"`{name}`", does, *numbers, "yes" if kind.linear else "no", STARTS[kind.initial], coarser]
    return name, (parameters, cells)


def written(page: str) -> str:
    """Return the page with the present table."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
