"""How a training begins: in a new folder, or from where another left off."""

import hashlib
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import torch
from omegaconf import DictConfig, OmegaConf

from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.config.schema import key_of, read
from segpipe.data.dataset import Split
from segpipe.data.module import SegmentationData
from segpipe.errors import UserError
from segpipe.runs import checkpoints
from segpipe.runs.checkpoints import latest_intact, quarantine
from segpipe.runs.environment import environment
from segpipe.runs.run import Run, display_path, repair_hint
from segpipe.runs.storage import read_history, write_text

MAY_CHANGE = (
    "trainer.max_epochs", "data.root", "data.dataset.images", "data.dataset.masks", "data.workers", "data.cache",
    "data.eval_batch_size", "logger", "trainer.devices", "trainer.accelerator", "trainer.strategy", "trainer.num_nodes",
)  # fmt: skip


def start(plan: Plan, data: SegmentationData, *, overrides: list[str], world_size: int = 1) -> Run:
    """Make the run's folder: configuration, and the record that says it is running. world_size: ranks that train.

    Raises UserError where there is a run already that got somewhere.
    """
    cfg = plan.cfg
    run = Run(Path(cfg.run_dir))
    if not cfg.resume:
        finished = run.record.get("status") == "finished"  # its checkpoints may not have been kept
        if run.config.is_file() and (finished or run.checkpoint("last").is_file()):
            raise UserError(
                f"{run.folder}: there is a run in this folder already. To go on with it: "
                f"resume={display_path(run.folder)}; to train anew, give another hydra.run.dir, or remove the folder."
            )
        run.reset()  # one that got nowhere is begun anew
    before = run.record
    fingerprints = {name: data.split(name).fingerprint() for name in get_args(Split)}
    if changed := [name for name, old in before.get("data_fingerprint", {}).items() if fingerprints[name] != old]:
        raise UserError(
            f"{run.folder}: the data are not those that it was trained on ({', '.join(changed)} differ). Give their "
            f"folder, data.root=FOLDER; or begin another training from its weights: "
            f"warm_start={display_path(run.folder)}."
        )
    touched = {group: revision for group, revision in plan.revisions.items() if revision}
    if before and before.get("revisions", {}) != touched:
        raise UserError(
            f"{run.folder}: it was begun by a version of segpipe whose results here were others (revisions "
            f"{before.get('revisions', {})}, now {touched}; docs/architecture.md). Train it anew in another folder, or "
            f"begin from its weights: warm_start={display_path(run.folder)}."
        )
    known = identified(run, plan)
    record = {
        "status": "running",
        "name": before.get("name") or plan.name(known["identity"]),
        "seed": cfg.seed,
        **known,
        "revisions": touched,
        "match": before.get("match") or (plan.budget.record() if plan.budget else None),
        "data_fingerprint": fingerprints,
        "classes": data.split("train").classes,
        "palette": data.split("train").palette,
        "overrides": before.get("overrides", overrides),
        "warm_start": before.get("warm_start", cfg.warm_start),
        "lineage": before.get("lineage", lineage(cfg.warm_start)),
        "host": platform.node(),
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "global_batch": cfg.data.batch_size,
        "error": None,
    }
    write_text(run.config, OmegaConf.to_yaml(cfg, resolve=True))
    run.update(**record, **environment())
    return run


def identified(run: Run, plan: Plan) -> dict[str, Any]:
    """What a run that begins, or goes on, records of its identity.

    One that is resumed for more epochs is another training from then on: it gets that one's identity, and
    ``extended_from``, the one before. It is not the same as one that was begun for as many, which had another schedule:
    max_epochs, the number of each start in turn, tells them apart.
    """
    cfg = plan.cfg
    old = run.record.get("identity")
    length = cfg.trainer.max_epochs
    if not old:
        return {"identity": plan.identity, "max_epochs": [length]}
    try:
        kept = Plan.of_trained(read(run))
    except UserError:  # damaged; that it is a run of cfg, ``check_same_config`` has seen by its identity
        kept = plan
    asked = run.record.get("max_epochs", [kept.cfg.trainer.max_epochs])
    if asked[-1] == length and kept.canonical == plan.canonical:
        return {"identity": old, "max_epochs": asked}
    begun = with_overrides(cfg, warm_start=run.record.get("warm_start"))
    try:
        new = Plan.of_trained(begun).identity
    except UserError:  # the weights that it was begun from are gone
        both = f"{old} {plan.identity}"
        new = hashlib.blake2b(both.encode(), digest_size=4).hexdigest()
    if new == old:
        return {"identity": old, "max_epochs": asked}
    return {"identity": new, "extended_from": old, "max_epochs": [*asked, length]}


def lineage(warm_start: str | None) -> list[dict[str, str]]:
    """The runs whose weights a training starts from, the oldest first: name, identity and folder."""
    if not warm_start:
        return []
    checkpoint = build.weights_file(warm_start)
    parent = Run(checkpoint.parent.parent)  # of RUN/checkpoints/best.ckpt
    if not parent.record:
        return [{"checkpoint": display_path(checkpoint)}]
    own = {key: str(parent.record.get(key)) for key in ("name", "identity")} | {"folder": display_path(parent.folder)}
    return [*parent.record.get("lineage", []), own]


