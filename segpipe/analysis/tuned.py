"""Networks at the level of a nuisance factor that validation chose, on other seeds than they are judged on.

With tuning seeds (``sweep.tuning_seeds``), the level is chosen on them, and they enter no comparison. Without, seed s
is judged at the level that the other seeds choose. A level that is chosen and judged on the same seed would err.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segpipe.analysis.cell_list import Problem
from segpipe.analysis.design_points import CellLevels
from segpipe.analysis.factors import by_size
from segpipe.runs.labels import NOT_SET, Level, Namer, full_name
from segpipe.runs.tuned_levels import Choice, at_edge, choose

Levels = tuple[Level | None, ...]  # one for each tuned key


@dataclass(frozen=True)
class TunedCell:
    """A cell without the tuned keys, and the level that was chosen for it.

    label: its label. choice: on all seeds that choose; on the finished ones if the cell has judged runs only at the
    level that these choose; None if no level can be chosen. scores: validation mIoU by level and seed, of these seeds.
    by_seed: the level at which each seed is judged. edge: whether the level is at the edge of the numbers that were
    tested for this cell.
    """

    label: str
    choice: Choice[Levels] | None
    scores: dict[Levels, dict[int, float]]
    by_seed: dict[int, Levels]
    edge: bool

    @property
    def means(self) -> dict[Levels, float]:
        """The mean validation mIoU by level."""
        return {level: sum(values.values()) / len(values) for level, values in self.scores.items()}

    @property
    def changes(self) -> int:
        """The number of seeds that are judged at another level than the one that all seeds choose."""
        return sum(self.choice is not None and level != self.choice.level for level in self.by_seed.values())


@dataclass
class Tuned:
    """How the levels of the tuned keys were chosen.

    keys: their keys; names: their labels. seeds: the tuning seeds; empty if each seed is judged at the level that the
    others choose. levels: all that were tested, in order.
    """

    keys: list[str]
    names: list[str]
    seeds: list[int]
    levels: list[Levels]
    cells: list[TunedCell] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The tuned keys in words."""
        return " and ".join(self.names)

    def text(self, levels: Levels | None) -> str:
        """Return a level as text."""
        return "none" if levels is None else ", ".join(map(str, levels))


