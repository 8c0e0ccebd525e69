"""The contract of an encoder."""

from abc import ABC, abstractmethod
from typing import NamedTuple, Self

from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB / 255
IMAGENET_STD = (0.229, 0.224, 0.225)


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
    mean, std: of the images that it was published for, red, green, blue, values 0 to 1: ``Network`` normalises by them.
    revision: raised by one when a fix changes what the encoder computes or how the decoder meets its maps; part of a
        run's identity where it is not 0.
    """

    channels: dict[int, int]
    depths: dict[int, int]
    pools: dict[int, Pool]
    min_size: int
    classifier_kernel: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    revision: int = 0
    frozen: int = 0  # stages

    @property
    @abstractmethod
    def stages(self) -> list[nn.Module]:
        """What ``freeze`` counts: the layers of each stride, finest first."""

    @property
    def strides(self) -> list[int]:
        """All strides, finest first."""
        return sorted(self.channels)

    @property
    def coarsest(self) -> int:
        """The stride of the last map."""
        return max(self.channels)

    def freeze(self, count: int) -> None:
        """Keep the first stages as they are: no gradient, and norms as in evaluation."""
        self.frozen = count
        for stage in self.stages[:count]:
            stage.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As any module's, but for the frozen stages."""
        super().train(mode)
        for stage in self.stages[: self.frozen]:
            stage.eval()
        return self

    def translate(self, published: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published state dict (torchvision's, timm's) in this encoder's own names; what it has no use for stays."""
        return published

    @abstractmethod
    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """(N, 3, H, W), multiples of the coarsest stride, to stride: (N, channels[stride], H/stride, W/stride).

        An encoder that does not pad everywhere (AlexNet) gives maps a little smaller, centred on the image. Cell i of a
        map of n cells so lies around pixel ``H / 2 + stride * (i - (n - 1) / 2)``, pixels seen as areas.
        """
