"""The scheduler of a sweep: each job is a child process, and up to ``sweep.workers`` jobs run at a time."""

import os
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from segpipe.config import build
from segpipe.config.plan import make_cell
from segpipe.config.schema import key_of
from segpipe.engine.listing import Listing
from segpipe.engine.processes import ChildProcess, describe_exit, end, shown_options, training_arguments
from segpipe.engine.progress import EXTENDED, ProgressView, print_cells
from segpipe.engine.sweep import SweepCallback, check_folder, check_no_cells, check_sweep
from segpipe.errors import UserError, printable
from segpipe.runs import checkpoints
from segpipe.runs.environment import code_version
from segpipe.runs.records import Metrics, Status, read_record
from segpipe.runs.run import PYTHON, Run, display_path, quote_override, remove_if_empty, shell_line, typed, typed_path
from segpipe.training import devices

LOG = "output.log"  # file in a run's folder with the output of its process
POLL = 0.1  # seconds
LET_GO = 1.0  # seconds after the end of a job: a killed process of its group may hold the run's lock for a moment


class NoResult(UserError):
    """Raised where a sweeper needs the result of a job, but the cell is invalid or its run is not finished."""


class Job(NamedTuple):
    """A running job. before: the run's record when the process was started. printed: the size of its log then, bytes.

    slot: its index among the workers. since: the start, in seconds since the epoch.
    """

    child: ChildProcess
    run: Run
    slot: int
    since: float
    before: dict[str, Any]
    printed: int


class Scheduler:
    """Trains the submitted runs, ``workers`` at a time. Each has a share of the GPUs or of the CPU cores.

    name: of the sweep, for W&B. gpu: whether the runs train on GPUs. per_gpu: see ``split_devices``. keep: which
    checkpoints finished runs keep. Raises UserError where there are fewer devices than workers.
    """

    def __init__(self, *, name: str, workers: int, gpu: bool, per_gpu: int = 1, keep: checkpoints.Keep = "all") -> None:
        self.name = name
        self.keep = keep
        self.environments = devices.split_devices(workers, gpu=gpu, per_gpu=per_gpu)
        self.board = ProgressView(workers=len(self.environments))
        self.code = code_version()
        self.other_code: dict[str, int] = {}  # code version: the number of runs that were started with it
        self.waiting: deque[tuple[Path, list[str]]] = deque()
        self.jobs: list[Job] = []
        self.known: set[Path] = set()
        torch.set_num_threads(1)  # a thread pool does not work after a fork

    def submit(self, folder: Path, overrides: list[str]) -> None:
        """Queue a run, unless it is finished or was submitted before."""
        if folder in self.known:
            return
        self.known.add(folder)
        run = Run(folder)
        if run.record.get("extended_from"):
            self.board.print_line(f"Skipped: {folder.name} {EXTENDED}.")
        elif run.record.get("status") == "finished":
            self.board.already_finished(run)
            self.compact(run)  # an earlier process may have ended between the training and this step
        else:
            self.waiting.append((folder, training_arguments(folder, overrides)))
        self.note_code(run)
        self.step()

    def note_code(self, run: Run) -> None:
        """Count a run of an earlier start that was trained by other code, and print that for the first one."""
        trained_by = run.record.get("git")
        if not (isinstance(trained_by, str) and self.code and trained_by != self.code):
            return
        if not self.other_code:
            self.board.print_line(
                f"Note: this sweep goes on with other code: {run.folder.name} was trained by {trained_by}, and this is "
                f"{self.code}. Differences between runs may come from the code."
            )
        self.other_code[trained_by] = self.other_code.get(trained_by, 0) + 1

    def step(self) -> None:
        """Handle the jobs that have ended, and start waiting runs on free slots."""
        for job in [job for job in self.jobs if job.child.poll() is not None]:
            self.jobs.remove(job)
            end([job.child])
            state = settle(job)
            if state == "finished":
                self.compact(job.run)
            self.board.ended(Run(job.run.folder), state, time.time() - job.since, self.left)
        free = set(range(len(self.environments))) - {job.slot for job in self.jobs}
        while free and self.waiting:
            folder, arguments = self.waiting.popleft()
            folder.mkdir(parents=True, exist_ok=True)
            slot = free.pop()
            environment = self.environments[slot] | {build.SWEEP: self.name}
            log, run = folder / LOG, Run(folder)
            printed = log.stat().st_size if log.is_file() else 0
            child = ChildProcess(arguments, environment=environment, log=log)
            self.jobs.append(Job(child, run, slot, time.time(), dict(run.record), printed))
        self.board.show([(job.run, job.since) for job in self.jobs], self.left)

    def compact(self, run: Run) -> None:
        """Remove the checkpoints that ``sweep.keep`` excludes. If that fails, all are kept; the sweep continues."""
        try:
            checkpoints.compact(run, self.keep)
        except (OSError, UserError) as error:
            self.board.print_line(f"sweep.keep={self.keep}: {display_path(run.folder)} keeps its checkpoints: {error}")

    @property
    def left(self) -> int:
        """The number of runs that have not ended, plus the jobs that are still to come and may be runs."""
        return len(self.waiting) + len(self.jobs) + SweepCallback.jobs

    def wait_all(self) -> None:
        """Wait until all runs have ended."""
        while self.waiting or self.jobs:
            self.step()
            time.sleep(POLL)

    def close(self) -> None:
        """Interrupt the running jobs and record that."""
        end(job.child for job in self.jobs)
        for job in self.jobs:
            settle(job, interrupted=True)
        self.jobs = []
        self.board.close()


