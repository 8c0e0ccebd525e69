"""Weights that a training starts from: of a published classifier, or of another run."""

import urllib.error
from collections.abc import Iterable
from pathlib import Path

import torch
import torchvision
from omegaconf import DictConfig
from torch import Tensor

from segpipe.errors import UserError, nearest
from segpipe.models.encoders import Encoder
from segpipe.models.encoders.timm import Timm, library
from segpipe.models.init import copy_matching
from segpipe.models.necks import Bottleneck, FullyConvolutional
from segpipe.models.network import Network
from segpipe.runs.run import display_path


def load_encoder(network: Network, cfg: DictConfig) -> None:
    """Fill the encoder, and with a fully convolutional neck the classifier's layers, from ``encoder.weights``.

    Prints what matched and what did not. Raises UserError for weights that cannot be had, and for those of another
    encoder: where fewer than half of the encoder's tensors find theirs, the few that do agree by chance.
    """
    given = str(cfg.encoder.weights)
    published = read_state_dict(Path(given), f"encoder.weights={given}") if is_file(given) else download(cfg, network)
    found = {f"encoder.{name}": tensor for name, tensor in network.encoder.translate(published).items()}
    if isinstance(network.neck, FullyConvolutional | Bottleneck):
        found |= {f"neck.{name}": tensor for name, tensor in network.neck.translate(published).items()}
    of_encoder = tensors(network.encoder)
    fitting = [name for name in of_encoder if f"encoder.{name}" in found]
    fitting = [name for name in fitting if found[f"encoder.{name}"].shape == of_encoder[name].shape]
    if any(name.startswith("network.") for name in published):
        raise UserError(f"encoder.weights={given}: a checkpoint of a run. Start from it by warm_start={given}.")
    if 2 * len(fitting) < len(of_encoder):
        raise UserError(
            f"encoder.weights={given}: {len(fitting)} of the {len(of_encoder)} tensors of encoder={cfg.encoder.name} "
            f"have a name and shape of its {len(published)}, so it is another network's. Give the weights of "
            f"{cfg.encoder.name}, or take the encoder that these are of."
        )
    copied, left = copy_matching(found, network)
    in_neck = [name for name in copied if name.startswith("neck.")]
    missing = layers(name for name in left if name.startswith("encoder.") and not name.endswith("num_batches_tracked"))
    unused = len(published) - len(copied)
    print(
        f"encoder.weights={given}: {len(fitting)} of the encoder's {len(of_encoder)} tensors"
        + (f", {len(in_neck)} of the neck's" if in_neck else "")
        + (f"; as initialised: {', '.join(missing)}" if missing else "")
        + (f"; {unused} of the file's not used" if unused > 0 else "")
    )


def tensors(encoder: Encoder) -> dict[str, Tensor]:
    """An encoder's state dict, less the counters of batches, which say nothing."""
    return {name: tensor for name, tensor in encoder.state_dict().items() if tensor.ndim}


def is_file(given: str) -> bool:
    """Whether ``encoder.weights`` is meant as a path: names of weights have no dot-suffix and no slash."""
    return "/" in given or Path(given).suffix in (".pth", ".pt", ".ckpt", ".bin") or Path(given).is_file()


def download(cfg: DictConfig, network: Network) -> dict[str, Tensor]:
    """A state dict by its name, from torchvision or timm, which keep it for the next time."""
    given, name = str(cfg.encoder.weights), cfg.encoder.name
    try:
        if isinstance(network.encoder, Timm):
            if given != "DEFAULT":
                raise UserError(f"encoder.weights={given}: for encoder=timm it is DEFAULT, or a state dict's path.")
            return library().create_model(network.encoder.backbone, pretrained=True).state_dict()
        if name not in torchvision.models.list_models(torchvision.models):
            raise UserError(
                f"encoder.weights={given}: nobody has published weights for encoder={name}. Give a state dict's path, "
                f"or an encoder of torchvision's (vgg16, vgg16_bn, alexnet, resnet50)."
            )
        known = torchvision.models.get_model_weights(name)
        short = given.rpartition(".")[2]
        if short not in known.__members__:
            raise UserError(
                f"encoder.weights={given}: for encoder={name} torchvision has {', '.join(known.__members__)}; else a "
                f"path of a state dict that exists.{nearest(short, known.__members__)}"
            )
        return known[short].get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"encoder.weights={given}: cannot be downloaded ({str(error).partition(chr(10))[0]}). Where there is no "
            f"network: download it elsewhere, and give its path, encoder.weights=FILE; or encoder.weights=null."
        ) from error


def warm_start(network: Network, path: Path) -> None:
    """Copy what fits from a run's checkpoint, and print what does not. Raises UserError where nothing does."""
    source = read_state_dict(path, f"warm_start={display_path(path)}")
    weights = {name.removeprefix("network."): tensor for name, tensor in source.items()}
    copied, left = copy_matching(weights, network)
    if not any(weights[name].ndim for name in copied):  # counters of batches fit everywhere
        raise UserError(
            f"warm_start={path}: none of its {len(weights)} tensors has a name and shape of this network's. "
            f"Give a run of a network that shares its encoder or more."
        )
    print(f"Warm start: {len(copied)} tensors from {path}; as initialised: {', '.join(layers(left)) or 'none'}")


def read_state_dict(path: Path, option: str) -> dict[str, Tensor]:
    """The tensors of a file, in itself a state dict or a checkpoint that holds one; half precision comes as it is.

    Raises UserError, which begins with the ``option`` that named the file, for what is no such file.
    """
    try:
        source = torch.load(path, map_location="cpu", weights_only=True)
        source = source.get("state_dict", source)
        found = {str(name): tensor for name, tensor in source.items() if isinstance(tensor, Tensor)}
    except FileNotFoundError as error:
        raise UserError(f"{option}: there is no such file.") from error
    except Exception as error:  # whatever a file that is no state dict makes of it
        first = str(error).partition("\n")[0]
        raise UserError(
            f"{option}: not a state dict that can be read ({first}). Give what torch.save(model.state_dict(), FILE) "
            f"has written, or a run's folder for warm_start."
        ) from error
    if not found:
        raise UserError(f"{option}: holds no tensors. Give a state dict: name to tensor.")
    return found


def layers(names: Iterable[str]) -> list[str]:
    """The layers that some tensors belong to, each once."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))
