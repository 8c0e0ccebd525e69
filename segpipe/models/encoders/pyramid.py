"""A plain vision transformer of the timm library with a feature pyramid. Requires ``pip install segpipe[timm]``."""

import sys
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.errors import UserError
from segpipe.models.encoders.encoder import Encoder
from segpipe.models.encoders.timm import check_name, library, published_values
from segpipe.models.init import Conv2d

STRIDES = (4, 8, 16, 32)  # of ViTDet; the backbone's stride is added where it is coarser


class FeaturePyramid(Encoder):
    """A plain vision transformer, such as ViT, DINOv2 or DINOv3, whose last map is projected to several strides.

    The simple feature pyramid of ViTDet (Li et al. 2022, arXiv 2203.16527, section 3 and appendix A.2): the map of the
    last block is enlarged by transposed convolutions, taken as it is, or reduced by max-pooling to strides 4, 8, 16 and
    32. A 1x1 and a 3x3 convolution follow at each stride, each with a layer normalisation over the channels. ViTDet
    adds window attention to the backbone, which is left out here.

    The tokens of the class and the registers are left out. Position embeddings are interpolated to the size of the
    image by timm (``dynamic_img_size``). A backbone with patches of p pixels, p no power of two, sees the image resized
    bilinearly by p / s, where s is the next power of two (14 / 16 for DINOv2). It has one token for each s x s pixels
    then, and all published weights keep their shapes.

    backbone: its name in timm. pyramid_width: channels of each map. in_channels: of the image.
    Stages, for ``encoder.freeze``: the backbone, then the pyramid.
    Raises UserError if timm is not installed; if timm has no such backbone; if it is no plain vision transformer; if it
    was not published for RGB images.
    """

    def __init__(self, *, backbone: str, pyramid_width: int = 256, in_channels: int = 3) -> None:
        super().__init__()
        self.backbone, self.in_channels = backbone, in_channels
        self.body = plain_transformer(backbone, in_channels)
        info = self.body.feature_info[-1]
        self.patch = int(info["reduction"])  # pixels of the image that the backbone sees
        self.stride = 1 << (self.patch - 1).bit_length()  # of the backbone's map, relative to the encoder's input
        strides = sorted({*STRIDES, self.stride})
        self.channels = dict.fromkeys(strides, pyramid_width)
        self.depths = dict.fromkeys(strides, 2)  # a mirrored decoder has two convolutions per stride
        self.pools = {}
        self.min_size = strides[-1]
        self.classifier_kernel = 3
        self.mean = published_values(self.body, backbone, "mean")
        self.std = published_values(self.body, backbone, "std")
        self.levels = nn.ModuleDict(
            {str(stride): pyramid_level(int(info["num_chs"]), pyramid_width, self.stride, stride) for stride in strides}
        )
        if next(self.body.parameters()).is_meta:  # every combination is built on meta before a training
            self.try_out()

    def try_out(self) -> None:
        """Raise UserError for a backbone whose map is not of size H/stride for images of any size."""
        side = 3 * max(self.channels)
        try:
            with torch.no_grad():
                x = self.eval().extract(torch.zeros(1, self.in_channels, side, 2 * side, device="meta"))[self.stride]
        except Exception as error:  # backbones raise many kinds of errors
            raise UserError(not_plain(self.backbone, str(error))) from error
        self.train()
        if x.shape[-2:] != (side // self.stride, 2 * side // self.stride):
            raise UserError(not_plain(self.backbone, f"its map has {tuple(x.shape[-2:])} cells for {side, 2 * side}"))

    @property
    def stages(self) -> list[nn.Module]:
        """The backbone and the pyramid."""
        return [self.body, self.levels]

    @property
    def extracted_stages(self) -> int:
        """The backbone alone."""
        return 1

    def extracted_strides(self, read: set[int]) -> set[int]:
        """All maps are made from the backbone's."""
        return {self.stride}

    def translate(self, published: dict[str, Tensor]) -> dict[str, Tensor]:
        """From timm's model of the same name, or from its authors' names where timm can convert them.

        Position embeddings of another image size are interpolated, as timm does.
        """
        convert = getattr(sys.modules[type(self.body).__module__], "checkpoint_filter_fn", None)
        with suppress(Exception):  # weights of another network, which the caller rejects
            published = convert(dict(published), self.body) if convert else published
        return {f"body.{name}": tensor for name, tensor in published.items()}

    def extract(self, image: Tensor) -> dict[int, Tensor]:
        """The backbone's last map: (N, 3, H, W) to {stride: (N, C, H/stride, W/stride)}."""
        if self.patch != self.stride:
            size = [side * self.patch // self.stride for side in image.shape[-2:]]
            image = F.interpolate(image, size, mode="bilinear", antialias=True)
        maps = self.body.forward_intermediates(image, indices=1, norm=True, intermediates_only=True)
        return {self.stride: maps[-1]}

    def project(self, maps: dict[int, Tensor]) -> dict[int, Tensor]:
        """The backbone's map to those of the pyramid, stride: (N, width, H/stride, W/stride)."""
        return {int(stride): level(maps[self.stride]) for stride, level in self.levels.items()}

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """See ``Encoder.forward``."""
        return self.project(self.extract(image))


class ChannelNorm(nn.LayerNorm):
    """A layer normalisation over the channels of each cell."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def pyramid_level(channels: int, width: int, stride: int, target: int) -> nn.Sequential:
    """The layers from the backbone's map, (N, channels, H/stride, W/stride), to (N, width, H/target, W/target).

    Each transposed convolution halves the channels; a normalisation and GELU follow all but the last one.
    """
    layers: list[nn.Module] = []
    if target > stride:
        layers.append(nn.MaxPool2d(target // stride))
    while stride > target:
        stride //= 2
        halved = max(channels // 2, 1)
        layers.append(nn.ConvTranspose2d(channels, halved, 2, stride=2))
        channels = halved
        if stride > target:
            layers += [ChannelNorm(channels, eps=1e-6), nn.GELU()]
    for kernel in (1, 3):
        layers += [
            Conv2d(channels, width, kernel, padding=kernel // 2, bias=False),
            ChannelNorm(width, eps=1e-6),
        ]
        channels = width
    return nn.Sequential(*layers)


def plain_transformer(backbone: str, in_channels: int) -> Any:
    """A backbone of timm without its classifier. Raises the errors of ``FeaturePyramid``."""
    check_name(backbone, pattern="vit*")
    options = {"num_classes": 0, "in_chans": in_channels, "dynamic_img_size": True}
    try:
        body = library().create_model(backbone, pretrained=False, **options)
    except (RuntimeError, TypeError) as error:  # its constructor takes no dynamic_img_size
        raise UserError(not_plain(backbone, str(error))) from error
    if not hasattr(body, "num_prefix_tokens") or not hasattr(body, "prune_intermediate_layers"):
        raise UserError(not_plain(backbone, "it has no tokens"))
    body.prune_intermediate_layers(1, prune_head=True)  # layers behind the last block would have no gradient
    return body


def not_plain(backbone: str, reason: str) -> str:
    """The message for a backbone that is no plain vision transformer."""
    return (
        f"encoder.backbone={backbone}: not a plain vision transformer that accepts images of any size ({reason}). Take "
        f"encoder=timm for a backbone with maps at several strides, such as convnext_tiny; or choose a plain one, such "
        f"as vit_small_patch14_dinov2, vit_small_patch16_dinov3 or deit3_small_patch16_224."
    )
