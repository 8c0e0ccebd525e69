"""Functions that build objects from the configuration."""

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from segpipe.config.schema import HYDRA_KEYS, arguments, locate
from segpipe.data.augment import Augment, strict
from segpipe.data.bands import Bands
from segpipe.data.dataset import SegmentationDataset
from segpipe.data.module import SegmentationData
from segpipe.errors import UserError
from segpipe.models.attention import ATTENTIONS
from segpipe.models.decoder import Skips
from segpipe.models.encoders import Encoder
from segpipe.models.fusion import Fusion
from segpipe.models.init import init_weights, seeded_by_name
from segpipe.models.network import Network
from segpipe.models.part import Part
from segpipe.models.refine import Refinement, SmoothConv
from segpipe.models.upsample import Upsampler, with_residual
from segpipe.runs.checkpoints import require_intact
from segpipe.runs.run import Run
from segpipe.training import devices, tracking
from segpipe.training.callbacks import AtomicCheckpointIO, EpochLines, History, KeepSigtermHandler
from segpipe.training.devices import SINGLE_PROCESS, RankInfo
from segpipe.training.losses import ClassWeighted, Loss
from segpipe.training.sync_batchnorm import SyncBatchNormPlugin
from segpipe.training.task import SegmentationTask

PROGRESS_EVERY = 10  # batches; a redraw at each batch takes 2 % of the time of a small network
KINDS: dict[type[Part], str] = {Upsampler: "decoder", Fusion: "fusion", Refinement: "model.refine"}  # base class: node
P = TypeVar("P", bound=Part)
MADE: dict[str, type] = {  # node: base class of its object; KINDS has the others
    "data": SegmentationData,
    "data.dataset": SegmentationDataset,
    "encoder": Encoder,
    "neck": torch.nn.Module,
    "loss": Loss,
    "model": Network,
    "optimizer": torch.optim.Optimizer,
    "task": SegmentationTask,
    "trainer": pl.Trainer,
}
STAGES = "stages"  # the folder of the first stages, in the run of the last one
SWEEP = "SEGPIPE_SWEEP"  # environment variable with the name of the sweep, set for its jobs


def strip_labels(node: DictConfig, path: str) -> DictConfig:
    """Return a node without the keys that are no arguments: its name, and keys that other nodes read."""
    kept = {*arguments(node, path), *HYDRA_KEYS}
    return OmegaConf.create({key: node[key] for key in map(str, node) if key in kept})


def as_dict(node: DictConfig) -> dict[str, Any]:
    """Return a node as Python dicts and lists, in which all interpolations are resolved."""
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def resolve(node: DictConfig) -> DictConfig:
    """Return a copy in which all interpolations are resolved."""
    copy = OmegaConf.create(as_dict(node))
    assert isinstance(copy, DictConfig)
    return copy


def kind(node: DictConfig, base: type[P]) -> type[P]:
    """Return the class that a node instantiates. The class attributes describe the properties of its objects.

    base: ``Upsampler``, ``Fusion`` or ``Refinement``. Raises UserError for a class that is not derived from it.
    """
    made = locate(node._target_)
    if not (inspect.isclass(made) and issubclass(made, base)):
        raise UserError(
            f"{KINDS[base]}._target_={node._target_}: allowed is a class derived from "
            f"{base.__module__}.{base.__name__}. The attributes of the class describe its objects."
        )
    return made


def operator(node: DictConfig) -> type[Upsampler]:
    """Return the class of the upsampling operator that a ``decoder`` node chooses, with its residual if it has one."""
    made = kind(node, Upsampler)
    return with_residual(made) if node.get("residual") else made  # type: ignore[arg-type]


def check_parts(cfg: DictConfig) -> None:
    """Let the class of each part check the arguments. Raises the UserError of the first part that rejects them."""
    for base, path in KINDS.items():
        node = OmegaConf.select(cfg, path)
        values: Any = OmegaConf.to_container(node, resolve=True)
        given = {key: values[key] for key in arguments(node, path)}
        try:
            kind(node, base).check(**given)
        except UserError as error:
            raise UserError(f"{path}.{error}") from error


