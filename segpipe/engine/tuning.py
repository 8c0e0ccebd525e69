"""Tuning: choose the level of a nuisance factor for each cell of a sweep, by validation scores of the tuning seeds."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from segpipe.config import stored
from segpipe.config.schema import MAX_SEED, allows, key_of
from segpipe.errors import UserError, nearest, pluralise
from segpipe.runs import cells, tuned_levels
from segpipe.runs.archive import as_folder
from segpipe.runs.labels import has_effect, is_content, is_finite, labels, parse_level, swept_levels
from segpipe.runs.records import Metrics, read_record
from segpipe.runs.run import PYTHON, Run, display_path, quote_override, shell_line, shell_word, typed_path
from segpipe.runs.storage import inside, write_text

ALL_SWEEPS = Path("outputs/sweeps")  # the folder of all sweeps, in the working folder
OUT = "tuned.cells"  # file of the chosen cells, in the sweep's folder
BEYOND = "beyond.cells"  # file of the next levels for cells that chose one at the edge of their grid, beside it
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

    @property
    def levels(self) -> list[Level]:
        """The levels that the sweep lists for this cell. A grid may have been extended for some cells only."""
        return [*{**dict.fromkeys(self.scores), **dict.fromkeys(level for level, _ in self.states)}]

    def seeds_of(self, level: Level) -> set[int]:
        """Return the seeds with a score."""
        return set(self.scores.get(level, {}))

    def waiting(self, seeds: list[int]) -> int:
        """Return the number of runs at its levels that have no score and may still get one."""
        return sum(
            self.states.get((level, seed)) not in ENDED and seed not in self.seeds_of(level)
            for level, seed in itertools.product(self.levels, seeds)
        )


Choice = tuned_levels.Choice[Level]


@dataclass
class Sweep:
    """The cells, levels and seeds of a sweep that is tuned.

    given: the folder or the archive that the user named. keys: the tuned keys. seeds: the tuning seeds. named: whether
    the sweep names them. fixed: the overrides that all cells share. config: of one of its runs, see ``config_of``.
    """

    given: Path
    folder: Path
    keys: list[str]
    cells: list[Tuning]
    levels: list[Level]
    seeds: list[int]
    named: bool
    fixed: list[str]
    config: DictConfig

    @property
    def is_archive(self) -> bool:
        """Whether the runs are in an archive, so that ``folder`` is a temporary one."""
        return self.folder != self.given


def read(folder: Path, keys: list[str]) -> Sweep:
    """Read the validation scores of a sweep's tuning seeds.

    Raises UserError where the folder is no sweep, where a key is not swept, or where no cell has a tuning seed.
    """
    given, folder = folder, as_folder(folder)
    all_cells = [cell for cell in cells.read(folder) if is_seed(cell.choices.get("seed"))]
    if not all_cells:
        raise UserError(f"{given}: no sweep.json with cells. Give the folder of a sweep, outputs/sweeps/NAME.")
    words = override_words(all_cells)
    values = {key: {each.get(key, "") for each in words} for key in dict.fromkeys(itertools.chain(*words))}
    swept = [key for key, distinct in values.items() if len(distinct) > 1 and has_effect(key) and key != "seed"]
    distinct_levels = swept_levels(all_cells)
    varying = [key for key in swept if key not in keys and (not is_content(key) or key in distinct_levels)]
    for key in keys:
        if key not in swept:
            raise UserError(f"{key}: not swept in {given}. Swept keys are {', '.join(swept)}.{nearest(key, swept)}")
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
        raise UserError(f"{given}: no cell has one of the tuning seeds {seed_list} yet. Run the sweep with them first.")
    valid = [tuning for tuning in tunings.values() if tuning.scores or {*tuning.states.values()} != {"refused"}]
    moved = [key for key in swept if is_content(key) and key not in (*keys, *varying)]  # their last place counts
    fixed = [
        word
        for key, word in words[-1].items()
        if (len(values[key]) == 1 or key in moved) and key not in (*keys, "seed")
    ]
    config = config_of(folder, all_cells)
    return Sweep(given, folder, keys, valid, sorted(levels, key=magnitude), seeds, bool(named), fixed, config)


def is_seed(value: object) -> bool:
    """Return whether a value is a seed. A cell with another one has a wrong value, and never gets a run."""
    return type(value) is int and 0 <= value <= MAX_SEED


def override_words(all_cells: Sequence[cells.Cell]) -> list[dict[str, str]]:
    """Return the overrides of each cell by key. Those with equal levels, such as 1e-3 and 0.001, are equal words."""
    first: dict[tuple[str, str], str] = {}
    return [
        {
            (key := key_of(word)): first.setdefault((key, repr(parse_level(word.partition("=")[2]))), word)
            for word in cell.overrides
        }
        for cell in all_cells
    ]


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


def next_value(value: float, neighbour: float, *, whole: bool) -> float | None:
    """Return the value beyond the edge of a grid, as far from the edge as its neighbour is, by ratio.

    It has the fewest digits that lie beyond the edge. whole: it is a whole number. None where there is none above 0.
    """
    if value <= 0 or neighbour <= 0:
        return None
    exact = value / neighbour * value
    if not is_finite(exact):
        return None
    rounded = [round(exact)] if whole else [float(f"{exact:.{digits}g}") for digits in range(1, 18)]
    return next((one for one in rounded if 0 < one < value < neighbour or one > value > neighbour), None)


def beyond(level: Level, levels: list[Level], config: DictConfig) -> dict[str, str]:
    """Return the overrides of a level at the edge of the tested grid, each with the next value beyond the edge.

    config: see ``schema.allows``; a value that is not allowed is left out.
    """
    next_words: dict[str, str] = {}
    for position, word in enumerate(level):
        numbers = sorted({number for one in levels if (number := as_number(one[position])) is not None})
        value = as_number(word)
        if value is None or len(numbers) < 2 or value not in (numbers[0], numbers[-1]):
            continue
        neighbour = numbers[1] if value == numbers[0] else numbers[-2]
        more = next_value(value, neighbour, whole=all(number.is_integer() for number in numbers))
        if more is not None and allows(config, key_of(word), more):
            next_words[word] = f"{key_of(word)}={more if isinstance(more, int) else format_number(more)}"
    return next_words


def format_number(value: float) -> str:
    """Return a number with as many digits as it has, ``3e-05`` or ``0.012``."""
    return next(text for digits in range(1, 18) if float(text := f"{value:.{digits}g}") == value)


def config_of(folder: Path, all_cells: Sequence[cells.Cell]) -> DictConfig:
    """Return the configuration of a finished run, for the types of its keys; an empty one where none can be read."""
    for cell in all_cells:
        if cells.status(folder, cell) == "finished":
            with suppress(UserError):
                return stored.read(Run(inside(folder, str(cell.run))))
            break
    return OmegaConf.create()


def join(values: Iterable[object]) -> str:
    """Return seeds or keys as text."""
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
        for level, seed in itertools.product(sorted(cell.levels, key=magnitude), sweep.seeds):
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
    for cell, word, more, _ in at_edges(sweep, choices):
        edges.setdefault((word, more), []).append(cell.label)
    for (word, more), names in edges.items():
        lines.append(f"At the edge of the grid: {word}, chosen for {'; '.join(names)}. Also try {more}.")
    return lines


def at_edges(sweep: Sweep, choices: list[Choice | None]) -> Iterator[tuple[Tuning, str, str, Level]]:
    """Yield each cell that chose a level at the edge of its own grid.

    With it: the override that is at the edge, the one beyond it, and the level with that one.
    """
    for cell, choice in zip(sweep.cells, choices, strict=True):
        if choice is not None:
            for edge, more in beyond(choice.level, cell.levels, sweep.config).items():
                yield cell, edge, more, tuple(more if word == edge else word for word in choice.level)


def as_value(text: str) -> str:
    """Return a text for Hydra's grammar, quoted if necessary."""
    return text if re.fullmatch(r"[\w./-]+", text, re.ASCII) else quote_override(text)


