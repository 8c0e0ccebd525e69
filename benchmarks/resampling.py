"""Time of resampled scores and of all comparisons: ``python -m benchmarks.resampling``.

A full factorial on a data set of CamVid's size: 5 decoders x 3 fusions x 3 strides x 5 seeds, 233 images, 11 classes.
"""

import resource
import time
from pathlib import Path

import numpy as np

from benchmarks.coverage import equal_grid
from benchmarks.timing import arguments
from segpipe.analysis.collection import Collection, TrainedNetwork
from segpipe.analysis.statistics.effects import analyse
from segpipe.analysis.statistics.resample import ScoreCounts, score_and_resample


def main() -> None:
    """See the module."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--resamples", type=int, default=10_000)
    given = parser.parse_args()
    networks = [TrainedNetwork([place], network.runs) for network in equal_grid(5) for place in network.points]
    random = np.random.default_rng(0)
    over = random.integers(0, 1000, (len(networks), 5, 233, 11)).astype(np.float64)
    tallies = ScoreCounts(over, over + random.integers(1, 1000, over.shape), np.ones((233, 11)))
    images = [str(number) for number in range(233)]
    collection = Collection(Path(), networks, list(range(5)), [""] * 11, [], images, images, [])
    for _ in range(given.rounds):
        began = time.perf_counter()
        score_and_resample(tallies, images, resamples=given.resamples)
        resampled = time.perf_counter()
        analyse(collection, tallies, resamples=given.resamples)
        whole = time.perf_counter() - resampled
        print(
            f"{len(networks)} networks x 5 seeds x 233 images x 11 classes, {given.resamples:,} resamples: "
            f"{resampled - began:.1f} s; with all comparisons {whole:.1f} s; "
            f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB at most",
            flush=True,
        )


if __name__ == "__main__":
    main()
