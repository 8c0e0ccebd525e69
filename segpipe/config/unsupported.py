"""Settings of Lightning's trainer and callbacks that a training here does not support, and what to do instead."""

import inspect
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint

from segpipe.config import schema
from segpipe.config.stored import NO_LOGGER
from segpipe.errors import UserError

# Arguments of Lightning's Trainer that a training here does not support: the values that have no effect, what to do.
UNSUPPORTED_TRAINER: dict[str, tuple[tuple[Any, ...], str]] = {
    "gradient_clip_val": ((None, 0), "The task averages losses exactly: set task.clip."),
    "accumulate_grad_batches": ((None, 1), "The task averages losses exactly: set task.accumulate."),
    "max_steps": ((None, -1), "A training ends after an epoch: set trainer.max_epochs."),
    "min_steps": ((None,), "A training ends after an epoch: set trainer.min_epochs."),
    "fast_dev_run": ((None, False, 0), "To try a training out, give debug=fast."),
    "overfit_batches": ((None, 0), "To train on one batch, give debug=overfit."),
    "val_check_interval": ((None, 1.0), "Validation is after an epoch: set trainer.check_val_every_n_epoch."),
    "barebones": ((None, False), "A run needs its history and its checkpoints: remove this option."),
    "callbacks": ((None,), "Give each callback a name of its own: +callbacks.NAME._target_=CLASS."),
    "logger": ((None, True, False), "Set the option logger, for example logger=none."),
    "plugins": ((None,), "The program sets the plugins: remove this option."),
    "enable_checkpointing": ((None, True), "A run needs its history and its checkpoints: remove this option."),
    "use_distributed_sampler": ((None, False), "The program divides batches among devices itself: set it to false."),
}
# Callbacks of Lightning that change what a training does, and expect to step the optimizer: what to do instead.
UNSUPPORTED_CALLBACKS = {
    "StochasticWeightAveraging": "It would train one epoch more. To average the weights, give callbacks=ema.",
    "WeightAveraging": "The scores would be those of other weights. To average the weights, give callbacks=ema.",
    "BatchSizeFinder": "Its steps would be part of the history. Set data.batch_size.",
    "LearningRateFinder": "The task does not have the attribute that it sets. Sweep optimizer.lr, see segpipe.tune.",
    "GradientAccumulationScheduler": "The task averages losses exactly: set task.accumulate.",
    "ModelPruning": "The cost and the stored weights would be those of another network. Take a smaller model.width.",
    "BackboneFinetuning": "The task does not have the attribute that it sets. Set encoder.freeze, or task.encoder_lr.",
    "ProgressBar": "The program shows the progress itself. Set +trainer.enable_progress_bar=false to show none.",
}
LOGGING_CALLBACKS = ("LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor")  # of Lightning; need a logger
CHECKPOINT = {  # what the callbacks best and last need, beside their file names
    "save_top_k": 1,
    "save_on_train_epoch_end": True,
    "enable_version_counter": False,
    "every_n_train_steps": None,
    "every_n_epochs": None,
    "train_time_interval": None,
    "save_last": None,
}
CHECKPOINT_OF = {"best": {}, "last": {"save_weights_only": False, "monitor": None}}


