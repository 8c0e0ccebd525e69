"""Which combinations mean nothing and are refused, which are one and the same experiment, and what a run is called."""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from omegaconf import DictConfig, OmegaConf

from segpipe import build, devices, pretrained
from segpipe.config import CONF, check
from segpipe.data.dataset import Split
from segpipe.errors import UserError
from segpipe.models.encoders import Encoder

NEVER_CHANGES_THE_RESULT = (
    "hydra", "run_dir", "resume", "warm_start", "sweep", "logger", "debug", "callbacks.best.dirpath",
    "callbacks.last", "callbacks.overlays", "data.root", "data.dataset.root", "data.dataset.images",
    "data.dataset.masks", "data.dataset.download", "data.workers", "data.cache", "data.eval_batch_size",
    "trainer.devices", "trainer.accelerator", "trainer.strategy", "trainer.num_nodes", "trainer.profiler",
    "trainer.name", "trainer.enable_progress_bar", "trainer.enable_model_summary", "task.compile",
)  # fmt: skip


def encoder_on_paper(cfg: DictConfig) -> Encoder:
    """The encoder without memory for its weights, to ask it for its strides."""
    with torch.device("meta"):
        return build.make(cfg, "encoder")


def refuse(cfg: DictConfig) -> list[str]:
    """Raise UserError for a combination that means nothing; return notes on what a combination does otherwise."""
    check(cfg)
    encoder = encoder_on_paper(cfg)
    for refusal in (refuse_stride, refuse_decoder, refuse_pictures):
        refusal(cfg, encoder)
    refuse_training(cfg)
    return notes(cfg, encoder)


def refuse_stride(cfg: DictConfig, encoder: Encoder) -> None:
    """A model may stop at any stride that the encoder has, or finer than its finest; so many stages can be frozen."""
    if cfg.encoder.get("freeze", 0) > len(encoder.stages):
        raise UserError(
            f"encoder.freeze={cfg.encoder.freeze}: allowed is 0 to {len(encoder.stages)}, the stages of "
            f"encoder={cfg.encoder.name}."
        )
    stride = cfg.model.stride
    allowed = [s for s in (1, 2, 4, 8) if s < encoder.strides[0]] + encoder.strides
    if stride not in allowed:
        closest = min(allowed, key=lambda s: (abs(s - stride), -s))
        instead = f"model=fcn{closest}s" if cfg.model.name == f"fcn{stride}s" else f"model.stride={closest}"
        raise UserError(
            f"model={cfg.model.name} stops at stride {stride}, which encoder={cfg.encoder.name} (strides "
            f"{', '.join(map(str, encoder.strides))}) has not: take {instead}, or another encoder."
        )


def refuse_decoder(cfg: DictConfig, encoder: Encoder) -> None:
    """Unpooling needs poolings; kernels need a middle, or an edge there."""
    if cfg.decoder.name == "unpool":
        lowest = 1 if cfg.model.enlarge == "same" else cfg.model.stride
        without = [s for s in encoder.strides if s > lowest and s not in encoder.pools]
        if without or encoder.strides[0] > lowest:
            places = ", ".join(map(str, without or encoder.strides[:1]))
            raise UserError(
                f"decoder=unpool needs the encoder to max-pool at every step, and encoder={cfg.encoder.name} does not "
                f"at stride {places}: take decoder=deconv, or encoder=small."
            )
    overlap = overlapping(encoder)
    if cfg.decoder.name == "unpool" and overlap:
        raise UserError(
            f"decoder=unpool: the windows of encoder={cfg.encoder.name}'s max-poolings overlap (stride "
            f"{', '.join(map(str, overlap))}), so a maximum may be two windows' and the values would fall "
            f"on one another. Take decoder=deconv, or encoder=vgg16."
        )
    for path in ("encoder.kernel", "model.refine.kernel"):
        if (OmegaConf.select(cfg, path) or 1) % 2 == 0:
            raise UserError(f"{path}={OmegaConf.select(cfg, path)}: allowed is an odd number, which has a middle.")
    if cfg.decoder.get("kernel", 2) % 2:
        raise UserError(
            f"decoder.kernel={cfg.decoder.kernel}: allowed is an even number; an odd one would shift the map by half a "
            f"pixel at every step."
        )


