"""Networks whose answer is known: the encoder's maps are the shares of the classes, drawn as red, green and blue."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from segpipe.data.dataset import Sample
from segpipe.models.decoder import Decoder
from segpipe.models.encoders import Encoder
from segpipe.models.fusion import Sum
from segpipe.models.network import Network, NoUpsample
from segpipe.models.refine import Merge1x1
from segpipe.models.upsample import Nearest

CLASSES = 3


class Planes(Encoder):
    """Each map is the mean of the image over the cell's pixels; the coarsest one is multiplied by ``deep``."""

    def __init__(self, strides=(1, 2), *, deep=0.0, scale=1.0):
        super().__init__()
        self.channels = dict.fromkeys(strides, CLASSES)
        self.depths, self.pools = dict.fromkeys(strides, 1), {}
        self.min_size, self.classifier_kernel = 1, 3
        self.deep, self.scale = deep, scale
        self.weight = nn.Parameter(torch.zeros(1))  # so that the network has a device

    @property
    def stages(self):
        return []

    def forward(self, image):
        maps = {stride: self.scale * (F.avg_pool2d(image, stride) if stride > 1 else image) for stride in self.strides}
        return maps | {self.coarsest: self.deep * maps[self.coarsest]}


class Scaled(nn.Module):
    """From bytes to shares."""

    def forward(self, image):
        return image / 255


def planes(strides=(1, 2), *, fusion=Sum, refine=Merge1x1, upsample=Nearest, **options):
    """The network of an encoder of planes: class scores are enlarged, and the skips added."""
    encoder = Planes(strides, **options)
    decoder = Decoder(
        CLASSES, encoder=encoder, start=encoder.coarsest, stop=1, upsample=upsample, fusion=fusion, refine=refine,
        width=CLASSES,
    )  # fmt: skip
    return Network(
        encoder=encoder, neck=nn.Identity(), decoder=decoder, head=nn.Identity(), enlarge=NoUpsample(),
        normalise=Scaled(),
    ).eval()  # fmt: skip


def drawn(mask):
    """An image in which class 0 is red, 1 green, 2 blue, with its mask; ignored pixels are black."""
    mask = np.asarray(mask, np.uint8)
    return Sample(np.stack([255 * (mask == index) for index in range(CLASSES)], axis=2).astype(np.uint8), mask)


def blocks(seed, shape=(16, 24), side=4):
    """A mask of random squares."""
    draw = np.random.default_rng(seed)
    size = [-(-length // side) for length in shape]
    return np.kron(draw.integers(0, CLASSES, size), np.ones((side, side), int))[: shape[0], : shape[1]]


def ignore(passes):
    """Progress that nobody looks at."""
