"""The identity of a network, which tells which cells of a sweep are the same network, and the names of runs."""

import copy
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial, reduce
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
from segpipe.models.network import acts_in_steps, fixed_enlargement
from segpipe.models.refine import Refinement
from segpipe.models.upsample import Nearest, Upsampler
from segpipe.runs.identity_keys import ADDED_SINCE, IGNORED_IN_IDENTITY
from segpipe.runs.renames import current, map_targets, oldest
from segpipe.training import pretrained

# Lightning's callbacks that only display or log. All others, and those of users, may change the result.
LOGGING = (
    callbacks.LearningRateMonitor, callbacks.DeviceStatsMonitor, callbacks.ThroughputMonitor, callbacks.ModelSummary,
    callbacks.RichModelSummary, callbacks.TQDMProgressBar, callbacks.RichProgressBar,
)  # fmt: skip


def overlapping_pools(encoder: Encoder) -> list[int]:
    """Return the strides that an encoder reaches by max-pooling other than 2 x 2 windows with stride 2."""
    return [stride for stride, pool in encoder.pools.items() if (pool.kernel, pool.stride) != (2, 2)]


def interpolates_as(operator: type[Upsampler], other: type[Upsampler]) -> bool:
    """Return whether an operator is the same fixed interpolation as another, in one step and without parameters."""
    fixed = operator.one_step and operator.parameter_free and not operator.guided
    return fixed and operator.initial == other.initial


def file_of(group: str, made: type) -> DictConfig:
    """Return the content of the file under conf whose ``_target_`` is a class."""
    return next(node for node in files(group).values() if locate(node._target_) is made)


def enlargement(cfg: DictConfig) -> type[Upsampler] | None:
    """Return the fixed operator of the final upsampling to full size; None where it is the decoder's operator."""
    return fixed_enlargement(build.operator(cfg.decoder), cfg.model.get("enlarge"))


def is_full_size(cfg: DictConfig, encoder: Encoder) -> bool:
    """Return whether the decoder goes to full size, so that nothing is left for the final upsampling."""
    return max(cfg.model.stride, encoder.strides[0]) == 1


def with_enlargement(cfg: DictConfig, encoder: Encoder) -> DictConfig:
    """Return a configuration in which ``model.enlarge=auto`` is replaced by what it means for the operator."""
    if cfg.model.get("enlarge") != "auto":
        return cfg
    fixed = None if is_full_size(cfg, encoder) else enlargement(cfg)
    copy = cfg.copy()
    copy.model.enlarge = file_of("decoder", fixed).name if fixed else "same"
    return copy


def skip_strides(cfg: DictConfig, encoder: Encoder) -> list[int]:
    """Return the strides of the decoder's steps that fuse a skip, coarse to fine."""
    at = cfg.fusion.get("at")
    steps = decoder_strides(encoder, start=encoder.coarsest, stop=cfg.model.stride)
    return [s for s in steps if at is None or s in at] if build.kind(cfg.fusion, Fusion).uses_skip else []


def canonical_key(cfg: DictConfig, encoder: Encoder) -> tuple[int, DictConfig, DictConfig]:
    """Return canonical stride, decoder and fusion. Cells for which these are equal are the same network.

    A decoder without steps uses no fusion, and with a fixed final upsampling it uses no other operator. Nearest
    upsampling by 2, 2 and 8 equals nearest upsampling by 32. An operator that upsamples in steps of 2 makes the same
    steps wherever the decoder stops. For both, strides finer than the last skip have no effect without convolutions.
    """
    model, decoder, fusion = cfg.model, cfg.decoder, cfg.fusion
    operator, refine, last = build.operator(decoder), build.kind(model.refine, Refinement), enlargement(cfg)
    stride, skips = model.stride, skip_strides(cfg, encoder)
    alike = not operator.one_step or (interpolates_as(operator, Nearest) and not decoder.get("smooth"))
    bare = refine.empty and model.get("width") == "classes" and last is None and not model.get("deep_supervision")
    ends_with_skip = skips[-1:] == decoder_strides(encoder, start=encoder.coarsest, stop=stride)[-1:]
    if alike and bare and not ends_with_skip and not overlapping_pools(encoder):  # AlexNet's maps do not halve exactly
        stride = min(skips, default=encoder.coarsest)
    if stride == encoder.coarsest:
        decoder = file_of("decoder", last) if last else decoder
    return stride, decoder, fusion if skips else file_of("fusion", NoFusion)


def uses_smoothing(cfg: DictConfig, encoder: Encoder) -> bool:
    """Return whether the network uses ``decoder.smooth``: after steps of 2 whose refinement has no convolutions."""
    stride, *_ = canonical_key(cfg, encoder)
    operator, refine = build.operator(cfg.decoder), build.kind(cfg.model.refine, Refinement)
    own_steps = not operator.one_step and enlargement(cfg) is None and cfg.model.stride > 1  # to full size
    return own_steps or (stride < encoder.coarsest and not refine.convolves)