def overlapping(encoder: Encoder) -> list[int]:
    """The strides that an encoder reaches by max-poolings whose windows are not 2 x 2, side by side."""
    return [stride for stride, pool in encoder.pools.items() if (pool.kernel, pool.stride) != (2, 2)]


def refuse_pictures(cfg: DictConfig, encoder: Encoder) -> None:
    """Pictures have to make batches, and to be large enough for the encoder."""
    if cfg.data.name == "shapes" and cfg.data.get("root"):
        raise UserError(
            f"data.root={cfg.data.root}: data=shapes is drawn and has no folder. Say what lies there: data=folder for "
            f"pictures of your own, or data=camvid, voc, pets, cityscapes."
        )
    for path in ("data.crop", "data.size"):
        pair = OmegaConf.select(cfg, path)
        if pair is not None and (len(pair) != 2 or min(pair) < encoder.min_size):
            raise UserError(
                f"{path}={list(pair)}: allowed is [height, width], both at least {encoder.min_size} for "
                f"encoder={cfg.encoder.name}."
            )
    smallest = cfg.data.get("crop") or cfg.data.get("size")
    parts = cfg.task.accumulate * (1 if cfg.trainer.sync_batchnorm else devices.place().world_size)
    alone = cfg.data.batch_size // parts <= 1
    if alone and smallest and max(smallest) <= encoder.coarsest and cfg.neck.get("norm"):
        raise UserError(
            f"data.batch_size={cfg.data.batch_size} in {parts} parts of pictures of {list(smallest)}: "
            f"batch normalisation would see a single value. Take a larger batch or larger pictures, or neck.norm=false."
        )
    if cfg.data.get("crop") is None and cfg.augment.before_crop:
        raise UserError(
            f"augment={cfg.augment.name} changes the size of pictures, which then make no batch: set "
            f"data.crop=[HEIGHT,WIDTH]."
        )


def refuse_training(cfg: DictConfig) -> None:
    """What Lightning would take, and we cannot keep."""
    trainer = cfg.trainer
    for name in ("best", "last"):
        if cfg.callbacks.get(name) is None:
            raise UserError(f"callbacks.{name} is left out, but nothing can be tested or gone on with but for it.")
    if trainer.check_val_every_n_epoch > trainer.max_epochs:
        raise UserError(
            f"trainer.check_val_every_n_epoch={trainer.check_val_every_n_epoch} with trainer.max_epochs="
            f"{trainer.max_epochs}: no epoch would be validated. Lower the one or raise the other."
        )
    if cfg.resume not in (None, "auto") and cfg.warm_start:
        raise UserError("resume and warm_start exclude each other: one goes on with a training, the other begins one.")
    for key, instead in (("gradient_clip_val", "task.clip"), ("accumulate_grad_batches", "task.accumulate")):
        if trainer.get(key):
            raise UserError(f"trainer.{key} is not used here, since losses are divided exactly: set {instead}.")


def notes(cfg: DictConfig, encoder: Encoder) -> list[str]:
    """What is allowed, but does something else than one might think."""
    found = []
    model, smooth = cfg.model, cfg.decoder.smooth
    if model.stride < encoder.strides[0]:
        found.append(f"encoder={cfg.encoder.name} has no map finer than {encoder.strides[0]}: enlarge does the rest.")
    if cfg.fusion.name != "none" and model.stride == encoder.coarsest:
        found.append(f"fusion={cfg.fusion.name} has no skip to join at stride {model.stride}: the same as fusion=none.")
    if cfg.encoder.get("freeze", 0) and not (cfg.encoder.get("weights") or cfg.warm_start):
        found.append(f"encoder.freeze={cfg.encoder.freeze} keeps random weights, since encoder.weights is null.")
    if cfg.encoder.get("weights") and cfg.warm_start:
        found.append("warm_start is given, so encoder.weights are not read.")
    if smooth and cfg.decoder.name != "unpool" and model.refine._target_.endswith("Convolutions"):
        found.append(f"decoder.smooth={smooth} changes nothing here: model={model.name} convolves itself.")
    return found


