"""The cost of a network: parameters, multiply-adds, time, memory."""

import math
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

from segpipe.models.attention import Attention
from segpipe.models.fusion import Fusion
from segpipe.models.refine import Refinement
from segpipe.models.upsample import Upsampler

aten = torch.ops.aten


class Cost(TypedDict):
    """The cost of one network for images of one size (height, width); see ``measure`` for the size.

    gmac: 10^9 multiply-adds for one image. latency_ms: for one image. images_per_s: for a batch.
    """

    parameters: int
    trainable_parameters: int
    gmac: float
    size: list[int]
    latency_ms: float
    images_per_s: float
    peak_memory_mib: float
    device: str


def per_value(number: int) -> Callable[..., int]:
    """A formula: ``number`` multiply-adds for each output value; each multiply-add counts as two operations."""

    def operations(*args: Any, out_shape: Any, **kwargs: Any) -> int:
        return 2 * number * int(torch.Size(out_shape).numel())

    return operations


def grid_sample_operations(image: Any, grid: Any, mode: int, *args: Any, out_shape: Any, **kwargs: Any) -> int:
    """A formula: 4 multiply-adds for each output value of bilinear sampling, 0 for nearest, 16 for bicubic."""
    return per_value((4, 0, 16)[mode])(out_shape=out_shape)


FORMULAS = {
    aten.upsample_bilinear2d: per_value(4),
    aten.upsample_bicubic2d: per_value(16),
    aten.grid_sampler_2d: grid_sample_operations,
    aten._grid_sampler_2d_cpu_fallback: grid_sample_operations,
    aten.cudnn_grid_sampler: per_value(4),
}
LARGEST_IMAGE = 2**21  # pixels: 1024 x 2048. The cost for larger images is measured for one of this size
LARGEST_BATCH = 2**22  # pixels
SECONDS = 20.0  # no further forward pass is timed after this time
PRODUCTS = (aten.mul, aten.mul_, aten.addcmul, aten.addcmul_, aten.lerp, aten.lerp_)  # counted in COUNTED only
COUNTED = (Upsampler, Fusion, Attention, Refinement)


def multiply_adds(network: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds for one image (C, H, W): convolutions, matrix products, functions in FORMULAS and PRODUCTS.

    One multiplication counts as one multiply-add. Elementwise products are counted in the upsampling operator, the
    fusion, the attention and the refinement only; elsewhere they belong to norms and activations, which are not
    counted. Pooling, unpooling, repetition and copies (``unfold``) count as 0.

    If a module has a method ``cost``, its result replaces the count. The method takes the arguments of ``forward`` and
    returns multiply-adds.
    """
    parameter = next(network.parameters())
    image = torch.zeros(1, bands_of(network), *size, device=parameter.device)
    was_training = network.training
    network.eval()
    counted = count(lambda: network(image))
    network.train(was_training)
    return counted


def bands_of(network: nn.Module) -> int:
    """The channels of the images that a network takes: those of its encoder, or 3 for a network of another kind."""
    return int(getattr(getattr(network, "encoder", None), "in_channels", 3))


def count(compute: Callable[[], object]) -> int:
    """Multiply-adds of one call of ``compute``; see ``multiply_adds``."""
    with ModuleCosts() as modules, torch.no_grad():
        formulas = FORMULAS | dict.fromkeys(PRODUCTS, modules.product_operations)
        with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
            modules.total = lambda: int(counter.get_total_flops())
            compute()
        return counter.get_total_flops() // 2 + modules.correction


class ModuleCosts:
    """Forward hooks that count products where they apply, and call the ``cost`` method of modules that have one.

    total: operations counted so far, two for each multiply-add. correction: multiply-adds to add to the final count.
    """

    total: Callable[[], int]

    def __init__(self) -> None:
        self.correction = 0
        self.inside = 0  # number of modules of COUNTED that are running
        self.running: list[tuple[nn.Module, int]] = []  # running modules with a cost, and the total before each

    def __enter__(self) -> Self:
        """Register the hooks."""
        self.hooks = [register_module_forward_pre_hook(self.before), register_module_forward_hook(self.after)]
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the hooks."""
        for hook in self.hooks:
            hook.remove()

    def before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """The hook before a module's forward pass."""
        self.inside += isinstance(module, COUNTED)
        if callable(getattr(module, "cost", None)):
            self.running.append((module, self.total()))

    def after(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """The hook after a module's forward pass. Only the outermost module with a ``cost`` method is called."""
        self.inside -= isinstance(module, COUNTED)
        if self.running and self.running[-1][0] is module:
            _, begun = self.running.pop()
            if not self.running:
                self.correction += int(module.cost(*inputs)) - (self.total() - begun) // 2  # type: ignore[operator]

    def product_operations(self, *args: Any, out_shape: Any, **kwargs: Any) -> int:
        """A formula: one multiply-add for each value of an elementwise product, inside the modules of COUNTED.

        Tensors of fewer than 3 dimensions are not counted: they are indices, as those of ``F.interpolate`` on meta.
        """
        return per_value(1 if self.inside and len(out_shape) > 2 else 0)(out_shape=out_shape)


def measure(network: nn.Module, size: tuple[int, int], *, batch: int, repeats: int = 10) -> Cost:
    """Measure the cost on the network's device.

    size: height and width of the images; ``measured_size`` reduces large ones, and the result has the size measured.
    batch: images in a batch, for the throughput; fewer are taken where the batch would have more than LARGEST_BATCH
    pixels. repeats: forward passes, of which the median time is taken; fewer where they take longer than SECONDS.
    """
    device = next(network.parameters()).device
    size = measured_size(size)
    batch = min(batch, max(1, LARGEST_BATCH // (size[0] * size[1])))
    images = torch.zeros(batch, bands_of(network), *size, device=device, dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)  # the format of the loader's batches
    latency = median_seconds(network, images[:1], repeats)
    seconds = median_seconds(network, images, max(3, repeats // 3))
    return {
        "parameters": sum(parameter.numel() for parameter in used_parameters(network)),
        "trainable_parameters": sum(p.numel() for p in used_parameters(network) if p.requires_grad),
        "gmac": multiply_adds(network, size) / 1e9,
        "size": list(size),
        "latency_ms": 1000 * latency,
        "images_per_s": batch / seconds,
        "peak_memory_mib": peak_memory(device) / 2**20,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def used_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a prediction uses: all but those of the auxiliary heads."""
    return [parameter for name, parameter in network.named_parameters() if not name.startswith("auxiliary.")]


def measured_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image of about the same shape with at most LARGEST_IMAGE pixels.

    Smaller images keep their size. A side that is reduced is a multiple of 32.
    """
    scale = math.sqrt(LARGEST_IMAGE / (size[0] * size[1]))
    if scale >= 1:
        return size
    height, width = (min(side, max(32, int(side * scale) // 32 * 32)) for side in size)
    return height, width


def median_seconds(network: nn.Module, image: torch.Tensor, repeats: int) -> float:
    """Median time of ``repeats`` forward passes in seconds, after one warm-up pass; of fewer if they take SECONDS."""
    was_training = network.training
    network.eval()
    times: list[float] = []
    with torch.inference_mode():
        while len(times) <= repeats and (len(times) < 2 or sum(times) < SECONDS):
            start = time.perf_counter()
            network(image)
            if image.is_cuda:
                torch.cuda.synchronize(image.device)
            times.append(time.perf_counter() - start)
    network.train(was_training)
    return statistics.median(times[1:])


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes, training included: memory allocated by torch on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
