"""Initial weights: He's start, keyed by (seed, name), and copying weights from one network to another."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """A convolution that starts as He et al. (2015) proposed, with zero biases."""

    def reset_parameters(self) -> None:
        """Draw the weights from a normal distribution of variance 2 / fan-in."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ZeroConv2d(nn.Conv2d):
    """A 1x1 convolution that starts at zero, so that what it adds changes nothing at first."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def reset_parameters(self) -> None:
        """Zero the weights and the biases."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def project(in_channels: int, out_channels: int, *, zero: bool = False) -> nn.Module:
    """A 1x1 convolution where the widths differ, nothing where they agree. zero: it starts at zero."""
    if in_channels == out_channels:
        return nn.Identity()
    return ZeroConv2d(in_channels, out_channels) if zero else Conv2d(in_channels, out_channels, kernel_size=1)


def key(seed: int, name: str) -> int:
    """A seed of 63 bits for torch, a function of (seed, name)."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def keyed_random(seed: int, name: str) -> Iterator[None]:
    """Inside, torch's CPU generator depends on (seed, name) alone; outside, it is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, name))
        yield


def initialise(module: nn.Module, *, seed: int, prefix: str) -> None:
    """Draw every layer's weights anew, each from a generator keyed by (seed, its full name).

    A layer of the same name and shape so starts alike in any two networks of one seed, whatever stands around it:
    what differs between two cells of a sweep is then what the cells differ in.
    """
    for name, layer in module.named_modules(prefix=prefix):
        if callable(reset := getattr(layer, "reset_parameters", None)):
            with keyed_random(seed, name):
                reset()


def copy_matching(source: dict[str, Tensor], target: nn.Module) -> tuple[list[str], list[str]]:
    """Copy every tensor of equal name and shape into ``target``; return the names copied and those left as they were.

    FCN-32s to FCN-16s to FCN-8s (Long et al. 2015, section 4.2), and fine-tuning on another number of classes, are
    this and nothing more.
    """
    own = target.state_dict()
    copied = [name for name, tensor in source.items() if name in own and own[name].shape == tensor.shape]
    target.load_state_dict({name: source[name] for name in copied}, strict=False)
    return copied, [name for name in own if name not in set(copied)]
