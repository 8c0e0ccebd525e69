"""Checks for invalid combinations of values, and notes on combinations with an effect that may surprise the user."""

from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from segpipe.config import budget, build, identity, schema
from segpipe.config.choices import files
from segpipe.config.identity import overlapping_pools
from segpipe.config.unsupported import check_training
from segpipe.errors import InvalidCombination, UserError
from segpipe.models.decoder import decoder_strides
from segpipe.models.encoders import Encoder
from segpipe.models.fusion import Fusion, NoFusion
from segpipe.models.network import ENLARGEMENTS, acts_in_steps, reads_finer_maps
from segpipe.models.upsample import Upsampler
from segpipe.training import devices


def validate(cfg: DictConfig, encoder: Encoder) -> list[str]:
    """Check values against one another. Return notes on combinations with an effect that may surprise the user.

    encoder: may be on the meta device. Raises InvalidCombination for values that are invalid together.
    """
    try:
        for refusal in (check_stride, check_decoder, check_skips, check_match, check_images, check_cache):
            refusal(cfg, encoder)
        check_training(cfg)
    except UserError as error:
        raise InvalidCombination(str(error)) from error
    return notes(cfg, encoder)


def check_stride(cfg: DictConfig, encoder: Encoder) -> None:
    """Raise UserError for a stride that the encoder does not have, or for more frozen stages than the encoder has.

    Strides below the encoder's finest are allowed.
    """
    if cfg.encoder.get("freeze", 0) > len(encoder.stages):
        raise UserError(
            f"encoder.freeze={cfg.encoder.freeze}: allowed is 0 to {len(encoder.stages)}, the number of stages of "
            f"encoder={cfg.encoder.name}."
        )
    stride = cfg.model.stride
    allowed = [s for s in (1, 2, 4, 8) if s < encoder.strides[0]] + encoder.strides
    if stride not in allowed:
        closest = min(allowed, key=lambda s: (abs(s - stride), -s))
        instead = f"model=fcn{closest}s" if cfg.model.name == f"fcn{stride}s" else f"model.stride={closest}"
        raise UserError(
            f"model={cfg.model.name} stops at stride {stride}, but encoder={cfg.encoder.name} has the strides "
            f"{', '.join(map(str, encoder.strides))}: take {instead}, or another encoder."
        )


def check_decoder(cfg: DictConfig, encoder: Encoder) -> None:
    """Raise UserError where the encoder lacks the feature maps or poolings that an operator needs.

    Also raises UserError where a part rejects its arguments.
    """
    operator, name = build.operator(cfg.decoder), f"decoder={cfg.decoder.name}"
    lowest = 1 if identity.enlargement(cfg) is None else cfg.model.stride
    start = encoder.strides[:1] if encoder.strides[0] > lowest else []
    fixed = next(iter(ENLARGEMENTS))
    if operator.needs_pooling:
        without = [s for s in encoder.strides if s > lowest and s not in encoder.pools]
        if without or start:
            raise UserError(
                f"{name} needs an encoder with max-pooling at every step, but encoder={cfg.encoder.name} has none at "
                f"stride {', '.join(map(str, without or start))}: take {alternatives()}."
            )
        if overlap := overlapping_pools(encoder):
            raise UserError(
                f"{name}: the max-pooling windows of encoder={cfg.encoder.name} overlap (stride "
                f"{', '.join(map(str, overlap))}). Two windows may have the same maximum, and unpooling would write "
                f"both values to the same pixel: take {alternatives()}."
            )
    elif reads_finer_maps(operator) and lowest == 1 and not identity.is_full_size(cfg, encoder):
        raise UserError(
            f"model.enlarge={cfg.model.get('enlarge')}: {name} is guided by the encoder's feature maps, and in the "
            f"final upsampling these would be skips finer than model.stride={cfg.model.stride}: take "
            f"model.enlarge={fixed}, or an operator without a guide."
        )
    build.check_parts(cfg)


def check_skips(cfg: DictConfig, encoder: Encoder) -> None:
    """Raise UserError for a stride in ``fusion.at`` to which the decoder has no step."""
    at, steps = cfg.fusion.get("at"), decoder_strides(encoder, start=encoder.coarsest, stop=cfg.model.stride)
    if at and steps and not {*at} <= {*steps}:
        allowed = ",".join(map(str, steps))
        raise UserError(
            f"fusion.at={schema.format_value(at)}: allowed are the strides of the decoder's steps, [{allowed}] for "
            f"model={cfg.model.name} model.stride={cfg.model.stride} encoder={cfg.encoder.name}, or null for all."
        )


