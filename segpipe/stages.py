"""One network after another, each from the weights of the one before: FCN-32s to FCN-16s to FCN-8s in one command."""

import shlex
import sys
from pathlib import Path

from omegaconf import DictConfig

from segpipe.runs import Run, shown
from segpipe.summary import PYTHON
from segpipe.sweep import child, quoted


def run_stages(cfg: DictConfig, overrides: list[str]) -> int:
    """Train ``cfg.stages`` in turn, each a process of its own; the last is the run, the others lie in its ``stages``.

    Each stage is the command line with the stage's overrides laid over. Started again with the same folder, it leaves
    out what is finished and goes on with what is not. Returns the exit status of the stage that failed, else 0.
    """
    final = Path(cfg.run_dir)
    before: Path | None = None
    for number, stage in enumerate(cfg.stages, start=1):
        own = shlex.split(stage)
        last = number == len(cfg.stages)
        folder = final if last else final / "stages" / f"{number}-{own[0].rpartition('=')[2]}"
        print(f"\nStage {number} of {len(cfg.stages)}: {stage}", flush=True)
        if Run(folder).record.get("status") == "finished":
            print("finished before", flush=True)
        else:
            laid_over = [*own, "stages=null", *([f"warm_start={quoted(before)}"] if before else [])]
            replaced = {override.partition("=")[0] for override in [*laid_over, "run_dir="]}
            kept = [override for override in overrides if override.partition("=")[0].lstrip("+~") not in replaced]
            if status := child(folder, [*kept, *laid_over]):
                again = f"{PYTHON} -m segpipe.train {' '.join(overrides)} hydra.run.dir={shown(final)}"
                print(f"Stage {number} ended with status {status}. To go on with it: {again}", file=sys.stderr)
                return status
        before = folder
    return 0
