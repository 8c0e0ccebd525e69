"""Encoders: from an image to one map per stride. ``Encoder`` is the base class and states the contract."""

from segpipe.models.encoders.alexnet import AlexNet
from segpipe.models.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, Pool
from segpipe.models.encoders.plain import PlainEncoder
from segpipe.models.encoders.pyramid import FeaturePyramid
from segpipe.models.encoders.resnet import ResNet
from segpipe.models.encoders.timm import Timm

__all__ = [
    "IMAGENET_MEAN", "IMAGENET_STD", "AlexNet", "Encoder", "FeaturePyramid", "PlainEncoder", "Pool", "ResNet", "Timm",
]  # fmt: skip
