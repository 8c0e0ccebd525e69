"""Choosing the level of a nuisance factor for each cell of a sweep, by the validation scores of its tuning seeds."""

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
from segpipe.engine.processes import quote_override
from segpipe.errors import UserError, nearest
from segpipe.runs import cells
from segpipe.runs.run import Run, display_path
from segpipe.runs.storage import read_json, write_text
from segpipe.runs.summary import PYTHON

OUT = "tuned.cells"  # in the sweep's folder: the file of the chosen cells
ENDED = ("failed", "refused", "finished without a score")  # states in which a run stays
EXACT = 50_000  # resamples of seeds that are enumerated; more are drawn
DRAWN = 10_000

Level = tuple[str, ...]  # overrides, one for each tuned key; empty where a cell has none


@dataclass
class Tuning:
    """A cell but for its tuned keys and its seed.

    words: the overrides that tell it from the others. scores: validation mIoU by level and seed; states: what became of
    the runs that have none.
    """

    words: tuple[str, ...]
    scores: dict[Level, dict[int, float]] = field(default_factory=dict)
    states: dict[tuple[Level, int], str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The cell on one line."""
        return " ".join(self.words) or "the only cell"

    def seeds_of(self, level: Level) -> set[int]:
        """The seeds whose runs are finished."""
        return set(self.scores.get(level, {}))


@dataclass
class Choice:
    """The level chosen for a cell, and the seeds that it was chosen on.

    other: the share of resamples of the seeds that would choose another level; NaN of one seed. regret: how much more
    the best level of each seed has, mean over seeds.
    """

    level: Level
    seeds: list[int]
    other: float
    regret: float


@dataclass
class Sweep:
    """What is tuned in a sweep.

    seeds: the tuning seeds; named: whether the sweep names them. fixed: the overrides that all cells share.
    """

    folder: Path
    keys: list[str]
    cells: list[Tuning]
    levels: list[Level]
    seeds: list[int]
    named: bool
    fixed: list[str]


def read(folder: Path, keys: list[str]) -> Sweep:
    """The validation scores of a sweep's tuning seeds. Raises UserError where there is nothing to choose from."""
    listed = cells.read(folder)
    if not listed:
        raise UserError(f"{folder}: no sweep.json that lists cells. Give a sweep's folder, outputs/sweeps/NAME.")
    words = [{key_of(word): word for word in cell.overrides} for cell in listed]
    values = {key: {each.get(key, "") for each in words} for key in dict.fromkeys(itertools.chain(*words))}
    varying = [key for key, found in values.items() if len(found) > 1 and key not in (*keys, "seed", "data.root")]
    for key in keys:
        if key == "seed" or len(values.get(key, ())) < 2:
            swept = [name for name, found in values.items() if len(found) > 1 and name != "seed"]
            raise UserError(f"{key}: not swept in {folder}. Swept are {', '.join(swept)}.{nearest(key, swept)}")
    named = cells.read_tuning_seeds(folder)
    seeds = sorted(named or {cell.choices["seed"] for cell in listed})
    found: dict[tuple[str, ...], Tuning] = {}
    levels: dict[Level, None] = {}
    for cell, each in zip(listed, words, strict=True):
        if (seed := cell.choices["seed"]) not in seeds:
            continue
        own = tuple(each[key] for key in varying if key in each)
        level = tuple(each.get(key, "") for key in keys)
        levels[level] = None
        tuning = found.setdefault(own, Tuning(own))
        state = cells.status(folder, cell)
        metrics = read_json(Run(folder / str(cell.run)).metrics) if state == "finished" else {}
        miou = metrics.get("val", {}).get("miou")
        if isinstance(miou, int | float) and np.isfinite(miou):
            tuning.scores.setdefault(level, {})[seed] = float(miou)
        else:
            tuning.states[level, seed] = ENDED[2] if state == "finished" else state
    if not found:
        said = ", ".join(map(str, seeds))
        raise UserError(f"{folder}: no cell has one of the tuning seeds {said} yet. Run the sweep with those first.")
    meant = [tuning for tuning in found.values() if tuning.scores or {*tuning.states.values()} != {"refused"}]
    fixed = [word for key, word in words[0].items() if len(values[key]) == 1 and key not in (*keys, "seed")]
    return Sweep(folder, keys, meant, sorted(levels, key=magnitude), seeds, bool(named), fixed)


def magnitude(level: Level) -> tuple[tuple[float, str], ...]:
    """What levels are sorted by: numbers by size, names behind them."""
    return tuple((math.inf if (number := as_number(word)) is None else number, word) for word in level)


def as_number(word: str) -> float | None:
    """The value of an override, if it is a number."""
    try:
        return float(word.partition("=")[2])
    except ValueError:
        return None


def choose(cell: Tuning, levels: list[Level], seeds: list[int], *, incomplete: bool = False) -> Choice | None:
    """The level with the highest mean over seeds, the same seeds for all levels; None where none can be compared.

    incomplete: compare all levels that have any run, on the seeds that all of these have; else only the levels
    that have every seed.
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
    """Of resamples of seeds, with replacement, the share in which another level has a higher mean.

    scores: (levels, seeds). Every resample is counted where they are few, else some are drawn. NaN of one seed.
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
    """The overrides of a level that lie at the edge of what was tried, each with the next value beyond it."""
    found: dict[str, str] = {}
    for position, word in enumerate(level):
        numbers = sorted({number for one in levels if (number := as_number(one[position])) is not None})
        own = as_number(word)
        if own is None or len(numbers) < 2 or own not in (numbers[0], numbers[-1]):
            continue
        neighbour = numbers[1] if own == numbers[0] else numbers[-2]
        if own > 0 and neighbour > 0:
            found[word] = f"{key_of(word)}={float(f'{own * own / neighbour:.1g}'):g}"
    return found


def join(values: list[int]) -> str:
    """Seeds as text."""
    return ", ".join(map(str, values))


def notes(sweep: Sweep, choices: list[Choice | None]) -> list[str]:
    """What a reader has to know of the choice: seeds, runs that are missing, edges."""
    found = [
        "another: how often resampled tuning seeds choose another level"
        + (" (not to be said of one seed)" if len(sweep.seeds) == 1 else "")
        + "; regret: what each seed's own best level has more, on the mean."
    ]
    if not sweep.named:
        found.append(
            f"The sweep names no tuning seeds (sweep.tuning_seeds), so all its seeds are taken: {join(sweep.seeds)}. "
            f"Compare the chosen cells on other seeds only."
        )
    for cell in sweep.cells:
        for level, seed in itertools.product(sweep.levels, sweep.seeds):
            if seed not in cell.seeds_of(level):
                state = cell.states.get((level, seed), "not listed")
                found.append(f"{state}: {cell.label} {' '.join(level)} seed={seed}")
    for cell, choice in zip(sweep.cells, choices, strict=True):
        if choice is None:
            found.append(f"Left out: {cell.label}: no level has the runs of all tuning seeds.")
        elif choice.seeds != sweep.seeds:
            found.append(f"Chosen on the seeds {join(choice.seeds)} only: {cell.label}")
    for level, number in Counter(choice.level for choice in choices if choice).most_common():
        found.append(f"Chosen in {number} of {len(choices)} cells: {' '.join(level)}")
    edges: dict[tuple[str, str], list[str]] = {}
    for cell, choice in zip(sweep.cells, choices, strict=True):
        for edge in beyond(choice.level, sweep.levels).items() if choice else ():
            edges.setdefault(edge, []).append(cell.label)
    for (word, more), labels in edges.items():
        found.append(f"At the grid's edge: {word}, chosen for {'; '.join(labels)}. Try {more} as well.")
    return found


def as_value(text: str) -> str:
    """A text as Hydra's grammar takes it."""
    return text if re.fullmatch(r"[\w./-]+", text) else quote_override(text)


def next_command(sweep: Sweep, file: Path) -> str:
    """The command that runs the chosen cells with five seeds that chose nothing."""
    free = [seed for seed in range(len(sweep.seeds) + 5) if seed not in sweep.seeds][:5]
    name, path = (as_value(text) for text in (sweep.folder.resolve().name, display_path(file.absolute())))
    given = [*sweep.fixed, f"sweep.name={name}", f"sweep.cells={path}"]
    return f"{PYTHON} -m segpipe.train -m {shlex.join([*given, 'seed=' + ','.join(map(str, free))])}"


def write(sweep: Sweep, choices: list[Choice | None], file: Path) -> None:
    """The chosen cells as lines of overrides, below comments that say where they come from."""
    about = shlex.join([display_path(sweep.folder.absolute()), *sweep.keys])
    lines = [
        f"# Chosen by `python -m segpipe.tune {about}` on {datetime.now():%Y-%m-%d %H:%M}:",
        f"# the highest mean validation mIoU over the seeds {join(sweep.seeds)}. To run these cells:",
        f"# {next_command(sweep, file).replace(PYTHON, 'python', 1)}",
    ]
    for cell, choice in zip(sweep.cells, choices, strict=True):
        if choice:
            lines.append(shlex.join([*cell.words, *filter(None, choice.level)]))
    write_text(file, "\n".join(lines) + "\n")
