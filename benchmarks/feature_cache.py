"""What does ``encoder.cache`` save in a sweep of decoders on a frozen encoder?

A side trains every decoder of ``--decoders``, with the cache or without. The warm-up round of the side with the cache
writes the features; it is printed apart. The scores of both sides are compared.
"""

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from itertools import count
from pathlib import Path

from benchmarks.plain import configure
from benchmarks.timing import arguments, begin, interleaved, ratio, timed
from segpipe.train import train

CELL = [
    "encoder=vit", "encoder.freeze=1", "model=ladder", "model.stride=4", "model.width=32", "trainer=cpu", "logger=none",
    "+trainer.enable_progress_bar=false", "encoder.pyramid_width=32", "trainer.max_epochs=4", "data.dataset.side=192",
    "data.crop=[192,192]", "data.dataset.train=32", "data.dataset.val=8", "data.dataset.test=8",
]  # fmt: skip


def sweep(folder: Path, overrides: list[str], decoders: list[str], numbers: count, *, cached: bool) -> dict[str, str]:
    """Train a cell for each decoder; return the scores of each, as JSON."""
    found = {}
    for decoder in decoders:
        run = folder / f"run-{next(numbers)}"
        options = [f"decoder={decoder}", f"encoder.cache={str(cached).lower()}", f"run_dir={run}"]
        with redirect_stdout(StringIO()):
            metrics = train(configure(*CELL, *overrides, *options))
        found[decoder] = json.dumps([metrics["val"], metrics["test"]])
    return found


def main() -> None:
    """The command line."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--decoders", nargs="*", default=["nearest", "bilinear", "deconv"])
    parser.add_argument(
        "overrides", nargs="*", default=["encoder.backbone=vit_tiny_patch16_224"], help="as for segpipe.train"
    )
    given = parser.parse_args()
    device = begin(given)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder, numbers = Path(name), count()
        os.environ["SEGPIPE_CACHE"] = str(folder / "cache")
        scores: dict[str, dict[str, str]] = {}
        seconds: list[float] = []

        def side(cached: bool) -> None:
            scores[str(cached)] = sweep(folder, given.overrides, given.decoders, numbers, cached=cached)

        sides: dict[str, Callable[[], float]] = {
            "without": timed(partial(side, False), device),
            "with": timed(partial(side, True), device),
        }
        sides["without"]()  # imports and the first steps of torch, before any figure
        seconds.append(sides["with"]())
        times = interleaved(sides, rounds=given.rounds, warmup=0)
        kept = sum(path.stat().st_size for path in (folder / "cache" / "features").rglob("*.features"))
    cells = len(given.decoders)
    for label, taken in (("first, writing", seconds), *times.items()):
        print(f"{label:16}{min(taken) / cells:8.2f} s a cell (best of {len(taken)})")
    print(f"without / with: {ratio(times['without'], times['with'])}")
    print(f"features: {kept / 2**20:.1f} MiB; scores {'equal' if scores['True'] == scores['False'] else 'NOT EQUAL'}")


if __name__ == "__main__":
    main()
