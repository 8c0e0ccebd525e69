"""What does a job cost beyond its training, and where does it go? From the start of its process to the end of it.

The job is the default one with few steps, a process of its own, nothing sent anywhere. The first has nothing in its
cache; the table is of those that follow. A step's time is the median one's: what the first takes longer is overhead.
"""

import json
import os
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
Parts = dict[str, float]


def one(folder: Path, overrides: list[str]) -> Parts:
    """Seconds of a job by part, ``steps`` among them."""
    written = folder / "moments.json"
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    command = [sys.executable, "-m", "benchmarks.moments", *JOB, f"hydra.run.dir={run}", *overrides]
    own = {"SEGPIPE_CACHE": str(folder / "cache"), WRITTEN: str(written), BEGAN: str(time.monotonic())}
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True)
    ended = time.monotonic()
    if done.returncode:
        sys.exit(f"The job failed:\n{done.stdout}\n{done.stderr}")
    found = json.loads(written.read_text(encoding="utf-8"))
    seconds, steps = dict(found["seconds"]), found["steps"]
    usual = float(np.median(steps))
    seconds["first step, beyond the usual"] = max(0.0, steps[0] - usual)
    seconds["steps"] -= seconds["first step, beyond the usual"]
    return seconds | {"exit": ended - found["left"]}


def table(first: Parts, rounds: list[Parts]) -> str:
    """A line a part, in the order of the job; below, everything but the steps."""
    lines = [f"{'part':<30}{'first':>8}{'median':>9}{'range':>17}"]
    names = [name for name in dict.fromkeys(name for parts in [first, *rounds] for name in parts) if name != "steps"]
    rows = {name: [parts.get(name, 0.0) for parts in [first, *rounds]] for name in names}
    rows["beyond its steps"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    rows["the same without imports"] = [
        everything - python - imports
        for everything, python, imports in zip(rows["beyond its steps"], rows["Python"], rows["imports"], strict=True)
    ]
    for name, (began, *later) in rows.items():
        lines.append(f"{name:<30}{began:8.2f}{np.median(later):9.2f}{f'{min(later):.2f} to {max(later):.2f}':>17}")
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
