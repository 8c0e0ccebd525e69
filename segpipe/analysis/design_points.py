"""The position of a run in the design: its level of each factor, and the other settings that were varied."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from segpipe.analysis.factors import FACTORS, Factor, Level, in_order_of_names
from segpipe.runs.cells import Cell

DESIGN_KEYS = {"seed", "model", "match", "budget", "decoder.smooth"}  # and the keys of the factors
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
FCN = r"fcn\d+s"  # models that differ only in the stride


class DesignPoint(NamedTuple):
    """A cell of the design without its seed.

    setting: other overrides that vary, as on the command line. view: how operators and sizes are matched.
    levels: one for each factor.
    """

    setting: str
    view: str
    model: str
    levels: tuple[Level, ...]
    factors: tuple[Factor, ...] = FACTORS

    @property
    def stratum(self) -> tuple[str, str, str]:
        """Setting, view and model: the cells of one stratum differ only in the factors."""
        return self[:3]

    def level(self, key: str) -> Level:
        """Return the level of the factor with this key."""
        return dict(zip((factor.key for factor in self.factors), self.levels, strict=True))[key]

    @property
    def label(self) -> str:
        """The display name, for example ``fcn8s deconv sum``."""
        levels = [(factor, self.level(factor.key)) for factor in in_order_of_names(self.factors)]
        suffix = "".join(str(level) for factor, level in levels if factor.in_model_name)
        model = f"fcn{suffix}s" if self.model == "fcn" else f"{self.model}{suffix}"
        others = [factor.in_name(level) for factor, level in levels if not factor.in_model_name]
        view = {UNMATCHED: "", SMOOTHED: "smoothed"}.get(self.view, self.view)
        return " ".join(filter(None, [model, *others, view, self.setting]))


class PlacedRun(NamedTuple):
    """A run at one of its design points.

    run: folder name. setting: as in the point. overridden: keys of the design that an override sets.
    """

    point: DesignPoint
    seed: int
    run: str
    setting: dict[str, str]
    overridden: frozenset[str]


def keys(overrides: Iterable[str]) -> dict[str, str]:
    """Return the values of overrides by key."""
    return {key.lstrip("+~"): value for key, _, value in (override.partition("=") for override in overrides)}


def format_setting(setting: Mapping[str, str]) -> str:
    """Return a setting on one line."""
    return " ".join(f"{key}={value}" for key, value in sorted(setting.items()))


def design_points(
    all_cells: list[Cell], configs: Mapping[str, Mapping[str, Any]], factors: Sequence[Factor] = FACTORS
) -> list[PlacedRun]:
    """Return the runs of all valid cells with their design points, according to the overrides of the cells.

    configs: configurations of finished runs by name. They are used for values that the cells do not contain: what was
    matched, and levels of factors.
    """
    design_keys = DESIGN_KEYS | {factor.override_key for factor in factors}
    overrides_of_cells = [keys(cell.overrides) for cell in all_cells]
    varied = [
        {k: v for k, v in one.items() if k not in design_keys - {"budget"} and not k.startswith(NO_SETTING)}
        for one in overrides_of_cells
    ]
    constant = {item for item in varied[0].items() if all(item in one.items() for one in varied)} if varied else set()
    placed_runs = []
    for cell, overrides, others in zip(all_cells, overrides_of_cells, varied, strict=True):
        if cell.refused or cell.error:
            continue
        choices, config = cell.choices, configs.get(str(cell.run), {})
        smoothed = (
            overrides.get("decoder.smooth", "null") != "null"
        )  # unpool's default smoothing is part of the operator
        # A run may be two cells, matched and not matched; its configuration is that of one of them.
        match = choices["match"] if "match" in choices else config.get("match") if config else overrides.get("match")
        view = MATCHED.get(str(match), SMOOTHED if smoothed else UNMATCHED)
        setting = dict(others.items() - constant)
        if view not in MATCHED.values():
            setting.pop("budget", None)  # without matching, a budget has no effect
        levels = tuple(level_of(factor, choices, overrides, config) for factor in factors)
        point = DesignPoint(format_setting(setting), view, model_of(choices["model"], factors), levels, tuple(factors))
        placed_runs.append(
            PlacedRun(point, choices["seed"], str(cell.run), setting, frozenset(overrides) & design_keys)
        )
    return placed_runs


def level_of(
    factor: Factor, choices: Mapping[str, Any], overrides: Mapping[str, str], config: Mapping[str, Any]
) -> Level:
    """Return a level from the choices of the cell, else from its overrides, else from the configuration of its run."""
    if factor.key in choices:
        return factor.level(choices[factor.key])
    if factor.override_key in overrides:
        return factor.level_of_override(overrides[factor.override_key])
    return factor.level_in(config)


def model_of(name: str, factors: Iterable[Factor]) -> str:
    """Return the model's name, without the stride if the stride is a factor."""
    return "fcn" if any(factor.in_model_name for factor in factors) and re.fullmatch(FCN, name) else name
