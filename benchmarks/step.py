"""How well is the machine used? A training step of every named model, against a matrix product on the same machine.

A step is forward, loss, backward and optimizer on one batch that lies ready. Its arithmetic is taken as three times the
forward pass's multiply-adds, two operations each; the share is that of what one large matrix product achieves in turn
with it, in the same type. Then U-Net with VGG16's encoder and one decoder width a step against the Unet of
segmentation_models_pytorch: time for a multiply-add, as the two are not quite of one size (theirs has no skip at full
size, and gets its image normalised).
"""

import argparse
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.plain import PlainStep, configure
from benchmarks.timing import arguments, begin, interleaved, milliseconds, ratio, timed
from segpipe.config import build
from segpipe.config.schema import options
from segpipe.errors import UserError
from segpipe.models.cost import multiply_adds
from segpipe.training.task import parameter_groups

VGG16 = ["model=unet", "decoder=nearest", "encoder=vgg16_bn", "neck=none", "model.width=[256,128,64,32,16]"]
CLASSES = 11


class Subject:
    """A network with all that a step needs; ``work`` is a step's number of operations."""

    def __init__(
        self, network: nn.Module, given: argparse.Namespace, device: torch.device, *, normalised: bool = False
    ) -> None:
        number, (height, width) = given.batch, given.size
        order = torch.channels_last if given.channels_last else torch.contiguous_format
        network = network.to(device).to(memory_format=order).train()
        self.forward = multiply_adds(network, (height, width))
        self.work = 6 * self.forward * number
        if given.compile:
            network.compile()
        generator = torch.Generator().manual_seed(0)
        image = torch.randint(256, (number, 3, height, width), generator=generator, dtype=torch.uint8)
        if normalised:
            image = image / 255 - 0.5
        self.image = image.to(device).contiguous(memory_format=order)
        self.mask = torch.randint(CLASSES, (number, height, width), generator=generator).to(device)
        optimizer = build.instantiate_group(configure(), "optimizer")(parameter_groups(network))  # the default one
        self.step = PlainStep(network, optimizer, precision=given.precision)

    def __call__(self) -> object:
        """One step."""
        return self.step(self.image, self.mask)


class Product:
    """A product of two square matrices in the type that the steps compute in."""

    def __init__(self, given: argparse.Namespace, device: torch.device) -> None:
        side = given.side or (8192 if device.type == "cuda" else 2048)
        kind = torch.bfloat16 if given.precision == "bf16-mixed" else torch.float32
        self.left, self.right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
        self.work = 2 * side**3

    def __call__(self) -> torch.Tensor:
        """Multiply."""
        return self.left @ self.right


def every_model(given: argparse.Namespace, device: torch.device) -> None:
    """The first question."""
    product = Product(given, device)
    for name in given.models or options("model"):
        try:
            network = build.network(configure(f"model={name}", *given.overrides), CLASSES)
        except UserError as error:
            print(f"{name}: refused ({error})")
            continue
        subject = Subject(network, given, device)
        sides: dict[str, Callable[[], object]] = {"step": subject, "product": product}
        times = interleaved({side: timed(work, device) for side, work in sides.items()}, rounds=given.rounds, warmup=2)
        used = ratio(times["product"], times["step"], factor=subject.work / product.work)
        print(f"{name:14}{subject.forward / 1e9:9.3f} GMAC a image, step {milliseconds(times['step']):>12}", end=", ")
        print(f"share of the product's speed: {used}", flush=True)


def against_smp(given: argparse.Namespace, device: torch.device) -> None:
    """The second question."""
    try:
        import segmentation_models_pytorch as smp
    except ModuleNotFoundError:
        print("segmentation_models_pytorch is not installed (pip install '.[bench]'): the comparison is left out")
        return
    sides = {
        "ours": Subject(build.network(configure(*VGG16), CLASSES), given, device),
        "smp": Subject(smp.Unet("vgg16_bn", encoder_weights=None, classes=CLASSES), given, device, normalised=True),
    }
    times = interleaved({side: timed(work, device) for side, work in sides.items()}, rounds=given.rounds, warmup=2)
    for side, subject in sides.items():
        print(f"unet with VGG16, {side:5}{subject.forward / 1e9:9.3f} GMAC a image, step {milliseconds(times[side])}")
    print(f"ours / smp: {ratio(times['ours'], times['smp'])}")
    same = sides["smp"].work / sides["ours"].work
    print(f"ours / smp, time for a multiply-add: {ratio(times['ours'], times['smp'], factor=same)}")


def main() -> None:
    """The command line."""
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--size", type=int, nargs=2, default=[96, 96], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--compile", action="store_true", help="the networks, by torch.compile")
    parser.add_argument("--side", type=int, default=None, help="of the product's matrices")
    parser.add_argument("--models", nargs="*", default=None, help="names; all where none are given")
    parser.add_argument("--only", choices=["models", "smp"], default=None, help="one of the two parts")
    parser.add_argument("overrides", nargs="*", help="laid over every model: encoder=basic")
    given = parser.parse_args()
    device = begin(given)
    if given.only != "smp":
        every_model(given, device)
    if given.only != "models":
        against_smp(given, device)


if __name__ == "__main__":
    main()
