"""``python -m segpipe.architectures``: a table of all named architectures, with their parts and their cost."""

import argparse

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from segpipe.config import build
from segpipe.config.messages import user_errors
from segpipe.config.plan import Plan
from segpipe.config.schema import CONF, options
from segpipe.data.folder.classes import MOST_CLASSES
from segpipe.errors import UserError
from segpipe.models.cost import multiply_adds

WIDTH = 110  # minimum width of the table in characters


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m segpipe.architectures", description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=[360, 480], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("overrides", nargs="*", help="as for train, applied to every model: fusion=none match=params")
    given = parser.parse_args()
    with user_errors():
        if min(given.size) < 1 or not 1 <= given.classes <= MOST_CLASSES:
            raise UserError(
                f"--size {given.size[0]} {given.size[1]} --classes {given.classes}: allowed are sizes of 1 or more, "
                f"and 1 to {MOST_CLASSES} classes."
            )
        table = model_table(given.overrides, (given.size[0], given.size[1]), given.classes)
        Console(width=max(Console().width, WIDTH)).print(table)


def model_table(overrides: list[str], size: tuple[int, int], num_classes: int) -> Table:
    """Return a table with a row for every file in conf/model, each with ``overrides``. No weights are allocated.

    size: (height, width) of the image for which multiply-adds are counted. An invalid combination is marked in the
    table, and its error is printed.
    """
    table = Table(title=f"{num_classes} classes, {size[0]} x {size[1]} pixels", title_justify="left")
    for heading in ("model", "encoder", "neck", "decoder", "fusion", "stride"):
        table.add_column(heading)
    table.add_column("M parameters", justify="right")
    table.add_column("G multiply-adds", justify="right")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfgs = [compose("train", [f"model={name}", *overrides]) for name in options("model")]
    for cfg in sorted(cfgs, key=lambda cfg: (-cfg.model.stride, cfg.model.name)):
        parts = [cfg[group].name for group in ("model", "encoder", "neck", "decoder", "fusion")]
        try:
            cfg = Plan.of(cfg, num_classes=num_classes, size=size).cfg
        except UserError as error:
            table.add_row(*parts, str(cfg.model.stride), "invalid", "")
            print(f"{cfg.model.name}: {error}")
            continue
        with torch.device("meta"):
            network = build.network(cfg, num_classes)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        table.add_row(
            *parts, str(cfg.model.stride), f"{parameters / 1e6:.3f}", f"{multiply_adds(network, size) / 1e9:.2f}"
        )
    return table


if __name__ == "__main__":
    main()