def instantiate_group(cfg: DictConfig, group: str, **more: Any) -> Any:
    """Instantiate a group's ``_target_``. Lists and dicts are passed as Python lists and dicts.

    more: further arguments. Raises the UserError of the constructor, if it raises one.
    """
    try:
        made = instantiate(strip_labels(resolve(cfg[group]), group), _convert_="all", **more)
    except InstantiationException as error:
        raise error.__cause__ if isinstance(error.__cause__, UserError) else error from None
    check_made(cfg[group], group, made)
    return made


def check_made(node: DictConfig, path: str, made: Any) -> None:
    """Raise UserError where the object of a node, or the class that it wraps, is none of those in MADE.

    What a function will return is not known, and not checked.
    """
    kind = made.func if isinstance(made, partial) else type(made)
    if path in MADE and inspect.isclass(kind) and not issubclass(kind, MADE[path]):
        raise wrong_kind(node, path, kind, f"{MADE[path].__module__}.{MADE[path].__name__}")


def wrong_kind(node: DictConfig, path: str, kind: type, allowed: str) -> UserError:
    """Return the error for a node that makes an object of another kind. allowed: the dotted path of a base class."""
    made = f"{path}._target_={node.get('_target_')}: it makes a {kind.__name__}"
    return UserError(f"{made}; allowed is a class derived from {allowed}.")


def network(cfg: DictConfig, num_classes: int, bands: Bands | None = None) -> Network:
    """Build the network. The weights are drawn from random generators that are seeded by (seed, part).

    bands: of its images; None: 8-bit RGB.
    """
    with seeded_by_name(cfg.seed, "encoder"):
        encoder = make_encoder(cfg, 3 if bands is None else bands.channels)
    if bands is not None:
        encoder.mean, encoder.std = bands.mean, bands.std
    encoder.freeze(cfg.encoder.get("freeze", 0))
    with seeded_by_name(cfg.seed, "network"):
        built = network_factory(cfg, encoder, num_classes)()
    # Each layer has its own key and is independent of the others.
    for name in ("neck", "decoder", "head", "enlarge", "auxiliary"):
        init_weights(getattr(built, name), seed=cfg.seed, prefix=name)
    return built


def make_encoder(cfg: DictConfig, channels: int) -> Encoder:
    """Build the encoder for images of a number of channels. Raises UserError if it only takes images of three."""
    if channels == 3:
        return instantiate_group(cfg, "encoder")  # type: ignore[no-any-return]
    target = cfg.encoder._target_
    if "in_channels" not in inspect.signature(locate(target)).parameters:
        raise UserError(
            f"encoder._target_={target}: takes images of 3 bands, but these have {channels}. Give the constructor of "
            f"its class an argument in_channels, the number of bands; or choose another encoder."
        )
    built: Encoder = instantiate_group(cfg, "encoder", in_channels=channels)
    built.mean, built.std = (0.5,) * channels, (0.25,) * channels  # until the bands are known
    return built


def meta_encoder(cfg: DictConfig, channels: int = 3) -> Encoder:
    """Build the encoder on the meta device, without memory for its weights. It has its strides and channels.

    channels: of the image.
    """
    with torch.device("meta"):
        return make_encoder(cfg, channels)


def network_factory(cfg: DictConfig, encoder: Encoder, num_classes: int) -> Callable[..., Network]:
    """Return a factory that builds the network around an encoder. Its arguments override the configuration."""
    return partial(
        instantiate_group(cfg, "model"),
        encoder=encoder,
        neck=instantiate_group(cfg, "neck"),
        upsample=partial(operator(cfg.decoder), **instantiate_group(cfg, "decoder").keywords),
        smooth=SmoothConv if cfg.decoder.get("smooth") else None,
        fusion=instantiate_group(cfg, "fusion"),
        num_classes=num_classes,
        local_contrast=cfg.augment.get("local_contrast", False),
        skips=skips(cfg),
    )


def skips(cfg: DictConfig) -> Skips:
    """Return the options of the skips that hold for every fusion."""
    at, fusion = cfg.fusion.get("at"), cfg.fusion
    return Skips(None if at is None else tuple(at), fusion.get("drop", 0), ATTENTIONS.get(fusion.get("attention")))


