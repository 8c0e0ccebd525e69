"""Which cells of a sweep are one and the same network, and what a run is called."""

import copy
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from segpipe.config import build
from segpipe.config.schema import CONF
from segpipe.data.dataset import SegmentationDataset
from segpipe.models.decoder import all_widths, steps
from segpipe.models.encoders import Encoder
from segpipe.runs.identity_keys import ADDED_SINCE, NEVER_CHANGES_THE_RESULT
from segpipe.runs.renames import current, oldest
from segpipe.training import pretrained


def overlapping(encoder: Encoder) -> list[int]:
    """The strides that an encoder reaches by max-poolings whose windows are not 2 x 2, side by side."""
    return [stride for stride, pool in encoder.pools.items() if (pool.kernel, pool.stride) != (2, 2)]


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


def smooths(cfg: DictConfig, encoder: Encoder) -> bool:
    """Whether ``decoder.smooth`` fills any slot: behind steps of 2, where refine does not convolve itself."""
    stride, *_ = least(cfg, encoder)
    own_steps = cfg.decoder.name == "unpool" and cfg.model.enlarge == "same" and cfg.model.stride > 1  # to full size
    return own_steps or (stride < encoder.coarsest and not cfg.model.refine._target_.endswith("Convolutions"))


def known_width(cfg: DictConfig, encoder: Encoder) -> Any:
    """``model.width`` in the shortest of the forms in which it may be given; null where it is the encoder's."""
    width = cfg.model.get("width")
    if width is None or width == "classes":
        return width
    with torch.device("meta"):
        in_channels = build.make(cfg, "neck")(encoder).out_channels
    strides = steps(encoder, start=encoder.coarsest, stop=cfg.model.stride)
    widths = all_widths(width, in_channels, encoder, strides)
    if widths == all_widths(None, in_channels, encoder, strides):
        return None
    if len(set(widths)) == 1:
        return widths[0]
    return widths[1:] if widths[0] == in_channels else widths


def canonical(cfg: DictConfig, encoder: Encoder) -> dict[str, Any]:
    """The resolved configuration, less what never changes the result, with names of equal networks made equal."""
    resolved = build.resolved(cfg)
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
    if not smooths(cfg, encoder):
        resolved.decoder.smooth = "conv3x3" if decoder == "unpool" else None  # as their files have it
    resolved.model.width = known_width(cfg, encoder)
    if not cfg.get("stages"):
        resolved.pop("stages", None)
    for path in NEVER_CHANGES_THE_RESULT:
        parent, _, key = path.rpartition(".")
        node = OmegaConf.select(resolved, parent) if parent else resolved
        if node is not None:
            node.pop(key, None)
    resolved.model.pop("name")
    resolved.model.pop("deconv_kernel")  # it is in the decoder, where one reads it
    return with_class_keys(OmegaConf.to_container(resolved))  # type: ignore[no-any-return]


def with_class_keys(node: Any) -> Any:
    """Copy nested dicts and lists of a configuration, every ``_target_`` replaced by ``class_key``."""
    if isinstance(node, dict):
        return {key: class_key(value) if key == "_target_" else with_class_keys(value) for key, value in node.items()}
    return [with_class_keys(item) for item in node] if isinstance(node, list) else node


def class_key(target: str) -> str:
    """The one path that stands for a class in an identity, by whatever path a configuration names it.

    It is the shortest path that leads to the class: ``torch.optim.AdamW`` for ``torch.optim.adamw.AdamW``. For a class
    of ours that has moved, it is the path of the first version that had it.
    """
    target = current(target)
    try:
        found = get_object(target)
        module, name = found.__module__, found.__qualname__
    except Exception:  # it cannot be imported, or is no class or function: the check of the configuration says so
        return target
    packages = list(accumulate(module.split("."), lambda package, part: f"{package}.{part}"))
    paths = [package for package in packages if getattr(sys.modules.get(package), name, None) is found]
    return oldest(f"{paths[0]}.{name}" if paths else target)


def digest(
    cfg: DictConfig,
    canonical: Mapping[str, Any],
    datasets: Sequence[SegmentationDataset],
    revisions: Mapping[str, int],
) -> str:
    """Eight hexadecimal digits of what can change the result: configuration, data, and the weights it starts from."""
    content = copy.deepcopy(dict(canonical))
    content["data_fingerprint"] = [dataset.fingerprint() for dataset in datasets]
    for group, revision in revisions.items():
        content[group]["revision"] = revision
    for path, before in ADDED_SINCE.items():
        node, _, key = path.rpartition(".")
        if content[node].get(key, before) == before:
            content[node].pop(key, None)
    content["trainer"]["precision"] = build.precision(cfg)
    if (weights := cfg.encoder.get("weights")) and pretrained.is_file(weights) and Path(weights).is_file():
        content["encoder"]["weights"] = digest_of_file(Path(weights))  # by what is in it, wherever it lies
    if cfg.warm_start:
        content["warm_start"] = digest_of_file(build.weights_file(cfg.warm_start))
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=4).hexdigest()


def revisions(cfg: DictConfig, encoder: Encoder, datasets: Sequence[SegmentationDataset]) -> dict[str, int]:
    """By config group the revision of what a run uses of it; 0 where no repair has touched such a run."""
    size = cfg.data.get("size")
    resized = size and any(dataset.size(i) != tuple(size) for dataset in datasets for i in range(len(dataset)))
    with torch.device("meta"):
        neck = build.make(cfg, "neck")(encoder)
    return {
        "augment": build.augment(cfg).revision,
        "data": int(bool(resized)),
        "encoder": encoder.revision,
        "neck": getattr(neck, "revision", 0),
    }


def digest_of_file(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=8)).hexdigest()  # type: ignore[arg-type]


def named(cfg: DictConfig, encoder: Encoder, last: str) -> str:
    """A run's choices, as ``least`` has them, its width where it has its own, seed, and ``last`` behind them."""
    stride, decoder, fusion = least(cfg, encoder)
    model = model_name(cfg.model.name, cfg.model.stride, stride)
    width = known_width(cfg, encoder)
    numbers = width if isinstance(width, list) else [width]
    own = [] if width in (None, "classes") else ["w" + "_".join(map(str, numbers))]
    return "-".join([model, decoder, fusion, *own, f"s{cfg.seed}", last])


def model_name(name: str, given: int, stride: int) -> str:
    """``fcn8s`` for itself, ``ladder8`` for model=ladder model.stride=8."""
    if name == f"fcn{given}s":
        return f"fcn{stride}s"
    return name if stride == 1 else f"{name}{stride}"
