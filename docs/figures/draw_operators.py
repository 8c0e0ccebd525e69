"""Writes the table of docs/operators.md and draws its figures: ``python docs/figures/draw_operators.py``.

Every number and every pixel is what the package's own operators make of the input shown, before training.
"""

import re
from pathlib import Path

import matplotlib as mpl
import torch
from hydra import compose, initialize_config_dir
from matplotlib import pyplot as plt
from torch import Tensor

from segpipe.architectures import CHANNELS, operator_facts
from segpipe.config import build
from segpipe.config.choices import files
from segpipe.config.schema import CONF
from segpipe.models.init import init_weights
from segpipe.models.upsample import Upsampler

HERE = Path(__file__).parent
PAGE = HERE.parent / "operators.md"
WIDTH = 8  # channels of the maps that are enlarged; all channels are equal, and the first of the result is shown
HEADINGS = (
    "`decoder=`",
    "what it computes",
    "reads",
    "parameters",
    "multiply-adds",
    "start",
    "can and cannot",
    "source",
)


def table() -> str:
    """The table of all operators, in Markdown."""
    rows = [HEADINGS, ("---",) * len(HEADINGS)]
    for one in operator_facts():
        numbers = f"{one.parameters:,}", f"{one.multiply_adds:,.0f}"
        rows.append((f"`{one.name}`", one.computes, one.needs, *numbers, one.start, one.limits, one.paper))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def write_table() -> None:
    """Replace the table in the page."""
    text = PAGE.read_text(encoding="utf-8")
    new, count = re.subn(r"(<!-- operators -->\n).*?(<!-- end -->)", lambda m: m[1] + table() + m[2], text, flags=re.S)
    assert count == 1, f"{PAGE} has no place for the table"
    PAGE.write_text(new, encoding="utf-8")


def operators(init: str) -> dict[str, Upsampler]:
    """Every operator with one of its two starts; those without a choice are in the first only."""
    made: dict[str, Upsampler] = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for name, node in files("decoder").items():
            start = [f"decoder.init={init}"] if "init" in node else []
            if start or init == "interpolation":
                cfg = compose("train", [f"decoder={name}", *start])
                up = build.instantiate_group(cfg, "decoder")(WIDTH, WIDTH, factor=2, source_channels=WIDTH)
                init_weights(up, seed=0, prefix="up")
                made[name] = up.eval()
    return dict(sorted(made.items()))


@torch.no_grad()
def enlarged(up: Upsampler, x: Tensor, source: Tensor) -> Tensor:
    """(h, w) and (2h, 2w) to (2h, 2w)."""
    result: Tensor = up(x.expand(1, WIDTH, -1, -1), source.expand(1, WIDTH, -1, -1))[0, 0]
    return result


def draw_map() -> None:
    """A map of 2 x 2 numbers, enlarged by every operator at its start."""
    x = torch.tensor([[16.0, 48.0], [64.0, 32.0]])
    source = torch.tensor([[9.0, 2, 1, 3], [4, 1, 8, 2], [1, 3, 2, 5], [7, 2, 4, 1]])
    results = {"input": x, "encoder's map": source}
    results |= {name: enlarged(up, x, source) for name, up in operators("interpolation").items()}
    columns = 6
    figure, axes = plt.subplots(-(-len(results) // columns), columns, figsize=(11, 6.4))
    for place in axes.flat:
        place.set_axis_off()
    for place, (name, values) in zip(axes.flat, results.items(), strict=False):
        top = float(source.max()) if values is source else 64
        place.imshow(values, cmap="Blues", vmin=0, vmax=1.6 * top)
        place.set_title(name, fontsize=9)
        for row, line in enumerate(values.tolist()):
            for column, value in enumerate(line):
                place.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7)
    save(figure, "operators_map.png")


def draw_edges() -> None:
    """A step edge and a thin line, enlarged by every operator at both starts."""
    edge = (torch.arange(8) > 3).float().expand(8, 8)
    line = torch.eye(8)
    fine = {"edge": (torch.arange(16) > 7).float().expand(16, 16), "line": torch.eye(16)}
    inputs = {"edge": edge, "line": line}
    starts = {init: operators(init) for init in ("interpolation", "published")}
    names = list(starts["interpolation"])
    figure, axes = plt.subplots(4, len(names) + 1, figsize=(1.05 * (len(names) + 1), 4.9))
    rows = [(kind, init) for kind in inputs for init in starts]
    for row, (kind, init) in zip(axes, rows, strict=True):
        for place in row:
            place.set(xticks=[], yticks=[])
        row[0].imshow(inputs[kind], cmap="gray", vmin=-0.2, vmax=1.2)
        row[0].set_ylabel(f"{kind},\n{init}", fontsize=7)
        for place, name in zip(row[1:], names, strict=True):
            if name in starts[init]:
                place.imshow(enlarged(starts[init][name], inputs[kind], fine[kind]), cmap="gray", vmin=-0.2, vmax=1.2)
            else:
                place.set_axis_off()
    for place, name in zip(axes[0], ["input", *names], strict=True):
        place.set_title(name.replace("_", "\n"), fontsize=7)
    save(figure, "operators_edges.png")


def save(figure: plt.Figure, name: str) -> None:
    """Write a figure as a PNG without the program's version."""
    figure.tight_layout(pad=0.4)
    figure.savefig(HERE / name, dpi=130, facecolor="white", metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    mpl.use("Agg")
    write_table()
    draw_map()
    draw_edges()
    print(f"{PAGE} ({CHANNELS} channels), operators_map.png, operators_edges.png")
