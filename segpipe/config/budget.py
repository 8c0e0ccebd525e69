"""Equal budget: the width of the decoder is solved so that all networks have the same cost.

The cells of a sweep share encoder and neck. Channels are distributed to the feature maps of the decoder in proportion
to the encoder's channels, until decoder, head and final upsampling use the rest of the budget.
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

TOLERANCE = 0.02  # relative to the part of the budget that is left for decoder, head and final upsampling


class BudgetUnreachable(InvalidCombination):
    """Raised where no decoder width meets the budget."""


class BudgetSolution(NamedTuple):
    """The solved width and the cost of the complete network.

    what: the unit of all costs: parameters, or multiply-adds for one image. budget: the cost that was asked for.
    cost: the cost of the network. shared: the cost of encoder and neck. width: the value for ``model.width``. factor:
    the decoder's channels divided by the encoder's, summed over all decoder steps.
    """

    what: Measure
    budget: float
    cost: int
    shared: int
    width: Width
    factor: float

    def __str__(self) -> str:
        """Return the text for the terminal."""
        deviation = self.cost / self.budget - 1
        return (
            f"match={self.what}: width {self.factor:.2f} of the encoder's (model.width={shown(self.width)}), "
            f"{format_cost(self.what, self.cost)} for a budget of {format_cost(self.what, self.budget)} "
            f"({deviation:+.1%})."
        )

    def record(self) -> dict[str, Any]:
        """Return the entries for ``run.json``.

        ``decoder_deviation`` is relative to the budget minus the cost of encoder and neck.
        """
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
    """Return a width as it is written on the command line."""
    return "null" if width is None else str(width).replace(" ", "")


def format_cost(what: Measure, number: float) -> str:
    """Return a cost with its unit, as text."""
    return f"{number:,.0f} parameters" if what == "params" else f"{number / 1e6:,.1f} M multiply-adds"


def with_solved_width(cfg: DictConfig, solution: BudgetSolution) -> DictConfig:
    """Return a copy of a configuration with the solved width and its budget. Solving the copy gives the same width."""
    copy = cfg.copy()
    copy.budget, copy.model.width = solution.budget, solution.width
    return copy


def solve_budget(
    cfg: DictConfig, *, num_classes: int | None = None, size: tuple[int, int] | None = None
) -> BudgetSolution:
    """Return the width with which a network meets its budget. If the given width meets it, that one is returned.

    num_classes: None reads the number from the data. size: (height, width) of the image for which multiply-adds are
    counted; None takes ``data.size``, or the size of the first test image, as ``metrics.json`` does.
    Raises BudgetUnreachable where no width meets the budget, and the data set's UserError where the data are missing.
    """
    what: Measure = cfg.match
    given = cfg.data.get("size")
    channels = 3
    if num_classes is None:
        data = build.data(cfg)
        form = data.stored("train").form
        channels = form.channels if form else channels
        num_classes = len(data.stored("train").classes)
        if what == "multiply_adds":
            size = (given[0], given[1]) if given else data.stored("test").size(0)
    size = size if what == "multiply_adds" else None
    budget = cfg.budget or cost_of(architecture_key(reference_config(cfg), channels), what, num_classes, size)
    solution = solve(architecture_key(cfg, channels), what, budget, num_classes, size)
    if isinstance(solution, str):
        raise BudgetUnreachable(f"match={what}: {solution}")
    return solution


def reference_config(cfg: DictConfig) -> DictConfig:
    """Return the configuration of the model's own file, with the same encoder and neck.

    Overrides of model, decoder and fusion are ignored. Raises UserError where the model has no file, or where its file
    does not choose decoder and fusion.
    """
    model, chosen = read_model(cfg.model.name)
    if not {"decoder", "fusion"} <= chosen.keys():
        raise UserError(
            f"match={cfg.match}: the budget is taken from conf/model/{cfg.model.name}.yaml, but this file does not "
            f"exist, or it does not choose a decoder and a fusion. Give budget=NUMBER."
        )
    reference = cfg.copy()
    reference.model = model
    for group in ("decoder", "fusion"):
        reference[group] = OmegaConf.load(CONF / group / f"{chosen[group]}.yaml")
    return reference


def read_model(name: str) -> tuple[DictConfig, dict[str, str]]:
    """Return the model node of a file under ``conf/model`` and the file's choices in the groups that it overrides.

    Both include the files that the file inherits from.
    """
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
    """Return the cost of a complete network with the width that it has. For the arguments see ``CostModel``."""
    scales = CostModel(network, what, num_classes, size)
    return scales.shared + scales.cost_at(scales.width)


@lru_cache(maxsize=256)
def solve(
    network: str, what: Measure, budget: float, num_classes: int, size: tuple[int, int] | None
) -> BudgetSolution | str:
    """See ``solve_budget``. Returns an error message where no width meets the budget."""
    scales = CostModel(network, what, num_classes, size)
    encoder, width = scales.encoder, scales.width
    strides = decoder_strides(encoder, start=encoder.coarsest, stop=scales.model.stride)
    natural = resolve_widths(None, scales.in_channels, encoder, strides)

    def result(width: Any, cost: float) -> BudgetSolution:
        widths = resolve_widths(width, scales.in_channels, encoder, strides)
        factor = sum(widths[1:]) / sum(natural[1:])
        return BudgetSolution(what, budget, scales.shared + int(cost), scales.shared, width, factor)

    if width == "classes" or not strides:  # see compatibility.validate
        return "there is no width to solve."
    decoder_budget = budget - scales.shared
    if decoder_budget <= 0:
        alone = format_cost(what, scales.shared)
        return f"encoder and neck alone cost {alone}, but the budget is {format_cost(what, budget)}. Give a larger one."
    as_it_is = scales.cost_at(width)
    if within_tolerance(as_it_is, decoder_budget):
        return result(width, as_it_is)
    if isinstance(width, list):
        return (
            f"model.width={shown(width)} sets the width of every feature map, so the network costs "
            f"{format_cost(what, scales.shared + as_it_is)}, but the budget is {format_cost(what, budget)}. Remove "
            f"model.width, so that it is solved; or remove match."
        )
    search = Search(scales.cost_at, decoder_budget, avoid={*natural, *encoder.channels.values()})
    # If the up-convolution reduces the channels, the first feature map is the neck's; else it is the decoder's.
    first = 1 if scales.model.get("narrow") == "upsample" and width is None else 0
    search.proportional(natural[first:] if width is None else resolve_widths(width, 0, encoder, strides))  # type: ignore[arg-type]
    if not within_tolerance(search.cost, decoder_budget):
        search.one_by_one()
    if not within_tolerance(search.cost, decoder_budget):
        least = max(search.nearest) == 1
        above = f", above {format_cost(what, scales.shared + search.cost)}" if least else ""
        fixed = f", or make the last step fixed: model.enlarge={next(iter(ENLARGEMENTS))}" if least else ""
        return (
            f"no width meets the budget of {format_cost(what, budget)}, within {TOLERANCE:.0%} of the "
            f"{format_cost(what, decoder_budget)} that encoder and neck leave. The closest is "
            f"model.width={shown(search.nearest)}, with {format_cost(what, search.cost)} for decoder, head and final "
            f"upsampling. Give all cells another budget=NUMBER{above}{fixed}."
        )
    return result(search.nearest, search.cost)


def within_tolerance(cost: float, decoder_budget: float) -> bool:
    """Return whether a decoder's cost counts as equal to its budget."""
    return abs(cost - decoder_budget) <= TOLERANCE * decoder_budget