slots: list[Scheduler] = []  # the scheduler of this process: none or one
listings: list[Listing] = []  # the list of cells that this process writes: none or one


def reset_sweep() -> None:
    """Reset the sweep in a forked child: the child is a job, and the sweep belongs to the parent."""
    slots.clear()
    listings.clear()
    SweepCallback.folder, SweepCallback.jobs, SweepCallback.options = None, 0, []
    SweepCallback.requested = None


os.register_at_fork(after_in_child=reset_sweep)


def dispatch(cfg: DictConfig, overrides: list[str], *, blocking: bool, result_needed: bool = False) -> float | None:
    """Handle one job of a sweep: add its cell to ``sweep.json``, and queue its run.

    blocking: train now and wait for the end, because another process runs the sweep (Hydra's joblib, submitit).
    result_needed: wait for the end and return validation mIoU, because a sweeper chooses the next jobs by it (Optuna).
    An invalid or failed cell is recorded, and the sweep continues. Raises UserError for overrides that a sweep cannot
    have, and NoResult where a result is needed and there is none.
    """
    check_no_cells(cfg)
    check_sweep(cfg, overrides)
    if SweepCallback.folder:
        named, place = str(cfg.sweep.name) != SweepCallback.name, Path(HydraConfig.get().sweep.dir)
        check_folder(shell_line(overrides), place, SweepCallback.folder, named=named)
    folder = Path(cfg.run_dir)
    SweepCallback.jobs = max(SweepCallback.jobs - 1, 0)
    if not SweepCallback.options and HydraConfig.initialized():  # in a process of another launcher
        SweepCallback.options = shown_options(HydraConfig.get())
    cell = make_cell(cfg, [override for override in overrides if not key_of(override).startswith("sweep.")])
    if not listings:
        listings.append(Listing(folder.parent))
    listings[0].add(cell, tuning_seeds=None if cell.error else cfg.sweep.tuning_seeds)
    show = slots[0].board.print_line if slots else print
    listings[0].report(show)
    if cell.run is None:
        reason = f"{'Invalid' if cell.refused else 'Failed'}: {cell.label}: {cell.refused or cell.error}"
        show(printable(reason))
        remove_if_empty(folder)
        if result_needed:
            raise NoResult(reason)
        return None
    if not slots:
        workers = 1 if blocking else cfg.sweep.workers
        per_gpu = 1 if blocking else cfg.sweep.get("per_gpu", 1)
        gpu = devices.on_gpu(cfg)
        slots.append(
            Scheduler(name=str(cfg.sweep.name), workers=workers, gpu=gpu, per_gpu=per_gpu, keep=cfg.sweep.keep)
        )
    slots[0].submit(folder, [*overrides, f"sweep.name={quote_override(cfg.sweep.name)}"])
    if blocking or result_needed:
        try:
            slots[0].wait_all()
        finally:
            if blocking:
                cancel()
    return val_miou(Run(folder)) if result_needed else None


