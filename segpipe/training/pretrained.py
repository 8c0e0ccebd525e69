"""Initial weights from a published classifier or from another run."""

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
from segpipe.runs.checkpoints import problem_of
from segpipe.runs.run import display_path

WRAPPERS = ("state_dict", "model", "model_state_dict", "net")  # keys below which other programs store the weights
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "module.backbone.", "module.encoder.")


def load_encoder(network: Network, cfg: DictConfig) -> None:
    """Load ``encoder.weights`` into the encoder, and into the neck if it has the classifier's layers.

    Prints which tensors matched. Raises UserError for weights that cannot be loaded, and for weights of another
    encoder: fewer than half of the encoder's tensors have a match.
    """
    given = str(cfg.encoder.weights)
    published = read_state_dict(Path(given), f"encoder.weights={given}") if is_file(given) else download(cfg, network)
    published = without_prefix(published, network.encoder)
    weights = {f"encoder.{name}": tensor for name, tensor in network.encoder.translate(published).items()}
    if isinstance(network.neck, FullyConvolutional | Bottleneck):
        weights |= {f"neck.{name}": tensor for name, tensor in network.neck.translate(published).items()}
    of_encoder = tensors(network.encoder)
    fitting = matches(published, network.encoder)
    if any(name.startswith("network.") for name in published):
        raise UserError(f"encoder.weights={given}: a checkpoint of a run. Use warm_start={given} for it.")
    if 2 * len(fitting) < len(of_encoder):
        raise UserError(
            f"encoder.weights={given}: {len(fitting)} of the {len(of_encoder)} tensors of encoder={cfg.encoder.name} "
            f"have a name and shape of its {len(published)}, so it belongs to another network. Give the weights of "
            f"{cfg.encoder.name}, or choose the encoder of these weights."
        )
    copied, left = copy_matching(weights, network)
    in_neck = [name for name in copied if name.startswith("neck.")]
    missing = layers(name for name in left if name.startswith("encoder.") and not name.endswith("num_batches_tracked"))
    unused = len(published) - len(copied)
    print(
        f"encoder.weights={given}: {len(fitting)} of the encoder's {len(of_encoder)} tensors"
        + (f", {len(in_neck)} of the neck's" if in_neck else "")
        + (f"; not loaded: {', '.join(missing)}" if missing else "")
        + (f"; {unused} of the tensors in the file not used" if unused > 0 else "")
    )


def matches(published: dict[str, Tensor], encoder: Encoder) -> list[str]:
    """The names of the encoder's tensors for which published weights have one of the same shape."""
    translated = encoder.translate(published)
    return [
        name for name, own in tensors(encoder).items() if name in translated and translated[name].shape == own.shape
    ]


def without_prefix(published: dict[str, Tensor], encoder: Encoder) -> dict[str, Tensor]:
    """The tensors below that one of PREFIXES which gives the encoder most tensors, without it; else all tensors."""
    best = published
    for prefix in PREFIXES:
        below = {name.removeprefix(prefix): tensor for name, tensor in published.items() if name.startswith(prefix)}
        if below and len(matches(below, encoder)) > len(matches(best, encoder)):
            best = below
    return best


def tensors(encoder: Encoder) -> dict[str, Tensor]:
    """The state dict of an encoder without the batch counters."""
    return {name: tensor for name, tensor in encoder.state_dict().items() if tensor.ndim}


def is_file(given: str) -> bool:
    """Whether ``encoder.weights`` is a path. Names of weights have no suffix of a file and no slash."""
    return "/" in given or Path(given).suffix in (".pth", ".pt", ".ckpt", ".bin") or Path(given).is_file()


def download(cfg: DictConfig, network: Network) -> dict[str, Tensor]:
    """A state dict by name, from torchvision or timm, which cache it. Raises UserError if there is none."""
    given, name = str(cfg.encoder.weights), cfg.encoder.name
    try:
        if isinstance(network.encoder, Timm):
            if given != "DEFAULT":
                raise UserError(f"encoder.weights={given}: for encoder=timm, give DEFAULT or the path of a state dict.")
            return library().create_model(network.encoder.backbone, pretrained=True).state_dict()
        if name not in torchvision.models.list_models(torchvision.models):
            raise UserError(
                f"encoder.weights={given}: there are no published weights for encoder={name}. Give the path of a state "
                f"dict, or choose an encoder of torchvision (vgg16, vgg16_bn, alexnet, resnet50)."
            )
        known = torchvision.models.get_model_weights(name)
        short = given.rpartition(".")[2]
        if short not in known.__members__:
            raise UserError(
                f"encoder.weights={given}: for encoder={name} torchvision has {', '.join(known.__members__)}. "
                f"Allowed is one of these, or the path of a state dict.{nearest(short, known.__members__)}"
            )
        return known[short].get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"encoder.weights={given}: cannot be downloaded ({str(error).partition(chr(10))[0]}). Without a "
            f"network: download it elsewhere and give its path, encoder.weights=FILE; or set encoder.weights=null."
        ) from error


def warm_start(network: Network, path: Path) -> None:
    """Copy matching tensors from the checkpoint of a run, and print the others. Raises UserError if none matches."""
    source = read_state_dict(path, f"warm_start={display_path(path)}")
    weights = {name.removeprefix("network."): tensor for name, tensor in source.items()}
    copied, left = copy_matching(weights, network)
    if not any(weights[name].ndim for name in copied):  # batch counters match in every network
        raise UserError(
            f"warm_start={path}: none of its {len(weights)} tensors matches this network in name and shape. "
            f"Give a run of a network that has at least the same encoder."
        )
    print(f"Warm start: {len(copied)} tensors from {path}; not loaded: {', '.join(layers(left)) or 'none'}")


def read_state_dict(path: Path, option: str) -> dict[str, Tensor]:
    """The tensors of a file with a state dict, or of a checkpoint that contains one. Their types are kept.

    Raises UserError if the file cannot be read; the message begins with ``option``, which named the file.
    """
    try:
        source = torch.load(path, map_location="cpu", weights_only=True)
        source = next((source[key] for key in WRAPPERS if isinstance(source.get(key), dict)), source)
        state_dict = {str(name): tensor for name, tensor in source.items() if isinstance(tensor, Tensor)}
    except FileNotFoundError as error:
        raise UserError(f"{option}: there is no such file.") from error
    except Exception as error:  # torch.load raises many kinds of errors
        first = str(error).partition("\n")[0]
        raise UserError(
            f"{option}: not a state dict that can be read ({first}). Give a file written by "
            f"torch.save(model.state_dict(), FILE), or a run's folder for warm_start."
        ) from error
    if problem := next(filter(None, (problem_of(name, tensor) for name, tensor in state_dict.items())), None):
        raise UserError(f"{option}: {problem}. Give a file with finite numbers.")
    if not state_dict:
        raise UserError(f"{option}: contains no tensors. Give a state dict, from names to tensors.")
    return state_dict


def layers(names: Iterable[str]) -> list[str]:
    """The names of the layers of some tensors, without repetitions."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))