def alternatives() -> str:
    """Name a decoder in conf that works with any encoder, and an encoder in conf that works with any decoder."""
    decoders = (name for name, node in files("decoder").items() if works_anywhere(build.kind(node, Upsampler)))
    encoders = (name for name, node in files("encoder").items() if works_with_all(node))
    return f"decoder={next(decoders)}, or encoder={next(encoders)}"


def another_decoder(cfg: DictConfig) -> str:
    """Name a decoder in conf to compare with: the default one, or one without weights where it is the configuration's.

    It works with any encoder.
    """
    kinds = {name: build.kind(node, Upsampler) for name, node in files("decoder").items()}
    default, *others = [name for name, kind in kinds.items() if works_anywhere(kind)]
    return default if cfg.decoder.get("name") != default else next(n for n in others if kinds[n].parameter_free)


def works_anywhere(operator: type[Upsampler]) -> bool:
    """Return whether an operator works with any encoder."""
    return not operator.needs_pooling


def works_with_all(node: DictConfig) -> bool:
    """Return whether an encoder has a feature map at every stride, each by 2 x 2 max-pooling of the one before."""
    try:
        encoder = build.meta_encoder(OmegaConf.create({"encoder": node}))
    except UserError:  # its library is not installed
        return False
    return encoder.strides[0] == 1 and {*encoder.strides[1:]} == {*encoder.pools} and not overlapping_pools(encoder)


def check_match(cfg: DictConfig, encoder: Encoder) -> None:
    """Raise UserError where ``match`` has no width to solve, or where the model that sets the budget is invalid."""
    if not cfg.get("match"):
        return
    if cfg.model.get("width") == "classes":
        raise UserError(
            f"match={cfg.match}: model={cfg.model.name} upsamples class scores (model.width=classes), one channel "
            f"for each class: there is no width to solve. Compare its upsampling operators with "
            f"decoder.smooth=conv3x3, or take model=ladder, which has a free width."
        )
    if not decoder_strides(encoder, start=encoder.coarsest, stop=cfg.model.stride):
        raise UserError(
            f"match={cfg.match}: model={cfg.model.name} stops at stride {cfg.model.stride}, the coarsest of "
            f"encoder={cfg.encoder.name}: the decoder has no steps and no width to solve. Take a smaller model.stride."
        )
    if cfg.budget is None:
        reference = budget.reference_config(cfg)
        try:
            check_stride(reference, encoder)
            check_decoder(reference, encoder)
        except UserError as error:
            raise UserError(
                f"match={cfg.match}: the budget is the cost of model={cfg.model.name} as its own file has it, but "
                f"that combination is invalid: {error} Or give budget=NUMBER."
            ) from error


def check_images(cfg: DictConfig, encoder: Encoder) -> None:
    """Raise UserError where images cannot be stacked to batches, or are too small for the encoder."""
    if cfg.data.name == "shapes" and cfg.data.get("root"):
        raise UserError(
            f"data.root={cfg.data.root}: data=shapes is generated and reads no folder. Name the data set in the "
            f"folder: data=folder for your own images, or data=camvid, voc, pets, cityscapes."
        )
    for path in ("data.crop", "data.size"):
        pair = OmegaConf.select(cfg, path)
        if pair is not None and (len(pair) != 2 or min(pair) < encoder.min_size):
            raise UserError(
                f"{path}={list(pair)}: allowed is [height, width], both at least {encoder.min_size} for "
                f"encoder={cfg.encoder.name}."
            )
    if smallest := cfg.data.get("crop") or cfg.data.get("size"):
        check_batch_norm(cfg, encoder, smallest)
    if cfg.data.get("crop") is None and cfg.augment.before_crop:
        raise UserError(
            f"augment={cfg.augment.name} changes the size of images, so they cannot be stacked to a batch: set "
            f"data.crop=[HEIGHT,WIDTH]."
        )


def check_cache(cfg: DictConfig, encoder: Encoder) -> None:
    """Raise UserError where ``encoder.cache`` could not keep the features: they change, or each epoch has others."""
    cache, freeze = cfg.encoder.get("cache"), cfg.encoder.get("freeze", 0)
    if not cache:
        return
    needed = encoder.extracted_stages
    option = f"encoder.cache={schema.format_value(cache).lower()}"
    if freeze < needed:
        part = "its backbone" if needed < len(encoder.stages) else "all of it"
        raise UserError(
            f"{option} keeps the features of a frozen encoder, but encoder.freeze={freeze}: set "
            f"encoder.freeze={needed}, which freezes {part}, or encoder.cache=false."
        )
    if not cfg.data.get("overfit") and (others := build.augment(cfg).unbounded()):
        raise UserError(
            f"{option}: augment={cfg.augment.name} has {', '.join(others)}, so that each epoch has other images and "
            f"other features. Only flips are allowed: take augment=light (flips) or augment=none, or "
            f"encoder.cache=false."
        )


