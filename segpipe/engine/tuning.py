"""Tuning: choose the level of a nuisance factor for each cell of a sweep, by validation scores of the tuning seeds."""

import itertools
import math
import re
import shlex
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segpipe.config.schema import key_of
from segpipe.errors import UserError, nearest
from segpipe.runs import cells
from segpipe.runs.records import Metrics, read_record
from segpipe.runs.run import PYTHON, Run, display_path, quote_override
from segpipe.runs.storage import inside, write_text

OUT = "tuned.cells"  # file of the chosen cells, in the sweep's folder
ENDED = ("failed", "refused", "finished without a score")  # final states of a run
EXACT = 50_000  # up to this number, all resamples of seeds are enumerated; else DRAWN are drawn
DRAWN = 10_000

Level = tuple[str, ...]  # one override for each tuned key; an empty text where a cell does not set the key


@dataclass
class Tuning:
    """A cell without its tuned keys and its seed.

    words: the overrides that distinguish it from the others. scores: validation mIoU (0 to 1) by level and seed.
    states: the status of the runs without a score.
    """

    words: tuple[str, ...]
    scores: dict[Level, dict[int, float]] = field(default_factory=dict)
    states: dict[tuple[Level, int], str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The cell on one line."""
        return " ".join(self.words) or "the only cell"

    def seeds_of(self, level: Level) -> set[int]:
        """Return the seeds with a score."""
        return set(self.scores.get(level, {}))


@dataclass
class Choice:
    """The level chosen for a cell, and the seeds it was chosen on.

    other: the share of resamples of the seeds that choose another level; NaN with one seed. regret: the mIoU of the
    best level of each seed minus that of the chosen level, mean over seeds.
    """

    level: Level
    seeds: list[int]
    other: float
    regret: float


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
    tunings: dict[tuple[str, ...], Tuning] = {}
    levels: dict[Level, None] = {}
    for cell, each in zip(all_cells, words, strict=True):
        if (seed := cell.choices["seed"]) not in seeds:
            continue
        place = tuple(each[key] for key in varying if key in each)
        level = tuple(each.get(key, "") for key in keys)
        levels[level] = None
        tuning = tunings.setdefault(place, Tuning(place))
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
    """Return the level with the highest mean over the same seeds for all levels; None where no level can be compared.

    incomplete: compare all levels with any score, on the seeds that all these levels have. If False, compare only the
    levels that have every seed.
    """
    candidates = [level for level in levels if cell.seeds_of(level) >= set(seeds)]
    if incomplete:
        candidates = [level for level in levels if cell.seeds_of(level)]
        seeds = [seed for seed in seeds if all(seed in cell.seeds_of(level) for level in candidates)]
    if not candidates or not seeds:
        return None
    scores = np.array([[cell.scores[level][seed] for seed in seeds] for level in candidates])
    best = int(scores.mean(1).argmax())
    regret = float((scores.max(0) - scores[best]).mean())
    return Choice(candidates[best], seeds, share_of_others(scores, best), regret)


def share_of_others(scores: NDArray[np.float64], chosen: int) -> float:
    """Return the share of resamples of the seeds, with replacement, in which another level has a higher mean.

    scores: (levels, seeds). chosen: index of the chosen level. Few resamples are enumerated, else DRAWN are drawn. The
    share is NaN with one seed.
    """
    number = scores.shape[1]
    if number == 1:
        return float("nan")
    if number**number <= EXACT:
        drawn = np.array(list(itertools.product(range(number), repeat=number)))
    else:
        drawn = np.random.default_rng(0).integers(number, size=(DRAWN, number))
    means = scores[:, drawn].mean(2)
    return float((means.max(0) > means[chosen] + 1e-12).mean())


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
        lines.append(f"Chosen in {number} of {len(choices)} cells: {' '.join(level)}")
    edges: dict[tuple[str, str], list[str]] = {}
    for cell, choice in zip(sweep.cells, choices, strict=True):
        for edge in beyond(choice.level, sweep.levels).items() if choice else ():
            edges.setdefault(edge, []).append(cell.label)
    for (word, more), labels in edges.items():
        lines.append(f"At the edge of the grid: {word}, chosen for {'; '.join(labels)}. Also try {more}.")
    return lines


def as_value(text: str) -> str:
    """Return a text for Hydra's grammar, quoted if necessary."""
    return text if re.fullmatch(r"[\w./-]+", text, re.ASCII) else quote_override(text)


def next_command(sweep: Sweep, file: Path) -> str:
    """Return the command that runs the chosen cells with five seeds that are not tuning seeds."""
    free = [seed for seed in range(len(sweep.seeds) + 5) if seed not in sweep.seeds][:5]
    name, path = (as_value(text) for text in (sweep.folder.resolve().name, display_path(file.absolute())))
    given = [*sweep.fixed, f"sweep.name={name}", f"sweep.cells={path}"]
    return f"{PYTHON} -m segpipe.train -m {shlex.join([*given, 'seed=' + ','.join(map(str, free))])}"


def write(sweep: Sweep, choices: list[Choice | None], file: Path) -> None:
    """Write the chosen cells as lines of overrides, after comments about their origin."""
    arguments = shlex.join([display_path(sweep.folder.absolute()), *sweep.keys])
    lines = [
        f"# Chosen by `python -m segpipe.tune {arguments}` on {datetime.now():%Y-%m-%d %H:%M}:",
        f"# the highest mean validation mIoU over the seeds {join(sweep.seeds)}. To run these cells:",
        f"# {next_command(sweep, file).replace(PYTHON, 'python', 1)}",
    ]
    for cell, choice in zip(sweep.cells, choices, strict=True):
        if choice:
            lines.append(shlex.join([*cell.words, *filter(None, choice.level)]))
    write_text(file, "\n".join(lines) + "\n")
