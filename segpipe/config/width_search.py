"""What a network costs with a decoder of any width, and the width with which it costs just so much.

Networks are weighed on the meta device, without memory or arithmetic, in some 10 to 50 ms each.
"""

import json
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from segpipe.config import build
from segpipe.models import cost

Measure = Literal["params", "multiply_adds"]
Width = int | list[int] | Literal["classes"] | None


def architecture_key(cfg: DictConfig) -> str:
    """What a network is made of, as a text."""
    nodes = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("encoder", "neck", "decoder", "fusion")}
    model = OmegaConf.to_container(cfg.model, resolve=True)
    return json.dumps(nodes | {"model": model, "augment": {"local_contrast": cfg.augment.get("local_contrast", False)}})


class CostModel:
    """Weighs one network with decoders of any width.

    network: as ``architecture_key`` says it. size: of the picture, where ``what`` is multiply_adds.
    shared: what encoder and neck cost, whatever the decoder.
    """

    def __init__(self, network: str, what: Measure, num_classes: int, size: tuple[int, int] | None) -> None:
        cfg = OmegaConf.create(json.loads(network))
        self.what, self.model = what, build.resolve(cfg.model)
        self.encoder = build.meta_encoder(cfg)
        with torch.device("meta"):
            self.make = build.network_factory(cfg, self.encoder, num_classes)
            given = self.make().eval()
            self.in_channels: int = given.neck.out_channels  # type: ignore[assignment]
            if what == "params":
                self.shared = parameters(given.encoder) + parameters(given.neck)
                return
            assert size is not None
            image = torch.zeros(1, 3, *size)
            self.shared = cost.count(lambda: given.encode(image))
            with torch.no_grad():
                self.maps = given.encode(image)

    @property
    def width(self) -> Width:
        """What the configuration says."""
        width: Any = self.model.get("width")
        return list(width) if OmegaConf.is_list(width) else width

    def cost_at(self, width: Width) -> int:
        """What decoder, head and enlargement cost."""
        with torch.device("meta"):
            network = self.make(width=width).eval()
        if self.what == "params":
            return parameters(network) - self.shared
        return cost.count(lambda: network.decode(*self.maps))


def parameters(module: nn.Module) -> int:
    """How many it has."""
    return sum(parameter.numel() for parameter in module.parameters())


class Search:
    """Looks for the widths that cost nearest to ``decoder_budget``.

    cost_at: what widths cost. avoid: numbers of channels that no map may have: where two widths agree, a 1x1
    convolution falls away, and the cost with it, which would then not grow with the width.
    """

    def __init__(self, cost_at: Callable[[list[int]], int], decoder_budget: float, *, avoid: set[int]) -> None:
        self.cost_at, self.decoder_budget, self.avoid = cost_at, decoder_budget, avoid
        self.nearest: list[int] = []
        self.cost = math.inf

    def evaluate(self, widths: list[int]) -> int:
        """What they cost; the nearest is remembered."""
        cost = self.cost_at(widths)
        if abs(cost - self.decoder_budget) < abs(self.cost - self.decoder_budget):
            self.nearest, self.cost = widths, cost
        return cost

    def proportional(self, base: list[int]) -> None:
        """More or less for all maps at once, until one channel is too little and the next too many."""
        low, high = 1, sum(base)
        below, above = self.evaluate(self.distribute(base, low)), self.evaluate(self.distribute(base, high))
        while above < self.decoder_budget:
            low, below, high = high, above, 2 * high
            above = self.evaluate(self.distribute(base, high))
        while high - low > 1 and below < self.decoder_budget:
            first, last, aim = (math.sqrt(cost) for cost in (below, above, self.decoder_budget))
            guess = low + round((high - low) * (aim - first) / (last - first))  # a cost goes about with the square
            middle = min(max(guess, low + 1), high - 1)
            cost = self.evaluate(self.distribute(base, middle))
            if cost < self.decoder_budget:
                low, below = middle, cost
            else:
                high, above = middle, cost

    def one_by_one(self) -> None:
        """A channel more or less for one map after another, while that comes nearer."""
        before = math.inf
        while self.cost != before:
            before = self.cost
            for place in range(len(self.nearest)):
                change = 1 if self.cost < self.decoder_budget else -1
                widths = list(self.nearest)
                widths[place] = self.next_free_width(widths[place] + change, change)
                self.evaluate(widths)

    def distribute(self, base: list[int], total: int) -> list[int]:
        """``total`` channels in the proportion of ``base``; one more of them is one more for about one map."""
        places, whole = len(base), sum(base)
        shares = [
            (2 * places * own * total + (2 * place + 1) * whole) // (2 * places * whole)
            for place, own in enumerate(base)
        ]
        return [self.next_free_width(share, -1) for share in shares]

    def next_free_width(self, width: int, change: int) -> int:
        """The width itself, or the next in the direction of ``change`` that is not to be avoided; 1 at least."""
        while width in self.avoid:
            width += change
        return max(width, 1)