def skip_options(cfg: DictConfig) -> dict[str, Any]:
    """Return the options of the skips that a configuration sets, beside the fusion itself."""
    options = {key: cfg.fusion.get(key) for key in ("at", "drop", "attention")}
    return {key: value for key, value in options.items() if value}


def check_batch_norm(cfg: DictConfig, encoder: Encoder, size: Sequence[int]) -> None:
    """Raise UserError where a batch normalisation of the network would see a single value per channel.

    size: height and width of the training images. The network is run on the meta device, with one image.
    """
    parts = cfg.task.accumulate * (1 if cfg.trainer.sync_batchnorm else devices.detect_rank().world_size)
    if cfg.data.batch_size // parts > 1:
        return
    running: list[str] = []  # the batch normalisation that has begun and not ended
    try:
        with torch.device("meta"):
            network = build.network_factory(cfg, encoder, 2)().train()
            for name, module in network.named_modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.register_forward_pre_hook(lambda module, given, name=name: running.append(name))
                    module.register_forward_hook(lambda module, given, result: running.clear())
            network(torch.zeros(1, encoder.in_channels, *size))
    except Exception as error:  # a part of the user's own may not run on this device
        if "more than 1 value per channel" not in str(error) or not running:
            return
        name = running[0]
        instead = "neck.norm=false" if name.startswith("neck.") else "a network without batch normalisation there"
        raise UserError(
            f"data.batch_size={cfg.data.batch_size} in {parts} part{'s' * (parts > 1)}, with images of {list(size)}: "
            f"batch normalisation ({name}) would see a single value per channel. Take a larger batch or larger "
            f"images, or {instead}."
        ) from error


def notes(cfg: DictConfig, encoder: Encoder) -> list[str]:
    """Return notes on values that are allowed, but whose effect may surprise the user."""
    notes = []
    model, smooth = cfg.model, cfg.decoder.get("smooth")
    if acts_in_steps(build.operator(cfg.decoder)) and model.stride == encoder.coarsest and identity.enlargement(cfg):
        notes.append(
            f"decoder={cfg.decoder.name} acts in the steps of the decoder, and there is none at stride {model.stride}: "
            f"the same as decoder={model.enlarge}."
        )
    if model.stride < encoder.strides[0]:
        notes.append(
            f"encoder={cfg.encoder.name} has no feature map finer than stride {encoder.strides[0]}: the final "
            f"upsampling (model.enlarge) does the rest."
        )
    skips = identity.skip_strides(cfg, encoder)
    if build.kind(cfg.fusion, Fusion).uses_skip and not skips:
        where = f"at stride {model.stride}" if model.stride == encoder.coarsest else "with fusion.at=[]"
        same = identity.file_of("fusion", NoFusion).name
        notes.append(f"fusion={cfg.fusion.name} has no skip connection {where}: the same as fusion={same}.")
    if not skips:
        given = [f"fusion.{key}={schema.format_value(value)}" for key, value in skip_options(cfg).items()]
        notes += [f"{option} has no effect here: the network has no skip." for option in given]
    if cfg.encoder.get("freeze", 0) and not (cfg.encoder.get("weights") or cfg.warm_start):
        notes.append(f"encoder.freeze={cfg.encoder.freeze} freezes random weights, because encoder.weights is null.")
    if cfg.encoder.get("weights") and cfg.warm_start:
        notes.append("warm_start is given, so encoder.weights is not read.")
    set_by_file = build.kind(cfg.decoder, Upsampler).needs_pooling  # then smooth is set by its file, not by the user
    if smooth and not set_by_file and not identity.uses_smoothing(cfg, encoder):
        why = "the decoder has no steps" if model.stride == encoder.coarsest else f"model={model.name} has convolutions"
        notes.append(f"decoder.smooth={smooth} has no effect here: {why}.")
    steps = decoder_strides(encoder, start=encoder.coarsest, stop=model.stride)
    if model.get("deep_supervision") and len(steps) < 2:
        notes.append("model.deep_supervision=true has no effect here: the decoder has no step before its last one.")
    if cfg.data.get("rare_share") and cfg.data.get("steps_per_epoch") is None:
        notes.append(f"data.rare_share={cfg.data.rare_share:g} has no effect without data.steps_per_epoch.")
    if cfg.get("budget") and not cfg.match:
        notes.append(f"budget={cfg.budget:g} has no effect without match=params or match=multiply_adds.")
    return notes
