"""The contract of an encoder."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


class Pool(NamedTuple):
    """A max-pooling: side of its window, step, zeros around."""

    kernel: int
    stride: int
    padding: int


class Encoder(nn.Module, ABC):
    """Turns images (N, 3, H, W) into a map for every stride.

    Strides are relative to the input. ``forward`` gives, for each stride, the *last* map before the next reduction, and
    the reduced end as the coarsest.

    channels: stride to channels, finest first.
    depths: stride to the number of convolutions there (0 for a coarsest map that is only pooled).
    pools: stride to the max-pooling that leads to it from the stride before; strides reached otherwise are missing.
    min_size: the smallest height and width it takes.
    classifier_kernel: side of the first fully connected layer when seen as a convolution (VGG 7, AlexNet 6).
    """

    channels: dict[int, int]
    depths: dict[int, int]
    pools: dict[int, Pool]
    min_size: int
    classifier_kernel: int

    @property
    def strides(self) -> list[int]:
        """All strides, finest first."""
        return sorted(self.channels)

    @property
    def coarsest(self) -> int:
        """The stride of the last map."""
        return max(self.channels)

    @abstractmethod
    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """(N, 3, H, W), multiples of the coarsest stride, to stride: (N, channels[stride], H/stride, W/stride)."""