def check_training(cfg: DictConfig) -> None:
    """Raise UserError for settings that Lightning accepts, but that this training does not support."""
    trainer = cfg.trainer
    for name in ("best", "last"):
        if cfg.callbacks.get(name) is None:
            raise UserError(f"callbacks.{name} is required: testing and resuming need the checkpoint it writes.")
    if trainer.check_val_every_n_epoch > trainer.max_epochs:
        raise UserError(
            f"trainer.check_val_every_n_epoch={trainer.check_val_every_n_epoch} with trainer.max_epochs="
            f"{trainer.max_epochs}: no epoch would be validated. Lower the first or raise the second."
        )
    if cfg.resume not in (None, "auto") and cfg.warm_start:
        raise UserError("resume and warm_start exclude each other: resume continues a training, warm_start begins one.")
    for key, (unused, instead) in UNSUPPORTED_TRAINER.items():
        if trainer.get(key) not in unused:
            raise UserError(f"trainer.{key}={trainer[key]} is not supported. {instead}")
    for key in ("limit_train_batches", "limit_val_batches", "limit_test_batches"):
        if trainer.get(key) == 0:
            raise UserError(f"trainer.{key}=0: a run needs at least one batch. Give a number of batches, or a share.")
    if (least := trainer.get("min_epochs") or 0) > trainer.max_epochs:
        raise UserError(
            f"trainer.min_epochs={least} with trainer.max_epochs={trainer.max_epochs}: the least is more than the "
            f"most. Lower the first or raise the second."
        )
    check_max_time(trainer.get("max_time"))
    for name, node in cfg.callbacks.items():
        check_callback(str(name), node, logs=cfg.logger.get("_target_") != NO_LOGGER)
    for name in ("best", "last"):
        check_checkpoint(name, cfg.callbacks[name], cfg.run_dir)


def check_max_time(limit: Any) -> None:
    """Raise UserError for a ``trainer.max_time`` that is no duration, or a negative one."""
    given: Any = OmegaConf.to_container(limit) if OmegaConf.is_config(limit) else limit
    try:
        if isinstance(given, str) and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", given):
            raise ValueError("not of this form")
        if isinstance(given, str):
            given = dict(zip(("days", "hours", "minutes", "seconds"), map(int, given.split(":")), strict=True))
        if isinstance(given, dict) and timedelta(**given) < timedelta():
            raise ValueError("negative")
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"trainer.max_time={schema.format_value(limit)}: allowed is DAYS:HOURS:MINUTES:SECONDS, for example "
            f"00:01:30:00, or {{hours:1,minutes:30}}, at most {timedelta.max.days:,} days."
        ) from error


def check_callback(name: str, node: DictConfig | None, *, logs: bool = True) -> None:
    """Raise UserError for a callback of Lightning that a training here does not support, or a class derived from it.

    logs: whether the training has a logger.
    """
    made = schema.locate(node._target_) if node is not None and "_target_" in node else None
    for base in inspect.getmro(made) if inspect.isclass(made) else ():
        if not base.__module__.startswith("pytorch_lightning."):
            continue
        if base.__name__ in UNSUPPORTED_CALLBACKS:
            instead = UNSUPPORTED_CALLBACKS[base.__name__]
            raise UserError(f"callbacks.{name}: {base.__name__} is not supported. {instead}")
        if base.__name__ in LOGGING_CALLBACKS and not logs:
            raise UserError(f"callbacks.{name}: {base.__name__} needs a logger. Give logger=wandb, or remove it.")


def check_checkpoint(name: str, node: DictConfig, run_dir: str | None) -> None:
    """Raise UserError where the callback ``best`` or ``last`` would not write NAME.ckpt, once after an epoch.

    node: of the callback; a key that is missing has the default of Lightning's ModelCheckpoint.
    """
    default = inspect.signature(ModelCheckpoint).parameters
    needed = CHECKPOINT | {"filename": name} | CHECKPOINT_OF[name]
    if name == "last":
        del needed["every_n_train_steps"]  # engine.step_checkpoint writes those
    for key, value in needed.items():
        given = node.get(key, default[key].default)
        if given != value and (key, given) not in (("every_n_epochs", 1), ("save_last", False)):
            raise UserError(
                f"callbacks.{name}.{key}={given}: allowed is {str(value).lower().replace('none', 'null')}. A run is "
                f"resumed from last.ckpt and tested with best.ckpt, each written after an epoch. Give another name to "
                f"a further checkpoint, +callbacks.NAME, with a filename of its own."
            )
    if run_dir and Path(node.get("dirpath") or "") != Path(run_dir) / "checkpoints":
        raise UserError(
            f"callbacks.{name}.dirpath={node.get('dirpath')}: allowed is the folder checkpoints of the run. To put the "
            f"whole run elsewhere, give hydra.run.dir=FOLDER."
        )
