"""The maps of a decoder's slots, taken by hooks while the network runs as always."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from segpipe.models.decoder import Decoder, Step
from segpipe.models.network import Network, SingleUpsample, StepwiseUpsample

Slot = Literal["upsample", "smooth", "tap", "fuse", "attention", "refine"]
Section = Literal["decoder", "enlarge"]
SLOTS: tuple[Slot, ...] = ("upsample", "smooth", "tap", "fuse", "attention", "refine")


class Place(NamedTuple):
    """One enlargement of a network, coarse to fine.

    section: ``decoder``, or ``enlarge`` for the final upsampling to full size. stride: of the result, relative to the
    input. factor: of the enlargement. module: the step of the decoder; for a final upsampling in one operation, which
    has no other slot, the operator itself.
    """

    section: Section
    stride: int
    factor: int
    module: nn.Module

    @property
    def upsample(self) -> nn.Module:
        """The upsampling operator."""
        return self.module.upsample if isinstance(self.module, Step) else self.module

    @property
    def label(self) -> str:
        """The place as text: ``stride 8``, or ``stride 1 (final)`` for the final upsampling."""
        return f"stride {self.stride}" + (" (final)" if self.section == "enlarge" else "")


class StepMaps(NamedTuple):
    """The maps of one enlargement for one batch.

    before: the operator's input (N, C, H/(factor * stride), W/(factor * stride)). source: the encoder's map that the
    operator was called with, (N, C_s, H/stride, W/stride). upsampled, smoothed, fused, attended, refined: (N, C',
    H/stride, W/stride) after each slot. skip: the encoder's map that is fused; None where the fusion does not read it.
    A place without a slot has the map that went through unchanged.
    """

    place: Place
    before: Tensor
    source: Tensor
    upsampled: Tensor
    smoothed: Tensor
    skip: Tensor | None
    fused: Tensor
    attended: Tensor
    refined: Tensor


class Recording:
    """What the slots of a network received and returned in the last forward pass."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.calls: dict[tuple[Section, int, str], tuple[tuple[Any, ...], Tensor]] = {}

    def steps(self) -> list[StepMaps]:
        """Return the maps of every enlargement, coarse to fine. The network must have run since the hooks were set."""
        return [self.maps(place) for place in places(self.network)]

    def maps(self, place: Place) -> StepMaps:
        """Return the maps of one enlargement."""

        def output(slot: str, otherwise: Tensor | None) -> Tensor | None:
            call = self.calls.get((place.section, place.stride, slot))
            return otherwise if call is None else call[1]

        (before, source), upsampled = self.calls[place.section, place.stride, "upsample"]
        smoothed: Any = output("smooth", upsampled)
        fused: Any = output("fuse", smoothed)
        attended: Any = output("attention", fused)
        refined: Any = output("refine", attended)
        return StepMaps(place, before, source, upsampled, smoothed, output("tap", None), fused, attended, refined)


def places(network: Network) -> list[Place]:
    """Return the enlargements of a network, coarse to fine: the decoder's steps, then those of the final upsampling."""
    found: list[Place] = []
    sections: list[tuple[Section, nn.Module]] = [("decoder", network.decoder), ("enlarge", network.enlarge)]
    for section, module in sections:
        if isinstance(module, Decoder | StepwiseUpsample):
            found += [Place(section, int(stride), 2, step) for stride, step in module.steps.items()]
        elif isinstance(module, SingleUpsample):
            stop = found[-1].stride if found else network.encoder.coarsest
            found.append(Place(section, 1, stop, module.upsample))
    return found


@contextmanager
def recording(network: Network) -> Iterator[Recording]:
    """Record the maps of every forward pass inside the ``with`` block; each pass replaces those before.

    ``with recording(network) as maps: network(image)``, then ``maps.steps()``. The maps keep their gradients.
    """
    record = Recording(network)

    def keep(key: tuple[Section, int, str], module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        record.calls[key] = (inputs, output)

    handles = []
    for place in places(network):
        modules = {slot: getattr(place.module, slot) for slot in SLOTS} if isinstance(place.module, Step) else {}
        for slot, module in (modules or {"upsample": place.upsample}).items():
            handles.append(module.register_forward_hook(partial(keep, (place.section, place.stride, slot))))
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced_skip(network: Network, stride: int, change: Any) -> Iterator[None]:
    """Replace the skip of one decoder step inside the ``with`` block.

    change: a function from the skip (N, C, H/stride, W/stride) to the tensor of the same shape that is fused instead.
    Raises KeyError where the decoder has no step of this stride.
    """
    step: Any = network.decoder.steps[str(stride)]
    handle = step.tap.register_forward_hook(lambda module, inputs, output: change(output))
    try:
        yield
    finally:
        handle.remove()
