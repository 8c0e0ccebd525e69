"""The ranks of one training as processes of their own, started and watched by the command that was typed.

Lightning's launcher makes the command itself rank 0, and kills it when another rank dies, so that nobody is left to
write what happened. Here the command trains nothing: it waits, ends the others when one has died, and keeps the record.
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

from segpipe.config.messages import INTERRUPTED
from segpipe.config.schema import key_of
from segpipe.engine.processes import ChildProcess, describe_exit, end, single_run_overrides
from segpipe.engine.resume import resume_config
from segpipe.runs.environment import cores
from segpipe.runs.run import Run, Status
from segpipe.training import devices

DETECTION_SECONDS = 5.0  # seconds that ranks have to notice by themselves that one is gone
GRACE = 8.0  # and then, interrupted, to write what they have; less than processes.GRACE, which a sweep gives us
POLL = 0.05
TAIL = 12  # lines of a rank's output that are shown when it died


class Rank(NamedTuple):
    """A rank at work. note: the file in which it leaves word of its error; log: what it printed, None for rank 0."""

    number: int
    child: ChildProcess
    note: Path
    log: Path | None


def effective_config(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """The configuration that will be trained: with ``resume=RUN``, that run's. Raises UserError where it is refused."""
    return resume_config(cfg, overrides=overrides) if cfg.resume and cfg.resume != "auto" else cfg


def ranks_to_start(cfg: DictConfig) -> int:
    """How many ranks this process has to start, 1 where it trains itself. Raises as ``devices.requested_devices``."""
    if devices.detect_rank().launched:
        return 1
    if cfg.trainer.get("num_nodes", 1) > 1:
        devices.check(cfg, devices.SINGLE_PROCESS)
    return devices.requested_devices(cfg)


def supervise(number: int, cfg: DictConfig, overrides: list[str]) -> int:
    """Train in so many processes, in one folder; return the exit status: 0, 1, or that of Ctrl-C.

    cfg: as ``effective_config``. overrides: those of the command line.
    """
    kept = [override for override in overrides if key_of(override) != "run_dir"]
    arguments = [*kept, *single_run_overrides(Path(cfg.run_dir))]
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
            culprit = watch(ranks)
            end([rank.child for rank in ranks], grace=GRACE)
        except KeyboardInterrupt:
            end([rank.child for rank in ranks], grace=GRACE)
            finalise_record(cfg, ranks, "interrupted", "KeyboardInterrupt: ", unless="interrupted")
            return INTERRUPTED
        if culprit is None:
            return 0
        return report(cfg, ranks, culprit)


def rank_environment(rank: int, number: int, port: int, *, gpu: bool) -> dict[str, str]:
    """The environment of one of ``number`` ranks on this machine; on a CPU they share its cores."""
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
    """A port that the system gives nobody else meanwhile: bound, not listened on, which it lets rank 0 do."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("", 0))
        yield held.getsockname()[1]


def watch(ranks: list[Rank]) -> Rank | None:
    """Wait until all have ended well: None; or some have not: the one over which the others failed."""
    ended: dict[int, float] = {}  # when each was seen to have ended
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
    """When a rank's trouble began: with the error it has noted; else, where a signal ended it, before that was seen.

    Without either, rank 0 was refused, and another has ended since it heard nothing of rank 0.
    """
    if rank.note.is_file():
        return rank.note.stat().st_mtime
    return ended - 2 * POLL if (rank.child.poll() or 0) < 0 else ended if rank.number == 0 else float("inf")


def report(cfg: DictConfig, ranks: list[Rank], culprit: Rank) -> int:
    """Say what ended the training, where that is not said yet, on the terminal and in the record; the exit status."""
    status, said = culprit.child.poll() or 0, read_error_note(culprit)
    if said and said == read_error_note(ranks[0]):  # the same error on all
        culprit = ranks[0]
    error = f"rank {culprit.number} {describe_exit(status)}" + (f": {said}" if said else "")
    if culprit.log is not None:
        lines = culprit.log.read_text(encoding="utf-8", errors="replace").splitlines()
        print("\n".join(f"rank {culprit.number}: {line}" for line in lines[-TAIL:]), file=sys.stderr)
    itself = culprit.number == 0 and status > 0  # and so could write its record, and print
    if not itself:
        print(f"segpipe: {error}. The other ranks were ended.", file=sys.stderr)
    finalise_record(cfg, ranks, "failed", error, unless="interrupted failed" if itself else "")
    return 1


def read_error_note(rank: Rank) -> str:
    """The error that a rank has left word of."""
    return rank.note.read_text(encoding="utf-8").strip() if rank.note.is_file() else ""


def finalise_record(cfg: DictConfig, ranks: list[Rank], status: Status, error: str, *, unless: str) -> None:
    """Write what came of the run into its record, if these ranks have begun one; not over a status in ``unless``."""
    run = Run(Path(cfg.run_dir))
    began = ranks and run.record.get("pid") == ranks[0].child.process.pid
    if began and run.record.get("status") not in ("finished", *unless.split()):
        run.finish(status, error)
