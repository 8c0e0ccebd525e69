"""What the lab knows of a run and of an image: the content of the page of segpipe.inspect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segpipe.data.dataset import Image, Mask
from segpipe.lab.checkerboard import OnImage, Phases
from segpipe.lab.climb import Rung
from segpipe.lab.content import ContentFacts
from segpipe.lab.kernels import Kernels
from segpipe.lab.switches import Agreement, Sparsity

History = list[dict[str, float]]  # one line per epoch: numbers by key


@dataclass(frozen=True)
class OperatorFacts:
    """The operator of one step. kernels: None where the operator is not linear.

    start: its kernels before training. distances, start_distances: by name of the fixed operator, 0 to 1. change: of
    the kernels since their start, relative to them.
    """

    place: str
    stride: int
    factor: int
    operator: str
    kernels: Kernels | None = None
    start: Kernels | None = None
    distances: Mapping[str, float] = field(default_factory=dict)
    start_distances: Mapping[str, float] = field(default_factory=dict)
    change: float = float("nan")


@dataclass(frozen=True)
class SwitchFacts:
    """The switches of one step for one image. shares: (H/s, W/s), of channels with their maximum at the pixel."""

    place: str
    stride: int
    shares: NDArray[np.float32]
    sparsity: Sparsity
    agreement: Agreement


@dataclass(frozen=True)
class ImageFacts:
    """What one run makes of one image. prediction: (H, W) class indices at the size of the image.

    score_maps: whether the maps of the climb are class scores. content: of the steps with a content-aware operator.
    """

    prediction: Mask
    rungs: Sequence[Rung]
    score_maps: bool
    switches: Sequence[SwitchFacts]
    on_image: Sequence[OnImage]
    content: Sequence[ContentFacts] = ()


@dataclass(frozen=True)
class RunFacts:
    """One run. reason: why it has no weights; everything below is then empty.

    images: one for each image of the page. phases, start_phases: phase shares of the trained network and of the same
    network before training.
    """

    label: str
    reason: str = ""
    operators: Sequence[OperatorFacts] = ()
    phases: Phases | None = None
    start_phases: Phases | None = None
    images: Sequence[ImageFacts] = ()
    history: History = field(default_factory=list)


@dataclass(frozen=True)
class ShownImage:
    """An image (H, W, 3) of the page. truth: its mask (H, W), if it was given."""

    name: str
    image: Image
    truth: Mask | None = None


@dataclass(frozen=True)
class Inspection:
    """All that the page shows of single images: runs side by side on the same images."""

    classes: Sequence[str]
    palette: Sequence[tuple[int, ...]]
    images: Sequence[ShownImage]
    runs: Sequence[RunFacts]
