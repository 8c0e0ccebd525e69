"""The factors of a design: what its cells differ in, and how the report writes about it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Level = str | int | float
NOT_SET = "not set"  # the level of a run whose configuration lacks the key


@dataclass(frozen=True)
class Factor:
    """One thing in which the cells of a design differ.

    key: its name in a cell's choices, in tables and in CSV files. label, plural: its name in sentences.
    override: its key on the command line; path: its key in a run's configuration; None: both are ``key``.
    quantity: its levels are numbers and are ordered by size; other levels keep the order of the sweep.
    descending: figures start with the largest level.
    in_model_name: the level is written behind the model's name (``ladder8``).
    undefined_at: (key, level) of other factors where a difference of this one has no meaning, unless there are no other
        levels.
    merged_keys: configuration keys that may differ between cells which are one network, where this level differs.
    joins_skips: its levels are fusions; the verdict says whether they can compute different functions.
    has_bound: its levels are the strides for which ``segpipe.bound`` gives the score of a perfect map.
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
        """The part of a configuration that belongs to the factor: a whole group where the level is a group's name."""
        return self.config_path.removesuffix(".name")

    def level(self, value: Any) -> Level:
        """A value of a configuration as a level."""
        if value is None:
            return NOT_SET
        return value if self.quantity and isinstance(value, int | float) else str(value)

    def level_in(self, config: Mapping[str, Any]) -> Level:
        """The level that a configuration has. Raises KeyError where it lacks the whole group."""
        *groups, last = self.config_path.split(".")
        found: Any = config
        for name in groups:
            found = found[name]
        return self.level(found.get(last) if isinstance(found, Mapping) else None)

    def level_of_override(self, text: str) -> Level:
        """The level that an override's value means, in the type that a configuration would have."""
        if self.quantity:
            for kind in (int, float):
                try:
                    return kind(text)
                except ValueError:
                    pass
        return text

    def ordered(self, levels: Iterable[Level]) -> list[Level]:
        """Each level once: a quantity's by size, others as they come."""
        found = list(dict.fromkeys(levels))
        return sorted(found, key=by_size) if self.quantity else found

    def drawn(self, levels: Iterable[Level]) -> list[Level]:
        """Each level once, in the order of figures."""
        found = self.ordered(levels)
        return found[::-1] if self.descending else found

    def named(self, level: Level) -> str:
        """The level with the factor's label: ``stride 8``, ``fusion sum``."""
        return f"{self.label} {level}"

    def in_name(self, level: Level) -> str:
        """The level as a part of a network's name: a value needs its key, the name of a group's choice does not."""
        return str(level) if self.config_path.endswith(".name") else f"{self.key}={level}"

    def subject(self, level: Level) -> str:
        """The level as the subject of a sentence: a number needs the label, a name does not."""
        return self.named(level) if self.quantity else str(level)


def by_size(level: Level) -> tuple[bool, float, str]:
    """To sort by: numbers by size, then what is no number."""
    number = isinstance(level, int | float)
    return not number, float(level) if number else 0.0, str(level)


SAME_WITHOUT_SKIPS = ("fusion", "model.stride", "model.taps", "model.narrow")  # made equal by identity.canonical
DECODER = Factor(
    "decoder", "decoder", "decoders",
    path="decoder.name", merged_keys=("decoder", "model.enlarge"),
)  # fmt: skip
FUSION = Factor(
    "fusion", "fusion", "fusions",
    path="fusion.name", merged_keys=SAME_WITHOUT_SKIPS, joins_skips=True,
)  # fmt: skip
STRIDE = Factor(
    "stride", "stride", "strides",
    override="model.stride", path="model.stride", quantity=True, descending=True, in_model_name=True,
    undefined_at=(("fusion", "none"),),  # the depth of a skip is a question only where there are skips
    merged_keys=SAME_WITHOUT_SKIPS, has_bound=True,
)  # fmt: skip
FACTORS = (DECODER, FUSION, STRIDE)


def in_order_of_names(factors: Sequence[Factor]) -> list[Factor]:
    """Those first that are written behind the model's name."""
    return sorted(factors, key=lambda one: not one.in_model_name)


def labels(factors: Iterable[Factor]) -> list[str]:
    """Their labels."""
    return [one.label for one in factors]


def named(levels: Mapping[str, Level], factors: Iterable[Factor]) -> str:
    """The levels of some factors in words: ``stride 8, fusion sum``."""
    return ", ".join(factor.named(levels[factor.key]) for factor in factors)
