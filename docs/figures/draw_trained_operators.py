"""Draw operators_trained.png and operators_trained_map.png of docs/operators.md: every operator after training.

The runs are those of the sweep of docs/results.md, whose checkpoints are not in the repository::

    python -m segpipe.train experiment=sweep_operators seed=0 fusion=sum
    python docs/figures/draw_trained_operators.py outputs/sweeps/sweep_operators

Shown is the operator of the step to stride 4 of the network with summed skips, seed 0, before and after training. A
trained operator expects the features of its network. So a pattern with values t is given as u + t (v - u) in each cell:
u and v are the network's mean features, over cells of the test images that lie completely in the background and
completely in the most frequent other class. The encoder's map at stride 4 has the same pattern, twice as fine, between
its own means. The result y is shown as the number that is 0 for the operator's mean result on a map of u everywhere, U,
and 1 for that on a map of v, V: <y - U, V - U> / |V - U|^2. It does not depend on the order of channels.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import SubFigure
from torch import Tensor

from segpipe.config import build
from segpipe.data.dataset import Sample, evenly
from segpipe.engine.predictor import Predictor
from segpipe.lab.cells import as_batch, cell_fractions, padded_size
from segpipe.lab.slots import Place, places, recording
from segpipe.models.network import Network
from segpipe.runs.run import Run

HERE = Path(__file__).parent
STRIDE, FACTOR = 4, 2
IMAGES = 40  # of the test split
COMPLETE = 0.999  # share of a cell that lies in a class
BELOW, ABOVE = -0.5, 1.5  # the ends of the colours
COLOURS = LinearSegmentedColormap.from_list("response", ["#d55e00", "#ffffff", "#56a0d3", "#08306b", "#000000"])
COLUMNS = 5  # operators in a row
MAP = [[16.0, 48.0], [64.0, 32.0]]  # as in operators_map.png, with the encoder's map
MAP_SOURCE = [[9.0, 2, 1, 3], [4, 1, 8, 2], [1, 3, 2, 5], [7, 2, 4, 1]]
EDGE, FINE_EDGE = ((torch.arange(n) >= n // 2).float().expand(n, n) for n in (8, 16))
LINE, FINE_LINE = torch.eye(8), torch.eye(16)


class Means(NamedTuple):
    """The mean features (C, 1, 1) of a map on background and on the other class."""

    low: Tensor
    high: Tensor

    def pattern(self, values: Tensor) -> Tensor:
        """(h, w) to (1, C, h, w): 0 is the background, 1 the other class."""
        return (self.low + values * (self.high - self.low))[None]


class Shown(NamedTuple):
    """An operator with the means of its input and of its source."""

    upsample: torch.nn.Module
    before: Means
    source: Means

    def respond(self, x: Tensor, source: Tensor) -> Tensor:
        """Patterns (h, w) and (2h, 2w) to the response (2h, 2w)."""
        low, high = (self.apply(torch.full((8, 8), value), torch.full((16, 16), value)) for value in (0.0, 1.0))
        low, high = (one[:, 4:12, 4:12].mean((1, 2), keepdim=True) for one in (low, high))  # far from the border
        axis = high - low
        return ((self.apply(x, source) - low) * axis).sum(0) / (axis**2).sum()

    def apply(self, x: Tensor, source: Tensor) -> Tensor:
        """Patterns (h, w) and (2h, 2w) to the operator's result (C, 2h, 2w)."""
        result: Tensor = self.upsample(self.before.pattern(x), self.source.pattern(source))[0]
        return result


def operator_of(network: Network) -> Place:
    """The step to STRIDE."""
    return next(place for place in places(network) if place.section == "decoder" and place.stride == STRIDE)


def shown(network: Network, samples: Sequence[Sample], number: int, classes: int) -> Shown:
    """The operator of a network with the means of its features on background and on a class."""
    place = operator_of(network)
    sums: dict[tuple[int, int], list[Tensor]] = {}
    for sample in samples:
        with recording(network) as record:
            network(as_batch(sample.image, network))
        maps = record.maps(place)
        for stride, features in ((STRIDE * FACTOR, maps.before[0]), (STRIDE, maps.source[0])):
            complete = complete_cells(network, sample, stride, features.shape[-2:], classes)
            for index in (0, number):
                sums.setdefault((stride, index), []).append(features[:, torch.from_numpy(complete[index])])
    means = {key: torch.cat(found, 1).mean(1)[:, None, None] for key, found in sums.items()}
    before, source = (Means(means[stride, 0], means[stride, number]) for stride in (STRIDE * FACTOR, STRIDE))
    return Shown(place.upsample, before, source)


