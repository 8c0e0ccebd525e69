"""AlexNet (Krizhevsky et al. 2012) as in torchvision, without its classifier."""

from torch import Tensor, nn

from segpipe.models.encoders.encoder import Encoder, Pool
from segpipe.models.init import Conv2d


class AlexNet(Encoder):
    """Five convolutions and three overlapping 3x3 max-poolings; strides 4 to 32.

    Its maps are smaller than H/stride (55, 27, 13, 6 cells for 224 pixels) and centred on the image. The poolings do
    not pad: cell i of a coarser map lies at cell 2i + 1 of the finer map. A map of n cells therefore belongs to a finer
    map of 2n + 1 cells. All sides are odd, except that of the coarsest map.
    """

    revision = 1  # 1: maps of 2n cells are centred on the skip's 2n + 1; revision 0 shifted them by half a cell

    def __init__(self, *, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.channels = {4: 64, 8: 192, 16: 256, 32: 256}
        self.depths = {4: 1, 8: 1, 16: 3, 32: 0}
        self.pools = {stride: Pool(kernel=3, stride=2, padding=0) for stride in (8, 16, 32)}
        self.min_size = 33  # padded to 64, where its last map has one cell
        self.classifier_kernel = 6
        self.features = nn.Sequential(  # in torchvision's order, so that the names of parameters agree
            Conv2d(in_channels, 64, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )

    @property
    def stages(self) -> list[nn.Module]:
        """The layers between the poolings."""
        return [self.features[:3], self.features[3:6], self.features[6:]]

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """See ``Encoder.forward``."""
        features: dict[int, Tensor] = {}
        x, stride = image, 4
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                features[stride] = x  # (N, C, about H/stride, W/stride)
                stride *= 2
            x = layer(x)
        return features | {stride: x}
