"""Tuning: choose the level of a nuisance factor for each cell of a sweep, by validation scores of the tuning seeds."""

import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

from segpipe.config.schema import key_of
from segpipe.errors import UserError, nearest, pluralise
from segpipe.runs import cells, tuned_levels
from segpipe.runs.archive import as_folder
from segpipe.runs.labels import labels
from segpipe.runs.records import Metrics, read_record
from segpipe.runs.run import PYTHON, Run, display_path, quote_override, shell_line
from segpipe.runs.storage import inside, write_text

OUT = "tuned.cells"  # file of the chosen cells, in the sweep's folder
ENDED = ("failed", "refused", "finished without a score")  # final states of a run

Level = tuple[str, ...]  # one override for each tuned key; an empty text where a cell does not set the key


@dataclass
class Tuning:
    """A cell without its tuned keys and its seed.

    words: the overrides that distinguish it from the others. name: its label. scores: validation mIoU (0 to 1) by
    level and seed. states: the status of the runs without a score.
    """

    words: tuple[str, ...]
    scores: dict[Level, dict[int, float]] = field(default_factory=dict)
    states: dict[tuple[Level, int], str] = field(default_factory=dict)
    name: str = ""

    @property
    def label(self) -> str:
        """The cell on one line."""
        return self.name or " ".join(self.words) or "the only cell"

    def seeds_of(self, level: Level) -> set[int]:
        """Return the seeds with a score."""
        return set(self.scores.get(level, {}))


Choice = tuned_levels.Choice[Level]


@dataclass
class Sweep:
    """The cells, levels and seeds of a sweep that is tuned.

    keys: the tuned keys. seeds: the tuning seeds. named: whether the sweep names them. fixed: the overrides that all
    cells share.
    """

    folder: Path
    keys: list[str]
    cells: list[Tuning]
    levels: list[Level]
    seeds: list[int]
    named: bool
    fixed: list[str]


def read(folder: Path, keys: list[str]) -> Sweep:
    """Read the validation scores of a sweep's tuning seeds.

    Raises UserError where the folder is no sweep, where a key is not swept, or where no cell has a tuning seed.
    """
    folder = as_folder(folder)
    all_cells = cells.read(folder)
    if not all_cells:
        raise UserError(f"{folder}: no sweep.json with cells. Give the folder of a sweep, outputs/sweeps/NAME.")
    words = [{key_of(word): word for word in cell.overrides} for cell in all_cells]
    values = {key: {each.get(key, "") for each in words} for key in dict.fromkeys(itertools.chain(*words))}
    varying = [key for key, distinct in values.items() if len(distinct) > 1 and key not in (*keys, "seed", "data.root")]
    for key in keys:
        if key == "seed" or len(values.get(key, ())) < 2:
            swept = [name for name, distinct in values.items() if len(distinct) > 1 and name != "seed"]
            raise UserError(f"{key}: not swept in {folder}. Swept keys are {', '.join(swept)}.{nearest(key, swept)}")
    named = cells.read_tuning_seeds(folder)
    seeds = sorted(named or {cell.choices["seed"] for cell in all_cells})
    names = labels(all_cells, without=keys, with_seed=False)
    tunings: dict[tuple[str, ...], Tuning] = {}
    levels: dict[Level, None] = {}
    for cell, each, name in zip(all_cells, words, names, strict=True):
        if (seed := cell.choices["seed"]) not in seeds:
            continue
        place = tuple(each[key] for key in varying if key in each)
        level = tuple(each.get(key, "") for key in keys)
        levels[level] = None
        tuning = tunings.setdefault(place, Tuning(place, name=name))
        state = cells.status(folder, cell)
        metrics = read_record(Run(inside(folder, str(cell.run))).metrics, Metrics) if state == "finished" else {}
        miou = metrics.get("val", {}).get("miou")
        if isinstance(miou, int | float) and np.isfinite(miou):
            tuning.scores.setdefault(level, {})[seed] = float(miou)
        else:
            tuning.states[level, seed] = ENDED[2] if state == "finished" else state
    if not tunings:
        seed_list = ", ".join(map(str, seeds))
        raise UserError(
            f"{folder}: no cell has one of the tuning seeds {seed_list} yet. Run the sweep with them first."
        )
    valid = [tuning for tuning in tunings.values() if tuning.scores or {*tuning.states.values()} != {"refused"}]
    fixed = [word for key, word in words[0].items() if len(values[key]) == 1 and key not in (*keys, "seed")]
    return Sweep(folder, keys, valid, sorted(levels, key=magnitude), seeds, bool(named), fixed)


def magnitude(level: Level) -> tuple[tuple[float, str], ...]:
    """Return the sort key of a level: numbers by size, then other values by name."""
    return tuple((math.inf if (number := as_number(word)) is None else number, word) for word in level)


def as_number(word: str) -> float | None:
    """Return the value of an override if it is a number, else None."""
    try:
        return float(word.partition("=")[2])
    except ValueError:
        return None


