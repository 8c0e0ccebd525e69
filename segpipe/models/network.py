"""The complete network: image -> encoder -> neck -> decoder -> head -> final upsampling -> logits."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segpipe.errors import UserError
from segpipe.models.decoder import ALL_SKIPS, Decoder, Factory, Skips, Step
from segpipe.models.encoders import Encoder
from segpipe.models.fusion import NoFusion
from segpipe.models.init import Conv2d
from segpipe.models.refine import Merge1x1
from segpipe.models.upsample import Bilinear, Upsampler, pad_by_edge

ENLARGEMENTS: dict[str, type[Upsampler]] = {"bilinear": Bilinear}  # fixed operators for ``model.enlarge``
Enlarge = Literal["auto", "same", "bilinear"]
Extractor = Callable[[Tensor, Tensor], dict[int, Tensor]]


class Network(nn.Module):
    """A segmentation network of five parts, applied in order: encoder, neck, decoder, head, final upsampling.

    It pads the image and crops the logits. Height and width may be any numbers from ``encoder.min_size``.

    enlarge: from the decoder's last stride to full size; called with the class scores and the encoder's maps.
    normalise: of the image; None: by the encoder's mean and standard deviation. It is applied in prediction too.
    auxiliary: stride to the ``AuxiliaryHead`` of the decoder's step, for training with deep supervision.
    The attribute ``extractor`` takes the place of ``encoder.extract`` where it is set: see ``training.feature_cache``.
        It is called with the image and the encoder's input.
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
        auxiliary: nn.ModuleDict | None = None,
    ) -> None:
        super().__init__()
        self.normalise = normalise or Normalise(encoder.mean, encoder.std)
        self.encoder, self.neck, self.decoder, self.head, self.enlarge = encoder, neck, decoder, head, enlarge
        self.auxiliary = nn.ModuleDict() if auxiliary is None else auxiliary
        self.extractor: Extractor | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Images (N, C, H, W), values 0 to 255 of any type, to logits (N, K, H, W), contiguous.

        C: the encoder's ``in_channels``; three are RGB.
        In training with auxiliary heads it returns the logits of all heads, (heads + 1, N, K, H, W): those of the
        network first, then those of the decoder's steps, fine to coarse.

        Raises UserError for an image smaller than ``encoder.min_size``. With contiguous logits, resizing and
        cross-entropy take a third less time than with channels_last (``benchmarks/contiguous.py``).
        """
        height, width = image.shape[-2:]
        x, features = self.encode(image)
        logits = self.decode_all(x, features) if self.training and self.auxiliary else self.decode(x, features)
        return logits[..., :height, :width].contiguous()

    def encode(self, image: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """The neck's output, and the maps stride: (N, C, H/stride, W/stride); H and W are those of the padded image.

        The map of stride 1 is the normalised image if the encoder has none.
        """
        height, width = image.shape[-2:]
        if min(height, width) < self.encoder.min_size:
            raise UserError(
                f"The image is {height} x {width} pixels; this encoder needs at least {self.encoder.min_size} x "
                f"{self.encoder.min_size}. Enlarge the image, or choose an encoder with fewer reductions."
            )
        x = self.pad(self.normalise(image))
        maps = self.encoder(x) if self.extractor is None else self.encoder.project(self.extractor(image, x))
        features = {1: x} | maps  # stride: (N, C, H/stride, W/stride)
        return self.neck(features[self.encoder.coarsest]), features

    def decode(self, x: Tensor, features: dict[int, Tensor]) -> Tensor:
        """The two results of ``encode`` to logits (N, K, H, W) of the padded image."""
        scores = self.head(self.decoder(x, features))  # (N, K, H/stop, W/stop)
        return self.enlarge(scores, features)

    def decode_all(self, x: Tensor, features: dict[int, Tensor]) -> Tensor:
        """As ``decode``, with the logits of the auxiliary heads after those of the network: (heads + 1, N, K, H, W)."""
        maps: dict[str, Tensor] = {}
        logits = self.enlarge(self.head(self.decoder(x, features, maps)), features)
        heads = [head(maps[stride], features) for stride, head in reversed(list(self.auxiliary.items()))]
        return torch.stack([logits, *heads])

    def strides_read(self) -> set[int]:
        """The strides of the encoder's maps whose values have an influence on the result; of the others, the size has.

        Stride 1 is the image where the encoder has no map of it.
        """
        read = {self.encoder.coarsest}
        for name, module in self.named_modules():
            if isinstance(module, Step):
                read |= module.strides_read(int(name.rsplit(".", 1)[-1]))
            elif isinstance(module, SingleUpsample) and module.upsample.guided:
                read.add(1)
        return read

    def pad(self, x: Tensor) -> Tensor:
        """Repeat the right and bottom edges until height and width are multiples of the coarsest stride."""
        height, width = x.shape[-2:]
        stride = self.encoder.coarsest
        down, right = -height % stride, -width % stride
        return pad_by_edge(x, (0, right, 0, down)) if down or right else x


class Normalise(nn.Module):
    """Subtract each channel's mean and divide by its standard deviation; both are given for values 0 to 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W), values 0 to 255, to (N, C, H, W), about -2 to 2.6 with the values of ImageNet."""
        return (image - self.mean) / self.std


