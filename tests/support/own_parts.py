"""Parts as a user may write them: each stands for a kind that no part of ours is of."""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from segpipe.models.encoders import PlainEncoder
from segpipe.models.fusion import Fusion
from segpipe.models.init import Conv2d
from segpipe.models.refine import Refinement
from segpipe.models.upsample import Nearest, Upsampler, crop_or_pad_to


class Stepwise(Nearest):
    """It enlarges by 2 and by nothing else, and needs nothing of the encoder."""

    one_step = False

    def __init__(self, in_channels, out_channels, *, factor, source_channels):
        assert factor == 2
        super().__init__(in_channels, out_channels, factor=factor, source_channels=source_channels)


class AnyArguments(Nearest):
    """Its arguments have names that mean something elsewhere, and values that would be invalid there."""

    def __init__(self, in_channels, out_channels, *, kernel, gamma, side, share, width, **given):
        super().__init__(in_channels, out_channels, **given)
        self.blur = Conv2d(out_channels, out_channels, kernel, padding=kernel // 2)

    def forward(self, x, source):
        return self.blur(super().forward(x, source))


class Picky(Nearest):
    """It rejects an even kernel itself."""

    def __init__(self, in_channels, out_channels, *, kernel=3, **given):
        super().__init__(in_channels, out_channels, **given)

    @classmethod
    def check(cls, *, kernel=3, **others):
        from segpipe.errors import UserError

        if kernel % 2 == 0:
            raise UserError(f"kernel={kernel}: allowed is an odd number here.")


class ContentAware(Upsampler):
    """A kernel of 3 x 3 for every pixel, drawn from the map itself: taps by ``unfold``, a product, a sum."""

    def __init__(self, in_channels, out_channels, *, factor, source_channels):
        super().__init__()
        self.factor = factor
        self.project = Conv2d(in_channels, out_channels, 1)
        self.kernels = Conv2d(out_channels, 9 * factor**2, 1)

    def forward(self, x, source):
        x = self.project(x)
        n, c, h, w = x.shape
        kernels = F.pixel_shuffle(self.kernels(x), self.factor).softmax(1)  # (N, 9, H, W)
        taps = F.unfold(x, 3, padding=1).view(n, c * 9, h, w)
        taps = F.interpolate(taps, scale_factor=self.factor).view(n, c, 9, h * self.factor, w * self.factor)
        return crop_or_pad_to((taps * kernels[:, None]).sum(2), source.shape[-2:])


class Sampled(Upsampler):
    """It samples the map at points that the source moves."""

    guided = stochastic_backward = True

    def __init__(self, in_channels, out_channels, *, factor, source_channels):
        super().__init__()
        self.project = Conv2d(in_channels, out_channels, 1)
        self.move = Conv2d(source_channels, 2, 1)

    def forward(self, x, source):
        rows, columns = ((2 * torch.arange(n, device=x.device) + 1) / n - 1 for n in source.shape[-2:])
        start = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)  # (H, W, 2): x, y
        grid = start + self.move(source).permute(0, 2, 3, 1)
        return F.grid_sample(self.project(x), grid, align_corners=False)


class KnowsItsCost(ContentAware):
    """It says what it costs."""

    def cost(self, x, source):
        return 7 * source.shape[-1]


class Smallest(Fusion):
    """The smaller of the two."""

    def __init__(self, skip_channels, width):
        super().__init__()
        self.out_channels = width
        self.lateral = Conv2d(skip_channels, width, 1)

    def forward(self, x, skip):
        return torch.minimum(x, self.lateral(skip))


class Squeeze(Refinement):
    """Weighs channels by their mean. Its kernel may be even."""

    def __init__(self, in_channels, width, out_channels, depth, *, kernel=2):
        super().__init__()
        self.project = Conv2d(in_channels, out_channels, 1)
        self.weigh = Conv2d(out_channels, out_channels, 1)

    def forward(self, x):
        x = self.project(x)
        return x * self.weigh(x.mean((2, 3), keepdim=True)).sigmoid()


