"""FAM: sampling positions from the decoder's and the encoder's map."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.models.init import ZeroConv2d, proj1x1
from segpipe.models.upsample.base import Start, Upsampler, check_channels, crop_or_pad_to
from segpipe.models.upsample.guide import Guide, Reading
from segpipe.models.upsample.sampling import centres, sample


class Flow(Upsampler):
    """The flow alignment module (FAM) of SFNet: ``x`` is sampled bilinearly along a flow from both maps.

    Both maps are compressed by a 1x1 convolution each, and a 3x3 convolution of the two gives the flow of each pixel,
    in halves of a pixel of the result.

    channels: of the compressed maps; SFNet has half the width. guide: see ``Guide``. init: ``interpolation``: a flow of
    zero, exactly bilinear interpolation. ``published``: torch's random start.

    A 1x1 convolution comes first where the widths differ. Raises UserError for fewer than one channel.
    """

    guided = True
    content_aware = True
    stochastic_backward = True
    initial = "bilinear"
    paper = "SFNet: Li et al. 2020"
    limits = "moves values towards edges of the encoder's map, the same for all channels; no new extremes"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        factor: int,
        source_channels: int,
        channels: int = 64,
        guide: Reading = "lateral",
        init: Start = "interpolation",
    ) -> None:
        super().__init__()
        self.check(channels=channels)
        self.factor = factor
        self.project = proj1x1(in_channels, out_channels)
        self.guide = Guide(source_channels, out_channels, factor=factor, reading=guide)
        self.compress = nn.Conv2d(out_channels, channels, 1, bias=False)
        self.compress_source = nn.Conv2d(self.guide.channels, channels, 1, bias=False)
        start = nn.Conv2d if init == "published" else ZeroConv2d
        self.flow = start(2 * channels, 2, kernel_size=3, padding=1, bias=False)

    @classmethod
    def check(cls, *, channels: int = 64, **others: object) -> None:
        """See ``Part``: there is a channel."""
        check_channels(channels)

    def offsets(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, out, h, w) and the source to (N, 2, s * h, s * w): to the right and down, in pixels of ``x``."""
        coarse = F.interpolate(self.compress(x), scale_factor=self.factor, mode="bilinear")
        fine = self.compress_source(self.guide(source, x))
        return self.flow(torch.cat([coarse, fine], dim=1)) / (2 * self.factor)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, in, h, w) to (N, out, H, W); source: (N, source_channels, H, W)."""
        x = self.project(x)
        y = sample(x, centres(x, self.factor) + self.offsets(x, source))
        return crop_or_pad_to(y, source.shape[-2:])

    def explain(self, x: Tensor, source: Tensor) -> dict[str, Tensor]:
        """See ``Upsampler``: ``offsets``."""
        return {"offsets": crop_or_pad_to(self.offsets(self.project(x), source), source.shape[-2:])}