def val_miou(run: Run) -> float:
    """Return the validation mIoU of a finished run. Raises NoResult where there is none."""
    score = (read_record(run.metrics, Metrics).get("val") or {}).get("miou")
    if score is None or run.record.get("status") != "finished":
        raise NoResult(f"{display_path(run.folder)} has no result: {run.record.get('error') or 'it is not finished'}")
    return float(score)


def settle(job: Job, *, interrupted: bool = False) -> str:
    """Return the final status of a run whose process has ended. If the process did not record it, record it here.

    A run that another command trains is ``running``: its record is left as it is.
    """
    run = Run(job.run.folder)
    if run.record.get("status") != "finished" and is_locked(run):
        return "running"
    run.read()
    status = run.record.get("status")
    if status == "finished" or (run.record != job.before and status not in (None, "running")):
        return str(status)
    error = f"Its process {describe_exit(job.child.poll() or 0)}. See {LOG}."
    if interrupted:
        error = "The run was interrupted and did not end in time."
    elif run.record == job.before:  # the process has ended before the training started
        error = next(filter(None, map(error_in_line, reversed(new_log_lines(job)))), error)
    state: Status = "interrupted" if interrupted else "failed"
    run.finish(state, error)
    return state


def is_locked(run: Run) -> bool:
    """Return whether another process still trains a run after LET_GO seconds."""
    until = time.monotonic() + LET_GO
    while (locked := run.is_running) and time.monotonic() < until:
        time.sleep(0.02)
    return locked


def new_log_lines(job: Job) -> list[str]:
    """Return the lines that a job's process has printed."""
    log = job.run.folder / LOG
    return log.read_bytes()[job.printed :].decode(errors="replace").splitlines() if log.is_file() else []


def error_in_line(line: str) -> str | None:
    """Return the message of a line with an error that the user can fix; None for other lines."""
    return line.removeprefix("segpipe: ") if line.startswith("segpipe: ") else None


def finish() -> int:
    """Train the remaining runs of this process's sweep and print its cells.

    Returns the exit status: 1 if any valid cell is not finished, or if no cell is valid; 0 without a sweep.
    """
    if SweepCallback.folder is None:
        return 0
    for listing in listings:
        listing.write()
    if slots:
        slots[0].wait_all()
        slots[0].board.close()
    all_finished = print_cells(SweepCallback.folder, SweepCallback.name, options=SweepCallback.options)
    for version, number in slots[0].other_code.items() if slots else ():
        print(f"Note: {number} run{'s' if number > 1 else ''} started with other code: {version}; now {slots[0].code}.")
    print(f"Report: {PYTHON} -m segpipe.report {typed_path(SweepCallback.folder)}")
    return int(not all_finished)


def cancel() -> None:
    """End the jobs that are still running, for example after Ctrl-C, and write the cells that wait."""
    while listings:
        with suppress(OSError):  # the error that ends the sweep is already printed
            listings.pop().write()
    while slots:
        stopped = slots.pop()
        if stopped.waiting or stopped.jobs:
            print(
                f"\nInterrupted. To resume: the same command with {typed('sweep.name', stopped.name)}", file=sys.stderr
            )
        stopped.close()
