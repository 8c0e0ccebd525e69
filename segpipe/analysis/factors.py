"""The factors of a design, in which its cells differ, and their names in the report."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segpipe.runs.labels import NOT_SET as NOT_SET
from segpipe.runs.labels import Level as Level
from segpipe.runs.labels import is_group, parse_level


@dataclass(frozen=True)
class Factor:
    """A factor of a design.

    key: its name in a cell's choices, in tables and in CSV files. label, plural: its name in sentences.
    override: its key on the command line; path: its key in a run's configuration; None: both are ``key``.
    quantity: its levels are numbers and are ordered by size; other levels keep the order of the sweep.
    descending: figures start with the largest level.
    in_model_name: the level is written behind the model's name (``ladder8``).
    undefined_at: (key, level) of other factors where a difference of this one has no meaning, unless there are no other
        levels.
    merged_keys: configuration keys that may differ between cells which are one network, where this level differs.
    joins_skips: its levels are fusions; the verdict states whether they can represent different functions.
    has_bound: its levels are the strides for which ``segpipe.bound`` gives the score of a perfect map.
    in_words: its levels are understood without its name (operators and fusions), so that text leaves it out.
    """

    key: str
    label: str
    plural: str
    override: str | None = None
    path: str | None = None
    quantity: bool = False
    descending: bool = False
    in_model_name: bool = False
    undefined_at: tuple[tuple[str, Level], ...] = ()
    merged_keys: tuple[str, ...] = ()
    joins_skips: bool = False
    has_bound: bool = False
    in_words: bool = False

    @property
    def title(self) -> str:
        """The label at the start of a line; a key keeps its case."""
        return self.label.capitalize() if self.label.replace(" ", "").isalpha() and not self.is_key else self.label

    @property
    def is_key(self) -> bool:
        """Whether the label is the end of a key, which is no word: ``lr``."""
        return self.label == self.key.rpartition(".")[2] and "." in self.key

    @property
    def has_names(self) -> bool:
        """Whether the levels are names, of the choices of a group for example, which are understood alone."""
        return self.in_words or self.config_path.endswith(".name")

    @property
    def override_key(self) -> str:
        """The key on the command line."""
        return self.override or self.key

    @property
    def config_path(self) -> str:
        """The dotted key of the level in a configuration."""
        return self.path or self.key

    @property
    def node(self) -> str:
        """The part of a configuration that belongs to the factor: the complete group if the level is a group's name."""
        return self.config_path.removesuffix(".name")

    def level(self, value: Any) -> Level:
        """Return a value of a configuration as a level."""
        if value is None:
            return NOT_SET
        return value if self.quantity and isinstance(value, int | float) else str(value)

    def level_in(self, config: Mapping[str, Any]) -> Level:
        """Return the level in a configuration. Raises KeyError if it lacks the group."""
        *groups, last = self.config_path.split(".")
        node: Any = config
        for name in groups:
            node = node[name]
        return self.level(node.get(last) if isinstance(node, Mapping) else None)

    def level_of_override(self, text: str) -> Level:
        """Return the level of an override's value, with the type that it has in a configuration."""
        return self.level(parse_level(text))

    def ordered(self, levels: Iterable[Level]) -> list[Level]:
        """Return the distinct levels: numbers by size, others in the given order."""
        distinct = list(dict.fromkeys(levels))
        return sorted(distinct, key=by_size) if self.quantity else distinct

    def drawn(self, levels: Iterable[Level]) -> list[Level]:
        """Return the distinct levels in the order of figures."""
        in_order = self.ordered(levels)
        return in_order[::-1] if self.descending else in_order

    def named(self, level: Level) -> str:
        """Return the level with the factor's label: ``stride 8``, ``fusion sum``."""
        return f"{self.label} {level}"

    def in_name(self, level: Level) -> str:
        """Return the level as part of a network's name: with its key, unless it is the name of a group's choice."""
        return str(level) if self.has_names else f"{self.key}={level}"

    def in_context(self, level: Level) -> str:
        """Return the level as part of the name of a context: with its label where it says nothing alone."""
        return str(level) if self.has_names else f"{self.label}={level}"

    def subject(self, level: Level) -> str:
        """Return the level as the subject of a sentence: with the label, unless it is the name of a choice."""
        return str(level) if self.has_names and not self.quantity else self.named(level)


def by_size(level: Level) -> tuple[bool, float, str]:
    """Return a sort key: numbers by size, then other levels."""
    number = isinstance(level, int | float)
    return not number, float(level) if number else 0.0, str(level)


SAME_WITHOUT_SKIPS = ("fusion", "model.stride", "model.taps", "model.narrow")  # identity.canonical makes these equal
DECODER = Factor(
    "decoder", "decoder", "decoders",
    path="decoder.name", merged_keys=("decoder", "model.enlarge"), in_words=True,
)  # fmt: skip
FUSION = Factor(
    "fusion", "fusion", "fusions",
    path="fusion.name", merged_keys=SAME_WITHOUT_SKIPS, joins_skips=True, in_words=True,
)  # fmt: skip
STRIDE = Factor(
    "stride", "stride", "strides",
    override="model.stride", path="model.stride", quantity=True, descending=True, in_model_name=True,
    undefined_at=(("fusion", "none"),),  # without skips there is no depth of skips
    merged_keys=SAME_WITHOUT_SKIPS, has_bound=True, in_words=True,
)  # fmt: skip
MODEL = Factor("model", "model", "models", path="model.name")
VIEW = Factor("view", "view", "views", in_words=True)
FACTORS = (DECODER, FUSION, STRIDE)
KNOWN = {factor.key: factor for factor in (*FACTORS, MODEL, VIEW)}


def make_factor(key: str, levels: Iterable[Level], short: str) -> Factor:
    """Return the factor of a key that differs between cells. short: the shortest end of the key that is unambiguous."""
    if key in KNOWN:
        return KNOWN[key]
    if is_group(key):
        return Factor(key, key, f"levels of {key}", path=f"{key}.name")
    numbers = [isinstance(level, int | float) for level in set(levels)]
    others = {level for level in levels if not isinstance(level, int | float)} <= {"null", NOT_SET}
    return Factor(key, short, f"levels of {short}", quantity=any(numbers) and others)


def in_order_of_names(factors: Sequence[Factor]) -> list[Factor]:
    """Return the factors in the order of network names: first those that are part of the model's name."""
    return sorted(factors, key=lambda one: not one.in_model_name)


def labels(factors: Iterable[Factor]) -> list[str]:
    """Return the labels of factors."""
    return [one.label for one in factors]


def named(levels: Mapping[str, Level], factors: Iterable[Factor]) -> str:
    """Return the levels of some factors with labels: ``stride 8, fusion sum``."""
    return ", ".join(factor.named(levels[factor.key]) for factor in factors)
