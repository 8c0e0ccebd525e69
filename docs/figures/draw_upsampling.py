"""Draws the figures of docs/upsampling.md beside itself: ``python docs/figures/draw_upsampling.py``.

Every number and every small picture in them is what the package's own modules make of the input shown.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import FancyArrowPatch, Rectangle
from numpy.typing import NDArray
from torch import Tensor

from segpipe.config import build
from segpipe.config.schema import CONF
from segpipe.data.datasets.shapes import Shapes
from segpipe.metrics.confusion import confusion_matrices, scores
from segpipe.models.encoders import Encoder
from segpipe.models.refine import TransposedConv2d
from segpipe.models.upsample import Bilinear, Deconv, Nearest, Unpool

HERE = Path(__file__).parent
DOTS = 150  # per inch
GAP = 84  # pixels between the parts of an equation
CELL = 46  # pixels, the side of a number's square
INK, QUIET, FRAME, MARK, UP = "#222222", "#767676", "#9a9a9a", "#d1495b", "#1f6f8b"
GIVEN, AROUND, BETWEEN = 0, 1, 2  # what a zero is
FILLER = {AROUND: "#ececec", BETWEEN: "#f7edcb"}
VALUES = LinearSegmentedColormap.from_list("values", ["#f3b49f", "#ffffff", "#9cc9e3"])  # below, at, above zero


def page(width: int, height: int) -> Axes:
    """An empty white page whose coordinates are pixels, (0, 0) at the top left."""
    figure = plt.figure(figsize=(width / DOTS, height / DOTS), dpi=DOTS)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return axes


def save(axes: Axes, name: str) -> None:
    """Write the page as a PNG."""
    axes.figure.savefig(HERE / name, dpi=DOTS, facecolor="white", metadata={"Software": None})  # type: ignore[union-attr]
    plt.close("all")


def write(
    axes: Axes, x: float, y: float, text: str, *, size: float = 8.5, colour: str = INK, align: str = "center"
) -> None:
    """Text, centred on a height; ``align`` says which of its points stands at ``x``."""
    axes.text(x, y, text, fontsize=size, color=colour, ha=align, va="center", linespacing=1.35)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], *, colour: str = INK, dashed: bool = False
) -> None:
    """A straight arrow, thin."""
    style = (0, (4, 3)) if dashed else "-"
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=9, lw=1.1, color=colour, linestyle=style, shrinkA=0, shrinkB=0
        )
    )


def frame(axes: Axes, x: float, y: float, width: float, height: float) -> None:
    """A thick frame around what is spoken of."""
    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=MARK, lw=2.2, zorder=5))


def number(value: float) -> str:
    """As short as two decimals allow."""
    return f"{round(value, 2):g}".replace("-", "\u2212")


def grid(
    axes: Axes, values: Tensor, x: float, y: float, *, title: str, top: float, empty: Tensor | None = None
) -> None:
    """Numbers in squares, coloured by value, ``top`` being the strongest; ``empty`` says which are zeros put in."""
    rows, columns = values.shape
    for row in range(rows):
        for column in range(columns):
            value = float(values[row, column])
            kind = GIVEN if empty is None else int(empty[row, column])
            colour = FILLER.get(kind, VALUES((value / top + 1) / 2))
            at = (x + CELL * column, y + CELL * row)
            axes.add_patch(Rectangle(at, CELL, CELL, facecolor=colour, edgecolor=FRAME, lw=0.7))
            ink = QUIET if kind else INK
            write(axes, at[0] + CELL / 2, at[1] + CELL / 2, number(value), size=8, colour=ink)
    write(axes, x + CELL * columns / 2, y - 24, title)


def sliding(
    *,
    given: Tensor,
    kernel: Tensor,
    output: Tensor,
    spacing: int,
    padding: int,
    scale: int,
    titles: tuple[str, str, str, str],
    at: tuple[int, int],
) -> Axes:
    """A transposed convolution taken apart: input, the same with zeros between and around, turned kernel, output.

    spacing: from one value of the input to the next. padding: zeros around. at: the output's pixel that is followed.
    scale: the kernel's numbers are shown multiplied by it.
    """
    side = kernel.shape[0]
    spread = given.new_zeros(tuple((count - 1) * spacing + 1 for count in given.shape))
    spread[::spacing, ::spacing] = given
    padded = F.pad(spread, (padding, padding, padding, padding))
    filler = F.pad(torch.full_like(spread, BETWEEN), (padding, padding, padding, padding), value=AROUND)
    filler[padding:-padding:spacing, padding:-padding:spacing] = GIVEN
    turned = kernel.flip(0, 1)
    assert torch.allclose(F.conv2d(padded[None, None], turned[None, None])[0, 0], output)

    parts = (given, padded, turned, output)
    shown = (given, padded, turned * scale, output)
    strongest = (float(output.max()), float(output.max()), float(turned.max()) * scale * 1.4, float(output.max()))
    widths = [CELL * part.shape[1] for part in parts]
    axes = page(sum(widths) + 3 * GAP + 60, CELL * padded.shape[0] + 130)
    middle, x, lefts = 56 + CELL * padded.shape[0] / 2, 30.0, []
    for part, width, title, top, sign in zip(
        shown, widths, titles, strongest, ("\u2192", "\u2217", "=", ""), strict=True
    ):
        y = middle - CELL * part.shape[0] / 2
        grid(axes, part, x, y, title=title, top=top, empty=filler if part is padded else None)
        write(axes, x + width + GAP / 2, middle, sign, size=16)
        lefts.append((x, y))
        x += width + GAP
    (x, y), (end, across) = lefts[1], lefts[3]
    frame(axes, x + CELL * at[1], y + CELL * at[0], CELL * side, CELL * side)
    frame(axes, end + CELL * at[1], across + CELL * at[0], CELL, CELL)

    window = padded[at[0] : at[0] + side, at[1] : at[1] + side]
    hits = [(float(window[i, j]), float(turned[i, j]) * scale) for i, j in window.nonzero().tolist()]
    sum_of = " + ".join(f"{number(value)}\u00b7{number(weight)}" for value, weight in hits)
    if scale != 1:
        sum_of = f"({sum_of}) / {scale}"
    foot = CELL * padded.shape[0] + 98
    write(
        axes,
        axes.get_xlim()[1] / 2,
        foot,
        f"in the frame:  {sum_of} = {number(float(output[at]))}",
        size=9,
        colour=MARK,
    )
    return axes


@torch.no_grad()
def draw_padding() -> None:
    """A transposed convolution of stride 1 as an ordinary one of a padded input."""
    given = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    module = TransposedConv2d(1, 1, 3)
    module.weight.copy_(torch.arange(1.0, 10.0).view(1, 1, 3, 3))
    axes = sliding(
        given=given,
        kernel=module.weight[0, 0],
        output=module(given[None, None])[0, 0],
        spacing=1,
        padding=2,
        scale=1,
        titles=("input", "zeros around", "kernel, turned by 180\u00b0", "output"),
        at=(1, 1),
    )
    save(axes, "transposed_as_padding.png")


@torch.no_grad()
def draw_fractional_stride() -> None:
    """A transposed convolution of stride 2 as an ordinary one of an input with zeros between its pixels."""
    given = torch.tensor([[16.0, 48.0], [64.0, 32.0]])
    module = Deconv(1, 1, factor=2, source_channels=1)
    output = module(given[None, None], torch.empty(1, 1, 4, 4))[0, 0]
    axes = sliding(
        given=given,
        kernel=module.weight[0, 0],
        output=output,
        spacing=2,
        padding=2,
        scale=16,
        titles=("input", "zeros between (yellow), around (grey)", "bilinear kernel \u00d7 16", "output"),
        at=(1, 1),
    )
    save(axes, "transposed_as_fractional_stride.png")


@torch.no_grad()
def draw_four_ways() -> None:
    """The same 2x2 map enlarged by four modules, with what each of them needs besides."""
    given = torch.tensor([[16.0, 48.0], [64.0, 32.0]])
    source = torch.tensor([[9.0, 2, 1, 3], [4, 1, 8, 2], [1, 3, 2, 5], [7, 2, 4, 1]])
    _, switches = F.max_pool2d(source[None, None], 2, return_indices=True)
    deconv = Deconv(1, 1, factor=2, source_channels=1)
    line = torch.tensor([-0.25, 1.0, 0.5, -0.25])  # not bilinear: what training might make of it
    deconv.weight.copy_(line[:, None] * line[None, :])
    ways = {
        "nearest": Nearest(1, 1, factor=2, source_channels=1),
        "bilinear": Bilinear(1, 1, factor=2, source_channels=1),
        "unpooling": Unpool(1, 1, factor=2, source_channels=1),
        "transposed convolution": deconv,
    }
    axes = page(1290, 590)
    needs, outputs, x = 100, 380, 214
    grid(axes, given, 40, outputs + CELL, title="input", top=90)
    for name, module in ways.items():
        output = module(given[None, None], source[None, None])[0, 0]
        write(axes, x + 2 * CELL, 26, name, size=11)
        arrow(axes, (x + 2 * CELL, needs + 4 * CELL + 10), (x + 2 * CELL, outputs - 44))
        grid(axes, output, x, outputs, title="output", top=90)
        if name == "unpooling":
            grid(axes, source, x, needs, title="the encoder's map, its maxima", top=14)
            for place in switches.flatten().tolist():
                for y in (needs, outputs):
                    frame(axes, x + CELL * (place % 4), y + CELL * (place // 4), CELL, CELL)
        elif isinstance(module, Deconv):
            grid(axes, 16 * module.weight[0, 0], x, needs, title="any kernel, here \u00d7 16", top=22)
        else:
            write(axes, x + 2 * CELL, needs + 2 * CELL, "needs nothing\nbut the input", colour=QUIET)
        x += 4 * CELL + 88
    save(axes, "four_ways_up.png")


def reduce(mask: Tensor, stride: int, classes: int) -> Tensor:
    """(H, W) indices to (1, classes, H/stride, W/stride): each class's share of the pixel."""
    shares = F.one_hot(mask.long(), classes).permute(2, 0, 1)[None].float()
    return F.avg_pool2d(shares, stride) if stride > 1 else shares


