"""The jobs of a sweep: Hydra's product of swept keys, or the lines of ``sweep.cells`` combined with that product."""

import re
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from segpipe.config.messages import explain
from segpipe.config.schema import check, key_of
from segpipe.data.files import read_text
from segpipe.engine import dry_run
from segpipe.engine.processes import shown_options
from segpipe.errors import UserError, pluralise
from segpipe.runs.cells import Place, place_of
from segpipe.runs.run import PYTHON, display_path, shell_line, shell_words
from segpipe.runs.storage import is_component
from segpipe.training import devices

NOT_IN_A_LINE = ("hydra", "sweep.", "run_dir", "resume")  # keys of how and where a sweep runs


def names_class(target: str, of: type) -> bool:
    """Whether a ``_target_`` names a class of Hydra's; Hydra imports plugins twice, so classes are not identical."""
    return target == f"{of.__module__}.{of.__qualname__}"


class SweepCallback(Callback):
    """Hydra's callback at the start of a sweep. It stores what the process has to know after Hydra has ended.

    folder: of the sweep. jobs: the number of jobs to come; 0 where the sweeper does not know it in advance. requested:
    the places of all its cells, None where they are not known in advance. options: what a printed command has to
    repeat, see ``shown_options``.
    """

    folder: ClassVar[Path | None] = None
    name: ClassVar[str] = ""
    jobs: ClassVar[int] = 0
    total: ClassVar[int] = 0
    requested: ClassVar[set[Place] | None] = None
    options: ClassVar[list[str]] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See Callback. It replaces Hydra's basic sweeper."""
        SweepCallback.folder = None if dry_run.requested[0] else Path(config.hydra.sweep.dir)
        SweepCallback.options = shown_options(config.hydra)
        SweepCallback.name = str(OmegaConf.select(config, "sweep.name"))
        target = config.hydra.sweeper._target_
        if names_class(target, BasicSweeper):
            # Hydra accepts a sweeper only by a name in its own packages, so ours are registered under that name.
            cells = OmegaConf.select(config, "sweep.cells")
            Plugins.instance().class_name_to_class[target] = CellsSweeper if cells else ProductSweeper

    @classmethod
    def expect(cls, jobs: Sequence[Sequence[str]]) -> None:
        """Store the jobs to come, each a list of overrides, and print their number."""
        cls.jobs = cls.total = len(jobs)
        cls.requested = {place_of(job) for job in jobs}
        print(f"Checking {pluralise(len(jobs), 'cell')}. Each job starts as soon as it is checked.", flush=True)


class Line(NamedTuple):
    """A line of a ``sweep.cells`` file. where: file and line number, for messages. words: the overrides."""

    where: str
    words: list[str]


def check_name(name: object) -> None:
    """Raise UserError for a ``sweep.name`` that is not the path of a folder below that of all sweeps."""
    if isinstance(name, bool | float):
        raise UserError(f"sweep.name={name}: this is no text. Quote it twice: \"sweep.name='{str(name).lower()}'\"")
    if not isinstance(name, str | int) or not all(is_component(part) for part in str(name).split("/")):
        raise UserError(
            f"sweep.name={'' if name is None else name}: allowed is the name of a folder, NAME or GROUP/NAME. The "
            f"sweep is written to outputs/sweeps/NAME; for another place, give hydra.sweep.dir=FOLDER."
        )


