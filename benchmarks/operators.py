"""What does an upsampling operator cost? Time and peak memory of forward and backward at factor 2, against bilinear.

Each operator enlarges (N, C, h, w) to (N, C, 2h, 2w), with a source of C channels. The peak is that of torch's own
allocations above what lies there before: input, source and parameters are not in it.

Three more ways to sum over the neighbours of a 5 x 5 kernel are compared with ``assemble``: the neighbourhoods by
``unfold``, then repeated at the larger size; the same at the smaller size with a matrix product; and ``assemble``'s own
sum over shifted maps, recorded by autograd.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.plain import configure
from benchmarks.timing import arguments, begin, interleaved, milliseconds, ratio, timed
from segpipe.config import build
from segpipe.config.schema import options
from segpipe.models.init import init_weights
from segpipe.models.upsample import assemble
from segpipe.models.upsample.kernels import from_planes, pad, square, to_planes, weighted_sum

SIDE = 5  # of the kernels that are compared
Work = Callable[[], object]


def repeated(x: Tensor, kernel: Tensor) -> Tensor:
    """Neighbourhoods by unfold, repeated at the larger size: K * K times the memory of the result."""
    n, c, h, w = x.shape
    patches = F.unfold(x, SIDE, padding=SIDE // 2).view(n, c * SIDE**2, h, w)
    patches = F.interpolate(patches, scale_factor=2).view(n, c, SIDE**2, 2 * h, 2 * w)
    return (patches * kernel[:, None]).sum(2)


def multiplied(x: Tensor, kernel: Tensor) -> Tensor:
    """Neighbourhoods by unfold at the smaller size, and one matrix product for each cell."""
    n, c, h, w = x.shape
    patches = F.unfold(x, SIDE, padding=SIDE // 2).view(n, c, SIDE**2, h * w).permute(0, 3, 1, 2)
    planes = to_planes(kernel, 2).flatten(3).permute(0, 3, 1, 2)  # (N, h * w, T, s * s)
    return from_planes((patches @ planes).permute(0, 2, 3, 1).unflatten(3, (h, w)), 2)


def recorded(x: Tensor, kernel: Tensor) -> Tensor:
    """The sum of ``assemble`` over the whole batch, with the gradient of autograd."""
    offsets = square(SIDE)
    return from_planes(weighted_sum(pad(x, offsets, "zeros"), to_planes(kernel, 2), offsets), 2)


SUMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "assemble": assemble,
    "unfold, repeat": repeated,
    "unfold, product": multiplied,
    "by autograd": recorded,
}


def both_ways(compute: Callable[[], Tensor], given: list[Tensor]) -> Work:
    """Forward, and backward of the sum, to the tensors given."""

    def work() -> object:
        return torch.autograd.grad(compute().sum(), given)

    return work


def operators(shape: list[int], device: torch.device, names: list[str]) -> dict[str, Work]:
    """Each operator on its own, with its gradient for x and for its parameters."""
    n, c, h, w = shape
    x, source = torch.randn(n, c, h, w, device=device), torch.randn(n, c, 2 * h, 2 * w, device=device)
    x.requires_grad_()
    works: dict[str, Work] = {}
    for name in names:
        factory = build.instantiate_group(configure(f"decoder={name}"), "decoder")
        module: nn.Module = factory(c, c, factor=2, source_channels=c)
        init_weights(module, seed=0, prefix="up")
        module = module.to(device)
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        works[name] = both_ways(lambda module=module: module(x, source), [x, *trained])  # type: ignore[misc]
    return works


def sums(shape: list[int], device: torch.device) -> dict[str, Work]:
    """The ways to sum over neighbours, with the gradients of map and kernel."""
    n, c, h, w = shape
    x = torch.randn(n, c, h, w, device=device, requires_grad=True)
    kernel = torch.rand(n, SIDE**2, 2 * h, 2 * w, device=device).softmax(1).requires_grad_()
    expected = assemble(x, kernel)
    for name, way in SUMS.items():
        torch.testing.assert_close(way(x, kernel), expected, msg=f"{name} computes something else")
    return {
        name: both_ways(lambda way=way: way(x, kernel), [x, kernel])  # type: ignore[misc]
        for name, way in SUMS.items()
    }


def peak(work: Work, device: torch.device) -> float:
    """The peak of torch's allocations during one call, in MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording:
        work()
    total = highest = 0
    for event in recording.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            total += event.nbytes()
            highest = max(highest, total)
    return highest / 2**20


def compare(works: dict[str, Work], first: str, device: torch.device, rounds: int) -> None:
    """Print time and peak of each, and both relative to the first."""
    times = interleaved({name: timed(work, device) for name, work in works.items()}, rounds=rounds, warmup=1)
    peaks = {name: peak(work, device) for name, work in works.items()}
    for name, seconds in times.items():
        compared = "" if name == first else f"  / {first}: {ratio(seconds, times[first])}"
        memory = f"{peaks[name]:8.1f} MiB ({peaks[name] / max(peaks[first], 0.1):.2f})"
        print(f"  {name:16}{milliseconds(seconds):>12} {memory}{compared}", flush=True)


def main() -> None:
    """The command line."""
    parser = arguments(__doc__, rounds=10)
    parser.add_argument("--shapes", nargs="*", default=["4,64,45,60", "1,256,64,64"], help="N,C,h,w (%(default)s)")
    parser.add_argument("--operators", nargs="*", default=options("decoder"), help="names of conf/decoder; all")
    given = parser.parse_args()
    device = begin(given)
    for text in given.shapes:
        shape = [int(side) for side in text.split(",")]
        print(f"{tuple(shape)}: assemble and other sums over {SIDE} x {SIDE} neighbours, forward and backward")
        compare(sums(shape, device), "assemble", device, given.rounds)
        print(f"{tuple(shape)}: operators, forward and backward")
        names = ["bilinear", *(name for name in given.operators if name != "bilinear")]
        compare(operators(shape, device, names), "bilinear", device, given.rounds)


if __name__ == "__main__":
    main()
