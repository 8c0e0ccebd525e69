"""``python -m segpipe.train``: one training, or with -m a sweep of them."""

import logging
import os
import platform
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from segpipe import build, combinations, config, cost, sweep, tracking
from segpipe.callbacks import save_sheet
from segpipe.data.module import SegmentationData
from segpipe.errors import UserError
from segpipe.metrics import named_scores
from segpipe.models.weights import copy_matching
from segpipe.runs import Run, environment, write_confusion, write_json, write_text
from segpipe.summary import print_summary
from segpipe.task import SegmentationTask


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train, validate, test and describe one network; everything that comes of it lies in ``cfg.run_dir``.

    Returns what ``metrics.json`` holds. Raises UserError for what the user is to mend. After any error the run's
    record says ``failed`` or ``interrupted``, and why.
    """
    if cfg.resume:
        cfg = resumed(cfg)
    for note in combinations.refuse(cfg):
        print(f"Note: {note}")
    data = build.data(cfg)
    task = build.task(cfg, data)
    if cfg.warm_start:
        warm_start(task, build.weights_file(cfg.warm_start))
    run = start(cfg, data)
    logger = None
    failed = True
    try:
        logger = build.logger(cfg, run)
        trainer = build.trainer(cfg, run, logger)
        began = time.time()
        trainer.fit(task, datamodule=data, ckpt_path=run.checkpoint("last") if cfg.resume else None, weights_only=True)
        seconds = time.time() - began
        metrics = evaluate_best(cfg, run, task, data, trainer)
        metrics["training"] = {
            "seconds": round(seconds, 1),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
        }
        write_json(run.metrics, metrics)
        if logger is not None:
            with tracking.spared("the result"):
                log_result(logger, metrics, task)
        run.update(status="finished")
        failed = False
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)  # Lightning turns the one into the other
        status = "interrupted" if interrupted else "failed"
        run.update(status=status, error=f"{type(error).__name__}: {error}")
        if interrupted:
            print(f"\nInterrupted. To go on with it: python -m segpipe.train resume={run.folder}", file=sys.stderr)
        raise
    finally:
        tracking.finish(logger, failed=failed)
    print_summary(run, metrics)
    return metrics


def start(cfg: DictConfig, data: SegmentationData) -> Run:
    """Make the run's folder: configuration, and the record that says it is running."""
    run = Run(Path(cfg.run_dir))
    if run.config.is_file():
        run = Run.open(run.folder)
        if run.alive:
            raise UserError(f"{run.folder}: its process {run.record['pid']} is still at work. Wait for it, or end it.")
        if not cfg.resume and run.checkpoint("last").is_file():  # one that got nowhere is begun anew
            raise UserError(
                f"{run.folder}: there is a run in this folder already. To go on with it: resume={run.folder}; "
                f"to train anew, give another hydra.run.dir, or remove the folder."
            )
    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    write_text(run.config, OmegaConf.to_yaml(cfg, resolve=True))
    run.update(
        status="running",
        name=combinations.run_name(cfg),
        seed=cfg.seed,
        identity=combinations.identity(cfg),
        data_fingerprint={name: data.split(name).fingerprint() for name in ("train", "val", "test")},
        classes=data.split("train").classes,
        palette=data.split("train").palette,
        overrides=run.record.get("overrides", overrides),
        warm_start=cfg.warm_start,
        host=platform.node(),
        pid=os.getpid(),
        world_size=1,
        error=None,
        **environment(),
    )
    return run


def resumed(cfg: DictConfig) -> DictConfig:
    """The configuration of the run to go on with; of the command line, its values (not its groups) are laid over it."""
    run = Run.open(cfg.resume)
    if not run.checkpoint("last").is_file():
        raise UserError(f"{run.folder}: no checkpoints/last.ckpt, so nothing to go on with. Start it anew.")
    kept = OmegaConf.load(run.config)
    assert isinstance(kept, DictConfig)
    for override in HydraConfig.get().overrides.task if HydraConfig.initialized() else []:
        key, _, _ = override.partition("=")
        path = key.lstrip("+")
        if path in ("resume", "run_dir"):
            continue
        if isinstance(OmegaConf.select(kept, path), DictConfig):
            raise UserError(
                f"resume: {override} would make it another training. A run is gone on with as it was, but for single "
                f"values, as trainer.max_epochs=40. To begin another from its weights: warm_start={run.folder}."
            )
        OmegaConf.update(kept, path, OmegaConf.select(cfg, path), force_add=True)
    kept.update(resume=str(run.folder), run_dir=str(run.folder))
    return kept


