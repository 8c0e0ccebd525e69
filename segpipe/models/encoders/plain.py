"""Encoders of convolutions and max-poolings only: VGG, SegNet-Basic, U-Net, and a small one."""

import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.errors import UserError
from segpipe.models.encoders.encoder import Encoder, Pool
from segpipe.models.refine import ConvStack


class PlainEncoder(Encoder):
    """Blocks of convolutions with a 2x2 max-pooling after each block.

    widths, depths: channels and number of convolutions of each block.
    kernel: side of the convolutions, odd. norm: batch normalisation after each convolution.
    in_channels: of the image. classifier_kernel: see ``Encoder``.

    Raises UserError if ``widths`` and ``depths`` are empty or of different length, or the kernel is even.
    """

    def __init__(
        self,
        *,
        widths: list[int],
        depths: list[int],
        kernel: int = 3,
        norm: bool = True,
        in_channels: int = 3,
        classifier_kernel: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        if not widths or len(widths) != len(depths):
            raise UserError(
                f"encoder.widths has {len(widths)} entries, encoder.depths has {len(depths)}: give one entry for each "
                f"block."
            )
        if kernel < 1 or kernel % 2 == 0:
            raise UserError(f"encoder.kernel={kernel}: allowed is an odd number of 1 or more (it has a centre).")
        strides = [2**i for i in range(len(widths) + 1)]
        self.channels = dict(zip(strides, [*widths, widths[-1]], strict=True))
        self.depths = dict(zip(strides, [*depths, 0], strict=True))
        self.pools = {stride: Pool(kernel=2, stride=2, padding=0) for stride in strides[1:]}
        self.min_size = strides[-1]
        self.classifier_kernel = classifier_kernel
        before = [in_channels, *widths[:-1]]
        self.blocks = nn.ModuleDict(
            {
                str(stride): ConvStack(entering, width, width, depth, kernel=kernel, norm=norm)
                for stride, entering, width, depth in zip(strides[:-1], before, widths, depths, strict=True)
            }
        )

    @property
    def stages(self) -> list[nn.Module]:
        """The blocks."""
        return list(self.blocks.values())

    def translate(self, published: dict[str, Tensor]) -> dict[str, Tensor]:
        """From torchvision's VGG, which numbers all layers, poolings too, in one sequence (``features.17.weight``)."""
        names: dict[str, str] = {}
        index = 0
        for stride, block in self.blocks.items():
            for number, layers in block.named_children():
                for position, _ in layers.named_children():  # convolution, norm, activation
                    names[f"features.{index}"] = f"blocks.{stride}.{number}.{position}"
                    index += 1
            index += 1  # the pooling
        split = {name: name.rpartition(".") for name in published}
        return {f"{names.get(layer, layer)}.{leaf}": published[name] for name, (layer, _, leaf) in split.items()}

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """See ``Encoder.forward``."""
        features: dict[int, Tensor] = {}
        x = image
        for stride in self.strides[:-1]:
            x = features[stride] = self.blocks[str(stride)](x)  # (N, widths[i], H/stride, W/stride)
            x = F.max_pool2d(x, kernel_size=2)
        return features | {self.coarsest: x}
