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
from pytorch_lightning import callbacks

from segpipe.config import build
from segpipe.config.choices import files
from segpipe.config.schema import locate
from segpipe.data.dataset import SegmentationDataset
from segpipe.models.decoder import decoder_strides, resolve_widths
from segpipe.models.encoders import Encoder
from segpipe.models.fusion import Fusion, NoFusion
from segpipe.models.network import ENLARGEMENTS
from segpipe.models.refine import Refinement
from segpipe.models.upsample import Nearest, Upsampler
from segpipe.runs.identity_keys import ADDED_SINCE, IGNORED_IN_IDENTITY
from segpipe.runs.renames import current, oldest
from segpipe.training import pretrained

# Of Lightning's own, those that only show or log. All others, and a user's, may change what is trained or tested.
LOGGING = (
    callbacks.LearningRateMonitor, callbacks.DeviceStatsMonitor, callbacks.ThroughputMonitor, callbacks.ModelSummary,
    callbacks.RichModelSummary, callbacks.TQDMProgressBar, callbacks.RichProgressBar,
)  # fmt: skip


def overlapping_pools(encoder: Encoder) -> list[int]:
    """The strides that an encoder reaches by max-poolings whose windows are not 2 x 2, side by side."""
    return [stride for stride, pool in encoder.pools.items() if (pool.kernel, pool.stride) != (2, 2)]


def interpolates_as(operator: type[Upsampler], other: type[Upsampler]) -> bool:
    """Whether an operator is, in one step and for ever, the fixed interpolation that another is."""
    fixed = operator.one_step and operator.parameter_free and not operator.guided
    return fixed and operator.initial == other.initial


def file_of(group: str, made: type) -> DictConfig:
    """What the file under conf says that makes objects of a class."""
    return next(node for node in files(group).values() if locate(node._target_) is made)


def enlargement(cfg: DictConfig) -> type[Upsampler] | None:
    """The fixed operator that takes the last step to full size; None where it is the decoder's own."""
    return ENLARGEMENTS.get(cfg.model.get("enlarge"))


def canonical_key(cfg: DictConfig, encoder: Encoder) -> tuple[int, DictConfig, DictConfig]:
    """Stride, decoder and fusion that a network is known by: cells of which these are equal are one network.

    Where nothing is climbed, nothing is joined, and a fixed enlargement is all there is of an operator. Repetition by 2
    and 2 and 8 is repetition by 32. So is an operator that enlarges in steps of 2, since the steps are the same
    wherever the decoder stops: without skips and convolutions the stride then says nothing.
    """
    model, decoder, fusion = cfg.model, cfg.decoder, cfg.fusion
    operator, refine, last = build.kind(decoder, Upsampler), build.kind(model.refine, Refinement), enlargement(cfg)
    stride, joined = model.stride, build.kind(fusion, Fusion).uses_skip
    alike = not operator.one_step or (interpolates_as(operator, Nearest) and not decoder.get("smooth"))
    bare = refine.empty and model.get("width") == "classes" and last is None and not joined
    if alike and bare and not overlapping_pools(encoder):  # AlexNet's maps are no halves
        stride = encoder.coarsest
    if stride == encoder.coarsest:
        joined = False
        decoder = file_of("decoder", last) if last else decoder
    return stride, decoder, fusion if joined else file_of("fusion", NoFusion)


def uses_smoothing(cfg: DictConfig, encoder: Encoder) -> bool:
    """Whether ``decoder.smooth`` fills any slot: behind steps of 2, where refine does not convolve itself."""
    stride, *_ = canonical_key(cfg, encoder)
    operator, refine = build.kind(cfg.decoder, Upsampler), build.kind(cfg.model.refine, Refinement)
    own_steps = not operator.one_step and enlargement(cfg) is None and cfg.model.stride > 1  # to full size
    return own_steps or (stride < encoder.coarsest and not refine.convolves)


