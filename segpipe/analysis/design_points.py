"""Where a run stands in the design: the level of each factor, and what else was varied."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from segpipe.analysis.factors import FACTORS, Factor, Level, in_order_of_names
from segpipe.runs.cells import Cell

DESIGN_KEYS = {"seed", "model", "match", "budget", "decoder.smooth"}  # and the factors' own keys
NO_SETTING = (
    "sweep.",
    "logger",
    "trainer.",
    "resume",
    "run_dir",
    "hydra.",
    "data.workers",
    "data.root",
    "debug",
    "warm_start",
)
UNMATCHED, SMOOTHED = "unmodified operators", "every operator smoothed"
MATCHED = {"params": "equal parameters", "multiply_adds": "equal multiply-adds"}
FCN = r"fcn\d+s"  # models that differ in the stride alone


class DesignPoint(NamedTuple):
    """A cell of the design, less its seed.

    setting: what else was varied, as on the command line. levels: one for each of the factors.
    """

    setting: str
    view: str
    model: str
    levels: tuple[Level, ...]
    factors: tuple[Factor, ...] = FACTORS

    @property
    def stratum(self) -> tuple[str, str, str]:
        """Cells of one stratum differ in the factors only."""
        return self[:3]

    def level(self, key: str) -> Level:
        """The level of the factor with this key."""
        return dict(zip((factor.key for factor in self.factors), self.levels, strict=True))[key]

    @property
    def label(self) -> str:
        """A name that a reader can take apart."""
        levels = [(factor, self.level(factor.key)) for factor in in_order_of_names(self.factors)]
        behind = "".join(str(level) for factor, level in levels if factor.in_model_name)
        model = f"fcn{behind}s" if self.model == "fcn" else f"{self.model}{behind}"
        others = [factor.in_name(level) for factor, level in levels if not factor.in_model_name]
        view = {UNMATCHED: "", SMOOTHED: "smoothed"}.get(self.view, self.view)
        return " ".join(filter(None, [model, *others, view, self.setting]))


class Spot(NamedTuple):
    """One of the places of a run. setting: as in the place; told: keys of the design that an override sets."""

    place: DesignPoint
    seed: int
    run: str
    setting: dict[str, str]
    told: frozenset[str]


def keys(overrides: Iterable[str]) -> dict[str, str]:
    """What was overridden."""
    return {key.lstrip("+~"): value for key, _, value in (override.partition("=") for override in overrides)}


def format_setting(setting: Mapping[str, str]) -> str:
    """A setting on one line."""
    return " ".join(f"{key}={value}" for key, value in sorted(setting.items()))


def design_points(
    listed: list[Cell], configs: Mapping[str, Mapping[str, Any]], factors: Sequence[Factor] = FACTORS
) -> list[Spot]:
    """The places of all cells that mean something, by what their overrides say.

    configs: of finished runs by name, for what cells do not say themselves: what was matched, the levels of factors.
    """
    by = DESIGN_KEYS | {factor.override_key for factor in factors}
    given = [keys(cell.overrides) for cell in listed]
    varied = [
        {k: v for k, v in one.items() if k not in by - {"budget"} and not k.startswith(NO_SETTING)} for one in given
    ]
    constant = {item for item in varied[0].items() if all(item in one.items() for one in varied)} if varied else set()
    spots = []
    for cell, overrides, others in zip(listed, given, varied, strict=True):
        if cell.refused or cell.error:
            continue
        choices, config = cell.choices, configs.get(str(cell.run), {})
        smoothed = overrides.get("decoder.smooth", "null") != "null"  # unpool's own smoothing is part of it
        # A run may be of two cells, matched and not, and its configuration is that of one of them.
        match = choices["match"] if "match" in choices else config.get("match") if config else overrides.get("match")
        view = MATCHED.get(str(match), SMOOTHED if smoothed else UNMATCHED)
        setting = dict(others.items() - constant)
        if view not in MATCHED.values():
            setting.pop("budget", None)  # which says nothing here
        levels = tuple(level_of(factor, choices, overrides, config) for factor in factors)
        place = DesignPoint(format_setting(setting), view, model_of(choices["model"], factors), levels, tuple(factors))
        spots.append(Spot(place, choices["seed"], str(cell.run), setting, frozenset(overrides) & by))
    return spots


def level_of(
    factor: Factor, choices: Mapping[str, Any], overrides: Mapping[str, str], config: Mapping[str, Any]
) -> Level:
    """The level of a cell: by its choices, else by its overrides, else by the configuration of its run."""
    if factor.key in choices:
        return factor.level(choices[factor.key])
    if factor.override_key in overrides:
        return factor.level_of_override(overrides[factor.override_key])
    return factor.level_in(config)


def model_of(name: str, factors: Iterable[Factor]) -> str:
    """The model, less the stride in its name where the stride is a factor."""
    return "fcn" if any(factor.in_model_name for factor in factors) and re.fullmatch(FCN, name) else name
