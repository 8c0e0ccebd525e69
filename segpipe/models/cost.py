"""What a network costs: parameters, multiply-adds, time, memory."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Self, TypedDict

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from segpipe.models.fusion import Fusion
from segpipe.models.refine import Refinement
from segpipe.models.upsample import Upsampler

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


def per_value(number: int) -> Callable[..., int]:
    """A formula: so many multiply-adds for every output value, each counted as two operations."""

    def operations(*args: Any, out_shape: Any, **kwargs: Any) -> int:
        return 2 * number * int(torch.Size(out_shape).numel())

    return operations


def grid_sample_operations(image: Any, grid: Any, mode: int, *args: Any, out_shape: Any, **kwargs: Any) -> int:
    """A formula: 4 multiply-adds for every output value of a bilinear sampling, none of a nearest, 16 of a bicubic."""
    return per_value((4, 0, 16)[mode])(out_shape=out_shape)


FORMULAS = {
    aten.upsample_bilinear2d: per_value(4),
    aten.upsample_bicubic2d: per_value(16),
    aten.grid_sampler_2d: grid_sample_operations,
    aten._grid_sampler_2d_cpu_fallback: grid_sample_operations,
    aten.cudnn_grid_sampler: per_value(4),
}
PRODUCTS = (aten.mul, aten.mul_, aten.addcmul, aten.addcmul_, aten.lerp, aten.lerp_)  # elementwise, in COUNTED alone
COUNTED = (Upsampler, Fusion, Refinement)


def multiply_adds(network: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds for one picture (3, H, W), of convolutions, matrix products, and what FORMULAS and PRODUCTS list.

    One multiplication is one multiply-add. An elementwise product has one for each value, and counts in what is chosen
    for the decoder (operator, fusion, refinement): elsewhere it is part of a norm or an activation, and left out with
    those. Pooling, unpooling, repetition, and what only copies, as ``unfold`` does, multiply nothing worth counting.

    A module that has a method ``cost`` is asked instead. It takes what ``forward`` takes, and returns multiply-adds.
    """
    parameter = next(network.parameters())
    image = torch.zeros(1, 3, *size, device=parameter.device)
    was_training = network.training
    network.eval()
    counted = count(lambda: network(image))
    network.train(was_training)
    return counted


def count(compute: Callable[[], object]) -> int:
    """Multiply-adds of what ``compute`` does; see ``multiply_adds``."""
    with ModuleCosts() as modules, torch.no_grad():
        formulas = FORMULAS | dict.fromkeys(PRODUCTS, modules.product_operations)
        with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
            modules.total = lambda: int(counter.get_total_flops())
            compute()
        return counter.get_total_flops() // 2 + modules.correction


class ModuleCosts:
    """While modules run: which of them count products, and what those with a ``cost`` of their own say.

    total: what is counted so far, two operations a multiply-add. correction: multiply-adds to be added in the end.
    """

    total: Callable[[], int]

    def __init__(self) -> None:
        self.correction = 0
        self.inside = 0  # how many modules of COUNTED we are in
        self.asked: list[tuple[nn.Module, int]] = []  # modules with a cost that we are in, and the total before each

    def __enter__(self) -> Self:
        """Watch all modules."""
        self.hooks = [register_module_forward_pre_hook(self.before), register_module_forward_hook(self.after)]
        return self

    def __exit__(self, *error: object) -> None:
        """Watch no longer."""
        for hook in self.hooks:
            hook.remove()

    def before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """A module begins."""
        self.inside += isinstance(module, COUNTED)
        if callable(getattr(module, "cost", None)):
            self.asked.append((module, self.total()))

    def after(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """A module ends. One within another that is asked says nothing more."""
        self.inside -= isinstance(module, COUNTED)
        if self.asked and self.asked[-1][0] is module:
            _, begun = self.asked.pop()
            if not self.asked:
                self.correction += int(module.cost(*inputs)) - (self.total() - begun) // 2  # type: ignore[operator]

    def product_operations(self, *args: Any, out_shape: Any, **kwargs: Any) -> int:
        """A formula: one multiply-add for every value of an elementwise product of maps, where they count.

        What has fewer than 3 dimensions is arithmetic with indices: on the meta device, that of ``F.interpolate`` too.
        """
        return per_value(1 if self.inside and len(out_shape) > 2 else 0)(out_shape=out_shape)


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
