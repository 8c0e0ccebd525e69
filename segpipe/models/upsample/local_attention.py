"""Local attention: kernels from the encoder's map alone."""

from typing import Literal

from torch import Tensor, nn

from segpipe.errors import UserError
from segpipe.models.init import ZeroConv2d
from segpipe.models.upsample.base import Start
from segpipe.models.upsample.guide import Guide, Reading
from segpipe.models.upsample.kernels import KernelUpsampler, Offsets, square, to_planes

CROSS: Offsets = ((-1, 0), (0, -1), (0, 0), (0, 1), (1, 0))
DIAMOND: Offsets = tuple(offset for offset in square(5) if abs(offset[0]) + abs(offset[1]) <= 2)
STAR: Offsets = tuple(offset for offset in square(5) if {abs(step) for step in offset} != {1, 2})
NEIGHBOURS: dict[int, Offsets] = {5: CROSS, 9: square(3), 13: DIAMOND, 17: STAR, 25: square(5)}


class LocalAttention(KernelUpsampler):
    """Local guided attention (as in UPLiFT): the weights of fixed neighbours, computed from the encoder's map alone.

    One 1x1 convolution of the guide gives the logits. ``x`` gives the values only, so the same weights fit any map.

    neighbours: 5 (a cross), 9 (3 x 3), 13 (a diamond), 17 (3 x 3, and 8 directions at distance 2), or 25 (5 x 5). The
    bilinear start needs the diagonal neighbours: with 5, it is 1/16 of the weight away from it. guide: see ``Guide``.
    init: see ``KernelUpsampler``; the published start is torch's, with the edge of ``x`` repeated.

    Raises UserError for another number of neighbours.
    """

    guided = True
    published_outside = "edge"
    paper = "UPLiFT: Walmer et al. 2026; kin of FeatUp's JBU and NAF"
    limits = "a weighted mean of neighbours that the encoder's map alone decides; one kernel for all channels"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        factor: int,
        source_channels: int,
        neighbours: Literal[5, 9, 13, 17, 25] = 17,
        guide: Reading = "lateral",
        init: Start = "interpolation",
    ) -> None:
        self.check(neighbours=neighbours)
        super().__init__(in_channels, out_channels, factor=factor, offsets=NEIGHBOURS[neighbours], init=init)
        self.guide = Guide(source_channels, out_channels, factor=factor, reading=guide)
        attend = nn.Conv2d if init == "published" else ZeroConv2d
        self.attend = attend(self.guide.channels, neighbours, kernel_size=1)

    @classmethod
    def check(cls, *, neighbours: int = 17, **others: object) -> None:
        """See ``Part``: there is a neighbourhood of that number."""
        if neighbours not in NEIGHBOURS:
            raise UserError(f"neighbours={neighbours}: allowed is {', '.join(map(str, NEIGHBOURS))}.")

    def logits(self, x: Tensor, source: Tensor) -> Tensor:
        """See ``KernelUpsampler``; only the size of ``x`` is read."""
        return to_planes(self.attend(self.guide(source, x)), self.factor)
