"""How much time do denormal numbers take on a CPU, and does a training change where they are zero?

The two sides are a training step with denormal numbers, and one with zeros in their place, as in a training of segpipe.
The kernels of content-aware operators become sharp in a training. Here the logits of each kernel are multiplied by
``--sharpness``, since the network is not trained. Printed, too: the share of the kernels' weights that is denormal,
and the largest difference of the loss and of any gradient. A ratio above 1 says that zeros are faster.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from benchmarks.contiguous import Subject
from benchmarks.timing import arguments, begin, interleaved, milliseconds, ratio, timed
from segpipe.models.upsample.kernels import KernelUpsampler
from segpipe.training.devices import flushed_denormals

CONTEXTS: dict[str, Callable[[], AbstractContextManager[None]]] = {"denormals": nullcontext, "zeros": flushed_denormals}


@contextmanager
def sharper(network: nn.Module, factor: float) -> Iterator[list[Tensor]]:
    """Multiply the logits of all kernels by a factor. The list gets the kernels of each forward pass."""
    kernels: list[Tensor] = []
    operators = [module for module in network.modules() if isinstance(module, KernelUpsampler)]

    def sharp(operator: KernelUpsampler, x: Tensor, source: Tensor) -> Tensor:
        kernels.append((factor * operator.logits(x, source)).softmax(dim=1))
        return kernels[-1]

    for operator in operators:
        operator.kernel = sharp.__get__(operator)  # type: ignore[method-assign]
    try:
        yield kernels
    finally:
        for operator in operators:
            del operator.kernel


def gradients(subject: Subject) -> list[Tensor]:
    """The loss and all gradients of a step, without a change of the weights."""
    subject.network.zero_grad()
    loss = nn.functional.cross_entropy(subject.network(subject.image), subject.mask.long(), ignore_index=255)
    loss.backward()
    return [loss.detach(), *(one.grad.clone() for one in subject.network.parameters() if one.grad is not None)]


def main() -> None:
    """The command line."""
    parser = arguments(__doc__, rounds=20)
    parser.add_argument("--sharpness", type=float, nargs="*", default=[1, 100, 1000])
    parser.add_argument("--decoders", nargs="*", default=["fade", "carafe"])
    parser.add_argument("--size", type=int, nargs=2, default=[120, 160], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    device = begin(given)
    options = ["model=ladder", "model.stride=4", "decoder.init=published"]
    for decoder in given.decoders:
        overrides = [*options, f"decoder={decoder}"]
        subject = Subject("cropped", overrides=overrides, batch=given.batch, size=given.size, factor=1, device=device)
        for factor in given.sharpness:
            with sharper(subject.network, factor) as kernels:
                results = {}
                for name, context in CONTEXTS.items():
                    with context():
                        results[name] = gradients(subject)
                first = torch.cat([one.flatten() for one in kernels[: len(kernels) // 2]])
                share = float(((first != 0) & (first < torch.finfo(first.dtype).tiny)).float().mean())
                pairs = zip(results["denormals"], results["zeros"], strict=True)
                apart = max(float((one - other).abs().max()) for one, other in pairs)
                works = {name: in_context(name, subject) for name in CONTEXTS}
                sides = {name: timed(work, device) for name, work in works.items()}
                times = interleaved(sides, rounds=given.rounds, warmup=2)
            print(
                f"{decoder}, logits x {factor:g}: {share:.2%} of the weights are denormal; loss and gradients are "
                f"at most {apart:.1g} apart; {milliseconds(times['denormals'])} with denormals, "
                f"{milliseconds(times['zeros'])} with zeros: {ratio(times['denormals'], times['zeros'])}",
                flush=True,
            )


def in_context(name: str, subject: Subject) -> Callable[[], None]:
    """A step without the optimizer, with denormals or with zeros."""

    def work() -> None:
        with CONTEXTS[name]():
            gradients(subject)

    return work


if __name__ == "__main__":
    main()