class LocalContrast(nn.Module):
    """Local contrast normalisation (Jarrett et al. 2009, section 2.1), as for the input of SegNet-Basic.

    It subtracts from each value the mean of its neighbourhood over all channels. It divides the result by the standard
    deviation of the neighbourhood, or by the image's mean of these deviations where that is larger. The neighbourhood
    is a Gaussian window of 9 x 9 with a standard deviation of 1.6 (the published description does not give it). The
    image is mirrored at its border. channels: of the image.
    """

    window: Tensor

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        line = torch.exp(-((torch.arange(9) - 4.0) ** 2) / (2 * 1.6**2))
        window = (line[:, None] * line / line.sum() ** 2).expand(1, channels, 9, 9) / channels
        self.register_buffer("window", window.contiguous(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W), values 0 to 255, to (N, C, H, W), values around 0."""
        centred = image - self.mean_around(image.to(self.window))
        deviation = self.mean_around(centred**2).clamp(min=0).sqrt()  # (N, 1, H, W)
        floor = deviation.mean((2, 3), keepdim=True).clamp(min=1e-2)
        return centred / torch.maximum(deviation, floor)

    def mean_around(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 1, H, W): the weighted mean over each neighbourhood and all channels."""
        return F.conv2d(F.pad(x, (4, 4, 4, 4), mode="reflect"), self.window)


def resize_logits(scores: Tensor, size: Sequence[int]) -> Tensor:
    """Resize scores (N, K, h, w) bilinearly to ``size``, (H, W) of an image or a mask; equal sizes are not changed.

    If an axis shrinks, the support of the interpolation grows with the step (``antialias``): all scores are used.
    """
    height, width = scores.shape[-2:]
    if (height, width) == tuple(size):
        return scores
    shrinks = height > size[0] or width > size[1]
    return F.interpolate(scores, size=tuple(size), mode="bilinear", antialias=shrinks)


class SingleUpsample(nn.Module):
    """Upsamples the scores to full size by one operator in one step."""

    def __init__(self, upsample: nn.Module) -> None:
        super().__init__()
        self.upsample = upsample

    def forward(self, scores: Tensor, features: dict[int, Tensor]) -> Tensor:
        """(N, K, H/factor, W/factor) to (N, K, H, W)."""
        return self.upsample(scores, features[1])


class StepwiseUpsample(nn.Module):
    """Upsamples the scores to full size in steps of 2, without skips.

    steps: by the stride that each step produces, coarse to fine. The encoder may lack maps of the finest strides.
    """

    def __init__(self, steps: dict[int, Step]) -> None:
        super().__init__()
        self.steps = nn.ModuleDict({str(stride): step for stride, step in steps.items()})

    def forward(self, scores: Tensor, features: dict[int, Tensor]) -> Tensor:
        """(N, K, H/s, W/s) to (N, K, H, W)."""
        for stride, step in self.steps.items():
            scores = step(scores, features, source_at(features, int(stride)))
        return scores


def source_at(features: dict[int, Tensor], stride: int) -> Tensor:
    """The encoder's map of a stride; where it has none, the image, reduced to that stride by averaging."""
    return features[stride] if stride in features else F.avg_pool2d(features[1], stride)


class AuxiliaryHead(nn.Module):
    """Class scores of one step of the decoder, enlarged bilinearly to full size; used in training only."""

    def __init__(self, head: nn.Module, enlarge: SingleUpsample) -> None:
        super().__init__()
        self.head, self.enlarge = head, enlarge

    def forward(self, x: Tensor, features: dict[int, Tensor]) -> Tensor:
        """(N, C, H/s, W/s) to (N, K, H, W)."""
        return self.enlarge(self.head(x), features)


class NoUpsample(nn.Module):
    """No final upsampling: the scores have full size already."""

    def forward(self, scores: Tensor, features: dict[int, Tensor]) -> Tensor:
        """(N, K, H, W) to the same tensor."""
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
    enlarge: Enlarge = "auto",
    skip_scales: list[float] | None = None,
    zero_start: bool = False,
    local_contrast: bool = False,
    skips: Skips = ALL_SKIPS,
    deep_supervision: bool = False,
) -> Network:
    """Build a network from its parts. Each named architecture is a set of these arguments (``conf/model``).

    stride: the stride at which the decoder stops, or the encoder's finest stride if that is coarser.
    width: channels of the decoder. ``classes``: the decoder upsamples class scores, and the head is the identity.
    enlarge: the final upsampling to full size. ``same``: the operator of the decoder. ``bilinear``: one fixed bilinear
        interpolation. ``auto``: see ``fixed_enlargement``.
    smooth: the convolution after each upsampling by 2; it is left out in the decoder if ``refine`` convolves.
    taps, narrow, skip_scales, zero_start, skips: see ``Decoder``.
    local_contrast: normalise images by ``LocalContrast``.
    deep_supervision: an auxiliary head at each step of the decoder but the last: the 1x1 convolution of the head, none
        for class scores. See ``SegmentationTask`` for the losses.
    Errors: ``segpipe.config.compatibility.validate`` checks the arguments before any module is built.
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
        skips=skips,
    )
    head = nn.Identity() if width == "classes" else Conv2d(decoder.out_channels, num_classes, 1)
    last = fixed_enlargement(unwrap_partial(upsample), enlarge) or upsample
    return Network(
        encoder=encoder,
        neck=neck_module,
        decoder=decoder,
        head=head,
        enlarge=build_final_upsample(encoder, last, smooth, num_classes, stride=stop),
        normalise=LocalContrast(encoder.in_channels) if local_contrast else None,
        auxiliary=auxiliary_heads(decoder, num_classes, scores=width == "classes") if deep_supervision else None,
    )


def acts_in_steps(operator: type[Upsampler]) -> bool:
    """Whether an operator acts in the decoder's steps only, where ``model.enlarge=auto``, as in the papers."""
    return operator.content_aware or reads_finer_maps(operator)