def at_chosen_levels(
    design: CellLevels,
    keys: Sequence[str],
    tuning_seeds: Sequence[int],
    val: Mapping[str, float],
    problems: list[Problem],
) -> Tuned:
    """Keep the cells of a design that are judged at their chosen level, and remove the tuned keys from it.

    keys: columns of the design. val: validation mIoU of finished runs. Adds a problem for each run that is not used,
    and for each cell without a run at its chosen level.
    """
    rows = range(len(design.cells))
    others = [key for key in design.columns if key not in keys]
    place_of = [tuple(design.columns[key][row] for key in others) for row in rows]
    level_of: list[Levels] = [tuple(design.columns[key][row] for key in keys) for row in rows]
    seed_of = [int(cell.choices["seed"]) for cell in design.cells]
    known = {key: [NOT_SET if level is None else level for level in design.columns[key]] for key in others}
    namer = Namer(known) if others else None
    numbers = {level: index for index, level in enumerate(sorted(set(level_of), key=sort_key))}
    seeds = [seed for seed in tuning_seeds if seed in seed_of and set(seed_of) - {*tuning_seeds}]
    tuned = Tuned([*keys], [design.factors[key].label for key in keys], sorted(seeds), [*numbers])
    scores: dict[tuple[Any, ...], dict[Levels, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row, cell in enumerate(design.cells):
        if str(cell.run) in val:
            scores[place_of[row]][level_of[row]][seed_of[row]] = val[str(cell.run)]
    judged = [seed for seed in dict.fromkeys(seed_of) if seed not in seeds]
    chosen: dict[tuple[Any, ...], TunedCell] = {}
    for row in rows:
        place = place_of[row]
        if place not in chosen:
            levels = {key: column[row] for key, column in known.items()}
            label = namer.label(levels) if namer else full_name(design.cells[row].choices)
            chosen[place] = choose_for_cell(label, scores[place], tuned, judged)
    tuned.cells = [*chosen.values()]
    kept = [
        row
        for row in rows
        if seed_of[row] in judged and chosen[place_of[row]].by_seed.get(seed_of[row]) == level_of[row]
    ]
    add_problems(design, tuned, [chosen[place] for place in place_of], level_of, {*kept}, problems, finished=val)
    with_runs = {place_of[row] for row in kept}
    for place in [place for place, one in chosen.items() if one.by_seed and place not in with_runs]:
        row = place_of.index(place)
        design.cells[row] = design.cells[row]._replace(run=f"not run {row}")  # so that its contexts count as excluded
        kept.append(row)
    kept.sort()
    design.cells = [design.cells[row] for row in kept]
    design.views = [design.views[row] for row in kept]
    compared = [row for row in rows if seed_of[row] in judged]
    varying = [key for key in others if len({design.columns[key][row] for row in compared}) > 1]
    design.columns = {key: [design.columns[key][row] for row in kept] for key in varying}
    design.swept = {*varying}
    design.rename()
    return tuned


def sort_key(levels: Levels) -> tuple[tuple[bool, float, str], ...]:
    """Return the sort key of a level: numbers by size, then texts."""
    return tuple(by_size(NOT_SET if level is None else level) for level in levels)


def choose_for_cell(
    label: str, scores: Mapping[Levels, Mapping[int, float]], tuned: Tuned, judged: Sequence[int]
) -> TunedCell:
    """Return the chosen level of a cell, and the level at which each of its seeds is judged.

    scores: validation mIoU by level and seed. judged: the seeds that are compared.
    """
    seeds = tuned.seeds or judged
    choice = choose(scores, tuned.levels, seeds, incomplete=not tuned.seeds)
    judged_at = {level for level, values in scores.items() if values.keys() & {*judged}}
    if choice is None or choice.level not in judged_at:  # segpipe.tune --incomplete may have chosen another level
        partial = choose(scores, tuned.levels, seeds, incomplete=True)
        choice = partial if partial is not None and partial.level in judged_at else choice
    by_seed: dict[int, Levels] = {}
    for seed in judged:
        if tuned.seeds:
            one = choice
        else:  # only levels that have a run of this seed; the seed itself has no vote
            of_seed = {level: values for level, values in scores.items() if seed in values}
            one = choose(of_seed, tuned.levels, [other for other in judged if other != seed], incomplete=True)
        if one is not None:
            by_seed[seed] = one.level
    of_seeds = {
        level: {seed: values[seed] for seed in known}
        for level, values in scores.items()
        if (known := [seed for seed in seeds if seed in values])
    }
    edge = choice is not None and any(
        at_edge(level, [one[position] for one in scores]) for position, level in enumerate(choice.level)
    )
    return TunedCell(label, choice, of_seeds, by_seed, edge)


def add_problems(
    design: CellLevels,
    tuned: Tuned,
    cells: Sequence[TunedCell],
    level_of: Sequence[Levels],
    kept: set[int],
    problems: list[Problem],
    *,
    finished: Mapping[str, float],
) -> None:
    """Add a problem for each finished run that is not used, and for each seed without a run at the chosen level."""
    used = {str(design.cells[row].run) for row in kept}
    for row, (cell, tuned_cell) in enumerate(zip(design.cells, cells, strict=True)):
        if str(cell.run) in used or str(cell.run) not in finished:
            continue
        seed = int(cell.choices["seed"])
        if seed in tuned.seeds:
            reason = f"tuning seed; {tuned.name} was chosen on it, so it is excluded from all comparisons"
        elif seed not in tuned_cell.by_seed:
            reason = f"no level of {tuned.name} could be chosen for it: the runs of the other seeds are missing"
        else:
            at = tuned.text(tuned_cell.by_seed[seed])
            reason = f"judged at the chosen level, {tuned.name} {at}, not at {tuned.text(level_of[row])}; excluded"
        problems.append(Problem("tuned", str(cell.run), reason))
    have = {(id(cells[row]), int(design.cells[row].choices["seed"])) for row in kept}
    for tuned_cell in {id(one): one for one in cells}.values():
        for seed, level in tuned_cell.by_seed.items():
            if (id(tuned_cell), seed) not in have:
                reason = f"no run at the chosen level, {tuned.name} {tuned.text(level)}"
                problems.append(Problem("missing", f"{tuned_cell.label} seed={seed}", reason))
