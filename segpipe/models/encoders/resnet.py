"""ResNet (He et al. 2016) as in torchvision, without its classifier."""

from typing import Literal

import torchvision
from torch import Tensor, nn

from segpipe.models.encoders.encoder import Encoder, Pool


class ResNet(Encoder):
    """Strides 2 to 32. The first reduction is a convolution, the second a max-pooling, the others strided blocks.

    depth: number of layers, as in the paper. in_channels: of the image.
    """

    def __init__(self, *, depth: Literal[18, 34, 50, 101], in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        resnet = torchvision.models.get_model(f"resnet{depth}", weights=None)
        if in_channels != 3:  # with the start that torchvision gives its convolutions
            resnet.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4
        layers = [self.layer1, self.layer2, self.layer3, self.layer4]
        per_block, wider = (2, 1) if depth < 50 else (3, 4)  # convolutions in a block; output channels / width
        self.channels = {2: 64} | {4 << i: (64 << i) * wider for i in range(4)}
        self.depths = {2: 1} | {4 << i: per_block * len(layer) for i, layer in enumerate(layers)}
        self.pools = {4: Pool(kernel=3, stride=2, padding=1)}
        self.min_size = 32
        self.classifier_kernel = 3  # its classifier averages the map and has no kernel

    @property
    def stages(self) -> list[nn.Module]:
        """The first convolution, then the four groups of blocks."""
        return [nn.Sequential(self.conv1, self.bn1), self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """See ``Encoder.forward``."""
        features = {2: self.relu(self.bn1(self.conv1(image)))}
        features[4] = self.layer1(self.maxpool(features[2]))
        for stride, layer in ((8, self.layer2), (16, self.layer3), (32, self.layer4)):
            features[stride] = layer(features[stride // 2])  # (N, channels[stride], H/stride, W/stride)
        return features
