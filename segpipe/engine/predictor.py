"""A finished run as a function from images to masks."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from segpipe.config import build, stored
from segpipe.data.bands import Bands
from segpipe.data.dataset import Image, Mask
from segpipe.data.files import read_image
from segpipe.data.resize import to_network
from segpipe.engine.inputs import as_rgb
from segpipe.errors import UserError
from segpipe.lab.cells import as_batch
from segpipe.models.network import resize_logits
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

    run: the folder of a run. device: a device name of torch; None takes a GPU if there is one. trust: packages whose
    classes the run may use, beside those of segpipe; a run from a stranger could execute them. Attributes: cfg: the
    run's configuration. classes, palette: names and RGB colours (0 to 255) by class index. size: [height, width] to
    which images are resized, as in the test; None where they keep their size. bands: of its images; None: 8-bit RGB.
    The logits are resized to the size of the image.
    Raises UserError where the folder is not a run, or where its record or its checkpoint is missing or damaged.
    """

    def __init__(self, run: str | Path, *, device: str | None = None, trust: Iterable[str] = ()) -> None:
        if not Path(run).is_dir() and Path(run).exists():
            raise UserError(
                f"{run}: a file, not the folder of a run. Give the folder that the training printed at its end; for a "
                f"checkpoint FOLDER/checkpoints/best.ckpt, it is FOLDER."
            )
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
        self.device = resolve_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
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

    def __call__(self, image: str | Path | PIL.Image.Image | NDArray[np.uint8]) -> Mask:
        """Return the class indices (H, W), uint8, of an image of any size.

        image: a path, a PIL image, or an RGB array (H, W, 3) of uint8. Raises UserError for other inputs.
        """
        return self.mask(self.as_input(image))

    def mask(self, image: Image) -> Mask:
        """Return the class indices (H, W), uint8. image: (H, W, C), see ``as_input``."""
        return self.logits(image).argmax(0).byte().cpu().numpy()

    def as_input(self, image: str | Path | PIL.Image.Image | NDArray[Any]) -> Image:
        """Return an image as the network takes it: (H, W, C), values 0 to 255. Raises UserError for other inputs."""
        if self.bands is None:
            return as_rgb(image)
        if isinstance(image, str | Path):
            image = read_image(Path(image), self.bands.form)
        array = np.asarray(image)
        return self.bands.scale(array[..., None] if array.ndim == 2 else array)

    def logits(self, image: Image) -> torch.Tensor:
        """Return the logits (K, H, W), float, for K classes. image: (H, W, C), see ``as_input``."""
        size = image.shape[:2]
        image = to_network(image, self.size, smallest=self.network.encoder.min_size)
        with torch.inference_mode():
            return resize_logits(self.network(as_batch(image, self.network)).float(), size)[0]


def resolve_device(name: str) -> torch.device:
    """Return the device with a name of torch. Raises UserError where it is not available."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name}: not available ({str(error).partition(chr(10))[0]}). Take cpu.") from error
    return device