def complete_cells(
    network: Network, sample: Sample, stride: int, shape: Sequence[int], classes: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """For each class and each cell of a map of ``shape``, whether the cell lies completely in the class."""
    size = sample.image.shape[:2]
    padded = padded_size(network, size)
    shares = cell_fractions(
        sample.mask, stride=stride, shape=shape, size=size, padded=padded, num_classes=classes
    )  # fmt: skip
    return shares > COMPLETE


def read_operators(sweep: Path) -> tuple[dict[str, tuple[Shown, Shown]], str]:
    """Each operator before and after training, by name, and the class that is shown."""
    found: dict[str, tuple[Shown, Shown]] = {}
    samples: list[Sample] = []
    number, name = 0, ""
    for folder in sorted(path.parent for path in sweep.glob("*-sum-s0-*/run.json")):
        if Run.open(folder).record.get("status") != "finished":
            continue
        trained = Predictor(folder, device="cpu")
        if not samples:
            dataset = build.dataset(trained.cfg, "test")
            samples = [dataset.read(index) for index in evenly(len(dataset), IMAGES)]
            complete = [
                complete_cells(trained.network, one, 8, [side // 8 for side in one.mask.shape], len(trained.classes))
                for one in samples
            ]
            number = 1 + int(sum(one.sum((1, 2)) for one in complete)[1:].argmax())  # type: ignore[index]
            name = trained.classes[number]
        start = build.network(trained.cfg, len(trained.classes)).eval()
        given = samples, number, len(trained.classes)
        found[str(trained.cfg.decoder.name)] = shown(start, *given), shown(trained.network, *given)
    return dict(sorted(found.items())), name


def draw(place: Axes, values: Tensor, label: str = "") -> None:
    """A map with its label below."""
    place.imshow(values, cmap=COLOURS, vmin=BELOW, vmax=ABOVE)
    place.set(xticks=[], yticks=[])
    place.set_xlabel(label, fontsize=8, labelpad=2)


def draw_edges(operators: dict[str, tuple[Shown, Shown]], name: str) -> None:
    """The step edge and the thin line, by each operator at its start and after training."""
    rows = -(-(len(operators) + 1) // COLUMNS)
    figure = plt.figure(figsize=(11, 2.5 * rows + 0.7), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[2.5 * rows, 0.7])
    blocks = iter(top.subfigures(rows, COLUMNS, hspace=0.04, wspace=0.04).flat)
    first = next(blocks)
    first.suptitle("input", fontsize=11)
    for place, values, label in zip(
        first.subplots(2, 2).flat, (EDGE, FINE_EDGE, LINE, FINE_LINE), ("map", "encoder's map") * 2, strict=True
    ):
        draw(place, values, label)
    for block, (operator, pair) in zip(blocks, operators.items(), strict=False):
        block.suptitle(operator, fontsize=11)
        axes = block.subplots(2, 2)
        for row, (x, source) in zip(axes, ((EDGE, FINE_EDGE), (LINE, FINE_LINE)), strict=True):
            for place, one, label in zip(row, pair, ("start", "trained"), strict=True):
                draw(place, one.respond(x, source), label)
    scale(bottom, name)
    save(figure, "operators_trained.png")


def draw_map(operators: dict[str, tuple[Shown, Shown]], name: str) -> None:
    """The map of 2 x 2 numbers, by each operator after training."""
    x, source = torch.tensor(MAP) / 64, torch.tensor(MAP_SOURCE) / 9
    results = {"input": x, "encoder's map": source}
    results |= {operator: trained.respond(x, source) for operator, (_, trained) in operators.items()}
    rows = -(-len(results) // COLUMNS)
    figure = plt.figure(figsize=(11, 2.4 * rows + 0.7), layout="constrained")
    upper, bottom = figure.subfigures(2, 1, height_ratios=[2.4 * rows, 0.7])
    axes = upper.subplots(rows, COLUMNS)
    for place in axes.flat:
        place.set_axis_off()
    for place, (operator, values) in zip(axes.flat, results.items(), strict=False):
        place.imshow(values, cmap=COLOURS, vmin=BELOW, vmax=ABOVE)
        place.set_title(operator, fontsize=11)
        top = 9 if values is source else 64
        for (row, column), value in np.ndenumerate(values.numpy()):
            ink = "white" if value > 0.55 else "black"
            place.text(
                column, row, f"{top * value:.0f}".replace("-", "\N{MINUS SIGN}"), ha="center", va="center", color=ink
            )
    scale(bottom, name, top=64)
    save(figure, "operators_trained_map.png")


def scale(part: SubFigure, name: str, top: int = 1) -> None:
    """The scale of the colours, in the lowest part of a figure."""
    ticks = [BELOW, 0, 0.5, 1, ABOVE]
    mapped = mpl.cm.ScalarMappable(mpl.colors.Normalize(BELOW, ABOVE), COLOURS)
    _, middle, _ = part.subplots(1, 3, width_ratios=[1, 2, 1])
    for place in part.axes:
        place.set_axis_off()
    middle.set_axis_on()
    bar = part.colorbar(mapped, cax=middle, orientation="horizontal", ticks=ticks)
    bar.ax.set_xticklabels([f"{top * tick:g}".replace("-", "\N{MINUS SIGN}") for tick in ticks])
    bar.set_label(f"0: background, {top}: class {name}", fontsize=9)


def save(figure: plt.Figure, name: str) -> None:
    """Write a figure as a PNG without the program's version."""
    figure.savefig(HERE / name, dpi=110, facecolor="white", metadata={"Software": None})
    plt.close(figure)


@torch.no_grad()
def main() -> None:
    """Draw both figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="the folder of the sweep, with its checkpoints")
    mpl.use("Agg")
    operators, name = read_operators(parser.parse_args().sweep)
    draw_edges(operators, name)
    draw_map(operators, name)
    print(f"operators_trained.png, operators_trained_map.png: {len(operators)} operators, class {name}")


if __name__ == "__main__":
    main()
