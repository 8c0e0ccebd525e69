"""Shared by the tests that were test_models.py."""

import pytest
import torch
from omegaconf import OmegaConf

from segpipe.config import build
from segpipe.config.choices import files
from segpipe.config.plan import Plan
from segpipe.config.schema import CONF
from segpipe.models.upsample import Upsampler
from support.configs import configure

OF_TIMM = ("timm", "vit")  # encoders that need an extra


def meta_encoder(name):
    """An encoder without memory for its weights; the test is skipped where its library is not installed."""
    if name in OF_TIMM:
        pytest.importorskip("timm", reason="timm is an extra")
    return build.meta_encoder(configure(f"encoder={name}"))


OPERATORS = {name: build.kind(node, Upsampler) for name, node in files("decoder").items()}


def build_tiny(model, *, seed=0, **choices):
    """A network of width 8. A group's file is laid over the model's choice, which is what the command line does."""
    cfg = configure(f"model={model}")
    for group in ("encoder", "neck", "decoder", "fusion"):
        if group in choices:
            cfg[group] = OmegaConf.load(CONF / group / f"{choices[group]}.yaml")
    if "widths" in cfg.encoder:
        cfg.encoder.widths = [8] * len(cfg.encoder.widths)
    if cfg.neck.name != "none":
        cfg.neck.width = 8
    cfg.seed = seed
    cfg.decoder.smooth = choices.get("smooth", cfg.decoder.smooth)
    cfg.model.enlarge = choices.get("enlarge", "auto")
    return build.network(Plan.of(cfg).cfg, 3)


def count(choices, *, classes, only_weights=False):
    with torch.device("meta"):
        network = build.network(configure(*choices), classes)
    kept = [p for name, p in network.named_parameters() if not only_weights or (p.ndim > 1)]
    return sum(p.numel() for p in kept)
