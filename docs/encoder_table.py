"""Write the table of docs/encoders.md from the files under conf/encoder: ``python docs/encoder_table.py``."""

from pathlib import Path

import torch
from omegaconf import OmegaConf

from segpipe.config import build
from segpipe.config.choices import files
from segpipe.models.cost import count

PAGE = Path(__file__).parent / "encoders.md"
BEGIN, END = "<!-- written by docs/encoder_table.py -->\n", "<!-- end -->\n"
SIZE = (360, 480)  # height and width of the image, padded to the coarsest stride
HEADINGS = ("`encoder=`", "strides", "unpooling", "stages", "million weights", "10⁹ multiply-adds")


def table() -> str:
    """Return the table: a row for each file, by the number of weights."""
    rows = sorted(map(row, files("encoder")))
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(cells for _, cells in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def row(name: str) -> tuple[int, list[str]]:
    """Return an encoder's number of weights and the cells of its row."""
    node = files("encoder")[name]
    encoder = build.meta_encoder(OmegaConf.create({"encoder": node})).eval()
    sides = [-(-side // encoder.coarsest) * encoder.coarsest for side in SIZE]
    image = torch.zeros(1, 3, *sides, device="meta")
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    pools = [(pool.kernel, pool.stride) for pool in encoder.pools.values()]
    every = len(pools) == len(encoder.strides) - 1 and encoder.strides[0] == 1 and {*pools} == {(2, 2)}
    about = f" ({node.backbone})" if "backbone" in node else ""
    cells = [
        f"`{name}`{about}",
        f"{encoder.strides[0]} to {encoder.coarsest}",
        "yes" if every else "no",
        str(len(encoder.stages)),
        f"{weights / 1e6:.1f}",
        f"{count(lambda: encoder(image)) / 1e9:.1f}",
    ]
    return weights, cells


def written(page: str) -> str:
    """Return the page with the present table."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
