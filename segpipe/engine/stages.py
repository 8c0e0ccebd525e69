"""Training in stages, each from the weights of the previous one: FCN-32s, FCN-16s and FCN-8s with one command."""

import shlex
import sys
from pathlib import Path

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from segpipe.config import schema
from segpipe.config.build import STAGES
from segpipe.config.plan import Plan
from segpipe.engine.processes import CONFIG_NAME, shown_options, train_in
from segpipe.errors import UserError
from segpipe.runs.run import PYTHON, quote_override, shell_line, typed


def run_stages(cfg: DictConfig, overrides: list[str]) -> int:
    """Train ``cfg.stages`` in order, each in a child process.

    The last stage is the run; the folders of the others are in its folder ``stages``. Each stage has the overrides of
    the command line and its own. If the command is run again with the same folder, finished stages are skipped and an
    unfinished one is resumed. Returns the exit status of the stage that failed, else 0.
    Raises UserError for an invalid stage before the first one is started.
    """
    schema.check(cfg)
    lines = [[*command_line(overrides, stage), "stages=null"] for stage in cfg.stages]
    config_name = HydraConfig.get().job.config_name if HydraConfig.initialized() else CONFIG_NAME
    for line in lines:
        Plan.of(compose(config_name, line))
    final = Path(cfg.run_dir)
    before: Path | None = None
    for number, (stage, line) in enumerate(zip(cfg.stages, lines, strict=True), start=1):
        name = shlex.split(stage)[0].rpartition("=")[2]
        folder = final if number == len(lines) else final / STAGES / f"{number}-{name}"
        print(f"\nStage {number} of {len(lines)}: {stage}", flush=True)
        status = -1
        try:
            status = train_in(folder, [*line, *([f"warm_start={quote_override(before)}"] if before else [])])
        finally:
            if status:
                options = shown_options(HydraConfig.get()) if HydraConfig.initialized() else []
                again = " ".join([shell_line([*options, *overrides]), typed("hydra.run.dir", final)])
                print(f"Stage {number} did not finish. To resume: {PYTHON} -m segpipe.train {again}", file=sys.stderr)
        if status:
            return status
        before = folder
    return 0


def command_line(overrides: list[str], stage: str) -> list[str]:
    """Return the overrides of the command line and of a stage. Raises UserError where both set the same key."""
    stage_overrides = shlex.split(stage)
    if not stage_overrides:
        raise UserError("stages: an entry is empty. Give overrides for each stage, such as model=fcn16s.")
    set_by_stage = {schema.key_of(override) for override in stage_overrides}
    kept = [override for override in overrides if schema.key_of(override) not in ("stages", "run_dir")]
    for override in kept:
        if schema.key_of(override) in set_by_stage:
            raise UserError(f"{override}: the stage '{stage}' sets this key. Remove it, or change stages=[...].")
    return [*kept, *stage_overrides]
