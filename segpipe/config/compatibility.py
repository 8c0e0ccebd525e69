"""Which combinations mean nothing and are refused, and which do something else than one might think."""

from omegaconf import DictConfig, OmegaConf

from segpipe.config import budget, build, identity
from segpipe.config.choices import files
from segpipe.config.identity import overlapping_pools
from segpipe.errors import InvalidCombination, UserError
from segpipe.models.decoder import decoder_strides
from segpipe.models.encoders import Encoder
from segpipe.models.fusion import Fusion, NoFusion
from segpipe.models.network import ENLARGEMENTS
from segpipe.models.upsample import Upsampler
from segpipe.training import devices


def validate(cfg: DictConfig, encoder: Encoder) -> list[str]:
    """Check values against one another; return notes on what they do otherwise than one might expect.

    Raises InvalidCombination for those that are invalid together.
    """
    try:
        for refusal in (check_stride, check_decoder, check_match, check_images):
            refusal(cfg, encoder)
        check_training(cfg)
    except UserError as error:
        raise InvalidCombination(str(error)) from error
    return notes(cfg, encoder)


def check_stride(cfg: DictConfig, encoder: Encoder) -> None:
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


def check_decoder(cfg: DictConfig, encoder: Encoder) -> None:
    """Steps of 2 need maps to climb to, and unpooling needs poolings; a part may reject its arguments."""
    operator, name = build.kind(cfg.decoder, Upsampler), f"decoder={cfg.decoder.name}"
    lowest = 1 if identity.enlargement(cfg) is None else cfg.model.stride
    start = encoder.strides[:1] if encoder.strides[0] > lowest else []
    if operator.needs_pooling:
        without = [s for s in encoder.strides if s > lowest and s not in encoder.pools]
        if without or start:
            raise UserError(
                f"{name} needs the encoder to max-pool at every step, and encoder={cfg.encoder.name} does not at "
                f"stride {', '.join(map(str, without or start))}: take {alternatives()}."
            )
        if overlap := overlapping_pools(encoder):
            raise UserError(
                f"{name}: the windows of encoder={cfg.encoder.name}'s max-poolings overlap (stride "
                f"{', '.join(map(str, overlap))}), so a maximum may be two windows' and the values would fall "
                f"on one another: take {alternatives()}."
            )
    elif start and not operator.one_step:
        raise UserError(
            f"{name} enlarges in steps of 2, each to the size of a map of the encoder, and encoder={cfg.encoder.name} "
            f"has no map of a stride below {start[0]}: take {alternatives()}, or an enlargement in one step with "
            f"model.enlarge={next(iter(ENLARGEMENTS))}."
        )
    build.check_parts(cfg)


def alternatives() -> str:
    """A decoder that works behind any encoder, and an encoder that works in front of any decoder, of those in conf."""
    decoders = (name for name, node in files("decoder").items() if works_anywhere(build.kind(node, Upsampler)))
    encoders = (name for name, node in files("encoder").items() if works_with_all(node))
    return f"decoder={next(decoders)}, or encoder={next(encoders)}"


def works_anywhere(operator: type[Upsampler]) -> bool:
    """Whether an operator needs nothing of the encoder."""
    return operator.one_step and not operator.needs_pooling


def works_with_all(node: DictConfig) -> bool:
    """Whether an encoder has a map at every stride, each by a 2 x 2 max-pooling of the one before."""
    try:
        encoder = build.meta_encoder(OmegaConf.create({"encoder": node}))
    except UserError:  # its library is not installed
        return False
    return encoder.strides[0] == 1 and {*encoder.strides[1:]} == {*encoder.pools} and not overlapping_pools(encoder)


def check_match(cfg: DictConfig, encoder: Encoder) -> None:
    """A width can be solved where there is one, and the budget be taken from a model that means something."""
    if not cfg.get("match"):
        return
    if cfg.model.get("width") == "classes":
        raise UserError(
            f"match={cfg.match}: model={cfg.model.name} climbs with class scores (model.width=classes), one channel "
            f"for each class: there is no width to solve. Compare its ways up with decoder.smooth=conv3x3 behind each, "
            f"or take model=ladder, whose width is free."
        )
    if not decoder_strides(encoder, start=encoder.coarsest, stop=cfg.model.stride):
        raise UserError(
            f"match={cfg.match}: model={cfg.model.name} stops at stride {cfg.model.stride}, the coarsest of "
            f"encoder={cfg.encoder.name}: nothing is climbed, there is no width to solve. Take a smaller model.stride."
        )
    if cfg.budget is None:
        own = budget.reference_config(cfg)
        try:
            check_stride(own, encoder)
            check_decoder(own, encoder)
        except UserError as error:
            raise UserError(
                f"match={cfg.match}: the budget would be what model={cfg.model.name} costs as its own file has it, but "
                f"that is refused: {error} Or give budget=NUMBER."
            ) from error


def check_images(cfg: DictConfig, encoder: Encoder) -> None:
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
    parts = cfg.task.accumulate * (1 if cfg.trainer.sync_batchnorm else devices.detect_rank().world_size)
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


def check_training(cfg: DictConfig) -> None:
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
    model, smooth = cfg.model, cfg.decoder.get("smooth")
    if model.stride < encoder.strides[0]:
        found.append(f"encoder={cfg.encoder.name} has no map finer than {encoder.strides[0]}: enlarge does the rest.")
    if build.kind(cfg.fusion, Fusion).uses_skip and model.stride == encoder.coarsest:
        same = identity.file_of("fusion", NoFusion).name
        found.append(
            f"fusion={cfg.fusion.name} has no skip to join at stride {model.stride}: the same as fusion={same}."
        )
    if cfg.encoder.get("freeze", 0) and not (cfg.encoder.get("weights") or cfg.warm_start):
        found.append(f"encoder.freeze={cfg.encoder.freeze} keeps random weights, since encoder.weights is null.")
    if cfg.encoder.get("weights") and cfg.warm_start:
        found.append("warm_start is given, so encoder.weights are not read.")
    own = build.kind(cfg.decoder, Upsampler).needs_pooling  # then its file smooths, without anyone asking for it
    if smooth and not own and not identity.uses_smoothing(cfg, encoder):
        why = "nothing is climbed" if model.stride == encoder.coarsest else f"model={model.name} convolves itself"
        found.append(f"decoder.smooth={smooth} changes nothing here: {why}.")
    if cfg.get("budget") and not cfg.match:
        found.append(f"budget={cfg.budget:g} says nothing without match=params or match=multiply_adds.")
    return found
