"""One checked configuration, and what follows from it: made once, and handed on."""

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf

from segpipe.config import build, choices, compatibility, identity, schema
from segpipe.config.budget import BudgetSolution, solve_budget, with_solved_width
from segpipe.data.dataset import SegmentationDataset, Split
from segpipe.errors import InvalidCombination, UserError
from segpipe.models.encoders import Encoder
from segpipe.runs.cells import Cell
from segpipe.runs.renames import CLASSES, upgrade


@dataclass
class Plan:
    """What a training is to do, checked before any work.

    cfg: the configuration, with the width solved where ``match`` asks for it, and every class under its present path.
    encoder: on the meta device, without memory for its weights. notes: what the configuration does otherwise than one
    might expect. budget: the solution, None without ``match``.
    """

    cfg: DictConfig
    encoder: Encoder
    notes: list[str] = field(default_factory=list)
    budget: BudgetSolution | None = None

    @classmethod
    def of(cls, cfg: DictConfig, *, num_classes: int | None = None, size: tuple[int, int] | None = None) -> "Plan":
        """Check a configuration and solve its budget.

        num_classes, size (height, width): see ``budget.solve_budget``; None takes those of the data.
        Raises UserError for a value of a wrong type, InvalidCombination for values that are invalid together or a
        budget that no width meets, and what the data raise where a budget asks for them.
        """
        cfg, moved = with_present_classes(cfg)
        choices.check_present(cfg)
        schema.check(cfg)
        choices.check_arguments(cfg)
        encoder = build.meta_encoder(cfg)
        notes = [*moved, *compatibility.validate(cfg, encoder)]
        found = solve_budget(cfg, num_classes=num_classes, size=size) if cfg.get("match") else None
        return cls(with_solved_width(cfg, found) if found else cfg, encoder, notes, found)

    @classmethod
    def of_trained(cls, cfg: DictConfig) -> "Plan":
        """Take a configuration that a run was trained with as it is: it was checked, and its budget solved, then."""
        return cls(cfg, build.meta_encoder(cfg))

    @cached_property
    def canonical(self) -> dict[str, Any]:
        """See ``identity.canonical``."""
        return identity.canonical(self.cfg, self.encoder)

    @cached_property
    def datasets(self) -> list[SegmentationDataset]:
        """The three splits. Raises UserError where the data are missing."""
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
        """What a run is called. last: what stands at the end; None takes the identity."""
        return identity.format_run_name(self.cfg, self.encoder, self.identity if last is None else last)


def with_present_classes(cfg: DictConfig) -> tuple[DictConfig, list[str]]:
    """A configuration with every class under its present path, and a note for each that was given by an older one."""
    given = OmegaConf.to_container(cfg)
    present = upgrade(given)
    if present == given:
        return cfg, []
    used = sorted(old for old in CLASSES if f"_target_: {old}\n" in OmegaConf.to_yaml(cfg))
    notes = [f"{old} is now {CLASSES[old]}: change _target_ in your configuration." for old in used]
    return OmegaConf.create(present), notes  # type: ignore[return-value]


def make_cell(cfg: DictConfig, overrides: list[str]) -> Cell:
    """The cell of a sweep that a configuration is; its ``run_dir`` is named after its network."""
    cell = {
        "model": cfg.model.get("name"),
        "stride": cfg.model.get("stride"),
        "decoder": cfg.decoder.get("name"),
        "fusion": cfg.fusion.get("name"),
        "match": cfg.match,
        "seed": cfg.seed,
    }
    try:
        Plan.of(cfg)
    except InvalidCombination as error:
        return Cell(overrides, cell, refused=str(error))
    except UserError as error:  # a wrong value; or of the data, which say how many classes there are
        return Cell(overrides, cell, error=str(error))
    return Cell(overrides, cell, run=Path(cfg.run_dir).name)


def run_name(_root_: DictConfig) -> str:
    """What a run's folder is called: its choices, its seed, its identity. Hydra asks for it as ``${run_name:}``.

    Where there is no identity, because the configuration is invalid or the data are missing, the training itself raises
    the error.
    """
    cfg = OmegaConf.masked_copy(_root_, [key for key in map(str, _root_) if key != "hydra"])
    try:
        return Plan.of(cfg).name()
    except Exception:
        with suppress(Exception):
            return Plan.of_trained(cfg).name("refused")
    return "refused"


OmegaConf.register_new_resolver("run_name", run_name, replace=True)
