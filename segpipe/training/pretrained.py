"""Initial weights from a published classifier or from another run."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
import torchvision
from omegaconf import DictConfig
from torch import Tensor

from segpipe.errors import UserError, nearest
from segpipe.models.encoders import Encoder, FeaturePyramid, Timm
from segpipe.models.encoders.timm import library
from segpipe.models.init import copy_matching
from segpipe.models.necks import Bottleneck, FullyConvolutional
from segpipe.models.network import Network
from segpipe.runs.run import display_path
from segpipe.training.weights_file import AGAIN, SUFFIXES, TEACHER, problem_of_file, read_state_dict


def load_encoder(network: Network, cfg: DictConfig) -> None:
    """Load ``encoder.weights`` into the encoder, and into the neck if it has the classifier's layers.

    Prints which tensors matched. Raises UserError for weights that cannot be loaded, and for weights of another
    encoder: fewer than half of the encoder's tensors have a match.
    """
    given = str(cfg.encoder.weights)
    published = read_state_dict(Path(given), f"encoder.weights={given}") if is_file(given) else download(cfg, network)
    if any(name.startswith("network.encoder.") for name in published):
        raise UserError(f"encoder.weights={given}: a checkpoint of a run. Use warm_start={given} for it.")
    published = without_prefix(published, network.encoder)
    adapted = for_bands(network.encoder.translate(published), network.encoder)
    weights = {f"encoder.{name}": tensor for name, tensor in adapted.items()}
    if isinstance(network.neck, FullyConvolutional | Bottleneck):
        weights |= {f"neck.{name}": tensor for name, tensor in network.neck.translate(published).items()}
    of_encoder = tensors(network.encoder)
    fitting = matches(published, network.encoder)
    if 2 * len(fitting) < len(of_encoder):
        raise UserError(
            f"encoder.weights={given}: {len(fitting)} of the {len(of_encoder)} tensors of encoder={cfg.encoder.name} "
            f"have a name and shape of its {len(published)}, so it belongs to another network. Give the weights of "
            f"{cfg.encoder.name}, or choose the encoder of these weights."
        )
    copied, left = copy_matching(weights, network)
    in_neck = [name for name in copied if name.startswith("neck.")]
    missing = layers(name for name in left if name.removeprefix("encoder.") in of_encoder)
    unused = len(published) - len(copied)
    print(
        f"encoder.weights={given}: {len(fitting)} of the encoder's {len(of_encoder)} tensors"
        + (f", {len(in_neck)} of the neck's" if in_neck else "")
        + (f"; not loaded: {', '.join(missing)}" if missing else "")
        + (f"; {unused} of the tensors in the file not used" if unused > 0 else "")
    )
    say_for_bands(network.encoder)


def matches(published: dict[str, Tensor], encoder: Encoder) -> list[str]:
    """The names of the encoder's tensors for which published weights have one of the same shape."""
    translated = for_bands(encoder.translate(published), encoder)
    return [
        name for name, own in tensors(encoder).items() if name in translated and translated[name].shape == own.shape
    ]


def for_bands(published: dict[str, Tensor], encoder: Encoder) -> dict[str, Tensor]:
    """Published weights with kernels of the first layer, which are for RGB, for the number of bands of the encoder.

    Three bands and more keep the kernels of red, green and blue for the first three, and give the others their mean;
    fewer get the mean. All are scaled by 3 / bands: the response to an image of equal bands stays the same.
    """
    bands = encoder.in_channels
    if bands == 3:
        return published
    own, adapted = encoder.state_dict(), dict(published)
    for name, kernels in published.items():
        shape = own[name].shape if name in own else ()
        if kernels.ndim == 4 and kernels.shape[1] == 3 and shape == (kernels.shape[0], bands, *kernels.shape[2:]):
            mean = kernels.mean(1, keepdim=True, dtype=torch.float32).to(kernels.dtype)
            several = [kernels, *[mean] * (bands - 3)] if bands > 3 else [mean] * bands
            adapted[name] = torch.cat(several, 1) * (3 / bands)
    return adapted


def say_for_bands(encoder: Encoder) -> None:
    """Print what ``for_bands`` has done."""
    if (bands := encoder.in_channels) != 3:
        first = "red, green and blue go to bands 1 to 3, their mean to the others" if bands > 3 else "their mean"
        print(
            f"The first layer's kernels for RGB are adapted to {bands} band{'s' * (bands > 1)} ({first}; scaled by "
            f"3/{bands}), so that the response to equal bands stays the same."
        )


