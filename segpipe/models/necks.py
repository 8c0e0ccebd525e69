"""Between encoder and decoder, on the coarsest map. Built from the encoder; ``out_channels`` says what leaves."""

from torch import Tensor, nn

from segpipe.models.encoders import Encoder
from segpipe.models.refine import Convolutions
from segpipe.models.weights import Conv2d


class NoNeck(nn.Identity):
    """The coarsest map as it is."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.out_channels = encoder.channels[encoder.coarsest]


class FullyConvolutional(nn.Module):
    """A classifier's two fully connected layers as convolutions (Long et al. 2015, section 3.1), size kept.

    width: channels of both (VGG and AlexNet: 4096). dropout: share of values put to zero after each in training.
    kernel: side of the first; null takes that of the encoder's classifier.
    """

    def __init__(self, encoder: Encoder, *, width: int = 256, dropout: float = 0.0, kernel: int | None = None) -> None:
        super().__init__()
        self.out_channels = width
        side = kernel or encoder.classifier_kernel
        self.pad = nn.ZeroPad2d(((side - 1) // 2, side // 2, (side - 1) // 2, side // 2))
        self.fc6 = Conv2d(encoder.channels[encoder.coarsest], width, side)
        self.fc7 = Conv2d(width, width, 1)
        self.activation = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)

    def translate(self, published: dict[str, Tensor]) -> dict[str, Tensor]:
        """From a classifier of torchvision's (VGG, AlexNet): its linear layers, the first as a kernel over the map."""
        linear = [name for name, weight in published.items() if name.startswith("classifier.") and weight.ndim == 2]
        found: dict[str, Tensor] = {}
        for name, own in zip(linear, ("fc6.weight", "fc7.weight"), strict=False):
            kernel = self.get_parameter(own)
            if published[name].numel() == kernel.numel():
                found[own] = published[name].view_as(kernel)
                found[own.replace("weight", "bias")] = published[name.replace("weight", "bias")]
        return found

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to (N, width, h, w)."""
        x = self.dropout(self.activation(self.fc6(self.pad(x))))
        return self.dropout(self.activation(self.fc7(x)))


class DoubleConv(Convolutions):
    """U-Net's bottom: two convolutions, to twice the channels unless ``width`` says otherwise."""

    def __init__(self, encoder: Encoder, *, width: int | None = None, norm: bool = True) -> None:
        channels = encoder.channels[encoder.coarsest]
        self.out_channels = width or 2 * channels
        super().__init__(channels, self.out_channels, self.out_channels, 2, norm=norm)
