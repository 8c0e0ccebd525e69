"""Backbones of the timm library that return maps at several strides. Requires ``pip install segpipe[timm]``."""

import importlib
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segpipe.errors import UserError, nearest
from segpipe.models.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder


class Timm(Encoder):
    """A backbone of timm, as ``convnext_tiny``. None of its reductions is treated as a max-pooling.

    backbone: its name in timm. in_channels: of the image. Raises UserError if timm is not installed; if timm has no
    such backbone, or the backbone returns no maps; if it was not published for RGB images.
    """

    def __init__(self, *, backbone: str, in_channels: int = 3) -> None:
        super().__init__()
        self.backbone, self.in_channels = backbone, in_channels
        check_name(backbone, pattern="*")
        bands = {} if in_channels == 3 else {"in_chans": in_channels}
        try:
            self.body: Any = library().create_model(backbone, pretrained=False, features_only=True, **bands)
        except (RuntimeError, AttributeError) as error:
            raise UserError(
                f"encoder.backbone={backbone}: this backbone of timm does not return maps ({error}). Choose one that "
                f"does, as convnext_tiny or resnet50d."
            ) from error
        strides, channels = self.body.feature_info.reduction(), self.body.feature_info.channels()
        self.indices = dict(zip(strides, range(len(strides)), strict=True))  # the last map of each stride
        self.channels = dict(zip(strides, channels, strict=True))
        self.depths = dict.fromkeys(strides, 2)  # a mirrored decoder has two convolutions per stride
        self.pools = {}
        self.min_size = max(strides)
        self.classifier_kernel = 3
        self.mean = published_values(self.body, backbone, "mean")
        self.std = published_values(self.body, backbone, "std")
        if (self.mean, self.std) != (IMAGENET_MEAN, IMAGENET_STD):
            self.revision = 1  # 1: images are normalised by its own mean and std; revision 0 used those of ImageNet
        if next(self.body.parameters()).is_meta:  # every combination is built on meta before a training
            self.try_out()

    def try_out(self) -> None:
        """Raise UserError for a backbone that accepts one image size only, or whose maps are not of size H/stride."""
        side = 3 * max(self.channels)
        try:
            with torch.no_grad():
                maps = self.body.eval()(torch.zeros(1, self.in_channels, side, 2 * side, device="meta"))
            sizes = {stride: tuple(maps[index].shape[-2:]) for stride, index in self.indices.items()}
        except Exception as error:  # backbones raise many kinds of errors
            sizes = {0: (str(error),)}
        self.body.train()
        if wrong := {s: size for s, size in sizes.items() if not s or size != (side // s, 2 * side // s)}:
            raise UserError(
                f"encoder.backbone={self.backbone}: for images of {side} x {2 * side} pixels its maps do not have "
                f"the size of the image divided by the stride ({next(iter(wrong.values()))}). Choose a backbone that "
                f"accepts images of any size, as convnext_tiny or resnet50d; or, for a plain vision transformer, "
                f"encoder=vit."
            )

    @property
    def stages(self) -> list[nn.Module]:
        """The complete backbone as one stage: timm's backbones have no common structure."""
        return [self.body]

    def translate(self, published: dict[str, Tensor]) -> dict[str, Tensor]:
        """From timm's classifier of the same name; the version with maps writes _ for some dots in its names."""
        short_names = {name.removeprefix("body."): name for name in self.state_dict()}
        flat = {name.replace(".", "_"): name for name in published}
        return {
            name: published[flat[key]]
            for short, name in short_names.items()
            if (key := short.replace(".", "_")) in flat
        }

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """See ``Encoder.forward``."""
        maps = self.body(image)
        return {stride: maps[index] for stride, index in self.indices.items()}


def library() -> Any:
    """The timm module. Raises UserError if timm is not installed."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UserError(
            "encoder=timm and encoder=vit require the timm library: pip install 'segpipe[timm]'."
        ) from error


def check_name(backbone: str, *, pattern: str) -> None:
    """Raise UserError where timm has no backbone of a name, with or without the tag of its weights.

    A place, as ``hf-hub:OWNER/NAME``, is no name: a stored configuration must not lead to another machine or folder.
    pattern: of the names that are offered instead.
    """
    timm, given = library(), f"encoder.backbone={backbone}"
    names = timm.list_models(pattern)
    if ":" in backbone or "/" in backbone:
        name = backbone.rpartition("/")[2]
        known = f" (encoder.backbone={name})" if timm.is_model(name) else ""
        raise UserError(
            f"{given}: a place, not a name of timm. Give the name of the architecture{known}, and the weights as "
            f"encoder.weights=FILE."
        )
    if not timm.is_model(backbone):
        raise UserError(
            f"{given}: timm has no backbone of that name.{nearest(backbone, names)} List of names: "
            f"python -c \"import timm; print(timm.list_models('{pattern}'))\""
        )
    try:
        timm.get_pretrained_cfg(backbone)
    except RuntimeError as error:
        model = backbone.partition(".")[0]
        tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")]
        allowed = f", or with one of these: {', '.join(tags)}" if tags else ""
        raise UserError(f"{given}: {error} Allowed is {model} without a tag{allowed}.") from error


def published_values(body: Any, backbone: str, key: Literal["mean", "std"]) -> tuple[float, ...]:
    """Mean or std of the images, from timm's configuration. Raises UserError if they are not of RGB images."""
    values = tuple(float(value) for value in body.pretrained_cfg[key])
    if len(values) != 3 or (key == "std" and min(values) <= 0):
        raise UserError(
            f"encoder.backbone={backbone}: timm gives {list(values)} as the {key} of its images; segpipe "
            f"needs three values, for red, green and blue{', each above 0' if key == 'std' else ''}. Choose a "
            f"backbone for RGB images, as convnext_tiny or resnet50d."
        )
    return values
