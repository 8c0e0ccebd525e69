"""Multirun: each job of a sweep is a process of its own, started by the task that Hydra calls for it."""

import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from segpipe import build
from segpipe.errors import UserError
from segpipe.runs import Run
from segpipe.summary import share

OF_ANOTHER_JOB = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "RANK", "PL_GLOBAL_SEED")
GRACE = 30.0  # seconds that an interrupted job has to write its record


class Job(NamedTuple):
    """A job that has ended: its folder, what was asked for, its exit status."""

    folder: Path
    overrides: list[str]
    returncode: int


jobs: list[Job] = []  # of the sweep that runs in this process


def dispatch(cfg: DictConfig, overrides: list[str]) -> None:
    """Train one job in a child process; a failure is noted, and the sweep goes on.

    A job whose folder says ``finished`` is not run again.
    """
    if any(override.startswith("run_dir=") for override in overrides):
        raise UserError("run_dir cannot be given to a sweep: its jobs would share one folder. Give sweep.name=NAME.")
    folder = Path(cfg.run_dir)
    print(f"\n[{len(jobs) + 1}] {folder.name}: {' '.join(overrides)}", flush=True)
    if Run(folder).record.get("status") == "finished":
        print("finished before", flush=True)
        jobs.append(Job(folder, overrides, 0))
        return
    returncode = child(folder, [*overrides, f"sweep.name={quoted(cfg.sweep.name)}"], sweep=cfg.sweep.name)
    jobs.append(Job(folder, overrides, returncode))
    if returncode:
        print(f"[{len(jobs)}] {folder.name}: failed with status {returncode}; the sweep goes on.", flush=True)


def child(folder: Path, overrides: list[str], *, sweep: str | None = None) -> int:
    """Train in ``folder`` in a process with a process group of its own, and return its exit status.

    A training that was interrupted there is gone on with. The child is told to be a single run: an experiment that asks
    for a sweep would sweep again.
    """
    resume = Run(folder).checkpoint("last").is_file()
    choices = [f"resume={quoted(folder)}"] if resume else overrides
    command = [sys.executable, "-m", "segpipe.train", *choices, "hydra.mode=RUN", f"hydra.run.dir={quoted(folder)}"]
    environment = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_JOB}
    if sweep:
        environment[build.SWEEP] = sweep
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait()
    finally:
        end_group(process)


def quoted(value: object) -> str:
    """A value as Hydra's grammar takes it, whatever signs are in it."""
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of a job running; one that has not ended yet is interrupted first, as by Ctrl-C."""
    with suppress(subprocess.TimeoutExpired):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def finish() -> int:
    """Print a table of the sweep's jobs; return the exit status, 1 if any failed. Outside a sweep, 0 and nothing."""
    if not jobs:
        return 0
    table = Table(title=f"Sweep: {jobs[0].folder.parent}", title_justify="left")
    for heading in ("job", "status", "val mIoU", "test mIoU", "error"):
        table.add_column(heading, overflow="fold")
    for job in jobs:
        run = Run(job.folder)
        metrics = json.loads(run.metrics.read_text(encoding="utf-8")) if run.metrics.is_file() else {}
        found = [share(metrics[split]["miou"]) if metrics else "-" for split in ("val", "test")]
        error = str(run.record.get("error") or f"refused, or ended with status {job.returncode}")
        status, error = ("failed", error.splitlines()[0]) if job.returncode else ("finished", "")
        table.add_row(job.folder.name, status, *found, error)
    console = Console()
    console.print()
    console.print(table)
    failed = [job for job in jobs if job.returncode]
    if failed:
        console.print(f"{len(failed)} of {len(jobs)} jobs failed:", highlight=False)
        for job in failed:
            print("  python -m segpipe.train", shlex.join(job.overrides))
    return int(bool(failed))