def warm_start(task: SegmentationTask, path: Path) -> None:
    """Copy what fits from a checkpoint, and print what does not."""
    source = torch.load(path, map_location="cpu", weights_only=True)
    weights = {name.removeprefix("network."): tensor for name, tensor in source.get("state_dict", source).items()}
    copied, left = copy_matching(weights, task.network)
    if not any(weights[name].ndim for name in copied):  # counters of batches fit everywhere
        raise UserError(
            f"warm_start={path}: none of its {len(weights)} tensors has a name and shape of this network's. "
            f"Give a run of a network that shares its encoder or more."
        )
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in left))
    print(f"Warm start: {len(copied)} tensors from {path}; as initialised: {', '.join(layers) or 'none'}")


def evaluate_best(
    cfg: DictConfig, run: Run, task: SegmentationTask, data: SegmentationData, trainer: Any
) -> dict[str, Any]:
    """Validate and test with the best checkpoint; write confusion matrices and pictures; measure what it costs."""
    best = torch.load(run.checkpoint("best"), map_location=task.device, weights_only=True)
    task.load_state_dict(best["state_dict"])
    loggers, trainer.loggers = trainer.loggers, []  # this validation is no point of the history
    trainer.validate(task, datamodule=data, verbose=False)
    trainer.loggers = loggers
    trainer.test(task, datamodule=data, verbose=False)
    metrics: dict[str, Any] = {"best_epoch": best["epoch"]}
    for split in ("val", "test"):
        metrics[split] = describe(run, task, data, split)
    size = tuple(cfg.data.size or data.split("test").size(0))
    metrics["cost"] = cost.measure(task.network, size, batch=cfg.data.batch_size)
    title = f"{combinations.run_name(cfg)}   validation mIoU {metrics['val']['miou']:.3f}"
    save_sheet(task, data, "val", run, title=title)
    return metrics


def describe(run: Run, task: SegmentationTask, data: SegmentationData, split: Any) -> dict[str, Any]:
    """Write a split's confusion matrices; return its scores, per class by name."""
    result, dataset = task.evaluations[split], data.split(split)
    write_confusion(
        run.confusion(split),
        names=[dataset.names[index] for index in result.places],
        groups=[dataset.groups[index] for index in result.places],
        matrices=result.matrices,
    )
    return named_scores(result.matrices, dataset.classes) | {"loss": result.loss}


def log_result(logger: Any, metrics: dict[str, Any], task: SegmentationTask) -> None:
    """Give W&B the test's confusion matrix, and scores and cost as the run's summary."""
    matrix = task.evaluations["test"].matrices.sum(0)
    tracking.log_confusion(logger, key="test/confusion_matrix", matrix=matrix, classes=task.classes)
    for split in ("val", "test"):
        logger.experiment.summary[f"best/{split}/miou"] = metrics[split]["miou"]
    for name, value in metrics["cost"].items():
        logger.experiment.summary[f"cost/{name}"] = value


@hydra.main(  # type: ignore[untyped-decorator]
    version_base="1.3", config_path=str(config.CONF), config_name="train"
)
def hydra_main(cfg: DictConfig) -> None:
    """What Hydra calls: once for a single training, once a job in a sweep."""
    context = HydraConfig.get()
    cfg.run_dir = cfg.run_dir or context.runtime.output_dir
    if context.mode == RunMode.MULTIRUN:
        sweep.dispatch(cfg, list(context.overrides.task))
        return
    try:
        with config.friendly():  # here as well, or Hydra would add a line of its own
            train(cfg)
    finally:
        with suppress(
            OSError
        ):  # Hydra made the folder; a training that was refused, or went on elsewhere, left it empty
            Path(context.runtime.output_dir).rmdir()


def main() -> None:
    """Run; put what the user is to mend in a few lines."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors come to us as they are
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*|lightning_fabric\..*|torch\.optim\.lr_scheduler")
    with config.friendly():
        hydra_main()
    sys.exit(sweep.finish())


if __name__ == "__main__":
    main()