def augment(cfg: DictConfig) -> Augment:
    """Build the augmentation. Raises UserError for arguments that a transform does not take."""
    node = OmegaConf.to_container(cfg.augment, resolve=True)
    assert isinstance(node, dict)

    def transform(item: dict[str, Any]) -> Any:
        target = instantiate({"_target_": "hydra.utils.get_class", "path": item.pop("_target_")})
        if isinstance(item.get("transforms"), list):  # a composition, such as OneOf
            item["transforms"] = [transform(inner) for inner in item["transforms"]]
        return strict(target, **item)

    before, after = ([transform(item) for item in node[key]] for key in ("before_crop", "after_crop"))
    return Augment(before_crop=before, after_crop=after, crop=node["crop"])


def data(cfg: DictConfig) -> SegmentationData:
    """Build the data module."""
    maker = instantiate_group(cfg, "data")
    check_made(cfg.data.dataset, "data.dataset", maker.keywords.get("dataset"))
    return maker(augment=augment(cfg), seed=cfg.seed)  # type: ignore[no-any-return]


def loss(cfg: DictConfig, module: SegmentationData) -> Loss:
    """Build the loss. Class weights that depend on the data are computed from the training masks.

    Raises UserError where the number of class weights is not the number of classes.
    """
    built: Loss = instantiate_group(cfg, "loss")
    num_classes = len(module.split("train").classes)
    for part in built.modules():
        if isinstance(part, ClassWeighted) and part.weighting == "median_frequency":
            part.set_weight(module.median_frequency())
        if isinstance(part, ClassWeighted) and part.weight is not None and len(part.weight) != num_classes:
            raise UserError(f"loss.weight has {len(part.weight)} entries for {num_classes} classes: give one for each.")
        if isinstance(part, ClassWeighted) and part.weight is not None and not valid_weights(part.weight):
            raise UserError(
                f"loss.weight={[round(float(weight), 6) for weight in part.weight]}: allowed are numbers of 0 or more, "
                f"of which one is above 0."
            )
    return built


def valid_weights(weight: Tensor) -> bool:
    """Return whether class weights (K,) are finite and 0 or more, and not all 0: the loss would be 0 or meaningless."""
    return bool(weight.isfinite().all() and (weight >= 0).all() and weight.any())


def task(cfg: DictConfig, module: SegmentationData) -> SegmentationTask:
    """Build the LightningModule."""
    classes = module.split("train").classes
    return instantiate_group(cfg, "task")(
        network=network(cfg, len(classes), module.bands),
        loss=loss(cfg, module),
        optimizer=instantiate_group(cfg, "optimizer"),
        scheduler=instantiate_group(cfg, "scheduler"),
        classes=classes,
        seed=cfg.seed,
    )


def precision(cfg: DictConfig) -> str:
    """Return the precision. ``auto`` is resolved: bf16-mixed on a GPU that supports it, else 32-true."""
    if cfg.trainer.precision != "auto":
        return str(cfg.trainer.precision)
    gpu = torch.cuda.is_available() and cfg.trainer.accelerator in ("auto", "gpu", "cuda")
    return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def logger(cfg: DictConfig, run: Run) -> WandbLogger | None:
    """Build the W&B logger. Without options, its group is the sweep; its tags are the overrides of the command line."""
    sweep = os.environ.get(SWEEP)
    called = tracking.identify(
        run.record["name"],
        [override for override in run.record["overrides"] if not override.startswith(("sweep.", "resume="))],
        group=cfg.logger.get("group"),
        tags=cfg.logger.get("tags") or (),
        sweep=sweep,
        single=not sweep and run.folder.parent.name != STAGES,
    )
    config = OmegaConf.to_container(cfg, resolve=True)
    return instantiate_group(cfg, "logger")(folder=run.folder, config=config, **called._asdict())


