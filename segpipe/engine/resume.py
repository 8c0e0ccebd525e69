"""The start of a training: in a new folder, or resumed from a checkpoint."""

import hashlib
import json
import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from segpipe.config import build, data_folders
from segpipe.config.plan import Plan
from segpipe.config.schema import key_of
from segpipe.config.stored import check_data_given, checked, read, with_local_keys
from segpipe.data.dataset import Split
from segpipe.data.module import SegmentationData
from segpipe.engine.processes import shown_options
from segpipe.errors import UserError
from segpipe.runs import checkpoints
from segpipe.runs.checkpoints import latest_intact, quarantine
from segpipe.runs.environment import code_version, environment
from segpipe.runs.records import RunRecord
from segpipe.runs.run import Run, display_path, repair_hint, typed
from segpipe.runs.storage import check_plain, parse_yaml, read_history, without_nan, write_bytes, write_text

MAY_CHANGE = (
    "trainer.max_epochs", "callbacks.last.every_n_train_steps", "pictures", "data.root", "data.dataset.images",
    "data.dataset.masks", "data.dataset.lists", "data.workers", "data.cache",
    "data.eval_batch_size", "logger", "trainer.devices", "trainer.accelerator", "trainer.strategy", "trainer.num_nodes",
)  # fmt: skip


class Start:
    """The start of a training in a run's folder, new or resumed. Nothing is written before ``write`` is called.

    ``run`` has the record of the training that starts, in memory. world_size: the number of ranks. restart: start from
    scratch where the folder has a run without an intact checkpoint (``resume=auto``).
    Raises UserError where the folder already has a run with a checkpoint, and where a resumed run was trained on other
    data or by a version with other results.
    """

    def __init__(
        self,
        plan: Plan,
        data: SegmentationData,
        *,
        overrides: list[str],
        world_size: int = 1,
        restart: bool = False,
    ) -> None:
        self.plan, self.run, self.restart = plan, Run(Path(plan.cfg.run_dir)), restart
        self.previous: dict[Path, bytes] = {}  # the files of the run that is resumed, as they were before ``write``
        self.checkpoints: list[tuple[int, int]] = []
        if not plan.cfg.resume:
            if not restart:
                check_unused(self.run)
            self.run.reset()  # a run without a checkpoint starts again
        self.fingerprints = fingerprints = {name: data.split(name).fingerprint() for name in get_args(Split)}
        check_same_results(self.run, plan, fingerprints)
        self.run.record = new_record(self.run, plan, data, overrides) | {
            "data_fingerprint": fingerprints,
            "images": {name: len(data.split(name)) for name in get_args(Split)},
            "world_size": world_size,
        }
        self.text = OmegaConf.to_yaml(plan.cfg, resolve=True)
        check_readable(self.text, self.run.record)

    def write(self) -> None:
        """Write the configuration and the record."""
        run, cfg = self.run, self.plan.cfg
        if cfg.resume:
            files = (run.config, run.record_path, run.history)
            self.previous = {path: path.read_bytes() for path in files if path.is_file()}
            self.checkpoints = checkpoints.stamps(run)
        elif self.restart and (renamed := quarantine(run)):
            print(f"No checkpoint is intact: the training starts from scratch. Renamed: {', '.join(renamed)}.")
        write_text(run.config, self.text)
        run.update()
        data_folders.note(cfg, self.fingerprints)

    def restore(self) -> bool:
        """Write back the files of the run that was resumed, if no checkpoint was written since; return whether it was.

        An error before the first checkpoint leaves the run as it was, for example finished.
        """
        if not self.previous or checkpoints.stamps(self.run) != self.checkpoints:
            return False
        for path, content in self.previous.items():
            if not path.is_file() or path.read_bytes() != content:
                write_bytes(path, content)
        return True


def check_readable(config: str, record: dict[str, Any]) -> None:
    """Raise UserError where a run's configuration (YAML) or record could not be read again, so that it would be lost.

    Reading has limits, because a folder may come from a stranger.
    """
    try:
        checked(parse_yaml(config.encode(errors="backslashreplace")))
        stored = json.loads(json.dumps(without_nan(record)))
        check_plain(stored)
        RunRecord.model_validate(stored)
    except ValidationError as error:
        first = error.errors()[0]
        where, reason = ".".join(map(str, first["loc"])), f"{first['msg']}, but it is {str(first['input'])[:60]}"
    except ValueError as error:
        where, reason = "", str(error)
    else:
        return
    raise UserError(
        f"The run could not be read again after its training: {where}{': ' if where else ''}{reason}. Change this "
        f"value or name."
    )


def check_unused(run: Run) -> None:
    """Raise UserError where a folder has a finished run or a run with a checkpoint."""
    finished = run.record.get("status") == "finished"  # its checkpoints may not have been kept
    if run.config.is_file() and (finished or run.checkpoint("last").is_file()):
        raise UserError(
            f"{run.folder}: there is already a run in this folder. To resume it, give "
            f"{typed('resume', run.folder)}. To train from scratch, give another hydra.run.dir, or remove the "
            f"folder."
        )


