"""The devices of a training, and the rank of this process among those that train together."""

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.strategies import DDPStrategy
from torch.distributed.rendezvous import rendezvous

from segpipe.errors import UserError, in_words, nearest
from segpipe.runs.environment import cores

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
TIMEOUT = timedelta(minutes=30)  # for connecting the ranks, which may be started by hand
PATIENCE = 15.0  # seconds until a rank prints that it waits for the others
POLL = 0.02  # seconds
NOTE = "SEGPIPE_NOTE"  # environment variable of a rank: the file for its error message


class RankInfo(NamedTuple):
    """The rank of this process.

    rank, world_size: its number, and the number of all ranks. local_size: number of ranks on each machine.
    launched: whether a launcher started the process as a rank, even as the only one.
    store: exchanges data between ranks before they train; None for a single rank.
    """

    rank: int = 0
    world_size: int = 1
    local_size: int = 1
    launched: bool = False
    store: Any = None

    def broadcast_config(self, cfg: DictConfig | None) -> None:
        """On rank 0: send the checked configuration to all ranks. None: there is nothing to train.

        The store ends with this process. After None the process may end, so it waits until all ranks have read it.
        """
        if self.store is None:
            return
        self.store.set(config_key(), OmegaConf.to_yaml(cfg) if cfg is not None else "")
        while cfg is None and self.store.add(f"{config_key()}/received", 0) < self.world_size - 1:
            time.sleep(POLL)

    def receive_config(self) -> DictConfig | None:
        """On other ranks: wait for the configuration. Exits with status 1 if rank 0 has ended; it reports its error."""
        try:
            while not self.store.check([config_key()]):
                time.sleep(POLL)
            text = self.store.get(config_key()).decode()
            self.store.add(f"{config_key()}/received", 1)
        except RuntimeError:
            sys.exit(1)
        cfg = OmegaConf.create(text) if text else None
        assert cfg is None or isinstance(cfg, DictConfig)
        return cfg


SINGLE_PROCESS = RankInfo()


def config_key() -> str:
    """The store's key of the configuration; torchrun's store continues to exist when torchrun restarts ranks."""
    return f"segpipe/configuration/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"


