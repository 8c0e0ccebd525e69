"""Trainings in child processes. Each child leads a process group and ends when its parent ends.

A child is forked where that is safe. It then starts with everything imported, which saves most of the overhead of a
short training on a CPU. With a GPU, or where threads run, a new interpreter is started instead.
"""

import os
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
from omegaconf import DictConfig

from segpipe.config.schema import CONF
from segpipe.errors import INTERRUPTED
from segpipe.runs.run import display_path, quote_override

GRACE = 20.0  # seconds that an interrupted process has in order to write its record
MODULE = "segpipe.train"
CONFIG_NAME = "train"  # of the root configuration
OOM_SCORE = 300  # of 1000: by how much a child is preferred to its parent where the system kills for memory
PARENT_PIPE = "SEGPIPE_LEASH"  # environment variable: standard input is a pipe that closes when the parent ends
INHERITED_ENV = (
    "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "PL_GLOBAL_SEED",
    "SEGPIPE_NOTE", PARENT_PIPE,
)  # fmt: skip

SWEEP_OVERRIDES = (  # Hydra's settings for where and how the jobs of a sweep are run
    "hydra.mode", "hydra.run.", "hydra.sweep", "hydra/sweeper", "hydra.launcher", "hydra/launcher",
)  # fmt: skip

parent_pipes: set[int] = set()  # this process's ends of the pipes to its children


class Process(Protocol):
    """The interface of a process, forked or spawned. The names are those of Popen."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while the process runs."""


class ChildProcess:
    """``python -m segpipe.train ARGUMENTS``, started at once, in a new process group.

    environment: added to the environment of this process. log: the file to which the output is appended; None prints
    it here. patience: seconds that the child has in order to end by itself when this process is gone.
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
        stdin, self.parent_pipe = os.pipe()
        parent_pipes.add(self.parent_pipe)
        try:
            self.process: Process = start(
                arguments, {**kept, **(environment or {}), PARENT_PIPE: str(patience)}, stdin, outputs
            )
        finally:
            os.close(stdin)
            if log:
                os.close(outputs[0])

    def poll(self) -> int | None:
        """See Process."""
        return self.process.poll()

    def wait(self, *, seconds: float = float("inf")) -> int | None:
        """Return the exit status; None if the process still runs after ``seconds``."""
        end = time.monotonic() + seconds
        while (status := self.poll()) is None and time.monotonic() < end:
            time.sleep(0.02)
        return status

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        """Kill all processes of the group. Call it when the process has ended, or has to end at once."""
        self.signal(signal.SIGKILL)
        self.wait()
        if self.parent_pipe in parent_pipes:
            parent_pipes.discard(self.parent_pipe)
            os.close(self.parent_pipe)


def end(children: Iterable[ChildProcess], *, grace: float = GRACE) -> None:
    """End all children: running ones are interrupted, as by Ctrl-C, and killed after ``grace`` seconds."""
    children = list(children)
    for child in children:
        if child.poll() is None:
            child.signal(signal.SIGINT)
    until = time.monotonic() + grace
    for child in children:
        child.wait(seconds=until - time.monotonic())
        child.close()


def training_arguments(folder: Path, overrides: list[str]) -> list[str]:
    """Return the arguments of a single training in ``folder``. It resumes the run in the folder, if there is one.

    Call it while Hydra runs a job: Hydra clears its configuration afterwards, and with it the ``--config-dir``.
    """
    return single_run_arguments(folder, [*overrides, "resume=auto"])


def single_run_arguments(folder: Path, overrides: list[str]) -> list[str]:
    """Return the arguments of a single training in ``folder``: options of Hydra, overrides, and where it runs.

    Hydra's settings of a sweep are left out. ``hydra.mode=RUN`` is added, because an experiment may set the mode to a
    sweep.
    """
    options, given = hydra_options(HydraConfig.get()) if HydraConfig.initialized() else ([], [])
    return [*options, *overrides, *given, "hydra.mode=RUN", f"hydra.run.dir={quote_override(folder)}"]


def hydra_options(hydra: DictConfig) -> tuple[list[str], list[str]]:
    """Return what a command line gives to Hydra itself: options such as ``--config-dir``, and overrides.

    hydra: Hydra's own configuration. The overrides of a sweep are left out. Options have to stand before overrides.
    """
    sources = {source.provider: source for source in hydra.runtime.config_sources}
    options = []
    if "command-line" in sources:
        options.append(f"--config-dir={sources['command-line'].path}")
    if "main" in sources and Path(sources["main"].path) != CONF:
        options.append(f"--config-path={sources['main'].path}")
    if hydra.job.config_name not in (None, CONFIG_NAME):
        options.append(f"--config-name={hydra.job.config_name}")
    given = [str(override) for override in hydra.overrides.hydra]
    return options, [override for override in given if not override.lstrip("+~").startswith(SWEEP_OVERRIDES)]


def shown_options(hydra: DictConfig) -> list[str]:
    """Return what a printed command has to repeat in order to find the same configuration files.

    hydra: Hydra's own configuration.
    """
    options, given = hydra_options(hydra)
    paths = [option.partition("=") for option in options]
    found = [
        f"{name}={display_path(Path(path))}" if "name" not in name else f"{name}={path}" for name, _, path in paths
    ]
    return [*found, *(override for override in given if override.lstrip("+~").startswith("hydra.searchpath"))]


def train_in(folder: Path, overrides: list[str]) -> int:
    """Train in ``folder`` in a child process, and return its exit status."""
    child = ChildProcess(training_arguments(folder, overrides))
    try:
        return child.wait() or 0
    finally:
        end([child])


def describe_exit(status: int) -> str:
    """Return an exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    hint = ", as the system does where memory runs out" if -status == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-status).name}{hint}"