def check_same_results(run: Run, plan: Plan, fingerprints: dict[str, str]) -> None:
    """Raise UserError where a run was trained on other data, or by a version with other results.

    fingerprints: of the data of each split. A run without a record is not checked.
    """
    before = run.record
    if changed := [name for name, old in before.get("data_fingerprint", {}).items() if fingerprints[name] != old]:
        raise UserError(
            f"{run.folder}: the data are not those that the run was trained on ({', '.join(changed)} differ). Give "
            f"the folder of those data, data.root=FOLDER, or start a new training from the weights of this run: "
            f"{typed('warm_start', run.folder)}."
        )
    if before and before.get("revisions", {}) != changed_revisions(plan):
        raise UserError(
            f"{run.folder}: the run was started by a version of segpipe that gives other results for it (revisions "
            f"{before.get('revisions', {})}, now {changed_revisions(plan)}; docs/architecture.md). Train from scratch "
            f"in another folder, or start a new training from its weights: {typed('warm_start', run.folder)}."
        )


def changed_revisions(plan: Plan) -> dict[str, int]:
    """Return the revisions of the plan's components that are not 0."""
    return {group: revision for group, revision in plan.revisions.items() if revision}


def new_record(run: Run, plan: Plan, data: SegmentationData, overrides: list[str]) -> dict[str, Any]:
    """Return the record of a run that starts, or that is resumed and has a record already."""
    cfg, before = plan.cfg, run.record
    known = identified(run, plan)
    return {
        **before,
        "status": "running",
        "name": before.get("name") or plan.name(known["identity"]),
        "seed": cfg.seed,
        **known,
        "revisions": changed_revisions(plan),
        "match": before.get("match") or (plan.budget.record() if plan.budget else None),
        "classes": data.split("train").classes,
        "palette": data.split("train").palette,
        **({} if data.bands is None else {"bands": data.bands.record()}),
        "overrides": before.get("overrides", overrides),
        "warm_start": before.get("warm_start", cfg.warm_start),
        "lineage": before.get("lineage", lineage(cfg.warm_start)),
        "host": platform.node(),
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
        "global_batch": cfg.data.batch_size,
        "error": None,
        "options": shown_options(HydraConfig.get()) if HydraConfig.initialized() else before.get("options", []),
        **environment(),
        "starts": [
            *before.get("starts", []),
            {"time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "git": code_version()},
        ],
    }


def identified(run: Run, plan: Plan) -> dict[str, Any]:
    """Return the entries of the record about the identity of a run that starts or is resumed.

    A run that is resumed for more epochs becomes another training: it gets the new identity, and ``extended_from`` is
    the previous one. It differs from a run that was started with this number of epochs, because the schedule was
    different. The list ``max_epochs`` distinguishes them: it has the number of epochs of each start.
    """
    cfg = plan.cfg
    old = run.record.get("identity")
    length = cfg.trainer.max_epochs
    if not old:
        return {"identity": plan.identity, "max_epochs": [length]}
    try:
        kept = Plan.of_trained(read(run, composed=cfg))
    except UserError:  # the file is damaged; ``check_same_config`` has compared the identity
        kept = plan
    lengths = run.record.get("max_epochs", [kept.cfg.trainer.max_epochs])
    if lengths[-1] == length and kept.canonical == plan.canonical:
        return {"identity": old, "max_epochs": lengths}
    from_start = with_overrides(cfg, warm_start=run.record.get("warm_start"))
    try:
        new = Plan.of_trained(from_start).identity
    except UserError:  # the weights of its warm start do not exist any more
        both = f"{old} {plan.identity}"
        new = hashlib.blake2b(both.encode(), digest_size=4).hexdigest()
    if new == old:
        return {"identity": old, "max_epochs": lengths}
    return {"identity": new, "extended_from": old, "max_epochs": [*lengths, length]}


def lineage(warm_start: str | None) -> list[dict[str, str]]:
    """Return the runs whose weights a training starts from, the oldest first: name, identity and folder.

    A checkpoint outside a run gives its path instead.
    """
    if not warm_start:
        return []
    checkpoint = build.weights_file(warm_start)
    parent = Run(checkpoint.parent.parent)  # checkpoint: RUN/checkpoints/best.ckpt
    if not parent.record:
        return [{"checkpoint": display_path(checkpoint)}]
    entry = {key: str(parent.record.get(key)) for key in ("name", "identity")} | {"folder": display_path(parent.folder)}
    return [*parent.record.get("lineage", []), entry]


def is_complete(run: Run, cfg: DictConfig) -> bool:
    """Return whether the configuration and the best checkpoint of a finished run are undamaged.

    cfg: the configuration of the command line, whose classes are trusted.
    """
    with suppress(UserError):
        return bool(read(run, composed=cfg)) and not checkpoints.best_is_damaged(run)
    return False


def stored_identity(run: Run, plan: Plan) -> str:
    """Return the identity of a run whose record has none, with the data sets of ``plan``: no stored folder is read."""
    stored = Plan.of_trained(read(run, composed=plan.cfg))
    stored.datasets = plan.datasets
    return stored.identity


def check_same_config(run: Run, plan: Plan) -> None:
    """Raise UserError where a run has another identity than the plan."""
    if (run.record.get("identity") or stored_identity(run, plan)) != plan.identity:
        if run.record.get("extended_from"):
            raise UserError(
                f"{run.folder}: the run in this folder has another configuration; it was resumed with another "
                f"trainer.max_epochs. To resume it, give {typed('resume', run.folder)}. To train the given "
                f"configuration, give another hydra.run.dir, or rename this folder."
            )
        raise UserError(f"{run.folder}: the run in this folder has another configuration. Give another hydra.run.dir.")


def resolve_resume(cfg: DictConfig, *, overrides: list[str]) -> DictConfig:
    """Return the configuration with ``resume`` resolved: null, or the folder of the run to resume, which is run_dir.

    ``auto`` resumes the run in run_dir, or starts one there. Raises UserError where the run cannot be resumed.
    """
    if cfg.resume == "auto":
        run = Run(Path(cfg.run_dir))
        path = latest_intact(run)
        if path is None:  # ``Start`` renames damaged checkpoints
            return with_overrides(cfg, resume=None)
        check_same_config(run, Plan.of(cfg))
        report_checkpoint(run, path)
        return with_overrides(cfg, resume=cfg.run_dir, warm_start=None)
    if cfg.resume:
        check_resumable(Run.open(cfg.resume))
        return resume_config(cfg, overrides=overrides)
    return cfg


def with_overrides(cfg: DictConfig, **entries: Any) -> DictConfig:
    """Return a copy of a configuration with other values for top-level keys."""
    copy = cfg.copy()
    copy.update(entries)
    return copy


def check_resumable(run: Run) -> None:
    """Raise UserError where a run has no intact checkpoint to resume from; print which one is used."""
    path = latest_intact(run)
    if path is None:
        if not run.checkpoint("last").is_file():
            weights = (
                f", or start from its weights: {typed('warm_start', run.folder)}"
                if run.checkpoint("best").is_file()
                else ""
            )
            raise UserError(f"{run.folder}: no checkpoints/last.ckpt to resume from. Train from scratch{weights}.")
        raise UserError(f"{run.folder}: the best checkpoint is damaged, or all are. {repair_hint(run.folder)}")
    report_checkpoint(run, path)


def report_checkpoint(run: Run, path: Path) -> None:
    """Print a message if a run is not resumed from its last checkpoint."""
    last = run.checkpoint("last")
    if path != last:
        print(
            f"{display_path(last)} is {'damaged' if last.is_file() else 'missing'}: resuming from {display_path(path)}."
        )


def check_length(run: Run, epochs: int | None) -> None:
    """Raise UserError where a run has trained more epochs than ``epochs``: epochs cannot be undone."""
    done = max(epochs_in_history(run), checkpoints.epochs_done(run))
    if epochs is not None and 0 <= epochs < done:
        raise UserError(
            f"trainer.max_epochs={epochs}: {run.folder} has already trained {done} epochs. Give {done} or more, or "
            f"train from scratch in another folder."
        )


def epochs_in_history(run: Run) -> int:
    """Return the number of epochs in a run's history; 0 where the file is missing or damaged."""
    try:
        return max((int(row["epoch"]) + 1 for row in read_history(run.history)), default=0)
    except (ValueError, KeyError, UnicodeDecodeError):
        return 0


def resume_config(cfg: DictConfig, *, overrides: list[str]) -> DictConfig:
    """Return the configuration of the run to resume, with the overrides of the command line that MAY_CHANGE allows.

    Raises UserError for other overrides: they would make it another training.
    """
    run = Run.open(cfg.resume)
    trust = [cfg.trust] if isinstance(cfg.trust, str) else cfg.trust or ()
    stored = read(run, trust=trust, composed=cfg)
    kept = with_local_keys(stored, cfg, run)
    for override in overrides:
        path = key_of(override)
        if path in ("resume", "run_dir", "sweep.name", "trust"):
            continue
        if not path.startswith(MAY_CHANGE):
            raise UserError(
                f"resume: {override} would make it another training. Allowed are {', '.join(MAY_CHANGE)}. To start a "
                f"new training from its weights, give {typed('warm_start', run.folder)}."
            )
        OmegaConf.update(kept, path, OmegaConf.select(cfg, path), merge=False)
        if path == "data.root" and "root" in kept.data.dataset:  # stored without the interpolation between the two
            OmegaConf.update(kept, "data.dataset.root", cfg.data.root)
    check_length(run, kept.trainer.max_epochs)
    check_data_given(run, stored, kept)
    kept.resume = str(run.folder.absolute())
    return kept
