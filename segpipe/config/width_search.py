"""The cost of a network for any decoder width, and the search for the width with a given cost.

Costs are counted on the meta device, without memory or arithmetic, in about 10 to 50 ms per network.
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


def architecture_key(cfg: DictConfig, channels: int = 3) -> str:
    """Return the parts of the configuration that define the architecture, as JSON. channels: of the image."""
    nodes = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("encoder", "neck", "decoder", "fusion")}
    model: Any = OmegaConf.to_container(cfg.model, resolve=True)
    model.pop("deep_supervision", None)  # its heads are used in training only, and are not part of a budget
    nodes |= {} if channels == 3 else {"in_channels": channels}  # type: ignore[dict-item]
    return json.dumps(nodes | {"model": model, "augment": {"local_contrast": cfg.augment.get("local_contrast", False)}})


class CostModel:
    """Counts the cost of one network with decoders of any width.

    network: see ``architecture_key``. what: params, or multiply_adds for one image. size: (height, width) of the image;
    required for multiply_adds. The attribute ``shared`` is the cost of encoder and neck.
    """

    def __init__(self, network: str, what: Measure, num_classes: int, size: tuple[int, int] | None) -> None:
        cfg = OmegaConf.create(json.loads(network))
        self.what, self.model = what, build.resolve(cfg.model)
        self.encoder = build.meta_encoder(cfg, channels=cfg.get("in_channels", 3))
        with torch.device("meta"):
            self.make = build.network_factory(cfg, self.encoder, num_classes)
            given = self.make().eval()
            self.in_channels: int = given.neck.out_channels  # type: ignore[assignment]
            if what == "params":
                self.shared = parameters(given.encoder) + parameters(given.neck)
                return
            assert size is not None
            image = torch.zeros(1, self.encoder.in_channels, *size)
            self.shared = cost.count(lambda: given.encode(image))
            with torch.no_grad():
                self.maps = given.encode(image)

    @property
    def width(self) -> Width:
        """``model.width`` of the configuration."""
        width: Any = self.model.get("width")
        return list(width) if OmegaConf.is_list(width) else width

    def cost_at(self, width: Width) -> int:
        """Return the cost of decoder, head and final upsampling for a width."""
        with torch.device("meta"):
            network = self.make(width=width).eval()
        if self.what == "params":
            return parameters(network) - self.shared
        return cost.count(lambda: network.decode(*self.maps))


def parameters(module: nn.Module) -> int:
    """Return the number of a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


class Search:
    """Searches for the widths whose cost is nearest to ``decoder_budget``.

    cost_at: returns the cost of widths. avoid: numbers of channels that no feature map may have: where two widths are
    equal, a 1x1 convolution is omitted, so the cost would not grow monotonically with the width.
    """

    def __init__(self, cost_at: Callable[[list[int]], int], decoder_budget: float, *, avoid: set[int]) -> None:
        self.cost_at, self.decoder_budget, self.avoid = cost_at, decoder_budget, avoid
        self.nearest: list[int] = []
        self.cost = math.inf

    def evaluate(self, widths: list[int]) -> int:
        """Return the cost of widths, and store the widths if their cost is the nearest so far."""
        cost = self.cost_at(widths)
        if abs(cost - self.decoder_budget) < abs(self.cost - self.decoder_budget):
            self.nearest, self.cost = widths, cost
        return cost

    def proportional(self, base: list[int]) -> None:
        """Scale all widths together. The search stops when one more channel in total would exceed the budget."""
        low, high = 1, sum(base)
        below, above = self.evaluate(self.distribute(base, low)), self.evaluate(self.distribute(base, high))
        while above < self.decoder_budget:
            low, below, high = high, above, 2 * high
            above = self.evaluate(self.distribute(base, high))
        while high - low > 1 and below < self.decoder_budget:
            first, last, aim = (math.sqrt(cost) for cost in (below, above, self.decoder_budget))
            guess = low + round((high - low) * (aim - first) / (last - first))  # cost grows about as the square
            middle = min(max(guess, low + 1), high - 1)
            cost = self.evaluate(self.distribute(base, middle))
            if cost < self.decoder_budget:
                low, below = middle, cost
            else:
                high, above = middle, cost

    def one_by_one(self) -> None:
        """Change one width after another by one channel, as long as the cost comes nearer to the budget."""
        before = math.inf
        while self.cost != before:
            before = self.cost
            for place in range(len(self.nearest)):
                change = 1 if self.cost < self.decoder_budget else -1
                widths = list(self.nearest)
                widths[place] = self.next_free_width(widths[place] + change, change)
                self.evaluate(widths)

    def distribute(self, base: list[int], total: int) -> list[int]:
        """Distribute ``total`` channels in proportion to ``base``. One more in total adds one to about one width."""
        places, whole = len(base), sum(base)
        shares = [
            (2 * places * own * total + (2 * place + 1) * whole) // (2 * places * whole)
            for place, own in enumerate(base)
        ]
        return [self.next_free_width(share, -1) for share in shares]

    def next_free_width(self, width: int, change: int) -> int:
        """Return the width, or the next one in the direction of ``change`` that is not in ``avoid``; at least 1."""
        while width in self.avoid:
            width += change
        return max(width, 1)
