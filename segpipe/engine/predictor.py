"""A finished run as a function from images to masks."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from segpipe.config import build, stored
from segpipe.data.bands import Bands
from segpipe.data.dataset import Image, Mask
from segpipe.data.resize import to_network
from segpipe.data.samples import as_tensor
from segpipe.engine import exported, shared
from segpipe.engine.inputs import ImageLike, as_image, each
from segpipe.errors import UserError
from segpipe.models.tta import Flips, averaged
from segpipe.models.windows import Tile, Windows
from segpipe.runs import checkpoints
from segpipe.runs.run import Run, resume_command

COPIES, SLACK = 4, 64 * 2**20  # a checkpoint holds weights, their average and two moments in float32, and a little more


def meta_state(cfg: DictConfig, num_classes: int, bands: Bands | None) -> dict[str, torch.Tensor]:
    """Return the state dict of a configuration's network on the meta device, without memory for its weights.

    Raises UserError where the configuration is not that of a network.
    """
    try:
        encoder = build.meta_encoder(cfg, 3 if bands is None else bands.channels)
        with torch.device("meta"):
            return build.network_factory(cfg, encoder, num_classes)().state_dict()  # type: ignore[no-any-return]
    except UserError:
        raise
    except Exception as error:  # damaged values raise any kind of error in a constructor
        reason = str(error).partition("\n")[0]
        raise UserError(f"config.yaml is damaged: its network cannot be built ({reason}).") from error


class Predictor:
    """Predicts the mask of an image with the best checkpoint of a run.

    run: the folder of a run, or a file of ``segpipe.export`` or ``segpipe.archive --share``.
    device: a device name of torch; None takes a GPU if there is one (the CPU for an exported program).
    trust: packages whose classes the run may use beside those of segpipe, because a stranger's classes could execute
        code; ``torch`` for a program of torch.export.
    flips, scales: the prediction is the mean of the probabilities of mirrored and resized images, see ``models.tta``.

    Its attributes:

    classes, palette: names and RGB colours (0 to 255) by class index.
    size: [height, width] to which images are resized, as in the test; None where they keep their size. The logits are
        resized back to the size of the image.
    bands: of its images; None: 8-bit RGB.
    network: images (N, C, H, W), values 0 to 255, to logits (N, K, H, W).
    smallest: the smallest side of an image that the network takes, in pixels.
    windows: computes the network, of large images part by part, see ``models.windows``.
    run, cfg: the run and its configuration; an exported program has none.

    Raises UserError where the folder is not a run, where its record or its checkpoint is missing or damaged, and where
    the device is not available.
    """

    @shared.unpacked
    def __init__(
        self,
        run: str | Path,
        *,
        device: str | None = None,
        trust: Iterable[str] = (),
        flips: Flips = "none",
        scales: Sequence[float] = (1.0,),
    ) -> None:
        trust = packages(trust)
        check_averaging(flips, scales)
        if exported.is_program(run):
            program = exported.open_program(Path(run), device=resolve_device(device or "cpu"), trust=trust)
            vars(self).update(vars(program))
            self.use(program.network, flips=flips, scales=scales)
            return
        if not Path(run).is_dir() and Path(run).exists():
            raise UserError(
                f"{run}: a file, not the folder of a run. Give the folder that the training printed at its end (for a "
                f"checkpoint FOLDER/checkpoints/best.ckpt, it is FOLDER), a file of segpipe.export (.onnx, .pt2, "
                f".safetensors), or one of segpipe.archive --share (.zip)."
            )
        self.device = resolve_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.run = Run.open(run)
        self.cfg = cfg = stored.read(self.run, trust=trust)
        if "classes" not in self.run.record:
            raise UserError(
                f"{run}: run.json is missing or damaged, so the classes are not known. To write it again, resume the "
                f"training: {resume_command(self.run)}"
            )
        self.classes: list[str] = self.run.record["classes"]
        self.palette = [tuple(colour) for colour in self.run.record["palette"]]
        self.size: list[int] | None = OmegaConf.to_container(cfg.data).get("size")  # type: ignore[union-attr, assignment]
        bands = self.run.record.get("bands")
        self.bands = None if bands is None else Bands.from_record(bands)
        path = self.run.best_checkpoint()
        expected = meta_state(cfg, len(self.classes), self.bands)
        checkpoint = checkpoints.read(path, limit=SLACK + COPIES * sum(4 * one.numel() for one in expected.values()))
        state = {
            name.removeprefix("network."): tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith("network.")
        }
        checkpoints.require_fit(state, expected, path)
        self.network = build.network(cfg, len(self.classes), self.bands)
        self.network.load_state_dict(state)
        self.network.eval().to(self.device)
        self.use(self.network, flips=flips, scales=scales)

    def use(self, network: Any, *, flips: Flips, scales: Sequence[float]) -> None:
        """Set ``smallest``, and ``windows`` over a network. It may be the program of a file."""
        self.smallest = network.encoder.min_size
        mean = averaged(network, flips=flips, scales=scales, smallest=self.smallest)
        self.windows = Windows(
            lambda image: mean(image.to(self.device)), stride=network.encoder.coarsest, smallest=self.smallest
        )

    def __getattr__(self, name: str) -> Any:
        """Raise UserError for what an exported file does not have: its run and its configuration."""
        if name in ("run", "cfg"):
            raise UserError("This model is an exported file. Give the folder of its run, or the run's shared archive.")
        raise AttributeError(f"'Predictor' object has no attribute '{name}'")

    def __call__(self, image: ImageLike | Sequence[ImageLike]) -> Any:
        """Return the class indices (H, W), uint8, of an image of any size; a list of them for a batch.

        image: what ``engine.inputs.as_image`` accepts: a path, the bytes of a file, a PIL image, an array or a tensor.
        A batch is a list or tuple of these, or an array or tensor with 4 axes. Raises UserError for other inputs.
        Threads may share a predictor.
        """
        return each(image, lambda one: self.mask(self.as_input(one)))

    def probabilities(self, image: ImageLike | Sequence[ImageLike]) -> Any:
        """Return the probability of each class, (K, H, W), float32, which sum to 1; a list of them for a batch.

        image: see ``__call__``. A large image needs memory for K x H x W numbers.
        """
        return each(image, lambda one: self.probabilities_of(self.as_input(one)))

    def as_input(self, image: ImageLike) -> Image:
        """Return an image as the network takes it, (H, W, C), values 0 to 255. Raises UserError for other inputs."""
        return as_image(image, self.bands)

    def mask(self, image: Image) -> Mask:
        """Return the class indices (H, W), uint8. image: see ``as_input``."""
        return self.windows.masks(as_tensor(self.resized(image)), image.shape[:2])[0].numpy()

    def probabilities_of(self, image: Image) -> NDArray[np.float32]:
        """Return the probabilities (K, H, W) of an image, see ``as_input``."""
        tiles = (tile._replace(logits=tile.logits.softmax(0).cpu()) for tile in self.tiles(image))
        return whole(tiles, image.shape[:2]).numpy()  # type: ignore[no-any-return]

    def resized(self, image: Image) -> Image:
        """Return an image (H, W, C) at the size at which the network receives it."""
        return to_network(image, self.size, smallest=self.smallest)

    def tiles(self, image: Image) -> Iterator[Tile]:
        """Yield the logits of an image (H, W, C) in tiles; one tile (K, H, W) unless the image is large."""
        return self.windows.tiles(as_tensor(self.resized(image)), image.shape[:2])

    def batch(self, resized: Sequence[Image], sizes: Sequence[Sequence[int]]) -> Iterator[Iterator[Tile]]:
        """Yield the tiles of each of several images, as ``tiles``, after one forward pass for all of them.

        resized: images of one shape, as ``resized`` returns them; a large one must be alone. sizes: (H, W) of the
        images before. The logits are those of each image alone up to rounding.
        """
        if len(resized) == 1:
            yield self.windows.tiles(as_tensor(resized[0]), sizes[0])
            return
        with torch.inference_mode():
            logits = self.windows.network(torch.cat([as_tensor(image) for image in resized])).float()
        for one, size in zip(logits, sizes, strict=True):
            yield self.windows.resized(one[None], size)

    def logits(self, image: Image) -> torch.Tensor:
        """Return the logits (K, H, W), float, for K classes. image: see ``as_input``."""
        return whole(self.tiles(image), image.shape[:2])


def whole(tiles: Iterable[Tile], size: Sequence[int]) -> torch.Tensor:
    """Join tiles, one after the other: (K, H, W) for an image of ``size``, (H, W)."""
    result: torch.Tensor | None = None
    for tile in tiles:
        if tile.logits.shape[-2:] == tuple(size):
            return tile.logits
        result = tile.logits.new_empty(len(tile.logits), *size) if result is None else result
        result[:, tile.rows, tile.columns] = tile.logits
    assert result is not None  # an image has at least one tile
    return result


def packages(trust: object) -> list[str]:
    """Return the packages of ``trust``; a single text is one package. Raises UserError for what are no texts."""
    names = [trust] if isinstance(trust, str) else trust if isinstance(trust, Iterable) else None
    listed = [] if names is None else list(names)
    if names is None or not all(isinstance(name, str) for name in listed):
        raise UserError(f"trust={trust!r}: allowed is a list of names of packages, such as ['mypackage'].")
    return listed


def check_averaging(flips: object, scales: object) -> None:
    """Raise UserError for flips and scales that ``models.tta`` does not have."""
    if flips not in get_args(Flips):
        raise UserError(f"flips={flips!r}: allowed is {' or '.join(get_args(Flips))}.")
    listed = list(scales) if isinstance(scales, Iterable) else []
    if not listed or not all(isinstance(one, int | float) and 0 < one < float("inf") for one in listed):
        raise UserError(f"scales={scales!r}: allowed is a list of numbers above 0, such as [0.75, 1, 1.25].")


def resolve_device(name: str) -> torch.device:
    """Return the device with a name of torch. Raises UserError where it is not available."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UserError(f"device={name}: not available ({str(error).partition(chr(10))[0]}). Take cpu.") from error
    return device