def detect_rank() -> RankInfo:
    """The rank of this process, from the environment variables of torchrun, srun or ``ranks.py``."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        given = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE") if name in os.environ}
        if not all(text.isdecimal() for text in given.values()) or int(given["RANK"]) >= int(given["WORLD_SIZE"]):
            raise UserError(
                f"{', '.join(f'{name}={text}' for name, text in given.items())}: RANK is allowed from 0 to WORLD_SIZE "
                f"- 1. torchrun sets these variables; to train with one process, unset them."
            )
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        return RankInfo(rank, world_size, int(os.environ.get("LOCAL_WORLD_SIZE", world_size)), launched=True)
    step = os.environ.get("SLURM_STEP_ID") or os.environ.get("SLURM_STEP_NUM_TASKS")  # not set in a batch script
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or 1)  # in a shell: 1
    if step and tasks > 1 and "SLURM_PROCID" in os.environ:
        nodes = int(os.environ.get("SLURM_STEP_NUM_NODES") or os.environ["SLURM_NNODES"])
        return RankInfo(int(os.environ["SLURM_PROCID"]), tasks, tasks // nodes, launched=True)
    return SINGLE_PROCESS


def connect_ranks() -> RankInfo:
    """The rank of this process, with a store connected to the other ranks."""
    rank_info = detect_rank()
    if rank_info.world_size == 1:
        return rank_info
    if "RANK" not in os.environ:
        os.environ.update(as_torchrun(rank_info))
    with note_of_waiting(rank_info):
        store, _, _ = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    return rank_info._replace(store=store)


@contextmanager
def note_of_waiting(rank_info: RankInfo) -> Iterator[None]:
    """Context manager that prints one line if the ranks have not found each other after PATIENCE seconds."""
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    text = (
        f"Rank {rank_info.rank} of {rank_info.world_size} waits for the others at {place}, for at most "
        f"{in_words(TIMEOUT.total_seconds())}. Start them, or check MASTER_ADDR and MASTER_PORT; to train with one "
        f"process, unset RANK and WORLD_SIZE."
    )
    timer = threading.Timer(PATIENCE, print, [text], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def as_torchrun(rank_info: RankInfo) -> Mapping[str, str]:
    """The environment variables of torchrun for a task of srun."""
    os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(rank_info.local_size))  # otherwise Lightning raises an error
    slurm = SLURMEnvironment(auto_requeue=False)
    return {
        "RANK": str(rank_info.rank),
        "WORLD_SIZE": str(rank_info.world_size),
        "LOCAL_WORLD_SIZE": str(rank_info.local_size),
        "LOCAL_RANK": str(slurm.local_rank()),
        "NODE_RANK": str(slurm.node_rank()),
        "MASTER_ADDR": slurm.main_address,
        "MASTER_PORT": str(slurm.main_port),
    }


def silence_nonzero_ranks() -> None:
    """Suppress the output of ranks above 0, except errors."""
    if detect_rank().rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)


def report_error(error: str) -> None:
    """Write the error that ended this process to a file for ``ranks.py``, if it started the ranks."""
    if path := os.environ.get(NOTE):
        Path(path).write_text(error, encoding="utf-8")


def check_not_launched(what: str) -> None:
    """Raise UserError if this process is one of several ranks; ``what`` starts trainings itself."""
    if detect_rank().world_size > 1:
        raise UserError(
            f"{what} under torchrun or srun: every rank would run it. Start it as a single process, without them; "
            f"with trainer=ddp it starts the ranks of each training itself."
        )


def leave_process_group(strategy: Any) -> None:
    """Leave the process group, when all ranks have reached this point; only rank 0 continues."""
    if dist.is_initialized():
        strategy.barrier()
        dist.destroy_process_group()


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Inside the ``with`` block, numbers below 1.2e-38 are zero on the CPU: in this thread, and in those it starts.

    A CPU computes with such denormal numbers many times more slowly. The weights of sharp kernels are denormal far from
    their maximum, and so are the gradients there (``benchmarks/denormals.py``). torch's own threads inherit the setting
    if they start later, so ``python -m segpipe.train`` begins with it.
    """
    before = flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def flushes_denormals() -> bool:
    """Return whether denormal numbers are zero in this thread."""
    return not bool(torch.tensor(1e-40) * 1)  # flushed by the product, if not before


def on_gpu(cfg: DictConfig) -> bool:
    """Whether the training uses a GPU."""
    accelerator = cfg.trainer.accelerator
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())


def split_devices(workers: int, *, gpu: bool, per_gpu: int = 1) -> list[dict[str, str]]:
    """Return the environment of each slot with its devices: some of the visible GPUs, or some of the cores.

    per_gpu: the number of slots that share the GPUs of each worker. Raises UserError where there are fewer devices than
    workers, and for ``per_gpu`` without GPUs.
    """
    available, kind = (torch.cuda.device_count(), "GPUs") if gpu else (cores(), "cores")
    if not 1 <= workers <= available:
        more = " To run several jobs on each GPU, set sweep.per_gpu." if gpu else ""
        raise UserError(f"sweep.workers={workers}: allowed is 1 to {available}, the {kind} of this machine.{more}")
    if per_gpu > 1 and not gpu:
        raise UserError(
            f"sweep.per_gpu={per_gpu}: these jobs train on the CPU. Set sweep.workers to run several at a time."
        )
    each = available // workers
    if gpu:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(available)))
        names = visible.split(",")[:available]
        shares = [{"CUDA_VISIBLE_DEVICES": ",".join(names[each * i : each * (i + 1)])} for i in range(workers)]
        return shares * per_gpu
    return [{"OMP_NUM_THREADS": str(each if workers > 1 else torch.get_num_threads())}] * workers