def enlarged(shares: Tensor, stride: int) -> Tensor:
    """(1, C, h, w) to (h * stride, w * stride) indices, in one bilinear jump."""
    channels, height, width = shares.shape[1:]
    jump = Bilinear(channels, channels, factor=stride, source_channels=channels)
    logits: Tensor = jump(shares, torch.empty(1, 1, height * stride, width * stride))
    return logits.argmax(1)[0]


def most(data: Shapes, stride: int) -> float:
    """The mIoU over a split of masks known only as class shares at a stride, against themselves."""
    total = torch.zeros(len(data.classes), len(data.classes), dtype=torch.int64)
    for index in range(len(data)):
        mask = torch.from_numpy(data.read(index).mask)
        guess = enlarged(reduce(mask, stride, len(data.classes)), stride)
        total = total + confusion_matrices(guess[None], mask[None], len(data.classes))[0]
    return scores(total.numpy())["miou"]


def encoder_and_stops() -> tuple[Encoder, dict[int, list[str]]]:
    """The default encoder, and which named architectures stop at which stride, read from ``conf/``."""
    names = {f"fcn{stride}s": f"FCN-{stride}s" for stride in (32, 16, 8, 4, 2)} | {
        "unet": "U-Net",
        "segnet_basic": "SegNet",
    }
    stops: dict[int, list[str]] = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for name, written in names.items():
            stops.setdefault(compose("train", [f"model={name}"]).model.stride, []).append(written)
        encoder: Encoder = build.instantiate_group(compose("train"), "encoder")
    return encoder, stops


