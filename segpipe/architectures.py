"""``python -m segpipe.architectures``: a table of all named architectures, with their parts and their cost.

With ``--operators`` it is a table of all upsampling operators.
"""

from typing import NamedTuple

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from segpipe.config import build
from segpipe.config.choices import files
from segpipe.config.messages import user_errors
from segpipe.config.plan import Plan
from segpipe.config.schema import CONF, key_of, options
from segpipe.data.folder.classes import MOST_CLASSES
from segpipe.errors import UserError
from segpipe.models.cost import count, multiply_adds, used_parameters
from segpipe.models.upsample import Upsampler
from segpipe.terminal import Parser

WIDTH = 110  # minimum width of the table in characters
CHANNELS = 256  # of x, of the result and of the source, for which the cost of an operator is given


def main() -> None:
    """The command line."""
    parser = Parser(prog="python -m segpipe.architectures", description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=[360, 480], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--operators", action="store_true", help="the upsampling operators instead, decoder=NAME")
    parser.add_argument(
        "overrides", nargs="*", help="as for train: fusion=none match=params; model=unet,ladder: only these"
    )
    given = parser.parse_args()
    with user_errors():
        if min(given.size) < 1 or not 1 <= given.classes <= MOST_CLASSES:
            raise UserError(
                f"--size {given.size[0]} {given.size[1]} --classes {given.classes}: allowed are sizes of 1 or more, "
                f"and 1 to {MOST_CLASSES} classes."
            )
        if given.operators and given.overrides:
            raise UserError(
                f"--operators {given.overrides[0]}: the table of operators takes no overrides; it has the arguments of "
                f"conf/decoder."
            )
        if given.operators:
            table = operator_table()
        else:
            table = model_table(given.overrides, (given.size[0], given.size[1]), given.classes)
        Console(width=max(Console().width, WIDTH)).print(table)


def model_table(overrides: list[str], size: tuple[int, int], num_classes: int) -> Table:
    """Return a table with a row for each model, with ``overrides``. No weights are allocated.

    The models are those of ``model=NAME,NAME``, or what an ``experiment`` chooses; without either, every file in
    conf/model.

    size: (height, width) of the image for which multiply-adds are counted. An invalid combination is marked in the
    table, and its error is printed.
    """
    table = Table(title=f"{num_classes} classes, {size[0]} x {size[1]} pixels", title_justify="left")
    for heading in ("model", "encoder", "neck", "decoder", "fusion", "stride"):
        table.add_column(heading)
    table.add_column("M parameters", justify="right")
    table.add_column("G multiply-adds", justify="right")
    others = [override for override in overrides if key_of(override) != "model"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfgs = [compose("train", [*words, *others]) for words in choices_of_model(overrides)]
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
        parameters = sum(parameter.numel() for parameter in used_parameters(network))
        table.add_row(
            *parts, str(cfg.model.stride), f"{parameters / 1e6:.3f}", f"{multiply_adds(network, size) / 1e9:.2f}"
        )
    return table


def choices_of_model(overrides: list[str]) -> list[list[str]]:
    """Return the override that chooses the model, for each row; an empty list where an experiment chooses it."""
    chosen = {key_of(override): override.partition("=")[2] for override in overrides}
    if "model" in chosen:
        return [[f"model={name}"] for name in chosen["model"].split(",")]
    return [[]] if "experiment" in chosen else [[f"model={name}"] for name in options("model")]


class OperatorFacts(NamedTuple):
    """An upsampling operator with the arguments of its file under conf/decoder.

    parameters: at CHANNELS channels and factor 2. multiply_adds: the same, for one pixel of the result. The texts are
    those of the class; ``needs`` says what it reads, and ``start`` what it computes before training.
    """

    name: str
    computes: str
    needs: str
    parameters: int
    multiply_adds: float
    start: str
    limits: str
    paper: str


def operator_facts() -> list[OperatorFacts]:
    """Return the facts of every operator under conf/decoder, alphabetically. No weights are allocated."""
    facts = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfgs = {name: compose("train", [f"decoder={name}"]) for name in sorted(files("decoder"))}
    for name, cfg in cfgs.items():
        kind = build.operator(cfg.decoder)
        with torch.device("meta"):
            factory = build.instantiate_group(cfg, "decoder")
            module: Upsampler = factory(CHANNELS, CHANNELS, factor=2, source_channels=CHANNELS).eval()
            x, source = torch.zeros(1, CHANNELS, 8, 8), torch.zeros(1, CHANNELS, 16, 16)
            operations = count(lambda module=module, x=x, source=source: module(x, source)) / 256  # type: ignore[misc]
        facts.append(
            OperatorFacts(
                name=name,
                computes=(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`").rstrip("."),
                needs=needs_of(kind),
                parameters=sum(parameter.numel() for parameter in module.parameters()),
                multiply_adds=operations,
                start=f"{kind.initial}{' (within 3 %)' if kind.content_aware and kind.initial != 'other' else ''}",
                limits=kind.limits,
                paper=kind.paper,
            )
        )
    return facts


def needs_of(operator: type[Upsampler]) -> str:
    """Return what an operator reads beside the map to be enlarged."""
    if operator.needs_pooling:
        return "the positions of the encoder's 2x2 maxima"
    return "the encoder's map" if operator.guided else "only `x`"


def operator_table() -> Table:
    """Return a table with a row for every operator under conf/decoder."""
    table = Table(title=f"{CHANNELS} channels, factor 2, as in conf/decoder", title_justify="left")
    for heading in ("decoder", "reads", "start", "source"):
        table.add_column(heading)
    table.add_column("parameters", justify="right")
    table.add_column("multiply-adds for a pixel", justify="right")
    for one in operator_facts():
        needs, cost = one.needs.replace("`", ""), f"{one.multiply_adds:,.0f}"
        table.add_row(one.name, needs, one.start, one.paper, f"{one.parameters:,}", cost)
    return table


if __name__ == "__main__":
    main()
