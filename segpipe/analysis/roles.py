"""Which factors are drawn, which ones are averaged over, and which ones form groups that are shown separately."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from segpipe.analysis.design_points import CellLevels
from segpipe.errors import UserError, nearest
from segpipe.runs.labels import DECODER, FUSION, MODEL, STRIDE, VIEW, is_group, level_of_value, short_keys

MOST_DRAWN = 3  # rows, columns and panels of a figure


class Roles(NamedTuple):
    """The roles of factors as a user gives them, by key or by the end of a key.

    drawn: None takes the factors with the largest effects. averaged: not drawn; differences are means over their
    levels.
    """

    drawn: Sequence[str] | None = None
    averaged: Sequence[str] = ()


def choose_roles(
    design: CellLevels, roles: Roles | None, val: Mapping[str, float], given: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Return the keys of the factors of a group of cells, the drawn ones first, and those of the averaged ones.

    val: validation scores of runs, by which the factors with the largest effects are chosen. given: keys of factors
    that a caller in Python gave. Cells that differ in any other key are in different groups.
    Raises UserError for a key that does not vary, and for more than MOST_DRAWN keys.
    """
    if given:
        return [*given], []
    roles = roles or Roles()
    if not design.columns:  # one cell: figures need a factor, even with one level
        design.columns[DECODER] = [level_of_value(cell.choices.get(DECODER)) for cell in design.cells]
        design.rename()
    averaged = [find_key(design, key, "--average") for key in roles.averaged]
    candidates = sorted((key for key in design.factors if key not in averaged), key=drawing_order)
    if not candidates:
        raise UserError(f"--average {' '.join(roles.averaged)}: the cells differ in nothing else. Leave one factor.")
    if roles.drawn is not None:
        drawn = list(dict.fromkeys(find_key(design, key, "--factors") for key in roles.drawn))
        if len(drawn) > MOST_DRAWN:
            raise UserError(
                f"--factors {','.join(roles.drawn)}: at most {MOST_DRAWN} factors can be drawn. Cells that differ in "
                f"another factor are shown in separate groups; --average KEY averages over it."
            )
        if both := [key for key in drawn if key in averaged]:
            raise UserError(f"{both[0]} is given in --factors and in --average. Give it in one of the two.")
        return [*drawn, *averaged], averaged
    without_views = [key for key in candidates if key != VIEW]
    candidates = without_views or candidates
    if len(candidates) > MOST_DRAWN:
        sizes = {key: effect(design, key, val) for key in candidates}
        largest = sorted(candidates, key=lambda key: -sizes[key])[:MOST_DRAWN]
        candidates = [key for key in candidates if key in largest]
    return [*candidates, *averaged], averaged


def drawing_order(key: str) -> int:
    """Return the sort key of factors in figures: operators, then other groups, then what is best on an axis."""
    order = {DECODER: 0, FUSION: 1, MODEL: 3, STRIDE: 4, VIEW: 6}
    return order.get(key, 2 if is_group(key) else 5)


def find_key(design: CellLevels, name: str, option: str) -> str:
    """Return the key of a factor by its key or its label. Raises UserError if there is none."""
    names = {short: key for key, short in short_keys(design.factors).items()}
    names |= {name: key for key, factor in design.factors.items() for name in (key, factor.override_key)}
    if name in names:
        return names[name]
    keys = ", ".join(design.factors) or "none"
    raise UserError(
        f"{option} {name}: the cells do not differ in this key. They differ in: {keys}.{nearest(name, [*names])}"
    )


def effect(design: CellLevels, key: str, val: Mapping[str, float]) -> float:
    """Return the range of the mean validation scores over the levels of a factor: the size of its effect."""
    by_level: dict[object, list[float]] = {}
    for cell, level in zip(design.cells, design.columns[key], strict=True):
        if str(cell.run) in val:
            by_level.setdefault(level, []).append(val[str(cell.run)])
    means = [float(np.mean(values)) for values in by_level.values()]
    return max(means) - min(means) if means else 0.0
