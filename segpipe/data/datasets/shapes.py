"""``shapes``: synthetic scenes drawn from a seed. The complete pipeline runs on them without a download.

Large textured areas (striped or checkered blobs) need deep features to be distinguished. Small and thin objects (discs,
curves) need fine features to be located. Tones are random: colour gives no information about the class.
"""

import hashlib
import math
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.data.dataset import Image, Mask, Sample, SegmentationDataset, Split
from segpipe.data.datasets.scenes import Scenes

Tone = NDArray[np.float32]  # (3,)
CLASSES = ["background", "striped", "checkered", "ellipse", "disc", "curve"]
PALETTE = [(60, 60, 60), (230, 120, 40), (60, 130, 220), (90, 180, 90), (230, 200, 60), (190, 80, 170)]
FIRST_SEED = {"train": 0, "val": 1, "test": 2}


class Shapes(SegmentationDataset):
    """Scenes of six classes; each depends on (seed, split, index) only.

    train, val, test: number of scenes in each split. side: height and width in pixels. seed: of the drawing, not of the
    training.
    """

    classes = CLASSES
    palette = PALETTE

    def __init__(
        self, *, split: Split, train: int = 1000, val: int = 100, test: int = 200, side: int = 96, seed: int = 0
    ) -> None:
        self.split, self.side, self.seed = split, side, seed
        self.names = [f"{split}-{index:04d}" for index in range({"train": train, "val": val, "test": test}[split])]
        self.groups = self.names
        self.scenes = Scenes(f"{self.fingerprint()} {drawing()}", count=len(self), side=side)

    def read(self, index: int) -> Sample:
        """The scene from the user's cache, or newly drawn; drawing takes 2 to 5 ms."""
        if (kept := self.scenes.find(index)) is not None:
            return kept
        drawn = draw_scene(np.random.default_rng((self.seed, FIRST_SEED[self.split], index)), self.side)
        self.scenes.keep(index, drawn)
        return drawn

    def size(self, index: int) -> tuple[int, int]:
        """Height and width; every scene is square."""
        return self.side, self.side

    def fingerprint(self) -> str:
        """A string of the arguments, and a number that is raised when the drawing changes."""
        return f"shapes-1-{self.split}-{len(self)}-{self.side}-{self.seed}"


@cache
def drawing() -> str:
    """What scenes of one fingerprint also depend on: the bytes of this file, and the versions of the libraries."""
    own = hashlib.blake2b(Path(__file__).read_bytes(), digest_size=8).hexdigest()
    return f"{own} numpy {np.__version__} opencv {cv2.__version__}"


def draw_scene(rng: np.random.Generator, side: int) -> Sample:
    """Draw background, blobs, ellipses, curves and discs, in this order; then add lighting and noise."""
    scene = Scene(rng, side)
    for _ in range(rng.integers(2, 4)):
        scene.blob()
    for _ in range(rng.integers(2, 4)):
        scene.ellipse()
    for _ in range(rng.integers(1, 3)):
        scene.curve()
    for _ in range(rng.integers(3, 6)):
        scene.disc()
    return Sample(scene.photograph(), scene.mask)


