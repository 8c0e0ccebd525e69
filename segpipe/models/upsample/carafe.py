"""CARAFE: kernels from the decoder's map."""

from torch import Tensor

from segpipe.models.init import NormalConv2d, XavierConv2d, ZeroConv2d
from segpipe.models.upsample.base import Start, check_channels
from segpipe.models.upsample.kernels import KernelUpsampler, check_side, square


class Carafe(KernelUpsampler):
    """Content-aware reassembly (CARAFE): a kernel for each pixel, computed from ``x`` alone.

    A 1x1 convolution compresses ``x``, and a 3x3 convolution computes the kernels of all pixels of a cell.

    kernel: side of the kernels, odd. channels: of the compressed map. init: see ``KernelUpsampler``; the published
    start is Xavier's, and normal with standard deviation 0.001 for the kernels.

    Raises UserError for an even kernel.
    """

    paper = "CARAFE: Wang et al. 2019"
    limits = "a weighted mean of neighbours, so no new extremes; one kernel for all channels"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        factor: int,
        source_channels: int,
        kernel: int = 5,
        channels: int = 64,
        init: Start = "interpolation",
    ) -> None:
        self.check(kernel=kernel, channels=channels)
        super().__init__(in_channels, out_channels, factor=factor, offsets=square(kernel), init=init)
        kernels = kernel**2 * factor**2
        self.compress = XavierConv2d(out_channels, channels, 1)
        if init == "published":
            self.encode: NormalConv2d | ZeroConv2d = NormalConv2d(channels, kernels, 3, padding=1, std=0.001)
        else:
            self.encode = ZeroConv2d(channels, kernels, 3, padding=1)

    @classmethod
    def check(cls, *, kernel: int = 5, channels: int = 64, **others: object) -> None:
        """See ``Part``: the kernel is odd, and there is a channel."""
        check_side("kernel", kernel)
        check_channels(channels)

    def logits(self, x: Tensor, source: Tensor) -> Tensor:
        """See ``KernelUpsampler``; the source is not read."""
        return self.encode(self.compress(x)).unflatten(1, (len(self.offsets), self.factor**2))