def without_prefix(published: dict[str, Tensor], encoder: Encoder) -> dict[str, Tensor]:
    """The tensors below that prefix which gives the encoder most tensors, without it; else all tensors.

    A prefix is a beginning of a name that ends with a dot: ``module.``, ``model.backbone.``. Of a teacher and a student
    with as many tensors, the teacher is taken.
    """
    parts = [name.split(".") for name in published]
    prefixes = {".".join(words[:end]) + "." for words in parts for end in range(1, len(words))}
    best, most = published, len(matches(published, encoder))
    for prefix in sorted(prefixes, key=lambda prefix: (prefix.count("."), TEACHER not in prefix.split("."), prefix)):
        below = {name.removeprefix(prefix): tensor for name, tensor in published.items() if name.startswith(prefix)}
        if len(below) > most and (number := len(matches(below, encoder))) > most:
            best, most = below, number
    return best


def tensors(encoder: Encoder) -> dict[str, Tensor]:
    """The tensors of an encoder that published weights have: not the batch counters, nor the layers of ``project``."""
    projected = {
        id(tensor)
        for stage in encoder.stages[encoder.extracted_stages :]
        for tensor in stage.state_dict(keep_vars=True).values()
    }
    state = encoder.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if tensor.ndim and id(tensor) not in projected}


def is_file(given: str) -> bool:
    """Whether ``encoder.weights`` is a path. Names of weights have no suffix of a file and no slash."""
    return "/" in given or Path(given).suffix in SUFFIXES or Path(given).exists()


def download(cfg: DictConfig, network: Network) -> dict[str, Tensor]:
    """A state dict by name, from torchvision or timm, which cache it. Raises UserError if there is none."""
    given, name = str(cfg.encoder.weights), cfg.encoder.name
    url = ""
    try:
        if isinstance(network.encoder, Timm | FeaturePyramid):
            if given != "DEFAULT":
                raise UserError(
                    f"encoder.weights={given}: for encoder={name}, give DEFAULT or the path of a state dict."
                )
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
        url = known[short].url
        return known[short].get_state_dict(progress=True, check_hash=True)
    except UserError:
        raise
    except Exception as error:  # of the network, of a damaged file in the cache, of timm's libraries
        reason = str(error).partition("\n")[0]
        if damaged := damaged_in_cache(url):
            raise UserError(f"encoder.weights={given}: {damaged}") from error
        raise UserError(
            f"encoder.weights={given}: cannot be downloaded ({reason}). Without a network: download it elsewhere and "
            f"give its path, encoder.weights=FILE; or set encoder.weights=null."
        ) from error


def damaged_in_cache(url: str) -> str | None:
    """What is wrong with the file that torch keeps of a download; None if there is none, or if it is intact."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not url or not path.is_file():
        return None
    expected = torch.hub.HASH_REGEX.search(path.name)
    if problem := problem_of_file(path):
        return f"the downloaded file {path} is {problem}."
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if expected and not digest.startswith(expected[1]):
        return f"the downloaded file {path} is damaged: its checksum is not that in its name. {AGAIN}."
    return None


def warm_start(network: Network, path: Path) -> None:
    """Copy matching tensors from the checkpoint of a run, and print the others. Raises UserError if none matches."""
    source = read_state_dict(path, f"warm_start={display_path(path)}")
    weights = {name.removeprefix("network."): tensor for name, tensor in source.items()}
    of_encoder = {name.removeprefix("encoder."): one for name, one in weights.items() if name.startswith("encoder.")}
    weights |= {f"encoder.{name}": one for name, one in for_bands(of_encoder, network.encoder).items()}
    copied, left = copy_matching(weights, network)
    if not any(weights[name].ndim for name in copied):  # batch counters match in every network
        raise UserError(
            f"warm_start={path}: none of its {len(weights)} tensors matches this network in name and shape. "
            f"Give a run of a network that has at least the same encoder."
        )
    print(f"Warm start: {len(copied)} tensors from {path}; not loaded: {', '.join(layers(left)) or 'none'}")


def layers(names: Iterable[str]) -> list[str]:
    """The names of the layers of some tensors, without repetitions."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))