def choose(cell: Tuning, levels: list[Level], seeds: list[int], *, incomplete: bool = False) -> Choice | None:
    """Return the level with the highest mean over the seeds; see ``tuned_levels.choose``."""
    return tuned_levels.choose(cell.scores, levels, seeds, incomplete=incomplete)


def beyond(level: Level, levels: list[Level]) -> dict[str, str]:
    """Return the overrides of a level at the edge of the tested grid, each with the next value beyond the edge."""
    next_words: dict[str, str] = {}
    for position, word in enumerate(level):
        numbers = sorted({number for one in levels if (number := as_number(one[position])) is not None})
        value = as_number(word)
        if value is None or len(numbers) < 2 or value not in (numbers[0], numbers[-1]):
            continue
        neighbour = numbers[1] if value == numbers[0] else numbers[-2]
        if value > 0 and neighbour > 0:
            next_words[word] = f"{key_of(word)}={float(f'{value * value / neighbour:.1g}'):g}"
    return next_words


def join(values: list[int]) -> str:
    """Return seeds as text."""
    return ", ".join(map(str, values))


def notes(sweep: Sweep, choices: list[Choice | None]) -> list[str]:
    """Return notes on the choice: the seeds, missing runs, and levels at the edge of the grid."""
    lines = [
        "changes: how often the choice changes when the tuning seeds are resampled"
        + (" (unknown with one seed)" if len(sweep.seeds) == 1 else "")
        + "; regret: mIoU of each seed's best level minus that of the chosen level, mean over seeds."
    ]
    if not sweep.named:
        lines.append(
            f"The sweep names no tuning seeds (sweep.tuning_seeds), so all its seeds are used: {join(sweep.seeds)}. "
            f"Compare the chosen cells only on other seeds."
        )
    for cell in sweep.cells:
        for level, seed in itertools.product(sweep.levels, sweep.seeds):
            if seed not in cell.seeds_of(level):
                state = cell.states.get((level, seed), "not listed")
                lines.append(f"{state}: {cell.label} {' '.join(level)} seed={seed}")
    for cell, choice in zip(sweep.cells, choices, strict=True):
        if choice is None:
            lines.append(f"No choice: {cell.label}: no level has the runs of all tuning seeds.")
        elif choice.seeds != sweep.seeds:
            lines.append(f"Chosen only on the seeds {join(choice.seeds)}: {cell.label}")
    for level, number in Counter(choice.level for choice in choices if choice).most_common():
        lines.append(f"Chosen in {number} of {pluralise(len(choices), 'cell')}: {' '.join(level)}")
    edges: dict[tuple[str, str], list[str]] = {}
    for cell, choice in zip(sweep.cells, choices, strict=True):
        for edge in beyond(choice.level, sweep.levels).items() if choice else ():
            edges.setdefault(edge, []).append(cell.label)
    for (word, more), names in edges.items():
        lines.append(f"At the edge of the grid: {word}, chosen for {'; '.join(names)}. Also try {more}.")
    return lines


def as_value(text: str) -> str:
    """Return a text for Hydra's grammar, quoted if necessary."""
    return text if re.fullmatch(r"[\w./-]+", text, re.ASCII) else quote_override(text)


def name_of(folder: Path) -> str:
    """Return ``sweep.name`` of a sweep's folder: what follows outputs/sweeps, else the name of the folder."""
    _, found, name = folder.resolve().as_posix().rpartition("/outputs/sweeps/")
    return name if found else folder.resolve().name


def next_command(sweep: Sweep, file: Path) -> str:
    """Return the command that runs the chosen cells with five seeds that are not tuning seeds."""
    free = [seed for seed in range(len(sweep.seeds) + 5) if seed not in sweep.seeds][:5]
    name, path = (as_value(text) for text in (name_of(sweep.folder), display_path(file.absolute())))
    given = [*sweep.fixed, f"sweep.name={name}", f"sweep.cells={path}"]
    options = cells.read_options(sweep.folder)
    return f"{PYTHON} -m segpipe.train -m {shell_line([*options, *given, 'seed=' + ','.join(map(str, free))])}"


def write(sweep: Sweep, choices: list[Choice | None], file: Path) -> None:
    """Write the chosen cells as lines of overrides, after comments about their origin."""
    arguments = shell_line([display_path(sweep.folder.absolute()), *sweep.keys])
    lines = [
        f"# Chosen by `python -m segpipe.tune {arguments}` on {datetime.now():%Y-%m-%d %H:%M}:",
        f"# the highest mean validation mIoU over the seeds {join(sweep.seeds)}. To run these cells:",
        f"# {next_command(sweep, file).replace(PYTHON, 'python', 1)}",
    ]
    for cell, choice in zip(sweep.cells, choices, strict=True):
        if choice:
            lines.append(shell_line([*cell.words, *filter(None, choice.level)]))
    write_text(file, "\n".join(lines) + "\n")
