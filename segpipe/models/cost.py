"""What a network costs: parameters, multiply-adds, time, memory."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, TypedDict

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


class Cost(TypedDict):
    """Figures of one network for pictures of one size. GMAC: 10^9 multiply-adds for one picture."""

    parameters: int
    trainable_parameters: int
    gmac: float
    size: list[int]
    latency_ms: float
    images_per_s: float
    peak_memory_mib: float
    device: str


def bilinear_flops(*args: Any, out_shape: Any, **kwargs: Any) -> int:
    """Four multiply-adds, each counted as two operations, for every output value."""
    return 8 * int(torch.Size(out_shape).numel())


def multiply_adds(network: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds for one picture (3, H, W): convolutions, transposed ones, products, and bilinear interpolation.

    Normalisation, activation, pooling, unpooling and repetition multiply nothing worth counting and are left out.
    """
    parameter = next(network.parameters())
    image = torch.zeros(1, 3, *size, device=parameter.device)
    was_training = network.training
    network.eval()
    counted = count(lambda: network(image))
    network.train(was_training)
    return counted


def count(compute: Callable[[], object]) -> int:
    """Multiply-adds of what ``compute`` does."""
    counter = FlopCounterMode(display=False, custom_mapping={aten.upsample_bilinear2d: bilinear_flops})
    with torch.no_grad(), counter:
        compute()
    return counter.get_total_flops() // 2


def measure(network: nn.Module, size: tuple[int, int], *, batch: int, repeats: int = 10) -> Cost:
    """All figures, on the device the network is on: latency of one picture (median), throughput of a batch."""
    device = next(network.parameters()).device
    images = torch.zeros(batch, 3, *size, device=device, dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)  # as batches come
    latency = median_seconds(network, images[:1], repeats)
    seconds = median_seconds(network, images, max(3, repeats // 3))
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "trainable_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "gmac": multiply_adds(network, size) / 1e9,
        "size": list(size),
        "latency_ms": 1000 * latency,
        "images_per_s": batch / seconds,
        "peak_memory_mib": peak_memory(device) / 2**20,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def median_seconds(network: nn.Module, image: torch.Tensor, repeats: int) -> float:
    """Median time of a forward pass, after one that warms up."""
    was_training = network.training
    network.eval()
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            network(image)
            if image.is_cuda:
                torch.cuda.synchronize(image.device)
            times.append(time.perf_counter() - start)
    network.train(was_training)
    return statistics.median(times[1:])


def peak_memory(device: torch.device) -> int:
    """Bytes, training included: the most that torch held on the GPU; on a CPU, the most that the process held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