def canonical_width(cfg: DictConfig, encoder: Encoder) -> Any:
    """``model.width`` in the shortest of the forms in which it may be given; null where it is the encoder's."""
    width = cfg.model.get("width")
    if width is None or width == "classes":
        return width
    with torch.device("meta"):
        in_channels = build.instantiate_group(cfg, "neck")(encoder).out_channels
    strides = decoder_strides(encoder, start=encoder.coarsest, stop=cfg.model.stride)
    widths = resolve_widths(width, in_channels, encoder, strides)
    if widths == resolve_widths(None, in_channels, encoder, strides):
        return None
    if len(set(widths)) == 1:
        return widths[0]
    return widths[1:] if widths[0] == in_channels else widths


def canonical(cfg: DictConfig, encoder: Encoder) -> dict[str, Any]:
    """The resolved configuration, less what never changes the result, with names of equal networks made equal."""
    resolved = build.resolve(cfg)
    stride, decoder, fusion = canonical_key(cfg, encoder)
    if not build.kind(fusion, Fusion).uses_skip:
        resolved.fusion = {"name": fusion.name}
        resolved.model.update(taps="conv", stride=stride)
    if stride == encoder.coarsest:
        resolved.model.narrow = "refine"
    operator, last = build.kind(decoder, Upsampler), enlargement(cfg)
    if last and stride == encoder.coarsest:
        resolved.decoder = decoder.copy()
    if last and interpolates_as(operator, last):
        resolved.model.enlarge = "same"
    resolved.decoder.smooth = resolved.decoder.get("smooth")
    if not uses_smoothing(cfg, encoder):
        resolved.decoder.smooth = "conv3x3" if operator.needs_pooling else None  # one value is as good as another
    resolved.model.width = canonical_width(cfg, encoder)
    if not cfg.get("stages"):
        resolved.pop("stages", None)
    for path in IGNORED_IN_IDENTITY:
        parent, _, key = path.rpartition(".")
        node = OmegaConf.select(resolved, parent) if parent else resolved
        if node is not None:
            node.pop(key, None)
    for name, node in list(resolved.callbacks.items()):
        if isinstance(node, DictConfig) and "_target_" in node and not changes_result(node):
            resolved.callbacks.pop(name)
    resolved.model.pop("name")
    resolved.model.pop("deconv_kernel", None)  # it is in the decoder, where one reads it
    return with_class_keys(OmegaConf.to_container(resolved))  # type: ignore[no-any-return]


def changes_result(node: DictConfig) -> bool:
    """Whether the callback that a node makes may change what is trained or tested; if not, it is no part of identity.

    A class says so itself by its attribute ``changes_result``. A class that says nothing is taken to change the result,
    unless it is one of LOGGING, or Lightning's Timer without a ``duration`` that ends the training.
    """
    made = locate(node._target_)
    if made is callbacks.Timer:
        return node.get("duration") is not None
    return getattr(made, "changes_result", made not in LOGGING) is not False


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
        neck = build.instantiate_group(cfg, "neck")(encoder)
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


def format_run_name(cfg: DictConfig, encoder: Encoder, last: str) -> str:
    """Join a run's choices as ``canonical_key`` has them, its width where it has its own, its seed, and ``last``."""
    stride, decoder, fusion = canonical_key(cfg, encoder)
    model = model_name(cfg.model.name, cfg.model.stride, stride)
    width = canonical_width(cfg, encoder)
    numbers = width if isinstance(width, list) else [width]
    own = [] if width in (None, "classes") else ["w" + "_".join(map(str, numbers))]
    return "-".join([model, decoder.name, fusion.name, *own, f"s{cfg.seed}", last])


def model_name(name: str, given: int, stride: int) -> str:
    """``fcn8s`` for itself, ``ladder8`` for model=ladder model.stride=8."""
    if name == f"fcn{given}s":
        return f"fcn{stride}s"
    return name if stride == 1 else f"{name}{stride}"