def least(cfg: DictConfig, encoder: Encoder) -> tuple[int, str, str]:
    """Stride, decoder and fusion that a network is known by: cells of which these are equal are one network.

    Where nothing is climbed, nothing is joined, and a fixed enlargement is all there is of a way up. Repetition by 2
    and 2 and 8 is repetition by 32; so is unpooling, whose steps are the same wherever the decoder stops: without
    skips and convolutions the stride then says nothing.
    """
    model = cfg.model
    stride, decoder, fusion = model.stride, cfg.decoder.name, cfg.fusion.name
    alike = decoder == "unpool" or (decoder == "nearest" and not cfg.decoder.smooth)
    linear = model.refine._target_.endswith("Mix") and model.width == "classes" and model.enlarge == "same"
    if alike and linear and fusion == "none" and not overlapping(encoder):  # AlexNet's maps are no halves
        stride = encoder.coarsest
    if stride == encoder.coarsest:
        return stride, "bilinear" if model.enlarge == "bilinear" else decoder, "none"
    return stride, decoder, fusion


def canonical(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration, less what never changes the result, with names of equal networks made equal."""
    resolved = build.resolved(OmegaConf.masked_copy(cfg, [key for key in map(str, cfg) if key != "hydra"]))
    encoder = encoder_on_paper(cfg)
    stride, decoder, fusion = least(cfg, encoder)
    if fusion == "none":
        resolved.fusion = {"name": "none"}
        resolved.model.update(taps="conv", stride=stride)
    if stride == encoder.coarsest:
        resolved.model.narrow = "refine"
    if decoder != cfg.decoder.name:
        resolved.decoder = OmegaConf.load(CONF / "decoder" / f"{decoder}.yaml")
    if decoder == "bilinear":
        resolved.model.enlarge = "same"
    if not cfg.get("stages"):
        resolved.pop("stages", None)
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
    content["data_fingerprint"] = [build.dataset(cfg, split).fingerprint() for split in get_args(Split)]
    content["trainer"]["precision"] = build.precision(cfg)
    if (weights := cfg.encoder.get("weights")) and pretrained.is_file(weights) and Path(weights).is_file():
        content["encoder"]["weights"] = digest(Path(weights))  # by what is in it, wherever it lies
    if cfg.warm_start:
        content["warm_start"] = digest(build.weights_file(cfg.warm_start))
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=4).hexdigest()


def digest(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=8)).hexdigest()  # type: ignore[arg-type]


def run_name(_root_: DictConfig) -> str:
    """What a run's folder is called: its choices, its seed, its identity. Hydra asks for it as ``${run_name:}``.

    Where there is no identity, since the data are missing, say, the training itself will refuse, and say why.
    """
    try:
        return named(_root_, identity(_root_))
    except Exception:
        return named(_root_, "refused")


def named(cfg: DictConfig, last: str) -> str:
    """A run's choices, as ``least`` has them, and seed, with ``last`` behind them."""
    stride, decoder, fusion = least(cfg, encoder_on_paper(cfg))
    model = model_name(cfg.model.name, cfg.model.stride, stride)
    return "-".join([model, decoder, fusion, f"s{cfg.seed}", last])


def model_name(name: str, given: int, stride: int) -> str:
    """``fcn8s`` for itself, ``ladder8`` for model=ladder model.stride=8."""
    if name == f"fcn{given}s":
        return f"fcn{stride}s"
    return name if stride == 1 else f"{name}{stride}"


OmegaConf.register_new_resolver("run_name", run_name, replace=True)
