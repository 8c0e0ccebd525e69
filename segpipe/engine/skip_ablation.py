"""Skips replaced at test time: what a trained network loses without the information that they carry."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from segpipe.data.resize import resize_image
from segpipe.data.samples import Batch, Samples
from segpipe.errors import UserError
from segpipe.lab.slots import replaced_skip
from segpipe.models.network import Network

SkipChange = Literal["zero", "shuffle"]
SEED = 0  # of the partners of images


def skip_ablation(
    network: Network, change: SkipChange | None, samples: Samples
) -> Callable[[Batch], AbstractContextManager[None]]:
    """Return a context for each batch in which the network's forward pass has other skips at all steps.

    change: ``zero``: all values are 0, as where ``fusion.drop`` drops a skip. ``shuffle``: each image gets the skips of
    another image of the data set (``partners``), so that they have the usual values, but not those of the image. None:
    nothing is changed. What operators read from the encoder, such as the positions of unpooling, stays in any case.
    samples: the data set.
    Raises UserError where the network has no skips, or where there is one image only to shuffle.
    """
    if change is None:
        return lambda batch: nullcontext()
    strides = [int(stride) for stride, step in network.decoder.steps.items() if step.fuse.uses_skip]  # type: ignore[union-attr]
    if not strides:
        raise UserError(
            f"--skips {change}: this network has no skips (fusion=none, or no step of the decoder has one). Evaluate "
            f"it without --skips, or take a run with a fusion."
        )
    if change == "zero":
        return lambda batch: replaced(network, dict.fromkeys(strides))
    if len(samples) < 2:
        raise UserError("--skips shuffle: the data have one image, and a skip of another one is needed. Add images.")
    partner = partners(len(samples))

    def shuffled(batch: Batch) -> AbstractContextManager[None]:
        size = batch["image"].shape[-2:]
        others = torch.cat([resized(samples, partner[int(index)], size) for index in batch["index"]])
        with torch.inference_mode():
            _, features = network.encode(others.to(next(network.parameters()).device))
        return replaced(network, {s: network.decoder.steps[str(s)].tap(features) for s in strides})  # type: ignore[operator]

    return shuffled


@contextmanager
def replaced(network: Network, skips: dict[int, Tensor | None]) -> Iterator[None]:
    """Replace the skips of several steps inside the ``with`` block. skips: stride to the new skip; None: zeros."""

    def instead(other: Tensor | None, skip: Tensor) -> Tensor:
        return torch.zeros_like(skip) if other is None else other

    with ExitStack() as stack:
        for stride, other in skips.items():
            stack.enter_context(replaced_skip(network, stride, partial(instead, other)))
        yield


def partners(number: int) -> list[int]:
    """Return another image for each image, by index: one cycle through all images in a fixed random order.

    The partner depends on the number of images only, not on batches. Neighbours, which may be frames of one video, are
    partners only by chance.
    """
    order = torch.randperm(number, generator=torch.Generator().manual_seed(SEED)).tolist()
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    return [following[index] for index in range(number)]


def resized(samples: Samples, index: int, size: Sequence[int]) -> Tensor:
    """Return an image of a data set, resized to ``size`` (H, W): (1, 3, H, W), values 0 to 255."""
    image = resize_image(samples.sample(0, index).image, size)
    return torch.from_numpy(image).permute(2, 0, 1)[None]
