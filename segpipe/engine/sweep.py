"""The jobs of a sweep: Hydra's product of swept keys, or the lines of ``sweep.cells`` combined with that product."""

import math
import shlex
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from segpipe.config.messages import explain
from segpipe.config.schema import key_of
from segpipe.errors import UserError
from segpipe.runs.storage import is_component

NOT_IN_A_LINE = ("hydra", "sweep.", "run_dir", "resume")  # keys of how and where a sweep runs


def names_class(target: str, of: type) -> bool:
    """Whether a ``_target_`` names a class of Hydra's; Hydra imports plugins twice, so classes are not identical."""
    return target == f"{of.__module__}.{of.__qualname__}"


class SweepCallback(Callback):
    """Hydra's callback at the start of a sweep. It stores the folder of the sweep and the number of jobs to come."""

    folder: ClassVar[Path | None] = None
    name: ClassVar[str] = ""
    jobs: ClassVar[int] = 0
    empty: ClassVar[list[str]] = []  # swept overrides that select nothing, such as decoder=glob(x*)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See Callback. The number of jobs is 0 where the sweeper does not know it in advance."""
        SweepCallback.folder = Path(config.hydra.sweep.dir)
        SweepCallback.name = str(OmegaConf.select(config, "sweep.name"))
        target = config.hydra.sweeper._target_
        if not names_class(target, BasicSweeper):
            return
        # Hydra accepts a sweeper only by a name in its own packages, so CellsSweeper is registered under that name.
        plugins = Plugins.instance().class_name_to_class
        if OmegaConf.select(config, "sweep.cells"):
            plugins[target] = CellsSweeper
            return
        if plugins.get(target) is CellsSweeper:
            plugins[target] = get_class(target)
        params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
        hydra = GlobalHydra.instance()  # glob() asks its loader for the choices of a group
        parser = OverridesParser.create(hydra.config_loader() if hydra.is_initialized() else None)
        given = parser.parse_overrides([*params, *config.hydra.overrides.task])
        choices = {one.key_or_group: one for one in given}  # the last override of a key counts
        swept = [one for one in choices.values() if one.is_sweep_override()]
        numbers = {str(one.input_line): len(list(one.sweep_iterator())) for one in swept}
        SweepCallback.empty = [line for line, number in numbers.items() if not number]
        SweepCallback.expect(math.prod(numbers.values()))

    @classmethod
    def expect(cls, jobs: int) -> None:
        """Store and print the number of jobs to come."""
        cls.jobs = jobs
        print(f"Checking {jobs} cells.", flush=True)  # Hydra composes all of them before the first one starts


class Line(NamedTuple):
    """A line of a ``sweep.cells`` file. where: file and line number, for messages. words: the overrides."""

    where: str
    words: list[str]


def check_name(name: object) -> None:
    """Raise UserError for a ``sweep.name`` that is not the path of a folder below that of all sweeps."""
    if not isinstance(name, str | int) or not all(is_component(part) for part in str(name).split("/")):
        raise UserError(
            f"sweep.name={'' if name is None else name}: allowed is the name of a folder, NAME or GROUP/NAME. The "
            f"sweep is written to outputs/sweeps/NAME; for another place, give hydra.sweep.dir=FOLDER."
        )


def read_lines(path: Path) -> list[Line]:
    """Read the lines of a file. Overrides are split as by a shell, and ``#`` starts a comment.

    Raises UserError with the file and the line where the file is not a list of different cells.
    """
    try:
        content = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise UserError(
            f"sweep.cells={path}: {reason}. Give a text file with one line of overrides for each cell, such as "
            f"'decoder=deconv optimizer.lr=1e-3'; segpipe.tune writes such a file."
        ) from error
    lines: list[Line] = []
    seen: dict[frozenset[tuple[str, str]], str] = {}
    for number, text in enumerate(content, start=1):
        where = f"{path}, line {number}"
        overrides = parse(text, where)
        if not overrides:
            continue
        cell = frozenset((str(one.get_key_element()), str(one.value())) for one in overrides)
        if cell in seen:
            raise UserError(f"{where}: the same cell as {seen[cell]}. Remove one of the two lines.")
        seen[cell] = f"line {number}"
        lines.append(Line(where, [str(one.input_line) for one in overrides]))
    if not lines:
        raise UserError(f"sweep.cells={path}: the file has no line of overrides. Write one for each cell.")
    return lines


