"""From configuration to objects; what is refused before any work; and when two configurations are one experiment."""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger

from segpipe.config import LABELS, check
from segpipe.data.augment import Augment, strict
from segpipe.data.dataset import SegmentationDataset
from segpipe.data.module import SegmentationData
from segpipe.errors import UserError
from segpipe.losses import CrossEntropy, Loss
from segpipe.models.encoders import Encoder
from segpipe.models.network import Network
from segpipe.models.refine import Smooth
from segpipe.models.weights import initialise, keyed_random
from segpipe.runs import Run
from segpipe.task import SegmentationTask

NEVER_CHANGES_THE_RESULT = (
    "hydra", "run_dir", "resume", "warm_start", "sweep", "logger", "debug", "callbacks.best", "callbacks.last",
    "callbacks.overlays", "data.root", "data.dataset.root", "data.workers", "data.cache", "data.eval_batch_size",
    "trainer.devices", "trainer.accelerator", "trainer.strategy", "trainer.num_nodes", "trainer.profiler",
    "trainer.name", "trainer.enable_progress_bar", "trainer.enable_model_summary",
)  # fmt: skip


def own(node: DictConfig, path: str) -> DictConfig:
    """A node without the keys that are there for other nodes or for the reader."""
    kept = {key: node[key] for key in node if key != "name" and f"{path}.{key}" not in LABELS}
    return OmegaConf.create(kept, parent=None)


def make(cfg: DictConfig, group: str) -> Any:
    """What a group's ``_target_`` makes; lists and dicts come as Python's own."""
    node = OmegaConf.create(OmegaConf.to_container(cfg[group], resolve=True))
    return instantiate(own(node, group), _convert_="all")


def network(cfg: DictConfig, num_classes: int) -> Network:
    """The network, its weights drawn from generators keyed by (seed, part)."""
    with keyed_random(cfg.seed, "encoder"):
        encoder = make(cfg, "encoder")
    built: Network = make(cfg, "model")(
        encoder=encoder,
        neck=make(cfg, "neck"),
        upsample=make(cfg, "decoder"),
        smooth=Smooth if cfg.decoder.smooth else None,
        fusion=make(cfg, "fusion"),
        num_classes=num_classes,
    )
    for name in ("neck", "decoder", "head", "enlarge"):
        initialise(getattr(built, name), seed=cfg.seed, prefix=name)
    return built


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
    return make(cfg, "data")(augment=augment(cfg), seed=cfg.seed)


def loss(cfg: DictConfig, module: SegmentationData) -> Loss:
    """The loss; class weights that depend on the data are counted from the training masks."""
    built: Loss = make(cfg, "loss")
    for part in built.modules():
        if isinstance(part, CrossEntropy) and part.rule == "median_frequency":
            part.set_weight(module.median_frequency())
    return built