def check_sweep(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Raise UserError for what a sweep cannot have: several ranks, a ``run_dir``, a wrong name or option of its own."""
    devices.check_not_launched("a sweep")
    if any(key_of(override) == "run_dir" for override in overrides):
        raise UserError("run_dir cannot be given to a sweep: its jobs would share one folder. Give sweep.name=NAME.")
    check_name(cfg.sweep.name)
    check(OmegaConf.create({"sweep": OmegaConf.to_container(cfg.sweep, resolve=True)}))


def check_folder(job: str, folder: Path, sweep: Path, *, named: bool) -> None:
    """Raise UserError where a job would be written to another folder than its sweep, which would then not list it.

    job: for the message. named: whether the folders differ by ``sweep.name``.
    """
    if folder != sweep:
        key = "sweep.name=NAME" if named else "hydra.sweep.dir=FOLDER"
        raise UserError(
            f"{job}: this job would be written to {display_path(folder)}, but the sweep is written to "
            f"{display_path(sweep)}. Give one folder for all jobs: {key}"
        )


def read_lines(path: Path) -> list[Line]:
    """Read the lines of a file. Overrides and comments are split as by a shell, see ``shell_words``.

    Raises UserError with the file and the line where the file is not a list of different cells.
    """
    try:
        content = read_text(path).splitlines()
    except (OSError, UserError) as error:
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
        words = shell_words(text)
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
            raise UserError(f"{where}: {explain(error) or f'{word} cannot be read. Write KEY=VALUE.'}") from error
        if override.is_sweep_override():
            raise UserError(f"{where}: {word} has several values, but a line is one cell. Write a line for each value.")
        keys.add(key)
        overrides.append(override)
    return overrides


class ProductSweeper(Sweeper):  # type: ignore[misc]
    """Hydra's product of the swept keys. A job is composed and submitted while earlier jobs are trained.

    Hydra's BasicSweeper composes all jobs, twice, before it launches the first one: 18 minutes for 2,000. Here each
    choice of a config group is composed once in advance, so that a wrong name is found before any training. Launchers
    that run several jobs at a time themselves get all jobs, or ``max_batch_size``. The arguments are BasicSweeper's.
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
        """See Sweeper. Raises the error of the first job that cannot be composed."""
        given = [*self.given, *arguments]
        check_sweep(self.config, given)
        swept = self.swept(given)
        if several := [str(one.input_line) for one in swept if one.key_or_group.startswith("sweep.")]:
            raise UserError(f"{several[0]}: several values, but this key is the same for all jobs. Give one value.")
        jobs = self.jobs(arguments)
        if not jobs:
            empty = ", ".join(str(one.input_line) for one in swept if not list(one.sweep_iterator()))
            raise UserError(
                f"{empty}: selects nothing, so the sweep has no cell. glob() selects choices of a config group, such "
                f"as decoder='glob(*)'; list other values: seed=0,1,2."
            )
        one_by_one = names_class(self.config.hydra.launcher._target_, BasicLauncher)
        if dry_run.requested[0]:
            configs = ((without_hydra(self.compose(job)), job) for job in jobs)
            dry_run.show(configs, total=len(jobs), folder=sweep_folder(self.config), has_workers=one_by_one)
            return
        SweepCallback.expect(jobs)
        self.check(jobs)
        size = self.max_batch_size or (1 if one_by_one else len(jobs))
        for start in range(0, len(jobs), size):
            for result in self.launcher.launch(jobs[start : start + size], initial_job_idx=start):
                _ = result.return_value  # raises the error of the job, if there is one

    def jobs(self, arguments: list[str]) -> list[list[str]]:
        """Return the overrides of every job. The last swept key changes fastest."""
        return self.product([*self.given, *arguments])

    @property
    def given(self) -> list[str]:
        """The overrides of ``hydra.sweeper.params``. Those of the command line replace them."""
        return [f"{key}={value}" for key, value in self.params.items()]

    def product(self, overrides: list[str]) -> list[list[str]]:
        """Return Hydra's product of overrides. Raises HydraException for a sweep that is not a list of values."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides(overrides), None)
        return list(jobs)

    def swept(self, overrides: list[str]) -> list[Override]:
        """Return the overrides that have several values, or that select nothing, such as ``decoder=glob(x*)``."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return [one for one in parser.parse_overrides(overrides) if one.is_sweep_override()]

    def check(self, jobs: list[list[str]]) -> None:
        """Compose the first job, and the first one with each choice of a config group. Raises as ``compose``.

        Keys that the folder of the sweep contains are treated as config groups.
        """
        place = [OmegaConf.to_container(self.config[node], resolve=False) for node in ("hydra", "sweep")]
        known = dict.fromkeys(re.findall(r"\$\{([\w.]+)\}", str(place)), True)
        seen: set[str] = set()
        for number, job in enumerate(jobs):
            choices = [override for override in job if self.is_group(key_of(override), known)]
            if number == 0 or not seen.issuperset(choices):
                seen.update(choices)
                self.compose(job)

    def is_group(self, key: str, known: dict[str, bool]) -> bool:
        """Return whether a key is a config group. known: the answers so far, which are extended."""
        if key not in known:
            known[key] = bool(self.hydra_context.config_loader.get_group_options(key.partition("@")[0]))
        return known[key]

    def compose(self, job: Sequence[str]) -> DictConfig:
        """Return the configuration of a job. Raises Hydra's error where it is not a valid one.

        Raises UserError for a job that sweeps keys of its own, and for one that belongs to another folder.
        """
        cfg = self.load(job)
        given = [key_of(override) for override in job]
        if ignored := own_keys(cfg, given):
            choice = self.reason(job, lambda alone: bool(own_keys(alone, given)))
            command = shell_line([*SweepCallback.options, choice])
            raise UserError(
                f"{choice}: it sweeps keys of its own ({', '.join(ignored)} in hydra.sweeper.params), which would be "
                f"ignored here. Run it alone: {PYTHON} -m segpipe.train {command}"
            )
        folder, sweep = sweep_folder(cfg), sweep_folder(self.config)
        if folder != sweep:
            choice = self.reason(job, lambda alone: sweep_folder(alone) != sweep)
            named = OmegaConf.select(cfg, "sweep.name") != OmegaConf.select(self.config, "sweep.name")
            check_folder(choice, folder, sweep, named=named)
        return cfg

    def load(self, job: Sequence[str]) -> DictConfig:
        """Return the configuration of a job, with Hydra's own."""
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(job))

    def reason(self, job: Sequence[str], is_wrong: Callable[[DictConfig], bool]) -> str:
        """Return the choice of a config group with which alone a job is wrong; all overrides if there is none."""
        choices = [override for override in job if self.is_group(key_of(override), {})]
        return next((choice for choice in choices if is_wrong(self.load([choice]))), shell_line(job))