def name_of(folder: Path) -> str:
    """Return ``sweep.name`` of a sweep's folder: what follows outputs/sweeps, else the name of the folder."""
    _, found, name = folder.resolve().as_posix().rpartition("/outputs/sweeps/")
    return name if found else folder.resolve().name


def place_words(sweep: Sweep) -> list[str]:
    """Return the overrides by which a command adds runs to the folder of the sweep."""
    name = name_of(sweep.folder)
    words = [f"sweep.name={as_value(name)}"]
    if not sweep.is_archive and sweep.folder.resolve() != (ALL_SWEEPS / name).resolve():
        words.append(f"hydra.sweep.dir={as_value(display_path(sweep.folder.absolute()))}")
    return words


def restore_command(sweep: Sweep) -> str | None:
    """Return the command that makes a folder of an archive, to which runs can be added; None for a folder."""
    if not sweep.is_archive:
        return None
    target = shell_word(ALL_SWEEPS / name_of(sweep.folder))
    return f"{PYTHON} docs/sweeps/keep.py --restore {typed_path(sweep.given.absolute())} {target}"


def next_command(sweep: Sweep, file: Path) -> str:
    """Return the command that runs the chosen cells with five seeds that are not tuning seeds."""
    return command(sweep, file, [seed for seed in range(len(sweep.seeds) + 5) if seed not in sweep.seeds][:5])