def may_fork() -> bool:
    """Return whether a fork of this process can train: not if it may have used a GPU, or if it has other threads."""
    single = all(thread.name in (threading.main_thread().name, PARENT_PIPE) for thread in threading.enumerate())
    return sys.platform == "linux" and single and not torch.cuda.is_available()


def spawn(arguments: list[str], environment: dict[str, str], stdin: int, outputs: list[int]) -> Process:
    """Start a new interpreter. stdin: descriptor for standard input. outputs: descriptors for output and errors."""
    return subprocess.Popen(
        [sys.executable, "-m", MODULE, *arguments],
        env=environment,
        stdin=stdin,
        stdout=outputs[0],
        stderr=outputs[1],
        start_new_session=True,
    )


class Forked:
    """A forked copy of this process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None

    def poll(self) -> int | None:
        """See Process."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status


def fork(arguments: list[str], environment: dict[str, str], stdin: int, outputs: list[int]) -> Process:
    """Fork this process. The child runs the module like a new interpreter and never returns from this function."""
    sys.stdout.flush()
    sys.stderr.flush()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    if pid := os.fork():
        child = Forked(pid)
        while child.poll() is None and os.getpgid(pid) != pid:  # wait for the new group: signals are sent to it
            time.sleep(0.001)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return child
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, descriptor in enumerate((stdin, *outputs)):
            os.dup2(descriptor, number)
        os.environ.clear()
        os.environ.update(environment)
        if threads := environment.get("OMP_NUM_THREADS"):  # torch has read the variable before the fork
            torch.set_num_threads(int(threads))
        GlobalHydra.instance().clear()
        sys.argv = [MODULE, *arguments]
        sys.modules.pop(MODULE, None)
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as exit_request:
        status = exit_request.code if isinstance(exit_request.code, int) else int(exit_request.code is not None)
    except KeyboardInterrupt:  # before the module has set its handlers
        status = INTERRUPTED
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # even after an error of flush or a signal: the registered exit functions are the parent's
            os._exit(status)


def close_inherited_pipes() -> None:
    """Close the parent's pipes in a forked child: they would stay open when the parent is gone."""
    while parent_pipes:
        os.close(parent_pipes.pop())


os.register_at_fork(after_in_child=close_inherited_pipes)


def exit_with_parent() -> None:
    """If this process was started by ``ChildProcess``, end it when its parent is gone for any reason."""
    if patience := os.environ.pop(PARENT_PIPE, None):
        raise_oom_score()
        threading.Thread(target=watch_parent, args=[float(patience)], name=PARENT_PIPE, daemon=True).start()


def raise_oom_score() -> None:
    """Let Linux choose this process before its parent where memory runs out. It would choose the largest process."""
    score = Path("/proc/self/oom_score_adj")
    with suppress(OSError, ValueError):
        score.write_text(str(min(int(score.read_text()) + OOM_SCORE, 1000)))


def watch_parent(patience: float) -> None:
    """Wait until standard input closes: the parent is gone. Interrupt this process, and kill the group after patience.

    patience: in seconds; 0 kills at once.
    """
    os.read(0, 1)
    if patience:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(patience)
    os.killpg(0, signal.SIGKILL)
