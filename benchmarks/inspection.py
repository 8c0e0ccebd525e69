"""What do the parts of ``segpipe.inspect`` cost that need a network and one image?

The maps of one image, the operators (their kernels, and those of the start), and the constant image, of the trained
network and of its start. Printed: the seconds of each part, medians of the rounds, and their sum. Weights are drawn,
not trained: they do not change the time.
"""

from functools import partial

import numpy as np
import torch

from benchmarks.plain import configure
from benchmarks.timing import arguments, begin, interleaved, timed
from segpipe.config import build
from segpipe.engine.inspection import operator_facts
from segpipe.lab.checkerboard import on_constant_image
from segpipe.lab.look import look

CLASSES = 11


def main() -> None:
    """Time the parts."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("overrides", nargs="*", default=["model=segnet"], help="of the network (%(default)s)")
    parser.add_argument("--size", nargs=2, type=int, default=[360, 480], help="height and width of the image")
    given = parser.parse_args()
    device = begin(given)
    cfg = configure(*given.overrides)
    network, start = (build.network(cfg, CLASSES).to(device).eval() for _ in range(2))
    image = (torch.rand(1, 3, *given.size, generator=torch.Generator().manual_seed(0)) * 255).to(device)
    side = on_constant_image(network).side
    works = {
        "maps of the image": partial(look, network, image, size=tuple(given.size)),
        "operators": partial(operator_facts, network, start),
        "constant image": partial(on_constant_image, network),
        "constant image, start": partial(on_constant_image, start, side=side),
    }
    times = interleaved({name: timed(work, device) for name, work in works.items()}, rounds=given.rounds, warmup=0)
    print(f"constant image: {side} x {side}")
    for name, seconds in times.items():
        low, median, high = np.quantile(seconds, [0, 0.5, 1])
        print(f"{name:24}{median:7.1f} s ({low:.1f} to {high:.1f} in {given.rounds} rounds)")
    print(f"{'all':24}{sum(float(np.median(seconds)) for seconds in times.values()):7.1f} s")


if __name__ == "__main__":
    main()
