"""Where should a network's scores leave channels_last, if anywhere? A call of ``contiguous()`` at one of four places.

nowhere; head: of the head's scores; enlarged: of what they are enlarged to, at the padded image's size; cropped: of the
logits that the network returns. For each decoder the sides are a training step (forward, cross-entropy, backward,
optimizer), an evaluation of a batch (forward, logits enlarged to masks of ``--factor`` times the height and width,
cross-entropy, maximum), and of the latter only what follows the network. A ratio below 1 says that the place is faster
than nowhere. Printed, too: whether the network's logits are those of nowhere bit for bit, how far the enlarged ones are
apart, and how many predicted pixels differ.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain import PlainStep, configure
from benchmarks.timing import arguments, begin, interleaved, milliseconds, ratio, timed
from segpipe.config import build
from segpipe.metrics.confusion import IGNORE_INDEX
from segpipe.models.network import Network, resize_logits
from segpipe.training.task import parameter_groups

Place = Literal["nowhere", "head", "enlarged", "cropped"]
CLASSES = 11


def forward(network: Network, place: Place, image: Tensor) -> Tensor:
    """What ``Network.forward`` does, with the call at a place of one's choice."""
    height, width = image.shape[-2:]
    x, features = network.encode(image)
    scores = network.head(network.decoder(x, features))
    scores = scores.contiguous() if place == "head" else scores
    logits = network.enlarge(scores, features)
    logits = (logits.contiguous() if place == "enlarged" else logits)[..., :height, :width]
    return logits.contiguous() if place == "cropped" else logits


class Subject:
    """A network with the call at one place, with all that a step and an evaluation need."""

    def __init__(
        self, place: Place, *, overrides: list[str], batch: int, size: list[int], factor: int, device: torch.device
    ) -> None:
        cfg = configure(*overrides)
        self.network = build.network(cfg, CLASSES).to(device).to(memory_format=torch.channels_last)
        self.network.forward = partial(forward, self.network, place)  # type: ignore[method-assign]
        optimizer = build.instantiate_group(cfg, "optimizer")(parameter_groups(self.network))
        self.plain = PlainStep(self.network, optimizer, precision="32-true")
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (batch, *size, 3), generator=generator, dtype=torch.uint8)
        self.image = pixels.permute(0, 3, 1, 2).to(device)  # as a loader gives it
        self.mask, self.large = (self.labels(batch, size, by, generator).to(device) for by in (1, factor))
        self.logits = self.inference()

    def labels(self, batch: int, size: list[int], factor: int, generator: torch.Generator) -> Tensor:
        """Masks in blocks, about a twelfth of them ignored."""
        coarse = torch.randint(CLASSES + 1, (batch, *(side // 8 for side in size)), generator=generator)
        mask = F.interpolate(coarse[:, None].float(), size=[factor * side for side in size])[:, 0].long()
        return mask.masked_fill(mask == CLASSES, IGNORE_INDEX)

    @torch.inference_mode()
    def inference(self) -> Tensor:
        """The network's logits in evaluation."""
        self.network.eval()
        logits = self.network(self.image)
        self.network.train()
        return logits

    def at_mask(self, logits: Tensor) -> Tensor:
        """Logits at the size of the evaluation's masks."""
        return resize_logits(logits.float(), self.large.shape[-2:])

    @torch.inference_mode()
    def count(self, logits: Tensor) -> Tensor:
        """What an evaluation does with logits."""
        logits = self.at_mask(logits)
        F.cross_entropy(logits, self.large, ignore_index=IGNORE_INDEX, reduction="sum")
        return logits.max(1).indices

    def step(self) -> object:
        """One training step."""
        return self.plain(self.image, self.mask)

    def evaluation(self) -> object:
        """Network and what follows."""
        return self.count(self.inference())

    def scores(self) -> object:
        """What follows alone."""
        return self.count(self.logits)


def main() -> None:
    """The command line."""
    parser = arguments(__doc__, rounds=20)
    parser.add_argument("--size", type=int, nargs=2, default=[120, 160], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--factor", type=int, default=3, help="from the logits to the masks (%(default)s)")
    parser.add_argument("--decoders", nargs="*", default=["bilinear", "deconv", "unpool"])
    parser.add_argument("overrides", nargs="*", default=["model=ladder", "model.stride=4"], help="as for segpipe.train")
    given = parser.parse_args()
    device = begin(given)
    for decoder in given.decoders:
        overrides = [*given.overrides, f"decoder={decoder}"]
        subjects = {
            place: Subject(
                place, overrides=overrides, batch=given.batch, size=given.size, factor=given.factor, device=device
            )
            for place in get_args(Place)
        }
        first = subjects["nowhere"]
        for place, other in subjects.items():
            same = "equal" if torch.equal(other.logits, first.logits) else "not equal"
            apart = (other.at_mask(other.logits) - first.at_mask(first.logits)).abs().max()
            pixels = int((other.count(other.logits) != first.count(first.logits)).sum())
            print(f"{decoder}, {place}: logits {same}, enlarged {apart:.1g} apart, {pixels} pixels differ")
        for name in ("step", "evaluation", "scores"):
            sides: dict[str, Callable[[], object]] = {place: getattr(one, name) for place, one in subjects.items()}
            times = interleaved(
                {place: timed(work, device) for place, work in sides.items()}, rounds=given.rounds, warmup=2
            )
            for place, seconds in times.items():
                compared = "" if place == "nowhere" else f"  / nowhere: {ratio(seconds, times['nowhere'])}"
                print(f"  {name:11}{place:9}{milliseconds(seconds):>12}{compared}", flush=True)


if __name__ == "__main__":
    main()