def reads_finer_maps(operator: type[Upsampler]) -> bool:
    """Whether an operator in the final upsampling would read features of a finer stride than that of the decoder.

    These would be skips that the model does not have. Unpooling reads positions only, which its encoder keeps for it.
    """
    return operator.guided and not operator.needs_pooling


def fixed_enlargement(operator: type[Upsampler], enlarge: Enlarge | None) -> type[Upsampler] | None:
    """Return the fixed operator of the final upsampling; None where it is the operator of the decoder.

    enlarge: ``model.enlarge``. ``auto``, or None where a model does not say: bilinear for operators that are
    content-aware or guided by features, and the decoder's operator for all others.
    """
    if enlarge in (None, "auto"):
        enlarge = "bilinear" if acts_in_steps(operator) else "same"
    return ENLARGEMENTS.get(str(enlarge))


def auxiliary_heads(decoder: Decoder, num_classes: int, *, scores: bool) -> nn.ModuleDict:
    """Stride to the head of each step but the last. scores: the decoder's maps are class scores."""
    heads = nn.ModuleDict()
    for stride, channels in list(decoder.channels.items())[:-1]:
        upsample = Bilinear(num_classes, num_classes, factor=stride, source_channels=1)  # it reads none
        head = nn.Identity() if scores else Conv2d(channels, num_classes, 1)
        heads[str(stride)] = AuxiliaryHead(head, SingleUpsample(upsample))
    return heads


def build_final_upsample(
    encoder: Encoder, upsample: Factory, smooth: Factory | None, num_classes: int, *, stride: int
) -> nn.Module:
    """From ``stride`` to full size: in one step if the operator can, else in steps of 2 without skips."""
    if stride == 1:
        return NoUpsample()
    if not unwrap_partial(upsample).one_step:
        steps: dict[int, Step] = {}
        while stride > 1:
            stride //= 2
            source_channels = encoder.channels.get(stride, encoder.in_channels)
            steps[stride] = Step(
                upsample=upsample(num_classes, num_classes, factor=2, source_channels=source_channels),
                smooth=smooth(num_classes) if smooth else nn.Identity(),
                tap=nn.Identity(),
                fuse=NoFusion(num_classes, num_classes),
                attention=nn.Identity(),
                refine=Merge1x1(num_classes, num_classes, num_classes, 1),
            )
        return StepwiseUpsample(steps)
    source_channels = encoder.channels.get(1, encoder.in_channels)
    return SingleUpsample(upsample(num_classes, num_classes, factor=stride, source_channels=source_channels))


def unwrap_partial(factory: Factory) -> Any:
    """The class that a factory builds; the factory may be a ``functools.partial`` of it."""
    return getattr(factory, "func", factory)
