"""The position of a run in the design: its level of each factor."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from segpipe.analysis.factors import FACTORS, KNOWN, MODEL, VIEW, Factor, in_order_of_names, make_factor
from segpipe.runs.cells import Cell, Place, without
from segpipe.runs.identity_keys import LOCATIONS
from segpipe.runs.labels import (
    NOT_SET,
    VIEW_WORDS,
    Level,
    Namer,
    base_model,
    full_name,
    override_values,
    short_keys,
    swept_levels,
    view_of,
)

Stratum = tuple[str, str, str]
ALL_GROUPS: Stratum = ("all groups", "", "")  # of the comparisons of factors whose levels are groups


class DesignPoint(NamedTuple):
    """A cell of the design without its seed.

    setting: the levels of the factors that form groups, on one line. view: how operators and sizes are matched. model:
    its name without the stride; empty if the model is one of ``factors``.
    levels: one for each of ``factors``. outer_levels: one for each of ``outer``, the factors that form groups. name:
    the label; empty makes it from the levels.
    """

    setting: str
    view: str
    model: str
    levels: tuple[Level, ...]
    factors: tuple[Factor, ...] = FACTORS
    outer_levels: tuple[Level, ...] = ()
    outer: tuple[Factor, ...] = ()
    name: str = ""

    @property
    def stratum(self) -> Stratum:
        """Setting, view and model: the cells of one stratum (a group) differ only in the factors."""
        return self[:3]

    def level(self, key: str) -> Level:
        """Return the level of the factor with this key."""
        return dict(zip((factor.key for factor in (*self.factors, *self.outer)), self.all_levels, strict=True))[key]

    @property
    def all_levels(self) -> tuple[Level, ...]:
        """The levels of all factors, then of those that form groups."""
        return (*self.levels, *self.outer_levels)

    @property
    def label(self) -> str:
        """The display name, for example ``fcn8s deconv sum``."""
        if self.name:
            return self.name
        levels = [(factor, self.level(factor.key)) for factor in in_order_of_names(self.factors)]
        suffix = "".join(str(level) for factor, level in levels if factor.in_model_name)
        model = f"fcn{suffix}s" if self.model == "fcn" else f"{self.model}{suffix}"
        others = [factor.in_name(level) for factor, level in levels if not factor.in_model_name]
        return " ".join(filter(None, [model, *others, VIEW_WORDS.get(self.view, self.view), self.setting]))


@dataclass
class CellLevels:
    """The levels of the cells of a folder.

    cells: the valid ones. columns: for each key that varies, the level of each of the cells; None where it is unknown,
    for a cell without a run. factors: the record of each key. hidden: keys that no override sets. swept: keys that are
    part of labels even if the cells that are left have one level.
    """

    cells: list[Cell]
    columns: dict[str, list[Level | None]]
    views: list[str]
    factors: dict[str, Factor]
    hidden: list[str] = field(default_factory=list)
    swept: set[str] = field(default_factory=set)

    def add(self, key: str, levels: Sequence[Level | None]) -> None:
        """Add a key in which runs differ although no override sets it."""
        self.columns[key] = [*levels]
        self.hidden.append(key)
        self.rename()

    def rename(self, given: Iterable[Factor] = ()) -> None:
        """Make the factors of all columns again. given: records that replace those of their keys."""
        short = short_keys(self.columns)
        own = {factor.key: factor for factor in (*self.factors.values(), *given) if factor.key not in self.hidden}
        self.factors = {
            key: own[key]
            if key in own and (key in KNOWN or own[key].label != own[key].key.rpartition(".")[2])
            else make_factor(key, [level for level in levels if level is not None], short[key])
            for key, levels in self.columns.items()
        }


def find_levels(
    all_cells: Sequence[Cell], configs: Mapping[str, Mapping[str, Any]], given: Sequence[Factor] = ()
) -> CellLevels:
    """Return the levels of all valid cells in each key that overrides vary.

    configs: configurations of finished runs by name, for values that the cells do not contain. given: factors that are
    part of the design even if they do not vary.
    """
    cells = [cell for cell in all_cells if not (cell.refused or cell.error)]
    finished = {without_seed(cell): configs[str(cell.run)] for cell in cells if str(cell.run) in configs}
    own = {str(cell.run): configs.get(str(cell.run), finished.get(without_seed(cell), {})) for cell in cells}
    columns: dict[str, list[Level | None]] = {key: [*levels] for key, levels in swept_levels(cells, own).items()}
    for factor in given:
        levels = [
            level_of_cell(factor, cell.choices, override_values(cell.overrides), own[str(cell.run)]) for cell in cells
        ]
        columns.pop(factor.override_key, None)
        columns[factor.key] = [*levels]
    for column in columns.values():
        for index, cell in enumerate(cells):
            if column[index] == NOT_SET and not own[str(cell.run)]:
                column[index] = None
    views = [view_of(cell, own[str(cell.run)]) for cell in cells]
    design = CellLevels(cells, columns, views, {factor.key: factor for factor in given})
    design.rename(given)
    return design


def without_seed(cell: Cell) -> Place:
    """Return the place of a cell without its seed, and without the places of files."""
    return without(cell.place, ("seed", *LOCATIONS))


def level_of_cell(
    factor: Factor, choices: Mapping[str, Any], overrides: Mapping[str, str], config: Mapping[str, Any]
) -> Level:
    """Return a level from the choices of the cell, else from its overrides, else from the configuration of its run."""
    if factor.key in choices:
        return factor.level(choices[factor.key])
    if factor.override_key in overrides:
        return factor.level_of_override(overrides[factor.override_key])
    return factor.level_in(config) if config else NOT_SET


class PlacedRun(NamedTuple):
    """A run at one of its design points. run: folder name."""

    point: DesignPoint
    seed: int
    run: str


def place(design: CellLevels, inner: Sequence[str]) -> list[PlacedRun]:
    """Return the runs of all cells with their design points.

    inner: keys of the factors of a group, in order; the cells of a group are equal in all other keys.
    """
    factors = tuple(design.factors[key] for key in inner)
    outer = tuple(factor for key, factor in design.factors.items() if key not in inner)
    known = [i for i in range(len(design.cells)) if all(levels[i] is not None for levels in design.columns.values())]
    columns: dict[str, list[Level]] = {
        key: [level for i in known if (level := levels[i]) is not None] for key, levels in design.columns.items()
    }
    varied = {key: levels for key, levels in columns.items() if len(set(levels)) > 1 or key in design.swept}
    base = base_model(str(design.cells[0].choices.get("model") or "")) if design.cells else ""
    namer = Namer(varied, base)
    placed = []
    for row, index in enumerate(known):
        cell, levels = design.cells[index], {key: column[row] for key, column in columns.items()}
        setting = " ".join(
            sorted(f"{factor.label}={levels[factor.key]}" for factor in outer if factor not in (MODEL, VIEW))
        )
        model = "" if MODEL in factors else str(levels.get("model", base_model(str(cell.choices.get("model") or ""))))
        point = DesignPoint(
            setting,
            "" if VIEW in factors else design.views[index],
            model,
            tuple(levels[key] for key in inner),
            factors,
            tuple(levels[factor.key] for factor in outer),
            outer,
            namer.label({key: levels[key] for key in varied}) or full_name(cell.choices),
        )
        placed.append(PlacedRun(point, cell.choices["seed"], str(cell.run)))
    return placed
