"""Multirun: each job of a sweep is a process of its own, one after another or on as many slots as ``sweep.workers``."""

import math
import os
import sys
import time
from collections import deque
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from segpipe import build, cells
from segpipe.board import Board, print_cells
from segpipe.errors import UserError
from segpipe.processes import Child, end, quoted, told, training
from segpipe.runs import Run, shown
from segpipe.summary import PYTHON

LOG = "output.log"  # in a run's folder: what its process printed
POLL = 0.1  # seconds


class Asked(Callback):
    """Hydra's word that a sweep begins in this process: which folder it has, how many jobs are still to come."""

    folder: ClassVar[Path | None] = None
    jobs: ClassVar[int] = 0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See Callback; jobs is 0 where the sweeper decides as it goes."""
        Asked.folder = Path(config.hydra.sweep.dir)
        if config.hydra.sweeper._target_.endswith(".BasicSweeper"):
            params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
            given = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
            lengths = {one.key_or_group: len(list(one.sweep_iterator())) for one in given if one.is_sweep_override()}
            Asked.jobs = math.prod(lengths.values())
            print(f"Looking at {Asked.jobs} cells.", flush=True)  # Hydra composes all before the first begins


class Job(NamedTuple):
    """A run at work."""

    child: Child
    run: Run
    slot: int
    since: float


class Slots:
    """Runs what is put to it, ``workers`` at a time, each with its share of the GPUs or of the CPU's cores.

    name: of the sweep, for W&B.
    """

    def __init__(self, *, name: str, workers: int) -> None:
        self.name = name
        self.environments = shares(workers)
        self.board = Board(workers=workers)
        self.waiting: deque[tuple[Path, list[str]]] = deque()
        self.jobs: list[Job] = []
        self.known: set[Path] = set()
        torch.set_num_threads(1)  # a pool of threads would not survive being forked

    def put(self, folder: Path, overrides: list[str]) -> None:
        """A run to be carried out, unless it is finished or was put already."""
        if folder in self.known:
            return
        self.known.add(folder)
        run = Run(folder)
        if run.record.get("status") == "finished":
            self.board.done_before(run)
        else:
            self.waiting.append((folder, overrides))
        self.step()

    def step(self) -> None:
        """Note what has ended; begin what can be."""
        for job in [job for job in self.jobs if job.child.poll() is not None]:
            self.jobs.remove(job)
            end([job.child])
            state = settle(job.run.folder, job.child.poll() or 0)
            self.board.ended(Run(job.run.folder), state, time.time() - job.since, self.left)
        free = set(range(len(self.environments))) - {job.slot for job in self.jobs}
        while free and self.waiting:
            folder, overrides = self.waiting.popleft()
            folder.mkdir(parents=True, exist_ok=True)
            slot = free.pop()
            environment = self.environments[slot] | {build.SWEEP: self.name}
            child = Child(training(folder, overrides), environment=environment, log=folder / LOG)
            self.jobs.append(Job(child, Run(folder), slot, time.time()))
        self.board.show([(job.run, job.since) for job in self.jobs], self.left)

    @property
    def left(self) -> int:
        """Runs that have not ended, and jobs that may be more of them."""
        return len(self.waiting) + len(self.jobs) + Asked.jobs

    def drain(self) -> None:
        """Until all has ended."""
        while self.waiting or self.jobs:
            self.step()
            time.sleep(POLL)

    def close(self) -> None:
        """Leave nothing running; what is at work is interrupted."""
        end(job.child for job in self.jobs)
        for job in self.jobs:
            settle(job.run.folder, job.child.poll() or 0, state="interrupted")
        self.jobs = []
        self.board.close()


slots: list[Slots] = []  # of this process: none or one


def shares(workers: int) -> list[dict[str, str]]:
    """What each slot's environment says of its devices: some of the GPUs, else some of the cores.

    Raises UserError where there are fewer than one for each.
    """
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if "CUDA_VISIBLE_DEVICES" in os.environ else None
    if gpus is None or gpus == [""]:
        gpus = [str(index) for index in range(torch.cuda.device_count())]
    if workers == 1:
        return [{}]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    devices, kind = (len(gpus), "GPUs") if gpus else (cores, "cores")
    if not 1 <= workers <= devices:
        raise UserError(f"sweep.workers={workers}: allowed is 1 to {devices}, the {kind} of this machine.")
    each = devices // workers
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[each * i : each * (i + 1)])} for i in range(workers)]
    return [{"OMP_NUM_THREADS": str(each)}] * workers


def dispatch(cfg: DictConfig, overrides: list[str], *, at_once: bool) -> None:
    """Take in one job of a sweep: list its cell, and train it in a child process when its turn comes.

    at_once: now, and to its end, since another process holds the sweep together (Hydra's joblib, submitit).
    A refusal or a failure is noted, and the sweep goes on.
    """
    if any(override.startswith("run_dir=") for override in overrides):
        raise UserError("run_dir cannot be given to a sweep: its jobs would share one folder. Give sweep.name=NAME.")
    folder = Path(cfg.run_dir)
    Asked.jobs = max(Asked.jobs - 1, 0)
    cell = cells.cell(cfg, overrides)
    cells.add(folder.parent, cell)
    if cell.run is None:
        print(f"{'Refused' if cell.refused else 'Failed'}: {cell.said}: {cell.refused or cell.error}", flush=True)
        with_nothing_in_it(folder)
        return
    if not slots:
        workers = 1 if at_once else cfg.sweep.workers
        slots.append(Slots(name=cfg.sweep.name, workers=workers))
    slots[0].put(folder, [*overrides, f"sweep.name={quoted(cfg.sweep.name)}"])
    if at_once:
        try:
            slots[0].drain()
        finally:
            abandon()


def with_nothing_in_it(folder: Path) -> None:
    """Remove the folder that Hydra made for a job that has no run."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def settle(folder: Path, returncode: int, *, state: str = "failed") -> str:
    """What came of a run whose process has ended; where it could not write that into its record, it is written here."""
    run = Run(folder)
    found = run.record.get("status")
    if found not in (None, "running"):
        return str(found)
    if found is None and (folder / LOG).is_file():  # refused before it began
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        error = next((line for line in reversed(lines) if line.startswith("segpipe: ")), None)
    else:
        error = None
    error = (error or f"Its process {told(returncode)}. See {LOG}.").removeprefix("segpipe: ")
    try:
        run.update(status=state, error=error)
    except OSError as full:  # the disk, say: that the process is gone tells the rest
        print(f"{shown(run.record_path)}: its last state could not be written ({full}).", file=sys.stderr)
    return state


def finish() -> int:
    """Carry out what is left of the sweep of this process, and print it; the exit status, 1 if any cell is not done."""
    if Asked.folder is None:
        return 0
    if slots:
        slots[0].drain()
        slots[0].board.close()
    whole = print_cells(Asked.folder)
    if find_spec("segpipe.report"):
        print(f"Report: {PYTHON} -m segpipe.report {shown(Asked.folder)}")
    return int(not whole)


def abandon() -> None:
    """End what is still at work, if anything is: after Ctrl-C, say."""
    while slots:
        stopped = slots.pop()
        if stopped.left:
            print(f"\nInterrupted. To go on: the same command with sweep.name={stopped.name}", file=sys.stderr)
        stopped.close()