def parse(text: str, where: str) -> list[Override]:
    """Return the overrides of one line. Raises UserError for a word that is no override, and for several cells."""
    try:
        words = shlex.split(text, comments=True)
    except ValueError as error:
        raise UserError(f"{where}: {error}. Close the quotation marks: {text.strip()}") from error
    keys: set[str] = set()
    overrides: list[Override] = []
    for word in words:
        key = key_of(word)
        if "=" not in word and not word.startswith("~"):
            raise UserError(f"{where}: '{word}' is not an override. Write KEY=VALUE, as on the command line.")
        if key.startswith(NOT_IN_A_LINE):
            raise UserError(f"{where}: {key} is not part of a cell. Give it on the command line, for the sweep.")
        if key in keys:
            raise UserError(f"{where}: {key} is given twice. Give it once.")
        try:
            (override,) = OverridesParser.create().parse_overrides([word])
        except HydraException as error:
            first = str(error).partition("\n")[0]
            raise UserError(f"{where}: {word} cannot be read ({first}). Write KEY=VALUE.") from error
        if override.is_sweep_override():
            raise UserError(f"{where}: {word} has several values, but a line is one cell. Write a line for each value.")
        keys.add(key)
        overrides.append(override)
    return overrides


class CellsSweeper(Sweeper):  # type: ignore[misc]
    """Runs each line of ``sweep.cells`` with each combination of the other swept keys. The lines change fastest.

    The keys of a line replace those of the experiment's ``hydra.sweeper.params`` at the same position, so a job has the
    same overrides as in Hydra's own product. The arguments are those of Hydra's BasicSweeper.
    """

    def __init__(self, max_batch_size: int | None = None, params: dict[str, str] | None = None) -> None:
        self.max_batch_size = max_batch_size
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See Sweeper."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """See Sweeper. Raises UserError for lines that cannot be run."""
        jobs = self.jobs(arguments)
        SweepCallback.expect(len(jobs))
        size = self.max_batch_size or len(jobs)
        for start in range(0, len(jobs), size):
            batch = jobs[start : start + size]
            self.validate_batch_is_legal(batch)
            for result in self.launcher.launch(batch, initial_job_idx=start):
                _ = result.return_value  # raises the error of the job, if there is one

    def jobs(self, arguments: list[str]) -> list[list[str]]:
        """Return the overrides of every job.

        Raises UserError for a line that is invalid, or that sets a key that is also given on the command line.
        """
        lines = read_lines(Path(self.config.sweep.cells))
        kept = [argument for argument in arguments if key_of(argument) != "sweep.cells"]
        given = {key_of(argument) for argument in kept}
        for line in lines:
            if twice := [key for key in map(key_of, line.words) if key in given]:
                raise UserError(
                    f"{line.where}: {', '.join(twice)} is also given on the command line. Give it in one of the two."
                )
        params = [f"{key}={value}" for key, value in self.params.items()]
        parse_overrides = OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides
        by_line: list[list[list[str]]] = []
        for line in lines:
            overrides = parse_overrides([*params, *kept, "sweep.cells=null", *line.words])  # a job is one cell
            by_line += BasicSweeper.split_arguments(overrides, None)
            self.compose(line, by_line[-1][0])
        return [job for turn in zip_longest(*by_line) for job in turn if job is not None]

    def compose(self, line: Line, job: Sequence[str]) -> None:
        """Raise UserError where a line is not a valid configuration, for example with a key that does not exist."""
        try:
            self.hydra_context.config_loader.load_sweep_config(self.config, list(job))
        except Exception as error:
            if (message := explain(error)) is None:
                raise
            raise UserError(f"{line.where}: {message}") from error


def check_no_cells(cfg: DictConfig) -> None:
    """Raise UserError where ``sweep.cells`` would be ignored: in a single training, or with another sweeper."""
    if cfg.sweep.cells:
        raise UserError(
            f"sweep.cells={cfg.sweep.cells}: this key needs a sweep with Hydra's basic sweeper. Add -m to the command, "
            f"or remove sweep.cells."
        )