def own_keys(cfg: DictConfig, given: list[str]) -> list[str]:
    """Return the keys that a job's configuration sweeps (``hydra.sweeper.params``) beside those that are given."""
    return [key for key in map(str, OmegaConf.select(cfg, "hydra.sweeper.params") or {}) if key_of(key) not in given]


def sweep_folder(cfg: DictConfig) -> Path:
    """Return the folder of the sweep of a configuration with Hydra's own."""
    return Path(cfg.hydra.sweep.dir)


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Return a configuration without Hydra's own, as a job gets it."""
    return OmegaConf.masked_copy(cfg, [key for key in map(str, cfg) if key != "hydra"])


class CellsSweeper(ProductSweeper):
    """Runs each line of ``sweep.cells`` with each combination of the other swept keys. The lines change fastest.

    The keys of a line replace those of the experiment's ``hydra.sweeper.params`` at the same position, so a job has the
    same overrides as in Hydra's own product. Every line is composed before any training.
    """

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
        by_line: list[list[list[str]]] = []
        for line in lines:
            by_line.append(self.product([*self.given, *kept, "sweep.cells=null", *line.words]))  # a job is one cell
            self.compose_line(line, by_line[-1][0])
        return [job for turn in zip_longest(*by_line) for job in turn if job is not None]

    def compose_line(self, line: Line, job: Sequence[str]) -> None:
        """Raise UserError where a line is not a valid configuration, for example with a key that does not exist."""
        try:
            self.compose(job)
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
