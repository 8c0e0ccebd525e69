"""The contract of an encoder."""

from abc import ABC, abstractmethod
from typing import NamedTuple, Self

from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB / 255
IMAGENET_STD = (0.229, 0.224, 0.225)


class Pool(NamedTuple):
    """A max-pooling: side of its window, stride, padding on each side."""

    kernel: int
    stride: int
    padding: int


class Encoder(nn.Module, ABC):
    """From images (N, C, H, W) to one map for each stride.

    Strides are relative to the input. ``forward`` returns, for each stride, the *last* map before the next reduction.
    The coarsest map is the result of the last reduction.

    in_channels: bands of the image. Other numbers than 3 need an argument of this name of the constructor.
    channels: stride to number of channels, finest first.
    depths: stride to number of convolutions (0 for a coarsest map that is only pooled).
    pools: stride to the max-pooling that leads to it from the finer stride; strides without max-pooling are missing.
    min_size: the smallest height and width that the encoder accepts, in pixels.
    classifier_kernel: side of the classifier's first fully connected layer as a convolution (VGG 7, AlexNet 6).
    mean, std: of the images the encoder was published for: red, green, blue, values 0 to 1. ``Network`` uses them. For
        other images than 8-bit RGB they are those of the bands, as measured.
    revision: raised by one when a fix changes the encoder's result, or how the decoder aligns its maps; part of a run's
        identity where it is not 0.
    frozen: number of stages that are not trained.
    """

    in_channels: int = 3
    channels: dict[int, int]
    depths: dict[int, int]
    pools: dict[int, Pool]
    min_size: int
    classifier_kernel: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    revision: int = 0
    frozen: int = 0

    @property
    @abstractmethod
    def stages(self) -> list[nn.Module]:
        """The layers of each stride, finest first; ``freeze`` counts them."""

    @property
    def strides(self) -> list[int]:
        """All strides, finest first."""
        return sorted(self.channels)

    @property
    def coarsest(self) -> int:
        """The stride of the last map."""
        return max(self.channels)

    @property
    def extracted_stages(self) -> int:
        """The number of stages that ``extract`` runs. ``encoder.cache`` needs all of them frozen."""
        return len(self.stages)

    def extracted_strides(self, read: set[int]) -> set[int]:
        """The strides of ``extract`` from which ``project`` makes the maps of the strides ``read``."""
        return read & set(self.channels)

    def freeze(self, count: int) -> None:
        """Freeze the first ``count`` stages: no gradients, and norms in evaluation mode."""
        self.frozen = count
        for stage in self.stages[:count]:
            stage.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``, but frozen stages stay in evaluation mode."""
        super().train(mode)
        for stage in self.stages[: self.frozen]:
            stage.eval()
        return self

    def translate(self, published: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the keys of a published state dict (torchvision, timm) to this encoder's; unused keys may remain."""
        return published

    def extract(self, image: Tensor) -> dict[int, Tensor]:
        """The part of ``forward`` whose results ``encoder.cache`` keeps: (N, 3, H, W) to maps by stride.

        ``forward`` equals ``project(extract(image))``. An encoder with layers behind a backbone that is usually frozen
        overrides ``extract``, ``project``, ``extracted_stages`` and ``extracted_strides``.
        """
        return self(image)  # type: ignore[no-any-return]

    def project(self, maps: dict[int, Tensor]) -> dict[int, Tensor]:
        """The other part of ``forward``: from the result of ``extract`` to the maps of all strides."""
        return maps

    @abstractmethod
    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """(N, C, H, W) to a dict of stride: (N, channels[stride], H/stride, W/stride).

        H and W are multiples of the coarsest stride. An encoder that does not pad in all layers (AlexNet) returns
        slightly smaller maps, centred on the image: the centre of cell i of a map of n cells lies at pixel coordinate
        ``H / 2 + stride * (i - (n - 1) / 2)``, with pixels as areas.
        """
