"""Between encoder and decoder, on the coarsest map. Built from the encoder; ``out_channels`` says what leaves."""

import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.models.encoders import Encoder
from segpipe.models.init import Conv2d
from segpipe.models.refine import ConvStack, TransposedConv2d


class NoNeck(nn.Identity):
    """The coarsest map as it is."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.out_channels = encoder.channels[encoder.coarsest]


class FullyConvolutional(nn.Module):
    """A classifier's two fully connected layers as convolutions (Long et al. 2015, section 3.1).

    The map keeps its size and place. With an even kernel (AlexNet's) it has one cell more, since such a kernel's centre
    lies between cells: what follows centres it (``upsample.crop_or_pad_to``).

    width: channels of both (VGG and AlexNet: 4096). dropout: share of values put to zero after each in training.
    kernel: side of the first; null takes that of the encoder's classifier.
    revision: see ``Encoder``. 1 for an even kernel: before, the map lay half a cell beside the image.
    """

    def __init__(self, encoder: Encoder, *, width: int = 256, dropout: float = 0.0, kernel: int | None = None) -> None:
        super().__init__()
        self.out_channels = width
        side = kernel or encoder.classifier_kernel
        self.revision = 1 - side % 2
        self.pad = nn.ZeroPad2d(side // 2)
        self.fc6 = Conv2d(encoder.channels[encoder.coarsest], width, side)
        self.fc7 = Conv2d(width, width, 1)
        self.activation = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)

    def translate(self, published: dict[str, Tensor]) -> dict[str, Tensor]:
        """See ``from_classifier``."""
        return from_classifier(published, {"fc6": self.fc6, "fc7": self.fc7})

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, width, h, w), or (N, width, h + 1, w + 1)."""
        x = self.dropout(self.activation(self.fc6(self.pad(x))))
        return self.dropout(self.activation(self.fc7(x)))


class Bottleneck(nn.Module):
    """DeconvNet's middle (Noh et al. 2015, section 3.2): the classifier's layers, and a deconvolution back to the map.

    fc6 is not padded: at 224 x 224 its ``kernel`` covers the whole map of a VGG, and what passes is one vector. Smaller
    maps are padded with zeros to the kernel first. width: channels between. kernel: null takes that of the encoder's
    classifier.
    """

    def __init__(self, encoder: Encoder, *, width: int = 4096, kernel: int | None = None, norm: bool = True) -> None:
        super().__init__()
        self.out_channels = encoder.channels[encoder.coarsest]
        self.kernel = kernel or encoder.classifier_kernel
        self.fc6 = self.block(Conv2d(self.out_channels, width, self.kernel), norm)
        self.fc7 = self.block(Conv2d(width, width, 1), norm)
        self.deconv = self.block(TransposedConv2d(width, self.out_channels, self.kernel), norm)

    def block(self, layer: nn.Conv2d | nn.ConvTranspose2d, norm: bool) -> nn.Sequential:
        """The layer, batch normalisation where asked for, ReLU."""
        norms = [nn.BatchNorm2d(layer.out_channels)] if norm else []
        return nn.Sequential(layer, *norms, nn.ReLU(inplace=True))

    def translate(self, published: dict[str, Tensor]) -> dict[str, Tensor]:
        """See ``from_classifier``."""
        return from_classifier(published, {"fc6.0": self.fc6[0], "fc7.0": self.fc7[0]})

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C, h, w); between, the map is kernel - 1 smaller."""
        down, right = (max(self.kernel - side, 0) for side in x.shape[-2:])
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        x = self.deconv(self.fc7(self.fc6(x)))
        # what was padded passed as one value, which has no place: where the number is odd, either cell can be cropped
        return F.pad(x, (right // 2 - right, -(right // 2), down // 2 - down, -(down // 2)))


class DoubleConv(ConvStack):
    """U-Net's bottom: two convolutions, to twice the channels unless ``width`` says otherwise."""

    def __init__(self, encoder: Encoder, *, width: int | None = None, norm: bool = True) -> None:
        channels = encoder.channels[encoder.coarsest]
        self.out_channels = width or 2 * channels
        super().__init__(channels, self.out_channels, self.out_channels, 2, norm=norm)


def from_classifier(published: dict[str, Tensor], layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    """The linear layers of a classifier of torchvision's (VGG, AlexNet) as kernels, under the names of ``layers``.

    The first becomes a kernel over the whole map (Long et al. 2015, section 3.1); those of other sizes are left out.
    """
    linear = [name for name, weight in published.items() if name.startswith("classifier.") and weight.ndim == 2]
    found: dict[str, Tensor] = {}
    for name, (own, layer) in zip(linear, layers.items(), strict=False):
        kernel = layer.get_parameter("weight")
        if published[name].numel() == kernel.numel():
            found[f"{own}.weight"] = published[name].view_as(kernel)
            found[f"{own}.bias"] = published[name.replace("weight", "bias")]
    return found
