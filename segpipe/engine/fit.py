"""A single training: fit, validate, test, and write the results."""

import sys
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from segpipe.config import build
from segpipe.config.messages import explain
from segpipe.config.plan import Plan
from segpipe.data.module import SegmentationData
from segpipe.engine.resume import check_same_config, is_complete, resolve_resume, start
from segpipe.engine.shutdown import is_interruption
from segpipe.metrics.boundaries import boundary_scores
from segpipe.metrics.confusion import SCORES, named_scores
from segpipe.models import cost
from segpipe.runs import checkpoints
from segpipe.runs.counts import write_boundaries, write_confusion
from segpipe.runs.run import Run, display_path
from segpipe.runs.storage import read_json, write_json
from segpipe.runs.summary import PYTHON, print_summary
from segpipe.training import devices, pretrained, tracking
from segpipe.training.callbacks import save_prediction_grid
from segpipe.training.devices import RankInfo
from segpipe.training.task import SegmentationTask


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train, validate and test one network, and write all results to ``cfg.run_dir``.

    Returns the content of ``metrics.json``. Raises UserError for errors that the user can fix. After any error, the
    run's record has the status ``failed`` or ``interrupted`` and the reason. With several ranks, rank 0 sends the
    configuration to the others, writes and prints; the other ranks return an empty dict.
    """
    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    rank_info = devices.connect_ranks()
    if rank_info.rank:
        received = rank_info.receive_config()
        return run_training(Plan.of(received), overrides, rank_info) if received is not None else {}
    auto = cfg.resume == "auto"
    run = Run.open(cfg.resume) if cfg.resume and not auto else Run(Path(cfg.run_dir))
    with run.lock(wait=auto):
        if auto and run.record.get("status") == "finished" and is_complete(run):
            check_same_config(run, Plan.of(cfg))
            print(f"{display_path(run.folder)} is already finished.")
            rank_info.broadcast_config(None)
            return read_json(run.metrics)
        return run_training(Plan.of(resolve_resume(cfg, overrides=overrides)), overrides, rank_info)


def run_training(plan: Plan, overrides: list[str], rank_info: RankInfo) -> dict[str, Any]:
    """See ``train``. The run is locked by these ranks, and ``resume`` is resolved."""
    cfg = plan.cfg
    for note in plan.notes:
        print(f"Note: {note}")
    devices.check(cfg, rank_info)
    data = build.data(cfg)
    data.check(smallest=plan.encoder.min_size, ranks=rank_info.world_size, parts=cfg.task.accumulate)
    for note in data.notes():
        print(f"Data: {note}")
    if plan.budget:
        print(f"Note: {plan.budget}")
    task = build.task(cfg, data)
    load_weights(task, cfg)
    if rank_info.rank:
        run = Run(Path(cfg.run_dir))
    else:
        run = start(plan, data, overrides=overrides, world_size=rank_info.world_size)
        among = f" on {rank_info.world_size} devices" if rank_info.world_size > 1 else ""
        print(f"Training {run.record['name']}{among} in {display_path(run.folder)}", flush=True)
        rank_info.broadcast_config(cfg)
    logger = None
    failed = True
    try:
        logger = build.logger(cfg, run) if rank_info.rank == 0 else None
        metrics = fit(cfg, run, task, data, build.trainer(cfg, run, logger, rank_info), rank=rank_info.rank)
        if rank_info.rank == 0:
            write_json(run.metrics, metrics)
            if logger is not None:
                with tracking.tolerate_wandb_errors("the result"):
                    log_result(logger, metrics, task)
            run.update(status="finished")
        failed = False
    except BaseException as error:
        note_end(run, error, rank_info)
        if is_interruption(error) and not rank_info.rank:
            raise KeyboardInterrupt from error
        raise
    finally:
        tracking.finish(logger, failed=failed)
    if rank_info.rank == 0:
        print_summary(run, metrics)
    return metrics


def load_weights(task: SegmentationTask, cfg: DictConfig) -> None:
    """Load the initial weights of the network. A resumed training loads its checkpoint instead, later."""
    if cfg.resume:
        return
    if cfg.warm_start:
        pretrained.warm_start(task.network, build.weights_file(cfg.warm_start))
    elif cfg.encoder.get("weights"):
        pretrained.load_encoder(task.network, cfg)


def fit(
    cfg: DictConfig, run: Run, task: SegmentationTask, data: SegmentationData, trainer: Any, *, rank: int
) -> dict[str, Any]:
    """Train, and evaluate the best checkpoint. Returns the content of ``metrics.json``; an empty dict above rank 0."""
    began = time.time()
    checkpoint = checkpoints.latest_intact(run) if cfg.resume else None
    trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    seconds = time.time() - began
    best_epoch = evaluate_best(run, task, data, trainer)
    devices.leave_process_group(trainer.strategy)
    if rank:
        return {}
    training = {
        "seconds": round(run.previous_seconds + seconds, 1),
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
    }
    return {"best_epoch": best_epoch, **write_results(cfg, run, task, data, trainer), "training": training}


def note_end(run: Run, error: BaseException, rank_info: RankInfo) -> None:
    """Write to a run's record why it ended. Ranks above 0 only write a note for the process that started them."""
    interrupted = is_interruption(error)
    if interrupted:
        error = KeyboardInterrupt()
    text = f"{type(error).__name__}: {error}"
    devices.report_error("interrupted" if interrupted else text)
    if rank_info.rank:
        return
    run.finish("interrupted" if interrupted else "failed", explain(error) or text)
    if interrupted and run.checkpoint("last").is_file():
        command = f"{PYTHON} -m segpipe.train resume={display_path(run.folder)}"
        print(f"\nInterrupted. To resume: {command}", file=sys.stderr)