def canonical_width(cfg: DictConfig, encoder: Encoder) -> Any:
    """Return ``model.width`` in its shortest form: None where the widths are the encoder's, one number, or a list."""
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
    """Return the resolved configuration without keys that never change the result. Equal networks give equal results.

    The values that do not affect a network are replaced by one canonical value.
    """
    resolved = build.resolve(cfg)
    stride, decoder, fusion = canonical_key(cfg, encoder)
    if not build.kind(fusion, Fusion).uses_skip:
        resolved.fusion = {"name": fusion.name}
        resolved.model.update(taps="conv")
    else:
        skips = skip_strides(cfg, encoder)
        resolved.fusion.at = None if skips == decoder_strides(encoder, start=encoder.coarsest, stop=stride) else skips
    resolved.model.stride = stride
    if len(decoder_strides(encoder, start=encoder.coarsest, stop=stride)) < 2:
        resolved.model.deep_supervision = False  # no step but the last one has a loss
    if stride == encoder.coarsest:
        resolved.model.narrow = "refine"
    if resolved.encoder.get("cache") is True:
        resolved.encoder.cache = False  # features are kept as computed
    operator, last = build.operator(decoder), enlargement(cfg)
    if last and stride == encoder.coarsest:
        resolved.decoder = decoder.copy()
    if (last and interpolates_as(operator, last)) or (acts_in_steps(operator) and is_full_size(cfg, encoder)):
        resolved.model.enlarge = "same"
    resolved.decoder.smooth = resolved.decoder.get("smooth")
    if not uses_smoothing(cfg, encoder):
        resolved.decoder.smooth = "conv3x3" if operator.needs_pooling else None  # it has no effect: one value for all
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
    if resolved.data.get("steps_per_epoch") is None:
        resolved.data.pop("rare_share", None)  # it has no effect
    resolved.model.pop("name")
    resolved.model.pop("deconv_kernel", None)  # the decoder's node contains it
    return map_targets(OmegaConf.to_container(resolved), class_key)  # type: ignore[no-any-return]


def changes_result(node: DictConfig) -> bool:
    """Return whether a node's callback may change what is trained or tested. If not, it is no part of the identity.

    The class attribute ``changes_result`` decides. A class without it is assumed to change the result, unless it is one
    of LOGGING, or Lightning's Timer without a ``duration`` that ends the training.
    """
    made = locate(node._target_)
    if made is callbacks.Timer:
        return node.get("duration") is not None
    return getattr(made, "changes_result", made not in LOGGING) is not False


def class_key(target: str) -> str:
    """Return the import path that stands for a class in an identity, whichever path a configuration uses.

    It is the shortest path that leads to the class: ``torch.optim.AdamW`` for ``torch.optim.adamw.AdamW``. For a class
    of segpipe that has moved, it is the path in the first version that had the class.
    """
    target = current(target)
    try:
        made = get_object(target)
        module, name = made.__module__, made.__qualname__
    except Exception:  # it cannot be imported, or is no class or function: the check of the configuration reports it
        return target
    packages = list(accumulate(module.split("."), lambda package, part: f"{package}.{part}"))
    paths = [package for package in packages if getattr(sys.modules.get(package), name, None) is made]
    return oldest(f"{paths[0]}.{name}" if paths else target)


def digest(
    cfg: DictConfig,
    canonical: Mapping[str, Any],
    datasets: Sequence[SegmentationDataset],
    revisions: Mapping[str, int],
) -> str:
    """Return eight hexadecimal digits, a hash of all that can change the result: configuration, data, initial weights.

    canonical: see ``canonical``. datasets: the three splits. revisions: see ``revisions``.
    """
    content = copy.deepcopy(dict(canonical))
    content["data_fingerprint"] = [dataset.fingerprint() for dataset in datasets]
    for group, revision in revisions.items():
        content[group]["revision"] = revision
    for path, before in ADDED_SINCE.items():
        node, _, key = path.rpartition(".")
        holder = reduce(lambda inner, part: inner.get(part, {}), node.split("."), content)
        if holder.get(key, before) == before:
            holder.pop(key, None)
    content["trainer"]["precision"] = build.precision(cfg)
    if (weights := cfg.encoder.get("weights")) and pretrained.is_file(weights) and Path(weights).is_file():
        content["encoder"]["weights"] = digest_of_file(Path(weights))  # the content counts, not the path
    if cfg.warm_start:
        content["warm_start"] = digest_of_file(build.weights_file(cfg.warm_start))
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=4).hexdigest()


def revisions(cfg: DictConfig, encoder: Encoder, datasets: Sequence[SegmentationDataset]) -> dict[str, int]:
    """Return the revision of the components that a run uses, by config group; 0 where no fix has changed its result."""
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
    """Return a hash of a file's content, 16 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=8)).hexdigest()  # type: ignore[arg-type]


def format_run_name(cfg: DictConfig, encoder: Encoder, last: str) -> str:
    """Return a run's name: its canonical choices, its width if it is not the encoder's, its seed, and ``last``."""
    stride, decoder, fusion = canonical_key(cfg, encoder)
    model = model_name(cfg.model.name, cfg.model.stride, stride)
    width = canonical_width(cfg, encoder)
    numbers = width if isinstance(width, list) else [width]
    widths = [] if width in (None, "classes") else ["w" + "_".join(map(str, numbers))]
    return "-".join([model, decoder.name, fusion.name, *widths, f"s{cfg.seed}", last])


def model_name(name: str, given: int, stride: int) -> str:
    """Return a model's name with its stride: ``fcn8s`` for model=fcn8s, ``ladder8`` for model=ladder model.stride=8."""
    if name == f"fcn{given}s":
        return f"fcn{stride}s"
    return name if stride == 1 else f"{name}{stride}"
