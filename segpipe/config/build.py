"""From configuration to objects."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger

from segpipe.config.schema import EXTRA_KEYS, HYDRA_KEYS
from segpipe.data.augment import Augment, strict
from segpipe.data.dataset import SegmentationDataset
from segpipe.data.module import SegmentationData
from segpipe.errors import UserError
from segpipe.models.encoders import Encoder
from segpipe.models.fusion import Fusion
from segpipe.models.init import init_weights, seeded_by_name
from segpipe.models.network import Network
from segpipe.models.part import Part
from segpipe.models.refine import Refinement, SmoothConv
from segpipe.models.upsample import Upsampler
from segpipe.runs.checkpoints import require_intact
from segpipe.runs.run import Run
from segpipe.training import devices
from segpipe.training.callbacks import AtomicCheckpointIO, History, KeepSigtermHandler
from segpipe.training.devices import SINGLE_PROCESS, RankInfo
from segpipe.training.losses import ClassWeighted, Loss
from segpipe.training.sync_batchnorm import SyncBatchNormPlugin
from segpipe.training.task import SegmentationTask

PROGRESS_EVERY = 10  # batches; drawn at each, the bar costs a small network 2 % of its time
KINDS: dict[type[Part], str] = {Upsampler: "decoder", Fusion: "fusion", Refinement: "model.refine"}  # base: its node
P = TypeVar("P", bound=Part)
SWEEP = "SEGPIPE_SWEEP"  # the environment variable in which a sweep tells its jobs its name


def strip_labels(node: DictConfig, path: str) -> DictConfig:
    """A node without the keys that are there for other nodes or for the reader."""
    kept = {key: node[key] for key in map(str, node) if key != "name" and f"{path}.{key}" not in EXTRA_KEYS}
    return OmegaConf.create(kept)


def resolve(node: DictConfig) -> DictConfig:
    """A copy that stands on its own: interpolations are filled in."""
    copy = OmegaConf.create(OmegaConf.to_container(node, resolve=True))
    assert isinstance(copy, DictConfig)
    return copy


def kind(node: DictConfig, base: type[P]) -> type[P]:
    """The class that a node makes objects of. Its attributes say what they are.

    base: ``Upsampler``, ``Fusion`` or ``Refinement``. Raises UserError for a class that is not derived from it.
    """
    target = f"{KINDS[base]}._target_={node.get('_target_')}"
    try:
        found = get_class(node.get("_target_"))
    except Exception as error:
        raise UserError(f"{target}: this is not a class that can be imported ({error}).") from error
    if not issubclass(found, base):
        raise UserError(
            f"{target}: allowed is a class derived from {base.__module__}.{base.__name__}, whose attributes say what "
            f"its objects are."
        )
    return found


def check_parts(cfg: DictConfig) -> None:
    """Ask each part that is chosen by its class whether it can use its arguments. Raises the UserError of the first."""
    for base, path in KINDS.items():
        node = OmegaConf.select(cfg, path)
        arguments = OmegaConf.to_container(strip_labels(resolve(node), path), resolve=True)
        given = {str(key): value for key, value in arguments.items() if key not in HYDRA_KEYS}  # type: ignore[union-attr]
        try:
            kind(node, base).check(**given)
        except UserError as error:
            raise UserError(f"{path}.{error}") from error


def instantiate_group(cfg: DictConfig, group: str) -> Any:
    """What a group's ``_target_`` makes; lists and dicts come as Python's own."""
    try:
        return instantiate(strip_labels(resolve(cfg[group]), group), _convert_="all")
    except InstantiationException as error:
        raise error.__cause__ if isinstance(error.__cause__, UserError) else error from None


def network(cfg: DictConfig, num_classes: int) -> Network:
    """The network, its weights drawn from generators keyed by (seed, part)."""
    with seeded_by_name(cfg.seed, "encoder"):
        encoder = instantiate_group(cfg, "encoder")
    encoder.freeze(cfg.encoder.get("freeze", 0))
    with seeded_by_name(cfg.seed, "network"):
        built = network_factory(cfg, encoder, num_classes)()
    for name in ("neck", "decoder", "head", "enlarge"):  # each layer by its own key, whatever was drawn before it
        init_weights(getattr(built, name), seed=cfg.seed, prefix=name)
    return built


def meta_encoder(cfg: DictConfig) -> Encoder:
    """The encoder without memory for its weights, to ask it for its strides."""
    with torch.device("meta"):
        return instantiate_group(cfg, "encoder")  # type: ignore[no-any-return]


def network_factory(cfg: DictConfig, encoder: Encoder, num_classes: int) -> Callable[..., Network]:
    """What makes the network around an encoder; an argument given to it goes before that of the configuration."""
    return partial(
        instantiate_group(cfg, "model"),
        encoder=encoder,
        neck=instantiate_group(cfg, "neck"),
        upsample=instantiate_group(cfg, "decoder"),
        smooth=SmoothConv if cfg.decoder.get("smooth") else None,
        fusion=instantiate_group(cfg, "fusion"),
        num_classes=num_classes,
        local_contrast=cfg.augment.get("local_contrast", False),
    )


def augment(cfg: DictConfig) -> Augment:
    """The augmentation, built strictly."""
    node = OmegaConf.to_container(cfg.augment, resolve=True)
    assert isinstance(node, dict)

    def transforms(key: str) -> list[Any]:
        return [
            strict(instantiate({"_target_": "hydra.utils.get_class", "path": item.pop("_target_")}), **item)
            for item in node[key]
        ]

    return Augment(before_crop=transforms("before_crop"), after_crop=transforms("after_crop"), crop=node["crop"])


def data(cfg: DictConfig) -> SegmentationData:
    """The data module."""
    return instantiate_group(cfg, "data")(augment=augment(cfg), seed=cfg.seed)


def loss(cfg: DictConfig, module: SegmentationData) -> Loss:
    """The loss; class weights that depend on the data are counted from the training masks."""
    built: Loss = instantiate_group(cfg, "loss")
    num_classes = len(module.split("train").classes)
    for part in built.modules():
        if isinstance(part, ClassWeighted) and part.weighting == "median_frequency":
            part.set_weight(module.median_frequency())
        if isinstance(part, ClassWeighted) and part.weight is not None and len(part.weight) != num_classes:
            raise UserError(f"loss.weight has {len(part.weight)} entries for {num_classes} classes: give one for each.")
    return built


def task(cfg: DictConfig, module: SegmentationData) -> SegmentationTask:
    """The LightningModule."""
    classes = module.split("train").classes
    return instantiate_group(cfg, "task")(
        network=network(cfg, len(classes)),
        loss=loss(cfg, module),
        optimizer=instantiate_group(cfg, "optimizer"),
        scheduler=instantiate_group(cfg, "scheduler"),
        classes=classes,
        seed=cfg.seed,
    )


def precision(cfg: DictConfig) -> str:
    """``auto`` made out: bf16 where a GPU computes in it."""
    if cfg.trainer.precision != "auto":
        return str(cfg.trainer.precision)
    gpu = torch.cuda.is_available() and cfg.trainer.accelerator in ("auto", "gpu", "cuda")
    return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def logger(cfg: DictConfig, run: Run) -> WandbLogger | None:
    """The W&B logger: group is the sweep, tags are what was chosen on the command line."""
    return instantiate_group(cfg, "logger")(
        folder=run.folder,
        config=OmegaConf.to_container(cfg, resolve=True),
        name=run.record["name"],
        group=os.environ.get(SWEEP),
        tags=[override for override in run.record["overrides"] if not override.startswith(("sweep.", "resume="))],
        run_id=run.folder.name,
    )


def trainer(cfg: DictConfig, run: Run, logger: WandbLogger | None, place: RankInfo = SINGLE_PROCESS) -> pl.Trainer:
    """The trainer with its callbacks. place: this process's among the ranks that train together."""
    callbacks = [*instantiate_all(cfg.callbacks), History(run)]
    if cfg.trainer.get("enable_progress_bar", True):
        callbacks.append(pl.callbacks.RichProgressBar(refresh_rate=PROGRESS_EVERY))
    if logger is not None:
        callbacks.append(pl.callbacks.LearningRateMonitor(logging_interval="epoch"))
    plugins: list[Any] = [
        AtomicCheckpointIO(),
        LightningEnvironment(),
    ]  # not what Lightning finds: a SLURM job around us
    if place.world_size > 1 and cfg.trainer.sync_batchnorm:
        plugins.append(SyncBatchNormPlugin(gpu=devices.on_gpu(cfg)))
    if place.world_size > 1:
        callbacks.append(KeepSigtermHandler())
    # Instances are given to the maker, not to Hydra, which would make configurations of them.
    maker = instantiate(strip_labels(resolve(cfg.trainer), "trainer"), _partial_=True, _convert_="all")
    given = {"precision": precision(cfg), "sync_batchnorm": False, **devices.trainer_arguments(cfg, place)}
    return maker(callbacks=callbacks, logger=logger or False, plugins=plugins, **given)


def instantiate_all(node: DictConfig) -> list[Any]:
    """What each entry of a node makes; null entries are left out."""
    return [instantiate(item, _convert_="all") for item in node.values() if item is not None]


def dataset(cfg: DictConfig, split: str) -> SegmentationDataset:
    """A split of the data, without the module around it."""
    return instantiate(resolve(cfg.data.dataset), _convert_="all")(split=split)


def weights_file(path: str) -> Path:
    """The checkpoint that ``warm_start`` means: a file itself, or the best of a run."""
    return Path(path) if Path(path).is_file() else require_intact(Run.open(path).best_checkpoint())