def trainer(
    cfg: DictConfig,
    run: Run,
    rank_info: RankInfo = SINGLE_PROCESS,
    *,
    first: Sequence[pl.Callback] = (),
    last: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """Build the trainer with its callbacks, without a logger (``attach_logger``).

    rank_info: this process's rank and the number of ranks. first, last: callbacks before and after those of the
    configuration; checkpoints are written after all. Raises UserError for arguments that Lightning rejects.
    """
    history, shown = History(run), cfg.trainer.get("enable_progress_bar", True)
    callbacks = [*first, *instantiate_all(without_step_checkpoints(cfg.callbacks)), history]
    on_terminal = sys.stdout.isatty()
    if shown:
        bar = pl.callbacks.RichProgressBar(refresh_rate=PROGRESS_EVERY)
        callbacks.append(bar if on_terminal else EpochLines(history))
    plugins: list[Any] = [
        AtomicCheckpointIO(),
        LightningEnvironment(),
    ]  # set explicitly, or Lightning detects a SLURM job around this process
    if rank_info.world_size > 1 and cfg.trainer.sync_batchnorm:
        plugins.append(SyncBatchNormPlugin(gpu=devices.on_gpu(cfg)))
    if rank_info.world_size > 1:
        callbacks.append(KeepSigtermHandler())
    # Instances are passed to the constructor, not to Hydra: Hydra would convert them to configurations.
    maker = instantiate(strip_labels(resolve(cfg.trainer), "trainer"), _partial_=True, _convert_="all")
    check_made(cfg.trainer, "trainer", maker)
    given = {"precision": precision(cfg), "sync_batchnorm": False, **devices.trainer_arguments(cfg, rank_info)}
    given["enable_progress_bar"] = shown and on_terminal
    try:
        built = maker(callbacks=callbacks, logger=False, plugins=plugins, **given)
    except MisconfigurationException:
        raise
    except Exception as error:  # Lightning checks its arguments itself, by errors of many kinds
        if "more than one stateful callback" in str(error):
            raise UserError(
                "callbacks: two checkpoints have the same monitor and the same intervals, so their states cannot be "
                "told apart. Give the one you add another +callbacks.NAME.monitor or +callbacks.NAME.every_n_epochs."
            ) from error
        raise UserError(f"trainer: {str(error).strip().partition(chr(10))[0] or type(error).__name__}") from error
    built.callbacks = [*built.callbacks, *last]
    built.callbacks.sort(key=lambda callback: isinstance(callback, pl.callbacks.Checkpoint))  # stable
    return built  # type: ignore[no-any-return]


def attach_logger(trainer: pl.Trainer, logger: WandbLogger | None) -> None:
    """Give a trainer its logger, after everything else was built: a logger may start a run on a server."""
    if logger is not None:
        trainer.logger = logger
        trainer.callbacks.insert(0, pl.callbacks.LearningRateMonitor(logging_interval="epoch"))  # type: ignore[attr-defined]


def without_step_checkpoints(node: DictConfig) -> DictConfig:
    """Return the callbacks, where ``last`` is written after each epoch. Within an epoch, the engine writes it."""
    copy = node.copy()
    if copy.get("last") is not None and "every_n_train_steps" in copy.last:
        copy.last.every_n_train_steps = None
    return copy


def instantiate_all(node: DictConfig) -> list[Any]:
    """Instantiate each callback of a node. Null entries are skipped. Raises UserError for what is no callback."""
    made = {name: instantiate(item, _convert_="all") for name, item in node.items() if item is not None}
    for name, one in made.items():
        if not isinstance(one, pl.Callback):
            raise wrong_kind(node[name], f"callbacks.{name!s}", type(one), "pytorch_lightning.callbacks.Callback")
    return [*made.values()]


def dataset(cfg: DictConfig, split: str) -> SegmentationDataset:
    """Build the data set of one split, without the data module."""
    maker = instantiate(resolve(cfg.data.dataset), _convert_="all")
    check_made(cfg.data.dataset, "data.dataset", maker)
    return maker(split=split)  # type: ignore[no-any-return]


def weights_file(path: str) -> Path:
    """Return the checkpoint that ``warm_start`` names: a checkpoint file, or the best checkpoint of a run's folder.

    Raises UserError where the folder is no run, or where its best checkpoint is missing or damaged.
    """
    return Path(path) if Path(path).is_file() else require_intact(Run.open(path).best_checkpoint())
