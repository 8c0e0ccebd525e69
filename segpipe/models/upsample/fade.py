"""FADE: kernels from the decoder's and the encoder's map."""

from torch import Tensor, nn

from segpipe.models.init import ZeroConv2d
from segpipe.models.upsample.base import Start, check_channels
from segpipe.models.upsample.guide import Guide, Reading
from segpipe.models.upsample.kernels import KernelUpsampler, check_side, square, to_planes


class Fade(KernelUpsampler):
    """The kernels of FADE: for each pixel, from the encoder's map and from the cell of ``x`` in which it lies.

    Both maps are compressed by a 1x1 convolution each, and read by one shared 3x3 convolution ("semi-shift"). FADE's
    gate, which mixes the encoder's map into the result, is a fusion and not a part of this operator.

    kernel: side of the kernels, odd. channels: of the compressed maps. guide: see ``Guide``. init: see
    ``KernelUpsampler``; the published start is Xavier's.

    Raises UserError for an even kernel.
    """

    guided = True
    paper = "FADE: Lu et al. 2022"
    limits = "a weighted mean of neighbours that follows edges of the encoder's map; one kernel for all channels"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        factor: int,
        source_channels: int,
        kernel: int = 5,
        channels: int = 64,
        guide: Reading = "lateral",
        init: Start = "interpolation",
    ) -> None:
        self.check(kernel=kernel, channels=channels)
        super().__init__(in_channels, out_channels, factor=factor, offsets=square(kernel), init=init)
        self.guide = Guide(source_channels, out_channels, factor=factor, reading=guide)
        self.compress_source = nn.Conv2d(self.guide.channels, channels, 1)
        self.compress = nn.Conv2d(out_channels, channels, 1, bias=False)
        shared = XavierNormalConv2d if init == "published" else ZeroConv2d
        self.encode = shared(channels, kernel**2, 3, padding=1)

    @classmethod
    def check(cls, *, kernel: int = 5, channels: int = 64, **others: object) -> None:
        """See ``Part``: the kernel is odd, and there is a channel."""
        check_side("kernel", kernel)
        check_channels(channels)

    def logits(self, x: Tensor, source: Tensor) -> Tensor:
        """See ``KernelUpsampler``."""
        fine = self.encode(self.compress_source(self.guide(source, x)))  # (N, T, s * h, s * w)
        coarse = self.encode(self.compress(x))  # (N, T, h, w): the same for all pixels of a cell
        return to_planes(fine, self.factor) + coarse[:, :, None]


class XavierNormalConv2d(nn.Conv2d):
    """A convolution that starts normal, by Glorot and Bengio (2010), with zero biases."""

    def reset_parameters(self) -> None:
        """Draw the weights; zero the biases."""
        nn.init.xavier_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
