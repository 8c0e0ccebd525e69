"""Launcher of the ranks of one training. The command starts the ranks as child processes and watches them.

Lightning's launcher makes the command itself rank 0 and kills it when another rank fails, so no process can record the
reason. Here the command does not train: it waits, ends the other ranks when one has failed, and updates the record.
"""

import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from segpipe.config.schema import key_of
from segpipe.engine.processes import ChildProcess, describe_exit, end, single_run_arguments
from segpipe.engine.resume import resume_config
from segpipe.errors import INTERRUPTED
from segpipe.runs.environment import cores
from segpipe.runs.records import Status
from segpipe.runs.run import Run
from segpipe.training import devices

DETECTION_SECONDS = 5.0  # seconds that ranks have in order to detect a failed rank themselves
GRACE = 8.0  # seconds that interrupted ranks have in order to write; less than processes.GRACE, the limit in a sweep
POLL = 0.05
TAIL = 12  # lines of a failed rank's output that are printed


class Rank(NamedTuple):
    """A running rank. note: the file to which it writes its error. log: the file of its output, None for rank 0."""

    number: int
    child: ChildProcess
    note: Path
    log: Path | None


def effective_config(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Return the configuration that will be trained: with ``resume=RUN`` that of the run.

    Raises UserError where the run cannot be resumed.
    """
    return resume_config(cfg, overrides=overrides) if cfg.resume and cfg.resume != "auto" else cfg


def ranks_to_start(cfg: DictConfig) -> int:
    """Return how many ranks this process has to start; 1 if it trains itself.

    Raises the errors of ``devices.requested_devices``.
    """
    if devices.detect_rank().launched:
        return 1
    if cfg.trainer.get("num_nodes", 1) > 1:
        devices.check(cfg, devices.SINGLE_PROCESS)
    return devices.requested_devices(cfg)


def supervise(number: int, cfg: DictConfig, overrides: list[str]) -> int:
    """Train with ``number`` processes in one folder. Return the exit status: 0, 1, or 130 after Ctrl-C.

    cfg: see ``effective_config``. overrides: those of the command line.
    """
    kept = [override for override in overrides if key_of(override) != "run_dir"]
    arguments = single_run_arguments(Path(cfg.run_dir), kept)
    ranks: list[Rank] = []
    with reserved_port() as port, tempfile.TemporaryDirectory(prefix="segpipe-ranks-") as notes:
        try:
            for rank in range(number):
                note = Path(notes) / f"{rank}.note"
                log = Path(notes) / f"{rank}.log" if rank else None
                environment = rank_environment(rank, number, port, gpu=devices.on_gpu(cfg)) | {devices.NOTE: str(note)}
                ranks.append(
                    Rank(rank, ChildProcess(arguments, environment=environment, log=log, patience=0), note, log)
                )
            failed_rank = watch(ranks)
            end([rank.child for rank in ranks], grace=GRACE)
        except KeyboardInterrupt:
            end([rank.child for rank in ranks], grace=GRACE)
            finalise_record(cfg, ranks, "interrupted", "KeyboardInterrupt: ", unless="interrupted")
            return INTERRUPTED
        if failed_rank is None:
            return 0
        return report(cfg, ranks, failed_rank)


def rank_environment(rank: int, number: int, port: int, *, gpu: bool) -> dict[str, str]:
    """Return the environment of one of ``number`` ranks on this machine. On a CPU the ranks share the cores."""
    environment = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if not gpu:
        threads = int(os.environ.get("OMP_NUM_THREADS") or cores())
        environment["OMP_NUM_THREADS"] = str(max(threads // number, 1))
    return environment


@contextmanager
def reserved_port() -> Iterator[int]:
    """Context manager that reserves a port for rank 0: the port is bound, but nobody listens, so rank 0 may use it."""
    with socket.socket() as bound_socket:
        bound_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound_socket.bind(("", 0))
        yield bound_socket.getsockname()[1]


def watch(ranks: list[Rank]) -> Rank | None:
    """Wait until all ranks have ended and return None; or until one has failed and return the first that failed."""
    ended: dict[int, float] = {}  # rank: time at which its end was detected
    until = float("inf")
    while len(ended) < len(ranks) and time.monotonic() < until:
        for rank in ranks:
            status = rank.child.poll()
            if status is not None and rank.number not in ended:
                ended[rank.number] = time.time()
                if status:
                    until = min(until, time.monotonic() + DETECTION_SECONDS)
        time.sleep(POLL)
    failed = [rank for rank in ranks if rank.number in ended and rank.child.poll()]
    return min(failed, key=lambda rank: (failure_time(rank, ended[rank.number]), rank.number), default=None)


def failure_time(rank: Rank, ended: float) -> float:
    """Return the time of a rank's failure: that of its error note; else, after a signal, shortly before the detection.

    Without a note and a signal, rank 0 has rejected its configuration, and other ranks ended because of that: infinity.
    """
    if rank.note.is_file():
        return rank.note.stat().st_mtime
    return ended - 2 * POLL if (rank.child.poll() or 0) < 0 else ended if rank.number == 0 else float("inf")


def report(cfg: DictConfig, ranks: list[Rank], failed_rank: Rank) -> int:
    """Print and record what ended the training, unless rank 0 did so itself. Return the exit status."""
    status, note = failed_rank.child.poll() or 0, read_error_note(failed_rank)
    if note and note == read_error_note(ranks[0]):  # all ranks have the same error
        failed_rank = ranks[0]
    error = f"rank {failed_rank.number} {describe_exit(status)}" + (f": {note}" if note else "")
    if failed_rank.log is not None:
        lines = failed_rank.log.read_text(encoding="utf-8", errors="replace").splitlines()
        print("\n".join(f"rank {failed_rank.number}: {line}" for line in lines[-TAIL:]), file=sys.stderr)
    itself = failed_rank.number == 0 and status > 0  # then it has written its record and printed the error
    if not itself:
        print(f"segpipe: {error}. The other ranks were ended.", file=sys.stderr)
    finalise_record(cfg, ranks, "failed", error, unless="interrupted failed" if itself else "")
    return 1


def read_error_note(rank: Rank) -> str:
    """Return the error that a rank has written to its note; an empty string without a note."""
    return rank.note.read_text(encoding="utf-8").strip() if rank.note.is_file() else ""


def finalise_record(cfg: DictConfig, ranks: list[Rank], status: Status, error: str, *, unless: str) -> None:
    """Write status and error to the run's record, if these ranks have started the run.

    unless: statuses, separated by spaces, that are not overwritten; ``finished`` never is.
    """
    run = Run(Path(cfg.run_dir))
    began = ranks and run.record.get("pid") == ranks[0].child.process.pid
    if began and run.record.get("status") not in ("finished", *unless.split()):
        run.finish(status, error)