def task(cfg: DictConfig, module: SegmentationData) -> SegmentationTask:
    """The LightningModule."""
    classes = module.split("train").classes
    return make(cfg, "task")(
        network=network(cfg, len(classes)),
        loss=loss(cfg, module),
        optimizer=make(cfg, "optimizer"),
        scheduler=make(cfg, "scheduler"),
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
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    in_sweep = run.folder.parent.name == cfg.sweep.name
    return make(cfg, "logger")(
        folder=run.folder,
        config=OmegaConf.to_container(cfg, resolve=True),
        name=run.record["name"],
        group=cfg.sweep.name if in_sweep else None,
        tags=[override for override in overrides if not override.startswith(("sweep.", "resume="))],
        run_id=run.folder.name[-64:],
    )


def trainer(cfg: DictConfig, run: Run, logger: WandbLogger | None) -> pl.Trainer:
    """The trainer with its callbacks."""
    from segpipe.callbacks import History, WholeCheckpoints  # Lightning's callbacks take time to import

    callbacks = [*make_all(cfg.callbacks), History(run)]
    if logger is not None:
        callbacks.append(pl.callbacks.LearningRateMonitor(logging_interval="epoch"))
    node = own(cfg.trainer, "trainer")
    return instantiate(
        OmegaConf.create(OmegaConf.to_container(node, resolve=True)),
        precision=precision(cfg),
        callbacks=callbacks,
        logger=logger or False,
        plugins=[WholeCheckpoints()],
        _convert_="all",
    )


def make_all(node: DictConfig) -> list[Any]:
    """What each entry of a node makes; null entries are left out."""
    return [instantiate(item, _convert_="all") for item in node.values() if item is not None]


def encoder_on_paper(cfg: DictConfig) -> Encoder:
    """The encoder without memory for its weights, to ask it for its strides."""
    with torch.device("meta"):
        return make(cfg, "encoder")


def refuse(cfg: DictConfig) -> list[str]:
    """Raise UserError for a combination that means nothing; return notes on what a combination does otherwise."""
    check(cfg)
    encoder = encoder_on_paper(cfg)
    stride, name = cfg.model.stride, cfg.encoder.name
    notes = []
    if stride not in encoder.strides and not (stride < encoder.strides[0] and stride in (1, 2, 4, 8)):
        allowed = [s for s in (1, *encoder.strides) if s <= encoder.coarsest]
        closest = min(allowed, key=lambda s: (abs(s - stride), s))
        fcn = f"model=fcn{closest}s" if cfg.model.name == f"fcn{stride}s" else f"model.stride={closest}"
        raise UserError(
            f"model={cfg.model.name} stops at stride {stride}, which encoder={name} (strides "
            f"{', '.join(map(str, encoder.strides))}) has not: take {fcn}, or another encoder."
        )
    if stride < encoder.strides[0]:
        notes.append(f"encoder={name} has no map finer than stride {encoder.strides[0]}: enlarge does the rest.")
    if cfg.decoder.name == "unpool":
        lowest = 1 if cfg.model.enlarge == "same" else stride
        missing = [s for s in encoder.strides if s > lowest and s not in encoder.pools]
        if missing or encoder.strides[0] > lowest:
            raise UserError(
                f"decoder=unpool needs the encoder to max-pool at every step, and encoder={name} does not at stride "
                f"{', '.join(map(str, missing or [encoder.strides[0]]))}: take decoder=deconv, or encoder=small."
            )
    if cfg.fusion.name != "none" and stride == encoder.coarsest:
        notes.append(f"fusion={cfg.fusion.name} has no skip to join at stride {stride}: the same as fusion=none.")
    if cfg.decoder.smooth and cfg.model.refine._target_.endswith("Convolutions") and cfg.decoder.name != "unpool":
        notes.append(f"decoder.smooth={cfg.decoder.smooth} changes nothing here: model={cfg.model.name} convolves itself.")
    for path in ("data.crop", "data.size"):
        pair = OmegaConf.select(cfg, path)
        if pair is not None and (len(pair) != 2 or min(pair) < encoder.min_size):
            raise UserError(
                f"{path}={list(pair)}: allowed is [height, width], both at least {encoder.min_size} for encoder={name}."
            )
    if cfg.resume and cfg.warm_start:
        raise UserError("resume and warm_start exclude each other: one goes on with a training, the other begins one.")
    for key, instead in (("gradient_clip_val", "task.clip"), ("accumulate_grad_batches", "task.accumulate")):
        if cfg.trainer.get(key):
            raise UserError(f"trainer.{key} is not used here, since losses are divided exactly: set {instead}.")
    return notes


def canonical(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration, less what never changes the result, with names of equal networks made equal."""
    resolved = OmegaConf.create(OmegaConf.to_container(OmegaConf.masked_copy(cfg, [k for k in cfg if k != "hydra"]), resolve=True))
    assert isinstance(resolved, DictConfig)
    if cfg.model.stride == encoder_on_paper(cfg).coarsest:  # nothing to fuse
        resolved.fusion = {"name": "none"}
        resolved.model.update(taps="conv", narrow="refine")
    for path in NEVER_CHANGES_THE_RESULT:
        parent, _, key = path.rpartition(".")
        node = OmegaConf.select(resolved, parent) if parent else resolved
        if node is not None:
            node.pop(key, None)
    resolved.model.pop("name")
    resolved.model.pop("deconv_kernel")  # it is in the decoder, where one reads it
    return OmegaConf.to_container(resolved)  # type: ignore[return-value]


def identity(cfg: DictConfig) -> str:
    """Eight hexadecimal digits: a digest of what can change the result, the data and the weights it starts from."""
    content = canonical(cfg)
    content["data_fingerprint"] = dataset(cfg, "train").fingerprint()
    if cfg.warm_start:
        content["warm_start"] = digest(weights_file(cfg.warm_start))
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=4).hexdigest()


def dataset(cfg: DictConfig, split: str) -> SegmentationDataset:
    """A split of the data, without the module around it."""
    return instantiate(OmegaConf.create(OmegaConf.to_container(cfg.data.dataset, resolve=True)), _convert_="all")(split=split)


def weights_file(path: str) -> Path:
    """The checkpoint that ``warm_start`` means: a file itself, or the best of a run."""
    return Path(path) if Path(path).is_file() else Run.open(path).best_checkpoint()


def digest(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=8)).hexdigest()  # type: ignore[arg-type]


def run_name(_root_: DictConfig) -> str:
    """What a run's folder is called: its choices, its seed, its identity. Hydra asks for it as ``${run_name:}``."""
    choices = [_root_[group].name for group in ("model", "decoder", "fusion")]
    return "-".join([*choices, f"s{_root_.seed}", identity(_root_)])


OmegaConf.register_new_resolver("run_name", run_name, replace=True)
