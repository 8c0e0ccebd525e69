"""Necks process the coarsest map between encoder and decoder.

A neck is built from the encoder. Its ``out_channels`` is the number of channels that it returns.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.models.encoders import Encoder
from segpipe.models.init import Conv2d
from segpipe.models.refine import ConvStack, TransposedConv2d


class NoNeck(nn.Identity):
    """No neck: return the coarsest map unchanged."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.out_channels = encoder.channels[encoder.coarsest]


class FullyConvolutional(nn.Module):
    """Two fully connected layers of a classifier as convolutions (Long et al. 2015, section 3.1).

    With an odd kernel the map keeps its size. With an even kernel (AlexNet) it grows by one cell in height and width,
    since the kernel's centre lies between cells; the decoder then centres it (``upsample.crop_or_pad_to``).

    width: channels of both layers (VGG and AlexNet: 4096). dropout: probability after each layer in training.
    kernel: side of the first; null: that of the encoder's classifier.
    revision: see ``Encoder``. 1 for an even kernel: earlier versions shifted the map by half a cell.
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
    """DeconvNet's layers between encoder and decoder (Noh et al. 2015, section 3.2).

    fc6 and fc7 are the fully connected layers of the classifier as convolutions. A transposed convolution restores the
    size of the map. fc6 has no padding: for images of 224 x 224 its kernel covers VGG's whole map and gives one vector.
    Maps smaller than the kernel are padded with zeros first.

    width: channels of fc6 and fc7. kernel: side of fc6; null: that of the encoder's classifier. norm: batch
    normalisation after each layer.
    """

    def __init__(self, encoder: Encoder, *, width: int = 4096, kernel: int | None = None, norm: bool = True) -> None:
        super().__init__()
        self.out_channels = encoder.channels[encoder.coarsest]
        self.kernel = kernel or encoder.classifier_kernel
        self.fc6 = self.block(Conv2d(self.out_channels, width, self.kernel), norm)
        self.fc7 = self.block(Conv2d(width, width, 1), norm)
        self.deconv = self.block(TransposedConv2d(width, self.out_channels, self.kernel), norm)

    def block(self, layer: nn.Conv2d | nn.ConvTranspose2d, norm: bool) -> nn.Sequential:
        """The layer, batch normalisation if ``norm``, ReLU."""
        norms = [nn.BatchNorm2d(layer.out_channels)] if norm else []
        return nn.Sequential(layer, *norms, nn.ReLU(inplace=True))

    def translate(self, published: dict[str, Tensor]) -> dict[str, Tensor]:
        """See ``from_classifier``."""
        return from_classifier(published, {"fc6.0": self.fc6[0], "fc7.0": self.fc7[0]})

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C, h, w); fc6 reduces height and width by kernel - 1, the last layer restores them."""
        down, right = (max(self.kernel - side, 0) for side in x.shape[-2:])
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        x = self.deconv(self.fc7(self.fc6(x)))
        # a padded axis passed as one value without position: for an odd padding, either border cell may be cropped
        return F.pad(x, (right // 2 - right, -(right // 2), down // 2 - down, -(down // 2)))


class DoubleConv(ConvStack):
    """U-Net's lowest level: two convolutions to ``width`` channels; null: twice those of the encoder."""

    def __init__(self, encoder: Encoder, *, width: int | None = None, norm: bool = True) -> None:
        channels = encoder.channels[encoder.coarsest]
        self.out_channels = width or 2 * channels
        super().__init__(channels, self.out_channels, self.out_channels, 2, norm=norm)


def from_classifier(published: dict[str, Tensor], layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    """The linear layers of torchvision's classifier (VGG, AlexNet) as convolution weights, named as ``layers``.

    The first layer becomes a kernel that covers the whole map (Long et al. 2015, section 3.1). Layers whose number of
    weights differs from that of ``layers`` are left out.
    """
    linear = [name for name, weight in published.items() if name.startswith("classifier.") and weight.ndim == 2]
    weights: dict[str, Tensor] = {}
    for name, (layer_name, layer) in zip(linear, layers.items(), strict=False):
        kernel = layer.get_parameter("weight")
        if published[name].numel() == kernel.numel():
            weights[f"{layer_name}.weight"] = published[name].view_as(kernel)
            weights[f"{layer_name}.bias"] = published[name.replace("weight", "bias")]
    return weights
