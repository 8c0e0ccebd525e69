"""A finished run as a function from pictures to masks."""

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf

from segpipe.config import build, schema
from segpipe.data.dataset import Image, Mask
from segpipe.data.files import read_image
from segpipe.data.resize import to_network
from segpipe.errors import UserError
from segpipe.models.network import resize_logits
from segpipe.runs import checkpoints
from segpipe.runs.run import Run, display_path


class Predictor:
    """Called with a picture, it gives the mask.

    classes, palette: names and RGB colours of the mask's indices. size: height and width the network was trained at,
    None for the pictures' own; a picture is brought to it as in the test, and its scores back to the picture's size.
    """

    def __init__(self, run: str | Path, *, device: str | None = None) -> None:
        self.run = Run.open(run)
        cfg = schema.read(self.run)
        if "classes" not in self.run.record:
            raise UserError(
                f"{run}: no run.json that names the classes, or a damaged one. To have it written: "
                f"python -m segpipe.train resume={display_path(self.run.folder)}, which goes on where the training is."
            )
        self.classes: list[str] = self.run.record["classes"]
        self.palette = [tuple(colour) for colour in self.run.record["palette"]]
        self.size: list[int] | None = OmegaConf.to_container(cfg.data).get("size")  # type: ignore[union-attr, assignment]
        self.device = resolve_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.network = build.network(cfg, len(self.classes))
        state = checkpoints.read(self.run.best_checkpoint())["state_dict"]
        self.network.load_state_dict(
            {name.removeprefix("network."): state[name] for name in state if name.startswith("network.")}
        )
        self.network.eval().to(self.device)

    def __call__(self, image: str | Path | PIL.Image.Image | NDArray[np.uint8]) -> Mask:
        """A picture (path, PIL image, or RGB array (H, W, 3) of uint8) of any size to class indices (H, W) of uint8."""
        return self.logits(as_rgb(image)).argmax(0).byte().cpu().numpy()

    def logits(self, image: Image) -> torch.Tensor:
        """(H, W, 3) uint8 RGB to float (K, H, W)."""
        size = image.shape[:2]
        image = to_network(image, self.size, smallest=self.network.encoder.min_size)
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(image))[None].permute(0, 3, 1, 2).to(self.device)
            return resize_logits(self.network(batch).float(), size)[0]


def resolve_device(name: str) -> torch.device:
    """A device by torch's name. Raises UserError where there is none such."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name}: not to be had here ({str(error).partition(chr(10))[0]}). Take cpu.") from error
    return device


def as_rgb(image: str | Path | PIL.Image.Image | NDArray[np.uint8]) -> Image:
    """Any of the forms a picture may come in as an RGB array. Raises UserError for what is none of them."""
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, PIL.Image.Image):
        image = PIL.ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):  # which Pillow would clip, not scale
            image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return np.array(image.convert("RGB"))  # a copy: torch warns of an array that may not be written
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(
            f"The picture is {what}: allowed is a path, a PIL image, or an RGB array of uint8, (height, width, 3)."
        )
    return image