def is_complete(run: Run) -> bool:
    """Whether a finished run can be read: its configuration, its best checkpoint."""
    with suppress(UserError):
        return bool(read(run)) and not checkpoints.best_is_damaged(run)
    return False


def check_same_config(run: Run, plan: Plan) -> None:
    """Raise UserError where a run is not what is asked for."""
    if (run.record.get("identity") or Plan.of_trained(read(run)).identity) != plan.identity:
        if run.record.get("extended_from"):
            raise UserError(
                f"{run.folder}: there is a run of another configuration, which was resumed with another "
                f"trainer.max_epochs since. To go on with it: resume={display_path(run.folder)}. To train what is "
                f"asked for, give another hydra.run.dir, or rename this folder."
            )
        raise UserError(f"{run.folder}: there is a run of another configuration. Give another hydra.run.dir.")


def resolve_resume(cfg: DictConfig, *, overrides: list[str]) -> DictConfig:
    """The configuration with ``resume`` made out: null, or the folder of the run to go on with, which is then run_dir.

    ``auto`` goes on with what lies in run_dir, or begins there. Raises UserError where it cannot be gone on with.
    """
    if cfg.resume == "auto":
        run = Run(Path(cfg.run_dir))
        path = latest_intact(run)
        if path is None:
            if renamed := quarantine(run):
                print(f"No checkpoint is whole, so the training begins anew; set aside: {', '.join(renamed)}.")
            run.finish(
                "failed", "Its checkpoints were damaged, and were set aside."
            )  # finished no more, and begun anew
            return with_overrides(cfg, resume=None)
        check_same_config(run, Plan.of(cfg))
        report_checkpoint(run, path)
        return with_overrides(cfg, resume=cfg.run_dir, warm_start=None)
    if cfg.resume:
        check_resumable(Run.open(cfg.resume))
        return resume_config(cfg, overrides=overrides)
    return cfg


def with_overrides(cfg: DictConfig, **entries: Any) -> DictConfig:
    """A copy with other entries."""
    copy = cfg.copy()
    copy.update(entries)
    return copy


def check_resumable(run: Run) -> None:
    """Raise UserError where a run has no whole checkpoint to go on with; say which one it is."""
    path = latest_intact(run)
    if path is None:
        if not run.checkpoint("last").is_file():
            weights = (
                f", or from its weights: warm_start={display_path(run.folder)}"
                if run.checkpoint("best").is_file()
                else ""
            )
            raise UserError(f"{run.folder}: no checkpoints/last.ckpt, so nothing to go on with. Start anew{weights}.")
        raise UserError(f"{run.folder}: its best checkpoint is damaged, or all are. {repair_hint(run.folder)}")
    report_checkpoint(run, path)


def report_checkpoint(run: Run, path: Path) -> None:
    """Say that it is not the last checkpoint that a run goes on with, where that is so."""
    last = run.checkpoint("last")
    if path != last:
        print(
            f"{display_path(last)} is {'damaged' if last.is_file() else 'missing'}: going on from {display_path(path)}."
        )


def check_length(run: Run, epochs: int | None) -> None:
    """Raise UserError where a run has done more epochs than it is to have: nothing can be taken back from it."""
    try:
        done = max((int(row["epoch"]) + 1 for row in read_history(run.history)), default=0)
    except (ValueError, KeyError):  # a damaged history says nothing
        return
    if epochs is not None and 0 <= epochs < done:
        raise UserError(
            f"trainer.max_epochs={epochs}: {run.folder} has done {done} epochs already. Give {done} or more, or train "
            f"anew in another folder."
        )


def resume_config(cfg: DictConfig, *, overrides: list[str]) -> DictConfig:
    """The configuration of the run to go on with, in its folder; of the command line, what MAY_CHANGE is laid over it.

    Raises UserError for what would make it another training.
    """
    run = Run.open(cfg.resume)
    kept = read(run)
    for override in overrides:
        path = key_of(override)
        if path in ("resume", "run_dir", "sweep.name"):
            continue
        if not path.startswith(MAY_CHANGE):
            raise UserError(
                f"resume: {override} would make it another training. What may change is {', '.join(MAY_CHANGE)}; to "
                f"begin another training from its weights: warm_start={display_path(run.folder)}."
            )
        OmegaConf.update(kept, path, OmegaConf.select(cfg, path), merge=False)
        if path == "data.root":  # what took its value from there was filled in long ago
            OmegaConf.update(kept, "data.dataset.root", cfg.data.root)
    check_length(run, kept.trainer.max_epochs)
    folder = str(run.folder.absolute())
    kept.update(resume=folder, run_dir=folder, warm_start=None)
    for name in ("best", "last"):
        kept.callbacks[name].dirpath = str(run.checkpoint("last").parent.absolute())
    return kept
