"""Backbones of the timm library that give maps at several strides; an extra: ``pip install segpipe[timm]``."""

import importlib
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segpipe.errors import UserError
from segpipe.models.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder


class Timm(Encoder):
    """A backbone by timm's name, as ``convnext_tiny``; none of its steps down counts as a max-pooling.

    backbone: its name. Raises UserError where timm is not installed, or has no such backbone, or none with maps, or
    where the backbone was not published for RGB images.
    """

    def __init__(self, *, backbone: str) -> None:
        super().__init__()
        self.backbone = backbone
        try:
            self.body: Any = library().create_model(backbone, pretrained=False, features_only=True)
        except (RuntimeError, AttributeError) as error:
            raise UserError(
                f"encoder.backbone={backbone}: timm makes no backbone with maps of that name ({error}). Its names: "
                f'python -c "import timm; print(timm.list_models())"'
            ) from error
        strides, channels = self.body.feature_info.reduction(), self.body.feature_info.channels()
        self.places = dict(zip(strides, range(len(strides)), strict=True))  # of equal strides, the last
        self.channels = dict(zip(strides, channels, strict=True))
        self.depths = dict.fromkeys(strides, 2)  # what mirrors it has two convolutions a stride
        self.pools = {}
        self.min_size = max(strides)
        self.classifier_kernel = 3
        self.mean, self.std = self.published("mean"), self.published("std")
        if (self.mean, self.std) != (IMAGENET_MEAN, IMAGENET_STD):
            self.revision = 1  # 1: normalised by its own; before, by ImageNet's
        if next(self.body.parameters()).is_meta:  # every combination is built so before anything is trained
            self.try_out()

    def published(self, key: Literal["mean", "std"]) -> tuple[float, ...]:
        """What timm's configuration of the weights says about its images. Raises UserError where it is not of RGB."""
        values = tuple(float(value) for value in self.body.pretrained_cfg[key])
        if len(values) != 3 or (key == "std" and min(values) <= 0):
            raise UserError(
                f"encoder.backbone={self.backbone}: timm gives {list(values)} as the {key} of its images; needed are "
                f"three values, for red, green and blue{' above 0' if key == 'std' else ''}. Take a backbone for RGB "
                f"images, convnext_tiny or resnet50d."
            )
        return values

    def try_out(self) -> None:
        """Raise UserError for a backbone that takes one size of picture only, or whose maps are not H/stride."""
        side = 3 * max(self.channels)
        try:
            with torch.no_grad():
                maps = self.body.eval()(torch.zeros(1, 3, side, 2 * side, device="meta"))
            found = {stride: tuple(maps[place].shape[-2:]) for stride, place in self.places.items()}
        except Exception as error:  # whatever a backbone makes of a picture that it does not take
            found = {0: (str(error),)}
        self.body.train()
        if wrong := {s: size for s, size in found.items() if not s or size != (side // s, 2 * side // s)}:
            raise UserError(
                f"encoder.backbone={self.backbone}: for pictures of {side} x {2 * side} pixels its maps are not a "
                f"stride's part of that ({next(iter(wrong.values()))}). Take one that accepts pictures of any size, "
                f"convnext_tiny or resnet50d."
            )

    @property
    def stages(self) -> list[nn.Module]:
        """The whole: timm's backbones have no common parts."""
        return [self.body]

    def translate(self, published: dict[str, Tensor]) -> dict[str, Tensor]:
        """From timm's classifier of the same name; with maps only, some of its names use _ for a dot."""
        own = {name.removeprefix("body."): name for name in self.state_dict()}
        flat = {name.replace(".", "_"): name for name in published}
        return {name: published[flat[key]] for short, name in own.items() if (key := short.replace(".", "_")) in flat}

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """See ``Encoder.forward``."""
        maps = self.body(image)
        return {stride: maps[place] for stride, place in self.places.items()}


def library() -> Any:
    """The timm library. Raises UserError where it is not installed."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UserError("encoder=timm needs the timm library: pip install 'segpipe[timm]'.") from error