def command(sweep: Sweep, file: Path, seeds: list[int]) -> str:
    """Return the command that adds the cells of a file to the sweep, with these seeds."""
    path = as_value(display_path(file.absolute()))
    given = [*sweep.fixed, *place_words(sweep), f"sweep.cells={path}", f"seed={','.join(map(str, seeds))}"]
    return f"{PYTHON} -m segpipe.train -m {shell_line([*cells.read_options(sweep.folder), *given])}"


def write(sweep: Sweep, choices: list[Choice | None], file: Path) -> None:
    """Write the chosen cells as lines of overrides, after comments about their origin."""
    lines = [
        f"the highest mean validation mIoU over the seeds {join(sweep.seeds)}. To run these cells:",
        next_command(sweep, file).replace(PYTHON, "python", 1),
    ]
    chosen = [
        [*cell.words, *choice.level] for cell, choice in zip(sweep.cells, choices, strict=True) if choice is not None
    ]
    write_cells(sweep, file, lines, chosen)


def write_beyond(sweep: Sweep, choices: list[Choice | None], file: Path) -> str | None:
    """Write the cells at the next level beyond the edge of their grid; return the command that runs them.

    None where no cell has chosen a level at the edge; then a file of an earlier choice is removed.
    """
    found = [[*cell.words, *level] for cell, _, _, level in at_edges(sweep, choices)]
    if not found:
        file.unlink(missing_ok=True)
        return None
    text = command(sweep, file, sweep.seeds)
    lines = [
        "cells that chose a level at the edge of their grid, at the next level:",
        text.replace(PYTHON, "python", 1),
    ]
    write_cells(sweep, file, lines, found)
    return text


def write_cells(sweep: Sweep, file: Path, lines: list[str], found: list[list[str]]) -> None:
    """Write cells as lines of overrides, after comments: their origin, and ``lines``."""
    arguments = shell_line([display_path(sweep.given.absolute()), *sweep.keys])
    if restore := restore_command(sweep):
        lines = [*lines, f"before, restore the archive: {restore.replace(PYTHON, 'python', 1)}"]
    origin = f"Chosen by `python -m segpipe.tune {arguments}` on {datetime.now():%Y-%m-%d %H:%M}:"
    comments = [f"# {line}" for line in (origin, *lines)]
    write_text(file, "\n".join([*comments, *(shell_line([*filter(None, words)]) for words in found)]) + "\n")