def requested_devices(cfg: DictConfig) -> int:
    """The number of devices of this machine in ``trainer.devices``. Raises UserError if there are fewer."""
    devices = OmegaConf.to_container(cfg.trainer).get("devices", 1)  # type: ignore[union-attr]
    available = torch.cuda.device_count() if on_gpu(cfg) else None
    if available == 0:
        raise UserError(
            f"trainer.accelerator={cfg.trainer.accelerator}: torch finds no GPU here. Use trainer=ddp_cpu for several "
            f"processes, or trainer=cpu."
        )
    if devices in ("auto", -1):
        return available or 1
    if isinstance(devices, list) and available is not None and devices and set(devices) <= set(range(available)):
        return len(devices)
    if isinstance(devices, int) and 1 <= devices <= (available or sys.maxsize):
        return devices
    allowed = "a number of processes, or auto for 1"
    if available:
        allowed = f"1 to {available}, auto, or a list of 0 to {available - 1}"
    given = "null" if devices is None else str(devices).replace(" ", "")
    raise UserError(f"trainer.devices={given}: allowed is {allowed}.")


def check(cfg: DictConfig, rank_info: RankInfo) -> None:
    """Raise UserError if the configured devices do not exist, or do not match the ranks that were started."""
    accelerator = cfg.trainer.accelerator
    if accelerator not in ACCELERATORS:
        raise UserError(
            f"trainer.accelerator={accelerator}: allowed is {' or '.join(ACCELERATORS)}."
            f"{nearest(accelerator, ACCELERATORS)}"
        )
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise UserError("trainer.accelerator=mps: torch finds no GPU of Apple here. Use trainer=cpu.")
    if cfg.trainer.get("strategy", "auto") not in STRATEGIES:
        raise UserError(
            f"trainer.strategy={cfg.trainer.strategy}: allowed is {' or '.join(STRATEGIES)}; the sums over ranks "
            f"need DDP."
        )
    local_devices, machines = requested_devices(cfg), cfg.trainer.get("num_nodes", 1)
    requested = "auto" if cfg.trainer.devices in ("auto", -1) else local_devices
    if rank_info.launched and rank_info.world_size > 1 and requested not in ("auto", rank_info.local_size):
        raise UserError(
            f"trainer.devices={cfg.trainer.devices}, but {rank_info.local_size} processes were started on this "
            f"machine: set trainer.devices=auto, for example with trainer=ddp or ddp_cpu, or start that number of "
            f"processes."
        )
    if machines > 1 and rank_info.world_size != machines * rank_info.local_size:
        raise UserError(
            f"trainer.num_nodes={machines}: on several machines, torchrun or srun must start the ranks, see "
            f"docs/devices.md; they determine the number of machines: leave num_nodes out."
        )


def trainer_arguments(cfg: DictConfig, rank_info: RankInfo) -> dict[str, Any]:
    """The arguments of Lightning's Trainer that concern devices."""
    if rank_info.world_size == 1:
        devices = OmegaConf.to_container(cfg.trainer).get("devices", 1)  # type: ignore[union-attr]
        return {"devices": devices if isinstance(devices, list) else 1, "strategy": "auto", "num_nodes": 1}
    listed = isinstance(cfg.trainer.devices, list) or OmegaConf.is_list(cfg.trainer.devices)
    return {
        "devices": list(cfg.trainer.devices) if listed else rank_info.local_size,
        "num_nodes": rank_info.world_size // rank_info.local_size,
        "strategy": DDPStrategy(
            broadcast_buffers=False,  # it runs at each step, and ranks may have unequal numbers of validation steps
            gradient_as_bucket_view=True,
            find_unused_parameters=str(cfg.trainer.get("strategy")).endswith("true"),
        ),
    }
