"""The plan of a training: the checked configuration and what is derived from it, computed once and passed on."""

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segpipe.config import build, choices, compatibility, identity, schema
from segpipe.config.budget import BudgetSolution, solve_budget, with_solved_width
from segpipe.config.messages import explain
from segpipe.config.sizes import check_sizes
from segpipe.data.dataset import SegmentationDataset, Split
from segpipe.errors import InvalidCombination, UserError, printable
from segpipe.models.encoders import Encoder
from segpipe.runs.cells import Cell
from segpipe.runs.labels import Level, level_of_value, override_levels
from segpipe.runs.renames import CLASSES, upgrade


@dataclass
class Plan:
    """A checked configuration and what is derived from it.

    cfg: the configuration, with the solved width where ``match`` is set, every class under its present path, and
    ``model.enlarge=auto`` replaced by what it means.
    encoder: on the meta device, without memory for its weights. notes: texts on effects that may surprise the user.
    budget: the solution, None without ``match``.
    """

    cfg: DictConfig
    encoder: Encoder
    notes: list[str] = field(default_factory=list)
    budget: BudgetSolution | None = None

    @classmethod
    def of(cls, cfg: DictConfig, *, num_classes: int | None = None, size: tuple[int, int] | None = None) -> "Plan":
        """Check a configuration and solve its budget.

        num_classes, size (height, width): see ``budget.solve_budget``; None takes those of the data.
        Raises UserError for a value of a wrong type, InvalidCombination for values that are invalid together and for a
        budget that no width meets, and the data set's UserError where a budget needs the data and they are missing.
        """
        cfg, moved = with_present_classes(cfg)
        choices.check_present(cfg)
        schema.check(cfg)
        check_sizes(OmegaConf.to_container(cfg))  # type: ignore[arg-type]
        choices.check_arguments(cfg)
        encoder = build.meta_encoder(cfg)
        cfg = identity.with_enlargement(cfg, encoder)
        notes = [*moved, *compatibility.validate(cfg, encoder)]
        solution = solve_budget(cfg, num_classes=num_classes, size=size) if cfg.get("match") else None
        return cls(with_solved_width(cfg, solution) if solution else cfg, encoder, notes, solution)

    @classmethod
    def of_trained(cls, cfg: DictConfig) -> "Plan":
        """Make a plan of a run's stored configuration, without checks: they were done when the run was started."""
        return cls(cfg, build.meta_encoder(cfg))

    @cached_property
    def canonical(self) -> dict[str, Any]:
        """See ``identity.canonical``."""
        return identity.canonical(self.cfg, self.encoder)

    @cached_property
    def datasets(self) -> list[SegmentationDataset]:
        """The data sets of the three splits. Raises UserError where the data are missing."""
        return [build.dataset(self.cfg, split) for split in get_args(Split)]

    @cached_property
    def revisions(self) -> dict[str, int]:
        """See ``identity.revisions``."""
        return identity.revisions(self.cfg, self.encoder, self.datasets)

    @cached_property
    def identity(self) -> str:
        """Eight hexadecimal digits: see ``identity.digest``."""
        return identity.digest(self.cfg, self.canonical, self.datasets, self.revisions)

    def name(self, last: str | None = None) -> str:
        """Return the name of a run. last: the last part of the name; None takes the identity."""
        return identity.format_run_name(self.cfg, self.encoder, self.identity if last is None else last)


def with_present_classes(cfg: DictConfig) -> tuple[DictConfig, list[str]]:
    """Return a configuration with every class under its present path, and a note for each class that has moved."""
    given = OmegaConf.to_container(cfg)
    present = upgrade(given)
    if present == given:
        return cfg, []
    used = sorted(old for old in CLASSES if f"_target_: {old}\n" in OmegaConf.to_yaml(cfg))
    notes = [f"{old} is now {CLASSES[old]}: change _target_ in your configuration." for old in used]
    return OmegaConf.create(present), notes  # type: ignore[return-value]


def make_cell(cfg: DictConfig, overrides: list[str]) -> Cell:
    """Return the cell of a sweep for a configuration. The name of its ``run_dir`` is the name of the run.

    An invalid configuration gives a cell with ``refused`` or ``error`` and without a run.
    """
    overrides = [printable(override) for override in overrides]
    keys = {"model": "model.name", "stride": "model.stride", "decoder": "decoder.name", "fusion": "fusion.name"}
    keys |= {"match": "match", "seed": "seed"}
    cell = {name: choice_at(cfg, key) for name, key in keys.items()} | override_levels(overrides)
    try:
        Plan.of(cfg)
    except InvalidCombination as error:
        return Cell(overrides, cell, refused=str(error))
    except UserError as error:  # a wrong value, or missing data, which give the number of classes
        return Cell(overrides, cell, error=str(error))
    except OmegaConfBaseException as error:  # a value that leads to another key that is not there
        return Cell(overrides, cell, error=printable(explain(error) or error))
    return Cell(overrides, cell, run=Path(cfg.run_dir).name)


def choice_at(cfg: DictConfig, key: str) -> Level | None:
    """Return the value at a key as ``sweep.json`` can hold it, whatever was given: a number or a text, or None."""
    value = OmegaConf.select(cfg, key, throw_on_resolution_failure=False)
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    level = None if value is None else level_of_value(value)
    return printable(level) if isinstance(level, str) else level


def run_name(_root_: DictConfig) -> str:
    """Return the name of a run's folder: its choices, seed and identity. In Hydra it is ``${run_name:}``.

    Where there is no identity, because the configuration is invalid or the data are missing, the name ends with
    ``refused``, and the training raises the error later.
    """
    cfg = OmegaConf.masked_copy(_root_, [key for key in map(str, _root_) if key != "hydra"])
    try:
        return Plan.of(cfg).name()
    except Exception:
        with suppress(Exception):
            return Plan.of_trained(cfg).name("refused")
    return "refused"


OmegaConf.register_new_resolver("run_name", run_name, replace=True)
