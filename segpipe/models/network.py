"""The whole network: image -> encoder -> neck -> decoder -> head -> enlarge -> logits."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.errors import UserError
from segpipe.models.decoder import Decoder, Factory
from segpipe.models.encoders import Encoder
from segpipe.models.fusion import NoFusion
from segpipe.models.init import Conv2d
from segpipe.models.refine import Merge1x1
from segpipe.models.upsample import Bilinear, Upsampler

IMAGE_CHANNELS = 3  # of the map of stride 1 where the encoder has none: the image
ENLARGEMENTS: dict[str, type[Upsampler]] = {"bilinear": Bilinear}  # what ``model.enlarge`` offers besides ``same``


class Network(nn.Module):
    """Five parts in a row. It alone pads: any height and width from ``encoder.min_size`` will do.

    enlarge: from the decoder's last stride to full size; called with the scores and the encoder's maps.
    normalise: of the image, by the encoder's mean and deviation unless given; what is not at hand at prediction belongs
        into the augmentation.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        neck: nn.Module,
        decoder: Decoder,
        head: nn.Module,
        enlarge: nn.Module,
        normalise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.normalise = normalise or Normalise(encoder.mean, encoder.std)
        self.encoder, self.neck, self.decoder, self.head, self.enlarge = encoder, neck, decoder, head, enlarge

    def forward(self, image: Tensor) -> Tensor:
        """RGB images (N, 3, H, W), values 0 to 255 of any type, to logits (N, K, H, W), contiguous.

        Enlarging logits and cross-entropy take a third less time than in channels_last (``benchmarks/contiguous.py``).
        """
        height, width = image.shape[-2:]
        return self.decode(*self.encode(image))[..., :height, :width].contiguous()

    def encode(self, image: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """The coarsest map, behind the neck, and the encoder's (N, C, H/stride, W/stride), of the padded picture."""
        height, width = image.shape[-2:]
        if min(height, width) < self.encoder.min_size:
            raise UserError(
                f"The picture is {height} x {width}; this encoder takes {self.encoder.min_size} x "
                f"{self.encoder.min_size} and more. Enlarge the picture, or take an encoder with fewer reductions."
            )
        x = self.pad(self.normalise(image))
        features = {1: x} | self.encoder(x)  # stride: (N, C, H/stride, W/stride); the picture where there is no map
        return self.neck(features[self.encoder.coarsest]), features

    def decode(self, x: Tensor, features: dict[int, Tensor]) -> Tensor:
        """What ``encode`` returned, to logits of the padded picture."""
        scores = self.head(self.decoder(x, features))  # (N, K, H/stop, W/stop)
        return self.enlarge(scores, features)

    def pad(self, x: Tensor) -> Tensor:
        """Repeat the edge, right and bottom, up to multiples of the coarsest stride."""
        height, width = x.shape[-2:]
        stride = self.encoder.coarsest
        down, right = -height % stride, -width % stride
        return F.pad(x, (0, right, 0, down), mode="replicate") if down or right else x


class Normalise(nn.Module):
    """By the channels' mean and standard deviation, given for values 0 to 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W), 0 to 255, to about -2 to 2.6 by ImageNet's."""
        return (image - self.mean) / self.std


class LocalContrast(nn.Module):
    """Local contrast normalisation (Jarrett et al. 2009, section 2.1), as SegNet-Basic's input has it.

    From each value its neighbourhood's mean over all channels is taken, and what is left divided by the
    neighbourhood's deviation, or by the picture's mean deviation where that is larger. The neighbourhood is a Gaussian
    window of 9 x 9, standard deviation 1.6 (the window's is not published); beyond the border, the picture mirrored.
    """

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        line = torch.exp(-((torch.arange(9) - 4.0) ** 2) / (2 * 1.6**2))
        window = (line[:, None] * line / line.sum() ** 2).expand(1, 3, 9, 9) / 3
        self.register_buffer("window", window.contiguous(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W), 0 to 255, to values around 0, a few at most."""
        centred = image - self.mean_around(image.to(self.window))
        deviation = self.mean_around(centred**2).clamp(min=0).sqrt()  # (N, 1, H, W)
        floor = deviation.mean((2, 3), keepdim=True).clamp(min=1e-2)
        return centred / torch.maximum(deviation, floor)

    def mean_around(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to its weighted mean over each neighbourhood and all channels, (N, 1, H, W)."""
        return F.conv2d(F.pad(x, (4, 4, 4, 4), mode="reflect"), self.window)


def resize_logits(scores: Tensor, size: Sequence[int]) -> Tensor:
    """(N, K, h, w) scores interpolated to a picture's or a mask's own (H, W), where they differ.

    Where they shrink, the interpolation's support grows with the step (``antialias``), so that none is left out.
    """
    height, width = scores.shape[-2:]
    if (height, width) == tuple(size):
        return scores
    shrinks = height > size[0] or width > size[1]
    return F.interpolate(scores, size=tuple(size), mode="bilinear", antialias=shrinks)


class SingleUpsample(nn.Module):
    """Enlarges the scores to full size in one step of one upsampler."""

    def __init__(self, upsample: nn.Module) -> None:
        super().__init__()
        self.upsample = upsample

    def forward(self, scores: Tensor, features: dict[int, Tensor]) -> Tensor:
        """(N, K, H/factor, W/factor) to (N, K, H, W)."""
        return self.upsample(scores, features[1])


class NoUpsample(nn.Module):
    """The scores are at full size."""

    def forward(self, scores: Tensor, features: dict[int, Tensor]) -> Tensor:
        """(N, K, H, W), as it came."""
        return scores


def assemble(
    *,
    encoder: Encoder,
    neck: Factory,
    upsample: Factory,
    smooth: Factory | None,
    fusion: Factory,
    refine: Factory,
    num_classes: int,
    stride: int,
    width: int | list[int] | Literal["classes"] | None = None,
    taps: Literal["conv", "pool"] = "conv",
    narrow: Literal["refine", "upsample"] = "refine",
    enlarge: Literal["same", "bilinear"] = "same",
    skip_scales: list[float] | None = None,
    zero_start: bool = False,
    local_contrast: bool = False,
) -> Network:
    """Put the parts together: every named architecture is a set of these arguments (``conf/model``).

    stride: where the decoder stops; where the encoder has no map so fine, at its finest.
    width: channels of the decoder; ``classes`` makes it climb with class scores, and the head is then nothing.
    enlarge: from there to full size by the decoder's own upsampler, or by one fixed bilinear interpolation.
    skip_scales, zero_start: see ``Decoder``. local_contrast: normalise pictures by ``LocalContrast``.
    smooth: its slot after each step of 2 is filled where ``refine`` does not convolve itself.
    Errors: see ``segpipe.config.compatibility.validate``, which asks before anything is built.
    """
    neck_module: Any = neck(encoder)
    stop = max(stride, encoder.strides[0])
    decoder = Decoder(
        neck_module.out_channels,
        encoder=encoder,
        start=encoder.coarsest,
        stop=stop,
        upsample=upsample,
        smooth=None if unwrap_partial(refine).convolves else smooth,
        fusion=fusion,
        refine=refine,
        width=num_classes if width == "classes" else width,
        taps=taps,
        narrow=narrow,
        skip_scales=skip_scales,
        zero_start=zero_start,
    )
    head = nn.Identity() if width == "classes" else Conv2d(decoder.out_channels, num_classes, 1)
    return Network(
        encoder=encoder,
        neck=neck_module,
        decoder=decoder,
        head=head,
        enlarge=build_final_upsample(encoder, ENLARGEMENTS.get(enlarge, upsample), smooth, num_classes, stride=stop),
        normalise=LocalContrast() if local_contrast else None,
    )


def build_final_upsample(
    encoder: Encoder, upsample: Factory, smooth: Factory | None, num_classes: int, *, stride: int
) -> nn.Module:
    """One jump where the upsampler can, else its own steps once more, without skips."""
    if stride == 1:
        return NoUpsample()
    if not unwrap_partial(upsample).one_step:
        return Decoder(
            num_classes,
            encoder=encoder,
            start=stride,
            stop=1,
            upsample=upsample,
            smooth=smooth,
            fusion=NoFusion,
            refine=Merge1x1,
            width=num_classes,
        )
    source_channels = encoder.channels.get(1, IMAGE_CHANNELS)
    return SingleUpsample(upsample(num_classes, num_classes, factor=stride, source_channels=source_channels))


def unwrap_partial(factory: Factory) -> Any:
    """The class behind a factory that may be a partial of it."""
    return getattr(factory, "func", factory)
