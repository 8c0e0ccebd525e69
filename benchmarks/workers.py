"""How much sooner is a sweep of small jobs done on several slots than on one?

A sweep of JOBS seeds is run with sweep.workers=1 and with as many as WORKERS says, in turns, each in a new folder: the
seconds of the whole command, imports and planning included. ``--job`` are the overrides of a job.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.timing import arguments, begin, interleaved, ratio

JOB = ["encoder.widths=[8,16,32,64,64]", "data.crop=[64,64]", "trainer=cpu", "trainer.max_epochs=1", "logger=none"]


def main() -> None:
    """Print the ratio."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--jobs", type=int, default=16, help="of the sweep (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="slots of the other side (%(default)s)")
    parser.add_argument("--job", nargs="*", default=JOB, help="overrides of each job")
    given = parser.parse_args()
    begin(given)
    with tempfile.TemporaryDirectory() as folder:
        places = (Path(folder) / str(number) for number in range(2 * given.rounds + 2))

        def sweep(workers: int) -> float:
            place = next(places)
            place.mkdir()
            seeds = f"seed={','.join(map(str, range(given.jobs)))}"
            words = ["segpipe.train", "-m", *given.job, seeds, "sweep.name=x", f"sweep.workers={workers}"]
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", *words], cwd=place, check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - start

        several = f"{given.workers} workers"
        sides = {"1 worker": lambda: sweep(1), several: lambda: sweep(given.workers)}
        times = interleaved(sides, rounds=given.rounds, warmup=0)
    for name, seconds in times.items():
        print(f"{name}: {statistics.median(seconds):.1f} s for {given.jobs} jobs")
    print(f"1 worker / {several}: {ratio(times['1 worker'], times[several])}")


if __name__ == "__main__":
    main()
