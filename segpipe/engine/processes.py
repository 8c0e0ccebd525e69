"""Trainings in processes of their own, which leave nothing behind: each leads a group, and ends when its parent does.

A process is forked where that is safe, and then starts with everything imported: on a CPU that saves most of what a
short training costs beside itself. Beside a GPU, or where threads run, it is started afresh.
"""

import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

GRACE = 20.0  # seconds that an interrupted process has to write its record
MODULE = "segpipe.train"
PARENT_PIPE = "SEGPIPE_LEASH"  # in the environment of a process whose standard input ends with its parent
INHERITED_ENV = (
    "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "PL_GLOBAL_SEED",
    "SEGPIPE_NOTE", PARENT_PIPE,
)  # fmt: skip

SWEEP_OVERRIDES = (  # Hydra's own settings that say where and how the jobs of a sweep are run
    "hydra.mode", "hydra.run.", "hydra.sweep", "hydra/sweeper", "hydra.launcher", "hydra/launcher",
)  # fmt: skip

parent_pipes: set[int] = set()  # this process's ends of its children's leashes


class Process(Protocol):
    """What is asked of a process, however it was started; Popen's names."""

    pid: int

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""


class ChildProcess:
    """``python -m segpipe.train ARGUMENTS``, begun at once, in a process group of its own.

    environment: added to this process's. log: a file that what it prints is added to; None: printed here.
    patience: seconds that it has to end by itself when this process is gone.
    """

    def __init__(
        self,
        arguments: list[str],
        *,
        environment: Mapping[str, str] | None = None,
        patience: float = 2 * GRACE,
        log: Path | None = None,
    ) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in INHERITED_ENV}
        start = fork if may_fork() else spawn
        outputs = [os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)] * 2 if log else [1, 2]
        leash, self.parent_pipe = os.pipe()
        parent_pipes.add(self.parent_pipe)
        try:
            self.process: Process = start(
                arguments, {**kept, **(environment or {}), PARENT_PIPE: str(patience)}, leash, outputs
            )
        finally:
            os.close(leash)
            if log:
                os.close(outputs[0])

    def poll(self) -> int | None:
        """See Process."""
        return self.process.poll()

    def wait(self, *, seconds: float = float("inf")) -> int | None:
        """The exit status; None if it still runs when the time is over."""
        end = time.monotonic() + seconds
        while (status := self.poll()) is None and time.monotonic() < end:
            time.sleep(0.02)
        return status

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of the group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        """Let nothing of the group live on; call it when the process has ended, or is to end at once."""
        self.signal(signal.SIGKILL)
        self.wait()
        if self.parent_pipe in parent_pipes:
            parent_pipes.discard(self.parent_pipe)
            os.close(self.parent_pipe)


def end(children: Iterable[ChildProcess], *, grace: float = GRACE) -> None:
    """Leave nothing running: what is at work is interrupted, as by Ctrl-C, and after ``grace`` seconds killed."""
    children = list(children)
    for child in children:
        if child.poll() is None:
            child.signal(signal.SIGINT)
    until = time.monotonic() + grace
    for child in children:
        child.wait(seconds=until - time.monotonic())
        child.close()


def training_arguments(folder: Path, overrides: list[str]) -> list[str]:
    """The arguments of a single training in ``folder``, which goes on with what lies there."""
    return [*overrides, "resume=auto", *single_run_overrides(folder)]


def single_run_overrides(folder: Path) -> list[str]:
    """What makes a command line a single training in ``folder``: Hydra's own overrides, less what is of a sweep.

    An experiment that asks for a sweep would sweep again, so it is told not to.
    """
    asked = list(HydraConfig.get().overrides.hydra) if HydraConfig.initialized() else []
    kept = [override for override in asked if not override.lstrip("+~").startswith(SWEEP_OVERRIDES)]
    return [*kept, "hydra.mode=RUN", f"hydra.run.dir={quote_override(folder)}"]


def train_in(folder: Path, overrides: list[str]) -> int:
    """Train in ``folder`` in a process of its own, and return its exit status."""
    child = ChildProcess(training_arguments(folder, overrides))
    try:
        return child.wait() or 0
    finally:
        end([child])


def quote_override(value: object) -> str:
    """A value as Hydra's grammar takes it, whatever signs are in it: backslashes count only before a quote."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), str(value))
    return f"'{escaped}'"


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    hint = ", as the system does where memory runs out" if -status == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-status).name}{hint}"


def may_fork() -> bool:
    """Whether a copy of this process can train: not one that may have touched a GPU, nor one of several threads."""
    alone = all(thread.name in (threading.main_thread().name, PARENT_PIPE) for thread in threading.enumerate())
    return sys.platform == "linux" and alone and not torch.cuda.is_available()


def spawn(arguments: list[str], environment: dict[str, str], leash: int, outputs: list[int]) -> Process:
    """A new interpreter. outputs: what it prints to, and what errors go to."""
    return subprocess.Popen(
        [sys.executable, "-m", MODULE, *arguments],
        env=environment,
        stdin=leash,
        stdout=outputs[0],
        stderr=outputs[1],
        start_new_session=True,
    )


class Forked:
    """A copy of this process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None

    def poll(self) -> int | None:
        """See Process."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status


def fork(arguments: list[str], environment: dict[str, str], leash: int, outputs: list[int]) -> Process:
    """A copy of this process that runs the module as a new interpreter would, and never returns from here."""
    sys.stdout.flush()
    sys.stderr.flush()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    if pid := os.fork():
        child = Forked(pid)
        while child.poll() is None and os.getpgid(pid) != pid:  # signals go to the group
            time.sleep(0.001)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return child
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        for number, descriptor in enumerate((leash, *outputs)):
            os.dup2(descriptor, number)
        os.environ.clear()
        os.environ.update(environment)
        if threads := environment.get("OMP_NUM_THREADS"):  # read when torch was loaded
            torch.set_num_threads(int(threads))
        GlobalHydra.instance().clear()
        sys.argv = [MODULE, *arguments]
        sys.modules.pop(MODULE, None)
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as asked:
        status = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # whatever comes, a full disk or a signal: what is registered for the exit is the parent's
            os._exit(status)


def close_inherited_pipes() -> None:
    """In a copy of this process: the leashes are not its own, and would hold when this one is gone."""
    while parent_pipes:
        os.close(parent_pipes.pop())


os.register_at_fork(after_in_child=close_inherited_pipes)


def exit_with_parent() -> None:
    """Where this process was started by ``ChildProcess``: end it when its parent is gone, however that went."""
    if patience := os.environ.pop(PARENT_PIPE, None):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a command begun with & does not listen to
        threading.Thread(target=watch_parent, args=[float(patience)], name=PARENT_PIPE, daemon=True).start()


def watch_parent(patience: float) -> None:
    """Standard input ends when the parent does: interrupt as by Ctrl-C, and after ``patience`` kill the group."""
    os.read(0, 1)
    if patience:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(patience)
    os.killpg(0, signal.SIGKILL)
