"""The numbers of the lab that are followed over a training, by the keys of ``history.csv``."""

import torch

from segpipe.lab import kernels
from segpipe.lab.checkerboard import on_constant_image
from segpipe.lab.slots import StepMaps, recording
from segpipe.models.network import Network

PREFIX = "lab/"
SMALL = 64  # side of the image that a network sees where only the widths of its maps are needed


def distance_key(name: str, stride: int) -> str:
    """Return the key of the distance from a fixed operator at a step: ``lab/bilinear/8``."""
    return f"{PREFIX}{name}/{stride}"


def checkerboard_key(stride: int | None) -> str:
    """Return the key of the phase share at a step, ``lab/checkerboard/8``, or of the logits."""
    return f"{PREFIX}checkerboard/{'logits' if stride is None else stride}"


def measure(network: Network, *, side: int | None = None) -> tuple[dict[str, float], int]:
    """Return kernel distances of the linear operators, and phase shares on a constant image, by key.

    side: of the constant image, see ``on_constant_image``. Returns also the side that was needed.
    """
    numbers: dict[str, float] = {}
    for maps in small_steps(network):
        found = kernels.of_step(maps)
        if found is not None:
            numbers |= {distance_key(name, maps.place.stride): one for name, one in kernels.distances(found).items()}
    phases = on_constant_image(network, side=side)
    numbers |= {checkerboard_key(step.stride): step.upsampled for step in phases.steps}
    return numbers | {checkerboard_key(None): phases.logits}, phases.side


@torch.inference_mode()
def small_steps(network: Network) -> list[StepMaps]:
    """Return the maps of a small gray image: the operators with the widths of their inputs."""
    side = max(SMALL, network.encoder.min_size)
    training = network.training
    network.eval()
    try:
        with recording(network) as record:
            device = next(network.parameters()).device
            network.forward(torch.full((1, network.encoder.in_channels, side, side), 127.0, device=device))
    finally:
        network.train(training)
    return record.steps()
