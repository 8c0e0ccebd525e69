"""What does a job cost beyond its training, and where does it go? From the start of its process to the end of it.

The job is the default one with few steps, a process of its own, nothing sent anywhere. The first has nothing in its
cache; the table is of those that follow. A step's time is the median one's: what the first takes longer is overhead.
Seconds of the clock grow with whatever else the machine does; those of the processor, in the last column, hardly.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.moments import BEGAN, WRITTEN
from benchmarks.timing import arguments, begin

STEPS = 10
JOB = ["trainer=cpu", "trainer.max_epochs=1", f"+trainer.limit_train_batches={STEPS}", "logger.mode=offline"]
Parts = dict[str, tuple[float, float]]  # seconds of the clock, and of the processor


def one(folder: Path, overrides: list[str]) -> Parts:
    """What each part of a job takes, its steps left out."""
    written = folder / "moments.json"
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    command = [sys.executable, "-m", "benchmarks.moments", *JOB, f"hydra.run.dir={run}", *overrides]
    own = {"SEGPIPE_CACHE": str(folder / "cache"), WRITTEN: str(written), BEGAN: str(time.monotonic())}
    before = busy()
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True)
    ended, used = time.monotonic(), busy() - before
    if done.returncode:
        sys.exit(f"The job failed:\n{done.stdout}\n{done.stderr}")
    found = json.loads(written.read_text(encoding="utf-8"))
    parts = {name: (seconds, found["busy"][name]) for name, seconds in found["seconds"].items()}
    parts.pop("steps")
    seconds = np.array(found["steps"])  # of the clock and of the processor
    parts["first step, beyond the usual"] = tuple(np.maximum(0, seconds[0] - np.median(seconds, axis=0)))
    return parts | {"exit": (ended - found["left"], used - sum(found["busy"].values()))}


def busy() -> float:
    """Seconds of a processor that the children which have ended took, with their own."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(first: Parts, rounds: list[Parts]) -> str:
    """A line a part, in the order of the job; below, all of them together."""
    names = list(dict.fromkeys(name for parts in [first, *rounds] for name in parts))
    jobs = [first, *rounds]
    rows = {name: np.array([parts.get(name, (0.0, 0.0)) for parts in jobs]) for name in names}
    rows["all"] = np.sum([rows[name] for name in names], axis=0)
    rows["all but Python and imports"] = rows["all"] - rows["Python"] - rows["imports"]
    lines = [f"{'part':<30}{'first':>8}{'median':>9}{'range':>17}{'processor':>12}"]
    for name, both in rows.items():
        clock, processor = both[1:].T
        extent = f"{clock.min():.2f} to {clock.max():.2f}"
        lines.append(f"{name:<30}{both[0, 0]:8.2f}{np.median(clock):9.2f}{extent:>17}{np.median(processor):12.2f}")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("overrides", nargs="*", help="of the configuration, as on the command line of training")
    given = parser.parse_args()
    if given.device != "cpu":
        parser.error("the job runs on the CPU; --device is not for it")
    begin(given)
    with tempfile.TemporaryDirectory() as folder:
        first, *rounds = (one(Path(folder), given.overrides) for _ in range(given.rounds + 1))
    print(f"Seconds of a job of {STEPS} steps beyond them; {given.rounds} rounds after the first\n")
    print(table(first, rounds))


if __name__ == "__main__":
    main()
