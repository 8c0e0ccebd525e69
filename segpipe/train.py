"""``python -m segpipe.train``: a single training, or with -m a sweep."""

import logging
import os
import sys
import warnings
from pathlib import Path

from segpipe.engine import startup  # noqa: F401  (has to be first, see its docstring)

# isort: split
import hydra
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from segpipe.config import schema
from segpipe.config.messages import user_errors
from segpipe.config.overrides import repetitions
from segpipe.engine import command_line, dry_run, ranks, scheduler
from segpipe.engine.fit import train as train
from segpipe.engine.processes import CONFIG_NAME, PARENT_PIPE, exit_with_parent
from segpipe.engine.shutdown import exit_after, raise_on_signals
from segpipe.engine.stages import run_stages
from segpipe.engine.sweep import check_no_cells, names_class
from segpipe.errors import UserError
from segpipe.runs.run import LOCK, quote_template, remove_if_empty
from segpipe.training import devices


@hydra.main(  # type: ignore[untyped-decorator]
    version_base="1.3", config_path=str(schema.CONF), config_name=CONFIG_NAME
)
def hydra_main(cfg: DictConfig) -> float | None:
    """The function that Hydra calls: once for a single training, once per job in a sweep.

    Returns validation mIoU, for sweepers that choose the next jobs by it; None where none is needed. Such a sweeper
    counts its failed jobs, so NoResult is raised, not turned into the end of the process.
    """
    context = HydraConfig.get()
    blocking = not names_class(context.launcher._target_, BasicLauncher)
    sweeps = context.mode == RunMode.MULTIRUN
    if sweeps and blocking:  # in a process of another launcher, which reports the error
        return run_job(cfg)
    try:
        with user_errors(but=(scheduler.NoResult,)):  # also here, or Hydra would add a line to the message
            return run_job(cfg)
    finally:
        if not sweeps:  # on other ranks, a folder with a lock may belong to rank 0
            beside = frozenset(() if devices.detect_rank().rank else {LOCK})
            remove_if_empty(Path(context.runtime.output_dir), beside=beside)


def run_job(cfg: DictConfig) -> float | None:
    """Train once, or add one job of a sweep to its scheduler. Returns as ``hydra_main``."""
    context = HydraConfig.get()
    cfg.run_dir = cfg.run_dir or context.runtime.output_dir
    overrides = list(context.overrides.task)
    if cfg.stages:
        devices.check_not_launched("stages")
    if dry_run.requested[0]:
        show_dry_run(cfg, overrides, context)
        return None
    if context.mode == RunMode.MULTIRUN:
        blocking = not names_class(context.launcher._target_, BasicLauncher)
        chosen = not names_class(context.sweeper._target_, BasicSweeper)
        return scheduler.dispatch(cfg, overrides, blocking=blocking, result_needed=chosen)
    check_no_cells(cfg)
    schema.check_keys(cfg, ("resume", "run_dir", "stages", "trust"))
    if cfg.stages:
        sys.exit(run_stages(cfg, overrides))
    effective = ranks.effective_config(cfg, overrides)
    if (number := ranks.ranks_to_start(effective)) > 1:
        sys.exit(ranks.supervise(number, effective, overrides))
    metrics = train(cfg)
    return metrics["val"]["miou"] if metrics else None


def show_dry_run(cfg: DictConfig, overrides: list[str], context: DictConfig) -> None:
    """Print what a single training costs. Raises UserError for a sweeper that chooses jobs by results."""
    remove_if_empty(Path(context.runtime.output_dir))
    if context.mode == RunMode.MULTIRUN:
        raise UserError(
            f"{dry_run.OPTION}: this sweeper ({context.sweeper._target_}) chooses its jobs by their results. Remove "
            f"the option, or give lists of values and Hydra's basic sweeper."
        )
    with user_errors():
        check_no_cells(cfg)
        dry_run.show([(cfg, overrides)], total=1, folder=None)


def main() -> None:
    """The command line. Errors that the user can fix are printed as a short message."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises the original error
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*|lightning_fabric\..*|torch\.optim\.lr_scheduler")
    raise_on_signals()
    by_hand = PARENT_PIPE not in os.environ
    exit_with_parent()
    dry_run.take_option(sys.argv)
    sys.argv[1:] = map(quote_template, sys.argv[1:])
    with user_errors(), devices.flushed_denormals():
        sys.argv[1:] = command_line.arranged(sys.argv[1:])
        if by_hand:
            print("".join(f"{note}\n" for note in repetitions(sys.argv[1:])), end="", file=sys.stderr, flush=True)
        devices.silence_nonzero_ranks()
        try:
            hydra_main()
            status = scheduler.finish()
        finally:
            scheduler.cancel()
    sys.exit(status)


if __name__ == "__main__":
    exit_after(main)
