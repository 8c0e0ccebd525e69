"""A single training: fit, validate, test, and write the results."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from segpipe.config import build
from segpipe.config.compatibility import another_decoder, check_batch_norm
from segpipe.config.messages import explain
from segpipe.config.plan import Plan
from segpipe.config.stored import own_packages
from segpipe.data.bands import Bands
from segpipe.data.module import SegmentationData
from segpipe.engine import pictures
from segpipe.engine.guards import (
    FolderGuard,
    OnValidation,
    ReportValidation,
    StopAfterEpoch,
    StopAfterSignal,
    check_folder,
    check_labels,
    check_limits,
    check_monitors,
    check_places,
    notes_on_length,
)
from segpipe.engine.resume import Start, check_same_config, is_complete, resolve_resume
from segpipe.engine.shutdown import is_interruption, restore_handlers
from segpipe.engine.step_checkpoint import StepCheckpoint
from segpipe.errors import UserError, printable
from segpipe.lab.checkerboard import on_constant_image
from segpipe.metrics.boundaries import boundary_scores
from segpipe.metrics.confusion import CLASS_SCORES, SCORES, named_scores
from segpipe.models import cost
from segpipe.runs import checkpoints
from segpipe.runs.counts import write_boundaries, write_confusion
from segpipe.runs.run import Run, display_path, resume_command
from segpipe.runs.storage import read_json, write_json
from segpipe.runs.summary import format_score, print_summary
from segpipe.training import devices, feature_cache, pretrained, tracking
from segpipe.training.callbacks import save_prediction_grid
from segpipe.training.devices import RankInfo
from segpipe.training.task import SegmentationTask


class Training(NamedTuple):
    """The parts of a training. All of them are built and checked before a file of the run is written.

    start: None above rank 0.
    """

    plan: Plan
    run: Run
    data: SegmentationData
    task: SegmentationTask
    trainer: pl.Trainer
    rank: int
    start: Start | None


def train(cfg: DictConfig, *, on_validation: OnValidation | None = None) -> dict[str, Any]:
    """Train, validate and test one network, and write all results to ``cfg.run_dir``.

    on_validation: called after each validation of the training with the epoch, from 0, and the scores (``miou``,
    ``loss`` ...; those of ``val/`` in history.csv). It may raise an error, such as ``optuna.TrialPruned``, which ends
    the training; the checkpoints of the epoch are written by then.
    Returns the content of ``metrics.json``. Raises UserError for errors that the user can fix. After any error, the
    run's record has the status ``failed`` or ``interrupted`` and the reason; a run that was resumed, and for which no
    checkpoint was written since, is left as it was. With several ranks, rank 0 sends the configuration to the others,
    writes and prints; the other ranks return an empty dict.
    """
    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    more = [ReportValidation(on_validation)] if on_validation else []
    rank_info = devices.connect_ranks()
    if rank_info.rank:
        received = rank_info.receive_config()
        return run_training(Plan.of(received), overrides, rank_info, callbacks=more) if received is not None else {}
    auto = cfg.resume == "auto"
    run = Run.open(cfg.resume) if cfg.resume and not auto else Run(Path(cfg.run_dir))
    with run.lock(wait=auto):
        if auto and run.record.get("status") == "finished" and is_complete(run, cfg):
            check_same_config(run, Plan.of(cfg))
            print(f"{display_path(run.folder)} is already finished.")
            rank_info.broadcast_config(None)
            return read_json(run.metrics)
        plan = Plan.of(resolve_resume(cfg, overrides=overrides))
        return run_training(plan, overrides, rank_info, restart=auto, callbacks=more)


def run_training(
    plan: Plan,
    overrides: list[str],
    rank_info: RankInfo,
    *,
    restart: bool = False,
    callbacks: Sequence[pl.Callback] = (),
) -> dict[str, Any]:
    """See ``train``. The run is locked by these ranks, and ``resume`` is resolved. restart: see ``Start``.

    callbacks: beside those of the configuration.
    """
    training = build_training(plan, overrides, rank_info, restart=restart, callbacks=callbacks)
    run = training.run
    logger = build.logger(plan.cfg, run) if training.start else None  # last: it may start a run on W&B's server
    failed = True
    try:
        if training.start:
            training.start.write()
            among = f" on {rank_info.world_size} devices" if rank_info.world_size > 1 else ""
            print(f"Training {run.record['name']}{among} in {display_path(run.folder)}", flush=True)
            rank_info.broadcast_config(plan.cfg)
            build.attach_logger(training.trainer, logger)
        with devices.flushed_denormals():
            metrics = fit(training)
        failed = False
        if training.start:
            add_to_results(training, metrics, logger)
    except BaseException as error:
        if failed:
            note_end(training, error)
        if is_interruption(error) and not rank_info.rank:
            raise KeyboardInterrupt from error
        raise
    finally:
        tracking.finish(logger, failed=failed)
    if training.start:
        with tolerate_errors("the summary"):
            another = f"decoder={another_decoder(plan.cfg)}"
            print_summary(run, metrics, another=another, trust=own_packages(plan.cfg))
    return metrics


def build_training(
    plan: Plan,
    overrides: list[str],
    rank_info: RankInfo,
    *,
    restart: bool = False,
    callbacks: Sequence[pl.Callback] = (),
) -> Training:
    """Build and check all parts of a training. Nothing is written to the run's folder.

    restart, callbacks: see ``run_training``. Raises UserError for data, devices, weights and settings with which the
    training would fail later, and the errors of ``Start``.
    """
    cfg = plan.cfg
    for note in plan.notes:
        print(f"Note: {note}")
    devices.check(cfg, rank_info)
    if not rank_info.rank:
        check_places(Run(Path(cfg.run_dir)))
    data = build.data(cfg)
    if cfg.resume and (bands := Run(Path(cfg.run_dir)).record.get("bands")):
        data.bands = Bands.from_record(bands)
    data.check(smallest=plan.encoder.min_size, ranks=rank_info.world_size, parts=cfg.task.accumulate)
    check_limits(cfg, data, ranks=rank_info.world_size)
    check_labels(cfg, data)
    if not (cfg.data.get("crop") or cfg.data.get("size")):
        check_batch_norm(cfg, plan.encoder, min(data.sizes("train"), key=max))
    for note in data.notes():
        print(printable(f"Data: {note}"))
    if plan.budget:
        print(f"Note: {plan.budget}")
    for note in notes_on_length(cfg, data):
        print(f"Note: {note}")
    task = build.task(cfg, data)
    task.check_optimizer()
    load_weights(task, cfg)
    if cfg.encoder.get("cache"):
        print(f"Note: {feature_cache.attach(task.network, plan.encoder, build.as_dict(cfg.encoder), data)}")
    start = None
    if not rank_info.rank:
        start = Start(plan, data, overrides=overrides, world_size=rank_info.world_size, restart=restart)
    run = start.run if start else Run(Path(cfg.run_dir))
    steps = StepCheckpoint(run, every=cfg.callbacks.last.get("every_n_train_steps"))
    first: list[pl.Callback] = [FolderGuard(run), StopAfterSignal()]
    trainer = build.trainer(cfg, run, rank_info, first=first, last=[StopAfterEpoch(), steps, *callbacks])
    check_monitors(cfg, task, trainer.callbacks)  # type: ignore[attr-defined]
    return Training(plan, run, data, task, trainer, rank_info.rank, start)


def load_weights(task: SegmentationTask, cfg: DictConfig) -> None:
    """Load the initial weights of the network. A resumed training loads its checkpoint instead, later."""
    if cfg.resume:
        return
    if cfg.warm_start:
        pretrained.warm_start(task.network, build.weights_file(cfg.warm_start))
    elif cfg.encoder.get("weights"):
        pretrained.load_encoder(task.network, cfg)


def fit(training: Training) -> dict[str, Any]:
    """Train, evaluate the best checkpoint, write the results, and mark the run as finished.

    Returns the content of ``metrics.json``, in which ``cost`` is still None; an empty dict above rank 0.
    """
    run, trainer = training.run, training.trainer
    began = time.time()
    checkpoint = checkpoints.latest_intact(run) if training.plan.cfg.resume else None
    trainer.fit(training.task, datamodule=training.data, ckpt_path=checkpoint, weights_only=True)
    seconds = time.time() - began
    best_epoch = evaluate_best(training)
    training.task.network.extractor = None  # costs and pictures are those of the complete network
    devices.leave_process_group(trainer.strategy)
    if training.rank:
        return {}
    check_folder(run)
    metrics: dict[str, Any] = {
        "best_epoch": best_epoch,
        **{split: write_split_results(training, split) for split in ("val", "test")},
        "cost": None,
        "training": {
            "seconds": round(run.previous_seconds + seconds, 1),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
        },
    }
    write_json(run.metrics, metrics)
    run.update(status="finished")
    return metrics


def note_end(training: Training, error: BaseException) -> None:
    """Write to a run's record why it ended. Ranks above 0 only write a note for the process that started them.

    A run that was resumed is left as it was, where no checkpoint was written since.
    """
    interrupted = is_interruption(error)
    if interrupted:
        error = KeyboardInterrupt()
        restore_handlers()  # Lightning ignores SIGINT from now on
    text = f"{type(error).__name__}: {error}"
    devices.report_error("interrupted" if interrupted else text)
    if training.start is None:
        return
    run = training.run
    if run.config.is_file() and not restored(training.start):  # its folder may have been removed
        run.finish("interrupted" if interrupted else "failed", explain(error) or text)
    if interrupted and run.checkpoint("last").is_file():
        print(
            f"\nInterrupted. To resume: {resume_command(run, trust=own_packages(training.plan.cfg))}", file=sys.stderr
        )


def restored(start: Start) -> bool:
    """Return whether the files of a resumed run were written back; False where the disk is full, for example."""
    with suppress(OSError):
        return start.restore()
    return False


def evaluate_best(training: Training) -> int:
    """Validate and test with the best checkpoint; return its epoch. Validation is skipped if the last one was of it.

    Raises UserError where the training has written no best checkpoint.
    """
    task, trainer = training.task, training.trainer
    path = training.run.checkpoint("best")
    if not path.is_file():
        check_folder(training.run)
        raise UserError(
            f"{display_path(path)} was not written, because no epoch was validated or because a callback prevented it. "
            f"Give callbacks.best a monitor that the validation logs, such as val/miou."
        )
    best = checkpoints.read(path, device=task.device)
    task.load_state_dict(best["state_dict"])
    last = task.evaluations.get("val")
    if last is None or last.epoch != best["epoch"]:
        loggers, trainer.loggers = trainer.loggers, []  # this validation is not part of the history
        trainer.validate(task, datamodule=training.data, verbose=False)
        trainer.loggers = loggers
    trainer.test(task, datamodule=training.data, verbose=False)
    return int(best["epoch"])


def write_split_results(training: Training, split: Any) -> dict[str, Any]:
    """Write the counts of every image of a split; return the scores (0 to 1), those per class by name."""
    run, result, dataset = training.run, training.task.evaluations[split], training.data.split(split)
    names, groups = ([values[index] for index in result.indices] for values in (dataset.names, dataset.groups))
    write_confusion(run.confusion(split), names=names, groups=groups, matrices=result.matrices)
    scores = named_scores(result.matrices, dataset.classes) | {"loss": result.loss}
    if result.boundaries is not None:
        write_boundaries(run.boundaries(split), names=names, counts=result.boundaries)
        scores["boundaries"] = boundary_scores(result.boundaries)
    return scores


@contextmanager
def tolerate_errors(what: str) -> Iterator[None]:
    """Context manager that turns an error into one line: the results are written, and the run is finished."""
    try:
        yield
    except Exception as error:
        with suppress(OSError, ValueError):  # the reader of the output is gone
            print(f"Warning: {what} failed ({tracking.first_line(error)}). The run is finished, with all scores.")


def add_to_results(training: Training, metrics: dict[str, Any], logger: Any) -> None:
    """Add to a finished run what is not needed for its scores: the cost, pictures, the result on W&B.

    The cost and the checkerboard (the phase share of the logits on constant images, docs/lab.md) are added to
    ``metrics`` and to ``metrics.json``; the cost stays None where it cannot be measured.
    """
    run, task, data, cfg = training.run, training.task, training.data, training.plan.cfg
    with tolerate_errors("measuring the cost"):
        size = tuple(cfg.data.get("size") or data.split("test").size(0))
        task.to(training.trainer.strategy.root_device)  # Lightning has moved it to the CPU
        metrics["cost"] = cost.measure(task.network, size, batch=cfg.data.batch_size)
        write_json(run.metrics, metrics)
    with tolerate_errors("measuring the checkerboard"):
        metrics["checkerboard"] = on_constant_image(task.network).logits
        write_json(run.metrics, metrics)
    with tolerate_errors("drawing the predictions"):
        title = f"{run.record['name']}   validation mIoU {format_score(metrics['val']['miou'])}"
        save_prediction_grid(task, data, "val", run, title=title)
    for what, draw in pictures.drawings(cfg, run, task, data, metrics).items():
        with tolerate_errors(f"drawing {what}"):
            draw()
    if logger is not None:
        with tracking.tolerate_wandb_errors("the result"):
            log_result(logger, metrics, task)
            if getattr(logger, "send_model", False):
                weights = checkpoints.write_weights(run, run.folder / "wandb" / "best.ckpt")
                about = {"identity": run.record["identity"], "val/miou": metrics["val"]["miou"]}
                tracking.log_model(logger, weights, about)
                weights.unlink()  # W&B has made a copy


def log_result(logger: Any, metrics: dict[str, Any], task: SegmentationTask) -> None:
    """Log the confusion matrix of the test to W&B, and the scores and the cost as the run's summary."""
    matrix = task.evaluations["test"].matrices.sum(0)
    tracking.log_confusion(logger, key="test/confusion_matrix", matrix=matrix, classes=task.classes)
    for split in ("val", "test"):
        for name in SCORES:
            logger.experiment.summary[f"best/{split}/{name}"] = metrics[split][name]
    for name in CLASS_SCORES:
        for label, value in metrics["test"][f"per_class_{name}"].items():
            logger.experiment.summary[f"best/test/{name}/{label}"] = value
    for name, value in metrics["test"]["boundaries"].items():
        logger.experiment.summary[f"best/test/{name}"] = value
    for name, value in (metrics["cost"] or {}).items():
        logger.experiment.summary[f"cost/{name}"] = value