def thumbnail(axes: Axes, picture: NDArray[np.uint8], x: float, y: float, side: float) -> None:
    """A picture with its pixels as squares."""
    axes.imshow(picture, extent=(x, x + side, y + side, y), interpolation="nearest", aspect="auto", zorder=2)
    axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=INK, lw=0.8, zorder=3))


@torch.no_grad()
def draw_ladder(index: int = 24) -> None:
    """Encoder down, neck, decoder up, and where the named architectures leave the ladder in one jump."""
    data = Shapes(split="val")
    sample, palette, classes = data.read(index), np.array(data.palette, np.uint8), len(data.classes)
    encoder, stops = encoder_and_stops()
    image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].float()
    features = encoder.eval()(image)
    mask = torch.from_numpy(sample.mask)

    axes = page(1400, 600)
    side, across, down, top, last = 62, 80, 88, 44, len(encoder.strides) - 1
    enters, leaves, column = 24, 24 + across * last + 176, 1222
    for x, text in ((enters, "encoder"), (leaves + across * last, "decoder"), (column, "full size")):
        write(axes, x + side / 2, 20, text, size=10)
    write(axes, column + side + 54, 20, "mIoU", size=10)
    for row, stride in enumerate(encoder.strides):
        y, left, right = top + down * row, enters + across * row, leaves + across * (last - row)
        middle = y + side / 2
        shares = reduce(mask, stride, classes)
        pixels = F.avg_pool2d(image, stride)[0].permute(1, 2, 0).round().byte().numpy()
        thumbnail(axes, pixels, left, y, side)
        thumbnail(axes, palette[shares.argmax(1)[0]], right, y, side)
        thumbnail(axes, palette[enlarged(shares, stride)], column, y, side)
        write(axes, column + side + 54, middle, f"{most(data, stride):.2f}", size=9)
        height, width = features[stride].shape[-2:]
        size = f"stride {stride}:  {height} \u00d7 {width}"
        if row < last:
            arrow(axes, (left + side + 4, middle), (right - 4, middle), colour=QUIET, dashed=True)
            label = axes.text(
                (left + side + right) / 2, middle, size, fontsize=8.5, color=INK, ha="center", va="center"
            )
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 2})
            arrow(axes, (left + side - 8, y + side + 3), (left + across + 8, y + down - 3), colour=INK)
            arrow(axes, (right - across + side - 8, y + down - 3), (right + 8, y + side + 3), colour=UP)
        else:
            neck = (left + side + right) / 2
            arrow(axes, (left + side + 4, middle), (neck - 36, middle))
            axes.add_patch(Rectangle((neck - 34, middle - 18), 68, 36, facecolor="#f2f2f2", edgecolor=INK, lw=0.8))
            write(axes, neck, middle, "neck")
            arrow(axes, (neck + 36, middle), (right - 4, middle))
            write(axes, neck, y + side + 16, size)
        arrow(axes, (right + side + 4, middle), (column - 4, middle), colour=MARK)
        names = ", ".join(stops.get(stride, []))
        jump = f"{names}: one jump \u00d7 {stride}" if stride > 1 else names
        write(axes, (right + side + column) / 2, middle - 13, jump, size=9, colour=MARK)
    legend = (
        "black: max-pooling, \u00f7 2",
        "blue: one step up, \u00d7 2",
        "dashed: skips. FCN sums scores,",
        "U-Net concatenates features, SegNet",
        "sends only the places of its maxima.",
        "Right: the true mask, kept at the stride,",
        "then enlarged; mIoU over 100 scenes.",
    )
    for line, text in enumerate(legend):
        write(axes, enters, 408 + 26 * line, text, size=8, colour=QUIET, align="left")
    save(axes, "ladder.png")


if __name__ == "__main__":
    mpl.use("Agg")
    draw_padding()
    draw_fractional_stride()
    draw_four_ways()
    draw_ladder()
