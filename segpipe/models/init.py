"""Initial weights: He initialisation, seeded by (seed, name), and copying weights between networks."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from segpipe.errors import UserError

RULE = (
    "Initial weights are drawn by the method reset_parameters of each layer. Weights that are set only in __init__, or "
    "by an enclosing module, would be overwritten. Define a class for the layer, with a method reset_parameters that "
    "sets its initial weights (docs/extending/operator.md)."
)


class Conv2d(nn.Conv2d):
    """A convolution with He initialisation (He et al. 2015) and zero biases."""

    def reset_parameters(self) -> None:
        """Draw the weights from a normal distribution of variance 2 / fan-in."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ZeroConv2d(nn.Conv2d):
    """A convolution, 1x1 by default, with zero initial weights and biases: a sum with its output is unchanged."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, **options: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)

    def reset_parameters(self) -> None:
        """Zero the weights and the biases."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class NormalConv2d(nn.Conv2d):
    """A convolution with normal initial weights of a given standard deviation and zero biases."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, std: float, **options: Any) -> None:
        self.std = std
        super().__init__(in_channels, out_channels, kernel_size, **options)

    def reset_parameters(self) -> None:
        """Draw the weights, zero the biases."""
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class XavierConv2d(nn.Conv2d):
    """A convolution with uniform initial weights by Glorot and Bengio (2010) and zero biases."""

    def reset_parameters(self) -> None:
        """Draw the weights, zero the biases."""
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class IdentityConv2d(Conv2d):
    """A convolution that starts as the identity where the widths agree, else by He initialisation; zero biases."""

    def reset_parameters(self) -> None:
        """Set the centre weight of each channel to 1 and all others to 0; or draw the weights."""
        super().reset_parameters()
        if self.in_channels == self.out_channels:
            nn.init.dirac_(self.weight, groups=self.groups)


def proj1x1(in_channels: int, out_channels: int, *, zero: bool = False) -> nn.Module:
    """A 1x1 convolution where the widths differ, the identity where they agree. zero: its initial weights are zero."""
    if in_channels == out_channels:
        return nn.Identity()
    return ZeroConv2d(in_channels, out_channels) if zero else Conv2d(in_channels, out_channels, kernel_size=1)


def seed_for(seed: int, name: str) -> int:
    """A seed of 63 bits for torch, which depends on (seed, name) only."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def seeded_by_name(seed: int, name: str) -> Iterator[None]:
    """Seed torch's CPU generator by (seed, name) inside the context; restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, name))
        yield


def init_weights(module: nn.Module, *, seed: int, prefix: str) -> None:
    """Draw the weights of every layer again, each from a generator seeded by (seed, full name of the layer).

    Two networks of one seed therefore have equal initial weights in all layers of equal name and shape. Two cells of a
    sweep then differ only in their settings.

    The method ``reset_parameters`` of each layer sets the weights, parents before children. Raises UserError for
    initial weights that are set elsewhere, by ``__init__`` only or by an enclosing module, since they would be lost.
    """
    built = {parameter: parameter._version for parameter in module.parameters()}
    composed = [(name, layer) for name, layer in module.named_modules(prefix=prefix) if resets_children(layer)]
    set_around = {parameter for _, layer in composed for parameter in layer.parameters()}
    known: set[nn.Parameter] = set()
    for name, layer in module.named_modules(prefix=prefix):
        parameters = [parameter for parameter in layer.parameters(recurse=False) if parameter not in known | set_around]
        reset = getattr(layer, "reset_parameters", None)
        if not callable(reset):
            if parameters:
                raise UserError(f"{name} ({type(layer).__name__}) has parameters but no reset_parameters. {RULE}")
            continue
        trusted = sets_its_own_start(type(layer))
        before = [(parameter._version, None if trusted else spread(parameter)) for parameter in parameters]
        with seeded_by_name(seed, name):
            reset()
        for parameter, (version, values) in zip(parameters, before, strict=True):
            same = trusted or (parameter._version - version == built[parameter] and similar(values, spread(parameter)))
            if version != built[parameter] or not same:
                raise UserError(f"{name} ({type(layer).__name__}) would lose its initial weights. {RULE}")
        known.update(parameters)
    for name, layer in reversed(composed):
        with seeded_by_name(seed, name):
            layer._reset_parameters()  # type: ignore[operator]


def spread(parameter: Tensor) -> tuple[float, float, float, int] | None:
    """Smallest value, largest value, root mean square, number of values. None for meta or empty tensors."""
    if parameter.is_meta or not parameter.numel():
        return None
    values = parameter.detach()
    low, high = values.aminmax()
    return float(low), float(high), float(torch.linalg.vector_norm(values)) / values.numel() ** 0.5, values.numel()


def similar(built: tuple[float, float, float, int] | None, drawn: tuple[float, float, float, int] | None) -> bool:
    """Whether two draws may have one distribution. Detects changes by ``.data``, which torch does not count."""
    if built is None or drawn is None:
        return True
    if built[0] == built[1] or drawn[0] == drawn[1]:  # a constant
        return built[:3] == drawn[:3] or built[3] == 1
    return built[3] < 64 or 0.5 < built[2] / drawn[2] < 2


def resets_children(layer: nn.Module) -> bool:
    """Whether a module of torch also initialises its children (attention, transformers)."""
    method = getattr(type(layer), "_reset_parameters", None)
    return method is not None and method.__module__.startswith("torch.")


def sets_its_own_start(kind: type[nn.Module]) -> bool:
    """Whether the class that defines the constructor, or a subclass of it, defines ``reset_parameters`` too.

    The constructors of torch's layers call ``reset_parameters`` once. A class that defines its own constructor and
    inherits ``reset_parameters`` could set initial weights in the constructor, and must be checked.
    """
    built, reset = (
        next((index for index, base in enumerate(kind.__mro__) if method in vars(base)), -1)
        for method in ("__init__", "reset_parameters")
    )
    return reset <= built and not kind.__mro__[built].__module__.startswith("torch.")


def copy_matching(source: dict[str, Tensor], target: nn.Module) -> tuple[list[str], list[str]]:
    """Copy every tensor of equal name and shape into ``target``. Return the names copied and the names not copied.

    FCN-32s to FCN-16s to FCN-8s (Long et al. 2015, section 4.2), and fine-tuning with another number of classes, need
    only this function.
    """
    of_target = target.state_dict()
    copied = [name for name, tensor in source.items() if name in of_target and of_target[name].shape == tensor.shape]
    target.load_state_dict({name: source[name] for name in copied}, strict=False)
    return copied, [name for name in of_target if name not in set(copied)]
