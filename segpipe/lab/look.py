"""What a network makes of one image: one forward pass with hooks, and what the lab measures in its maps."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segpipe.data.dataset import Mask
from segpipe.data.resize import resize_mask
from segpipe.lab import checkerboard, switches
from segpipe.lab.cells import padded_size
from segpipe.lab.climb import climb, decodes_class_scores, object_area
from segpipe.lab.content import content_facts
from segpipe.lab.facts import ImageFacts, SwitchFacts
from segpipe.lab.slots import StepMaps, recording
from segpipe.models.network import Network, resize_logits


@torch.inference_mode()
def look(
    network: Network, image: Tensor, *, size: tuple[int, int], truth: Mask | None = None, all_channels: bool = False
) -> ImageFacts:
    """Return what a network makes of one image, in evaluation mode; its mode is restored.

    image: (1, 3, h, w) as the network receives it, RGB 0 to 255. size: height and width of the prediction. truth:
    (H, W) class indices; boundaries are those of the truth, or of the prediction without one. all_channels: keep every
    channel of every map; a decoder of class scores keeps them always.
    """
    training = network.training
    network.eval()
    try:
        with recording(network) as record:
            logits = network.forward(image).float()  # not its compiled form, which has no hooks
    finally:
        network.train(training)
    steps = record.steps()
    seen = logits[0].argmax(0)
    padded = padded_size(network, image.shape[-2:])
    scores = decodes_class_scores(network)
    labels = seen.byte().cpu().numpy() if truth is None else resize_mask(truth, image.shape[-2:])
    return ImageFacts(
        prediction=resize_logits(logits, size)[0].argmax(0).byte().cpu().numpy(),
        rungs=climb(steps, object_area(seen, padded), all_channels=all_channels or scores),
        score_maps=scores,
        switches=[switch_facts(step, labels, padded) for step in steps if switches.uses_switches(step.place.upsample)],
        on_image=list(checkerboard.on_image(steps)),
        content=[one for step in steps if (one := content_facts(step, labels, padded)) is not None],
    )


def switch_facts(step: StepMaps, labels: NDArray[np.uint8], size: tuple[int, int]) -> SwitchFacts:
    """Return the switches of one step. labels: (h, w) class indices of the image; size: of the padded image."""
    shares = switches.switch_shares(step.source)[0].float().cpu().numpy()
    found = switches.agreement(shares, labels, size)
    return SwitchFacts(step.place.label, step.place.stride, shares, switches.sparsity(step), found)