class Scene:
    """An image of ``side`` x ``side`` pixels and its mask, drawn object by object."""

    def __init__(self, rng: np.random.Generator, side: int) -> None:
        self.rng, self.side = rng, side
        y, x = np.mgrid[:side, :side].astype(np.float32)
        self.y, self.x = y, x
        self.mask: Mask = np.zeros((side, side), np.uint8)
        cells = int(rng.integers(8, 25))
        noise = cv2.resize(rng.random((cells, cells), np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
        dark, bright = self.tones(gap=45)
        self.canvas = blend(dark, bright, noise)  # type: ignore[arg-type]

    def tones(self, *, gap: float) -> tuple[Tone, Tone]:
        """Two tones around a random mean, at a distance of about ``gap``; the order of dark and bright is random."""
        middle = self.rng.uniform(85, 170, 3)
        step = gap / 2 * self.rng.uniform(0.6, 1.4, 3) * self.rng.choice([-1, 1])
        return (middle - step).astype(np.float32), (middle + step).astype(np.float32)

    def paint(self, where: Mask, label: int, pattern: NDArray[np.float32]) -> None:
        """Write ``pattern`` (H, W, 3) to the image and ``label`` to the mask where ``where`` (H, W) is not zero."""
        inside = where > 0
        self.canvas[inside] = pattern[inside]
        self.mask[inside] = label

    def place(self, margin: float) -> NDArray[np.float64]:
        """A random point (x, y), at least ``margin`` pixels from the border."""
        return self.rng.uniform(margin, self.side - margin, 2)

    def ramp(self, x: float, y: float) -> NDArray[np.float32]:
        """(H, W): signed distance in pixels from (x, y) along a random direction."""
        angle = float(self.rng.uniform(0, 2 * np.pi))
        return (self.x - float(x)) * math.cos(angle) + (self.y - float(y)) * math.sin(angle)

    def blob(self) -> None:
        """Draw a polygon of ten corners, striped or checkered at a random angle."""
        radius = self.rng.uniform(22, 32) * self.rng.uniform(0.75, 1.25, 10)
        turn = np.linspace(0, 2 * np.pi, 10, endpoint=False) + self.rng.uniform(0, 2 * np.pi)
        corners = self.place(12) + radius[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        where = np.zeros_like(self.mask)
        cv2.fillPoly(where, [np.round(corners).astype(np.int32)], 1)
        angle, period = float(self.rng.uniform(0, np.pi)), float(self.rng.uniform(4, 7))
        cosine, sine = 2 * math.pi / period * math.cos(angle), 2 * math.pi / period * math.sin(angle)
        wave = np.sin(cosine * self.x + sine * self.y)
        if (label := int(self.rng.integers(1, 3))) == 2:
            wave *= np.sin(cosine * self.y - sine * self.x)
        dark, bright = self.tones(gap=70)
        self.paint(where, label, blend(dark, bright, (wave > 0).astype(np.float32)))

    def ellipse(self) -> None:
        """Draw an ellipse with a gradient between two tones along a random direction."""
        centre, axes, angle = self.place(8), self.rng.uniform(9, 14, 2), self.rng.uniform(0, 180)
        where = np.zeros_like(self.mask)
        cv2.ellipse(where, ((float(centre[0]), float(centre[1])), (2 * axes[0], 2 * axes[1]), angle), 1, -1)
        slope = self.ramp(*centre) / float(2 * axes.max()) + 0.5
        dark, bright = self.tones(gap=110)
        self.paint(where, 3, blend(dark, bright, slope.clip(0, 1)))

    def disc(self) -> None:
        """Draw a small disc whose centre has the other tone."""
        x, y = np.round(self.place(6)).astype(int)
        radius = int(self.rng.integers(5, 8))
        where, core = np.zeros_like(self.mask), np.zeros_like(self.mask)
        cv2.circle(where, (x, y), radius, 1, -1)
        cv2.circle(core, (x, y), radius // 2, 1, -1)
        dark, bright = self.tones(gap=120)
        self.paint(where, 4, blend(dark, bright, core.astype(np.float32)))

    def curve(self) -> None:
        """Draw a quadratic curve of one tone, 5 to 8 pixels wide."""
        t = np.linspace(0, 1, 40)[:, None]
        start, bend, end = self.place(0), self.place(0), self.place(0)
        line = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        where = np.zeros_like(self.mask)
        cv2.polylines(where, [np.round(line).astype(np.int32)], False, 1, int(self.rng.integers(5, 9)))
        tone, _ = self.tones(gap=110)
        self.paint(where, 5, np.broadcast_to(tone, self.canvas.shape))

    def photograph(self) -> Image:
        """The image (H, W, 3) with a lighting gradient across the scene and noise."""
        ramp = self.ramp(self.side / 2, self.side / 2)
        grain = 8 * self.rng.standard_normal(self.canvas.shape, np.float32)
        picture = self.canvas * (1 + 0.3 / ramp.max() * ramp[..., None]) + grain
        return picture.clip(0, 255).astype(np.uint8)


def blend(first: Tone, second: Tone, share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shares (H, W) of the second tone, 0 to 1, to an image (H, W, 3)."""
    return first + (second - first) * share[..., None].astype(np.float32)
