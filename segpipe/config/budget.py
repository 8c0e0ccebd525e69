"""Equal budget: the width of the decoder is solved so that a network costs what others do.

Encoder and neck are what the cells of a sweep share. Channels are dealt out to the maps of the decoder, in the
proportion of the encoder's, until decoder, head and enlargement cost what the budget leaves them.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from segpipe.config import build
from segpipe.config.schema import CONF
from segpipe.config.width_search import CostModel, Measure, Search, Width, architecture_key
from segpipe.errors import InvalidCombination, UserError
from segpipe.models.decoder import decoder_strides, resolve_widths
from segpipe.models.network import ENLARGEMENTS

TOLERANCE = 0.02  # of what the budget leaves to decoder, head and enlargement


class BudgetUnreachable(InvalidCombination):
    """No width meets the budget."""


class BudgetSolution(NamedTuple):
    """What came of it, of the whole network: parameters, or multiply-adds for one picture.

    shared: of encoder and neck. width: for ``model.width``. factor: of the encoder's channels, over all steps up.
    """

    what: Measure
    budget: float
    cost: int
    shared: int
    width: Width
    factor: float

    def __str__(self) -> str:
        """For the terminal."""
        deviation = self.cost / self.budget - 1
        return (
            f"match={self.what}: width {self.factor:.2f} of the encoder's (model.width={shown(self.width)}), "
            f"{format_cost(self.what, self.cost)} for a budget of {format_cost(self.what, self.budget)} "
            f"({deviation:+.1%})."
        )

    def record(self) -> dict[str, Any]:
        """For ``run.json``; ``decoder_deviation`` is from what the budget leaves beside encoder and neck."""
        return {
            "what": self.what,
            "budget": self.budget,
            "found": self.cost,
            "deviation": round(self.cost / self.budget - 1, 6),
            "shared": self.shared,
            "decoder_deviation": round((self.cost - self.budget) / (self.budget - self.shared), 6),
            "factor": round(self.factor, 4),
        }


def shown(width: Width) -> str:
    """As it would be typed."""
    return "null" if width is None else str(width).replace(" ", "")


def format_cost(what: Measure, number: float) -> str:
    """A cost in words."""
    return f"{number:,.0f} parameters" if what == "params" else f"{number / 1e6:,.1f} M multiply-adds"


def with_solved_width(cfg: DictConfig, found: BudgetSolution) -> DictConfig:
    """A copy of a configuration with the solved width and its budget; to solve it again gives the same."""
    copy = cfg.copy()
    copy.budget, copy.model.width = found.budget, found.width
    return copy


def solve_budget(
    cfg: DictConfig, *, num_classes: int | None = None, size: tuple[int, int] | None = None
) -> BudgetSolution:
    """The width with which a network meets its budget; its own where it does as it is.

    num_classes, and size of the picture that multiply-adds are for: None asks the data, and takes the size that
    ``metrics.json`` tells them for: ``data.size``, or the first test picture's. Raises Unmet, or what the data raise.
    """
    what: Measure = cfg.match
    given = cfg.data.get("size")
    if num_classes is None:
        data = build.data(cfg)
        num_classes = len(data.split("train").classes)
        if what == "multiply_adds":
            size = (given[0], given[1]) if given else data.split("test").size(0)
    size = size if what == "multiply_adds" else None
    budget = cfg.budget or cost_of(architecture_key(reference_config(cfg)), what, num_classes, size)
    found = solve(architecture_key(cfg), what, budget, num_classes, size)
    if isinstance(found, str):
        raise BudgetUnreachable(f"match={what}: {found}")
    return found


def reference_config(cfg: DictConfig) -> DictConfig:
    """The network as its model's own file has it, whatever was chosen instead, behind the same encoder and neck.

    Raises UserError where there is no such file.
    """
    model, chosen = read_model(cfg.model.name)
    if not {"decoder", "fusion"} <= chosen.keys():
        raise UserError(
            f"match={cfg.match}: the budget would be taken from conf/model/{cfg.model.name}.yaml, which is not there "
            f"or leaves decoder or fusion open. Give budget=NUMBER."
        )
    own = cfg.copy()
    own.model = model
    for group in ("decoder", "fusion"):
        own[group] = OmegaConf.load(CONF / group / f"{chosen[group]}.yaml")
    return own


def read_model(name: str) -> tuple[DictConfig, dict[str, str]]:
    """The model of a file under ``conf/model``, with what it builds on, and its choices in the groups it overrides."""
    path = CONF / "model" / f"{name}.yaml"
    node: Any = OmegaConf.load(path) if path.is_file() else {}
    model: Any = OmegaConf.create()
    chosen: dict[str, str] = {}
    for entry in node.get("defaults", []):
        if not isinstance(entry, str):
            chosen |= {str(group).removeprefix("override /"): str(choice) for group, choice in entry.items()}
        elif entry != "_self_":
            model, before = read_model(entry)
            chosen = before | chosen
    return OmegaConf.merge(model, node.get("model", {})), chosen  # type: ignore[return-value]


@lru_cache(maxsize=256)
def cost_of(network: str, what: Measure, num_classes: int, size: tuple[int, int] | None) -> int:
    """Of a whole network as it is. Arguments: see ``CostModel``."""
    scales = CostModel(network, what, num_classes, size)
    return scales.shared + scales.cost_at(scales.width)


@lru_cache(maxsize=256)
def solve(
    network: str, what: Measure, budget: float, num_classes: int, size: tuple[int, int] | None
) -> BudgetSolution | str:
    """See ``solve_budget``; a text where no width meets the budget."""
    scales = CostModel(network, what, num_classes, size)
    encoder, width = scales.encoder, scales.width
    strides = decoder_strides(encoder, start=encoder.coarsest, stop=scales.model.stride)
    natural = resolve_widths(None, scales.in_channels, encoder, strides)

    def result(width: Any, cost: float) -> BudgetSolution:
        own = resolve_widths(width, scales.in_channels, encoder, strides)
        factor = sum(own[1:]) / sum(natural[1:])
        return BudgetSolution(what, budget, scales.shared + int(cost), scales.shared, width, factor)

    if width == "classes" or not strides:  # see compatibility.validate
        return "there is no width to solve."
    decoder_budget = budget - scales.shared
    if decoder_budget <= 0:
        alone = format_cost(what, scales.shared)
        return f"encoder and neck alone cost {alone}, and the budget is {format_cost(what, budget)}. Give a larger one."
    as_it_is = scales.cost_at(width)
    if within_tolerance(as_it_is, decoder_budget):
        return result(width, as_it_is)
    if isinstance(width, list):
        return (
            f"model.width={shown(width)} says what width every map has, and so the network costs "
            f"{format_cost(what, scales.shared + as_it_is)} where the budget is {format_cost(what, budget)}. Leave "
            f"model.width out, and it is solved; or leave out match."
        )
    search = Search(scales.cost_at, decoder_budget, avoid={*natural, *encoder.channels.values()})
    # Where the up-convolution narrows, the map it begins with is the neck's; else it is the decoder's first.
    first = 1 if scales.model.get("narrow") == "upsample" and width is None else 0
    search.proportional(natural[first:] if width is None else resolve_widths(width, 0, encoder, strides))  # type: ignore[arg-type]
    if not within_tolerance(search.cost, decoder_budget):
        search.one_by_one()
    if not within_tolerance(search.cost, decoder_budget):
        least = max(search.nearest) == 1
        above = f", above {format_cost(what, scales.shared + search.cost)}" if least else ""
        fixed = f", or let model.enlarge={next(iter(ENLARGEMENTS))} take the last step" if least else ""
        return (
            f"no width meets the budget of {format_cost(what, budget)}, within {TOLERANCE:.0%} of the "
            f"{format_cost(what, decoder_budget)} that it leaves beside encoder and neck. The closest is "
            f"model.width={shown(search.nearest)}, with "
            f"{format_cost(what, search.cost)} there. Give all cells another budget=NUMBER{above}{fixed}."
        )
    return result(search.nearest, search.cost)


def within_tolerance(cost: float, decoder_budget: float) -> bool:
    """Whether that is equal, as we take it."""
    return abs(cost - decoder_budget) <= TOLERANCE * decoder_budget