class EvenEncoder(PlainEncoder):
    """An encoder whose argument ``kernel`` is none of a convolution of equal size."""

    def __init__(self, *, kernel):
        super().__init__(widths=[8] * 5, depths=[1] * 5)


# ---- where a start is set
class WithLayer(Nearest):
    """A layer of torch's behind the operator."""

    def __init__(self, in_channels, out_channels, **given):
        super().__init__(in_channels, out_channels, **given)
        self.conv = nn.Conv2d(out_channels, out_channels, 1)

    def forward(self, x, source):
        return self.conv(super().forward(x, source))


class SetsItsLayer(WithLayer):
    def __init__(self, *channels, **given):
        super().__init__(*channels, **given)
        nn.init.normal_(self.conv.weight, std=0.001)


class SetsItsLayersData(WithLayer):
    def __init__(self, *channels, **given):
        super().__init__(*channels, **given)
        self.conv.weight.data.normal_(std=0.001)


class ReplacesAParameter(WithLayer):
    def __init__(self, *channels, **given):
        super().__init__(*channels, **given)
        self.conv.weight = nn.Parameter(torch.full_like(self.conv.weight, 0.001))


class AppliesToAll(WithLayer):
    def __init__(self, *channels, **given):
        super().__init__(*channels, **given)
        self.apply(lambda layer: nn.init.zeros_(layer.bias) if isinstance(layer, nn.Conv2d) else None)


class ResetsItsLayer(WithLayer):
    def reset_parameters(self):
        nn.init.normal_(self.conv.weight, std=0.001)


class SmallConv2d(nn.Conv2d):
    """Its start is lost: nothing but the constructor sets it."""

    def __init__(self, channels):
        super().__init__(channels, channels, 1)
        nn.init.normal_(self.weight, std=0.001)


class SetsItself(Nearest):
    def __init__(self, in_channels, out_channels, **given):
        super().__init__(in_channels, out_channels, **given)
        self.conv = SmallConv2d(out_channels)

    def forward(self, x, source):
        return self.conv(super().forward(x, source))


class BareParameter(Nearest):
    def __init__(self, *channels, **given):
        super().__init__(*channels, **given)
        self.scale = nn.Parameter(torch.tensor(0.001))

    def forward(self, x, source):
        return self.scale * super().forward(x, source)


class Scale(BareParameter):
    """As BareParameter, and it says how it starts."""

    def reset_parameters(self):
        nn.init.constant_(self.scale, 0.001)


class SmallStart(nn.Conv2d):
    """A layer that is a class of its own."""

    def reset_parameters(self):
        nn.init.normal_(self.weight, std=0.001)
        nn.init.zeros_(self.bias)


class KeepsItsLayer(Nearest):
    def __init__(self, in_channels, out_channels, **given):
        super().__init__(in_channels, out_channels, **given)
        self.conv = SmallStart(out_channels, out_channels, 1)

    def forward(self, x, source):
        return self.conv(super().forward(x, source))


class TorchsOwn(Nearest):
    """Layers of torch's that begin in ways of their own."""

    def __init__(self, in_channels, out_channels, **given):
        super().__init__(in_channels, out_channels, **given)
        self.layers = nn.ModuleList(
            [nn.GroupNorm(1, out_channels), nn.PReLU(), nn.Conv2d(out_channels, out_channels, 1)]
        )
        self.attend = nn.MultiheadAttention(out_channels, 1, batch_first=True)
        self.twice = nn.Conv2d(out_channels, out_channels, 1)
        self.twice.weight = self.layers[2].weight

    def forward(self, x, source):
        for layer in [*self.layers, self.twice]:
            x = layer(x)
        y = x.flatten(2).transpose(1, 2)
        return super().forward(self.attend(y, y, y)[0].transpose(1, 2).view_as(x), source)


# ---- callbacks
class Says(pl.Callback):
    """It only logs, and says so."""

    changes_result = False


class Unknown(pl.Callback):
    """Nobody knows what it does."""


class Logger(pl.callbacks.LearningRateMonitor):
    """A user's own class, derived from one that only logs."""