def evaluate_best(run: Run, task: SegmentationTask, data: SegmentationData, trainer: Any) -> int:
    """Validate and test with the best checkpoint; return its epoch. Validation is skipped if the last one was of it."""
    best = checkpoints.read(run.checkpoint("best"), device=task.device)
    task.load_state_dict(best["state_dict"])
    last = task.evaluations.get("val")
    if last is None or last.epoch != best["epoch"]:
        loggers, trainer.loggers = trainer.loggers, []  # this validation is not part of the history
        trainer.validate(task, datamodule=data, verbose=False)
        trainer.loggers = loggers
    trainer.test(task, datamodule=data, verbose=False)
    return int(best["epoch"])


def write_results(
    cfg: DictConfig, run: Run, task: SegmentationTask, data: SegmentationData, trainer: Any
) -> dict[str, Any]:
    """Write the counts and prediction images of the evaluated network, and measure its cost."""
    metrics: dict[str, Any] = {split: write_split_results(run, task, data, split) for split in ("val", "test")}
    size = tuple(cfg.data.get("size") or data.split("test").size(0))
    task.to(trainer.strategy.root_device)  # Lightning has moved it to the CPU
    metrics["cost"] = cost.measure(task.network, size, batch=cfg.data.batch_size)
    title = f"{run.record['name']}   validation mIoU {metrics['val']['miou']:.3f}"
    save_prediction_grid(task, data, "val", run, title=title)
    return metrics


def write_split_results(run: Run, task: SegmentationTask, data: SegmentationData, split: Any) -> dict[str, Any]:
    """Write the counts of every image of a split; return the scores (0 to 1), those per class by name."""
    result, dataset = task.evaluations[split], data.split(split)
    names, groups = ([values[index] for index in result.indices] for values in (dataset.names, dataset.groups))
    write_confusion(run.confusion(split), names=names, groups=groups, matrices=result.matrices)
    scores = named_scores(result.matrices, dataset.classes) | {"loss": result.loss}
    if result.boundaries is not None:
        write_boundaries(run.boundaries(split), names=names, found=result.boundaries)
        scores["boundaries"] = boundary_scores(result.boundaries)
    return scores


def log_result(logger: Any, metrics: dict[str, Any], task: SegmentationTask) -> None:
    """Log the confusion matrix of the test to W&B, and the scores and the cost as the run's summary."""
    matrix = task.evaluations["test"].matrices.sum(0)
    tracking.log_confusion(logger, key="test/confusion_matrix", matrix=matrix, classes=task.classes)
    for split in ("val", "test"):
        for name in SCORES:
            logger.experiment.summary[f"best/{split}/{name}"] = metrics[split][name]
    for name, value in metrics["test"]["boundaries"].items():
        logger.experiment.summary[f"best/test/{name}"] = value
    for name, value in metrics["cost"].items():
        logger.experiment.summary[f"cost/{name}"] = value
