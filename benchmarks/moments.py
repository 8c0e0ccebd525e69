"""One job whose moments are taken down: ``python -m segpipe.train`` with clocks around what it calls, from outside.

Started by ``benchmarks.overhead``. It loads nothing large before the product does, so that the imports are all counted.
"""

import functools
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENTERED = time.monotonic()  # a clock that parent and child share
BEGAN, WRITTEN = "SEGPIPE_BENCHMARK_BEGAN", "SEGPIPE_BENCHMARK_MOMENTS"  # when the parent started us; where to write
PLACES = (  # (where, what, the part that it is); time is the innermost part's
    ("segpipe.train", "main", "configuration"),
    ("segpipe.train", "train", "between the parts"),
    ("segpipe.config.compatibility", "validate", "refusals"),
    ("segpipe.data.module:SegmentationData", "check", "refusals"),
    ("segpipe.config.identity", "digest", "identity"),
    ("segpipe.config.build", "data", "data"),
    ("segpipe.data.module:Samples", "__init__", "data"),
    ("segpipe.config.build", "task", "network"),
    ("segpipe.engine.resume:Start", "__init__", "record"),
    ("segpipe.engine.resume:Start", "write", "record"),
    ("segpipe.runs.run:Run", "update", "record"),
    ("segpipe.config.build", "logger", "logger starts"),
    ("segpipe.config.build", "trainer", "Lightning"),
    ("pytorch_lightning:Trainer", "fit", "Lightning"),
    ("segpipe.training.task:SegmentationTask", "training_step", "steps"),
    ("segpipe.training.callbacks:LogPredictions", "on_validation_end", "overlays for W&B"),
    ("segpipe.training.callbacks:AtomicCheckpointIO", "save_checkpoint", "checkpoints"),
    ("pytorch_lightning.loops.evaluation_loop:_EvaluationLoop", "run", "validation and test"),
    ("segpipe.models.cost", "measure", "cost"),
    ("segpipe.engine.fit", "save_prediction_grid", "picture"),
    ("segpipe.engine.fit", "log_result", "logger ends"),
    ("segpipe.training.tracking", "finish", "logger ends"),
    ("segpipe.engine.fit", "print_summary", "summary"),
)


class Clock:
    """Seconds by part. A part that is entered inside another stops the other's clock until it is left."""

    def __init__(self, first: str, since: float) -> None:
        self.seconds: dict[str, float] = {}
        self.busy: dict[str, float] = {}  # seconds of a processor
        self.inside = [first]
        self.since, self.used = since, time.process_time()
        self.steps: list[tuple[float, float]] = []

    def turn(self) -> None:
        """Give the time since the last turn to the part that we are in."""
        now, used = time.monotonic(), time.process_time()
        part = self.inside[-1]
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.since
        self.busy[part] = self.busy.get(part, 0.0) + used - self.used
        self.since, self.used = now, used

    def around(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function with its part's clock around it."""

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            self.turn()
            self.inside.append(part)
            began, used = self.since, self.used
            try:
                return function(*arguments, **named)
            finally:
                self.turn()
                self.inside.pop()
                if part == "steps":
                    self.steps.append((self.since - began, self.used - used))

        return timed


def put_clocks(clock: Clock) -> None:
    """Around everything in PLACES."""
    for where, name, part in PLACES:
        module, _, owner = where.partition(":")
        target: Any = importlib.import_module(module)
        target = getattr(target, owner) if owner else target
        setattr(target, name, clock.around(getattr(target, name), part))


def job(clock: Clock) -> None:
    """Train as the command line says; write down the moments, ``left`` being the last."""
    from segpipe import train

    clock.turn()
    put_clocks(clock)
    clock.since, clock.used = time.monotonic(), time.process_time()
    clock.inside = ["between the parts"]
    try:
        train.main()
    finally:
        clock.turn()
        found = {"seconds": clock.seconds, "busy": clock.busy, "steps": clock.steps, "left": clock.since}
        Path(os.environ[WRITTEN]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    began = float(os.environ[BEGAN])
    times = Clock("imports", ENTERED)
    times.seconds["Python"], times.busy["Python"] = ENTERED - began, times.used
    sys.argv[0] = "segpipe/train.py"
    from segpipe.engine.shutdown import exit_after  # loads nothing

    exit_after(lambda: job(times))
