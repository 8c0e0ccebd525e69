"""Shared by the tests that were test_match.py."""

import torch

from segpipe.config import build
from segpipe.models.cost import multiply_adds

SIDE = 96  # of the scenes, whose classes are


CLASSES = 6


SMALL = ["encoder=small", "encoder.widths=[8,16,32,64,64]"]


def counted(cfg, what):
    """What the network of a configuration costs in all, and its encoder and neck: parameters one by one, or a pass."""
    with torch.device("meta"):
        network = build.network_factory(cfg, build.meta_encoder(cfg), CLASSES)()
    if what == "params":
        shared = [*network.encoder.parameters(), *network.neck.parameters()]
        return sum(p.numel() for p in network.parameters()), sum(p.numel() for p in shared)
    network.decode = lambda x, features: x
    shared = multiply_adds(network, (SIDE, SIDE))
    del network.decode
    return multiply_adds(network, (SIDE, SIDE)), shared
