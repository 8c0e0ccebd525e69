"""Which devices a training is to run on, and a process's place among the ranks that train together."""

import os
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.strategies import DDPStrategy
from torch.distributed.rendezvous import rendezvous

from segpipe.errors import UserError

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
TIMEOUT = timedelta(minutes=30)  # for ranks to find one another; they may be started by hand
POLL = 0.02  # seconds
NOTE = "SEGPIPE_NOTE"  # in a rank's environment: the file that tells why it ended


class RankInfo(NamedTuple):
    """A process among the ranks.

    local_size: ranks on each machine. launched: whether something started it as a rank, be it the only one.
    store: through which ranks speak before they train; None where there is one rank.
    """

    rank: int = 0
    world_size: int = 1
    local_size: int = 1
    launched: bool = False
    store: Any = None

    def broadcast_config(self, cfg: DictConfig | None) -> None:
        """As rank 0: what all are to train, now that nothing was found against it; None for nothing at all.

        The store ends with this process, so a word after which it may end is waited for until all have heard it.
        """
        if self.store is None:
            return
        self.store.set(config_key(), OmegaConf.to_yaml(cfg) if cfg is not None else "")
        while cfg is None and self.store.add(f"{config_key()}/heard", 0) < self.world_size - 1:
            time.sleep(POLL)

    def receive_config(self) -> DictConfig | None:
        """As another rank: wait for rank 0's word. Exits with status 1 where rank 0 is gone: it has said why."""
        try:
            while not self.store.check([config_key()]):
                time.sleep(POLL)
            said = self.store.get(config_key()).decode()
            self.store.add(f"{config_key()}/heard", 1)
        except RuntimeError:
            sys.exit(1)
        cfg = OmegaConf.create(said) if said else None
        assert cfg is None or isinstance(cfg, DictConfig)
        return cfg


SINGLE_PROCESS = RankInfo()


def config_key() -> str:
    """The key of what rank 0 tells the others; torchrun's store outlives the ranks that it starts anew."""
    return f"segpipe/configuration/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"


def detect_rank() -> RankInfo:
    """This process's place, by the environment that torchrun, srun or ``ranks.py`` has started it in."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        return RankInfo(rank, world_size, int(os.environ.get("LOCAL_WORLD_SIZE", world_size)), launched=True)
    step = os.environ.get("SLURM_STEP_ID") or os.environ.get("SLURM_STEP_NUM_TASKS")  # a batch script has none
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or 1)  # of a shell: 1
    if step and tasks > 1 and "SLURM_PROCID" in os.environ:
        nodes = int(os.environ.get("SLURM_STEP_NUM_NODES") or os.environ["SLURM_NNODES"])
        return RankInfo(int(os.environ["SLURM_PROCID"]), tasks, tasks // nodes, launched=True)
    return SINGLE_PROCESS


def connect_ranks() -> RankInfo:
    """This process's place, connected with the other ranks."""
    found = detect_rank()
    if found.world_size == 1:
        return found
    if "RANK" not in os.environ:
        os.environ.update(as_torchrun(found))
    store, _, _ = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    return found._replace(store=store)


def as_torchrun(found: RankInfo) -> Mapping[str, str]:
    """The environment of a task of srun's in the words of torchrun's."""
    os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(found.local_size))  # or Lightning's class refuses
    slurm = SLURMEnvironment(auto_requeue=False)
    return {
        "RANK": str(found.rank),
        "WORLD_SIZE": str(found.world_size),
        "LOCAL_WORLD_SIZE": str(found.local_size),
        "LOCAL_RANK": str(slurm.local_rank()),
        "NODE_RANK": str(slurm.node_rank()),
        "MASTER_ADDR": slurm.main_address,
        "MASTER_PORT": str(slurm.main_port),
    }


def silence_nonzero_ranks() -> None:
    """Let ranks above 0 print nothing but errors."""
    if detect_rank().rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)


def report_error(error: str) -> None:
    """Leave word for the process that has started the ranks, if ``ranks.py`` has, of what ended this one."""
    if path := os.environ.get(NOTE):
        Path(path).write_text(error, encoding="utf-8")


def refuse_launched(what: str) -> None:
    """Raise UserError for what starts trainings itself, where this process was started as one of several ranks."""
    if detect_rank().world_size > 1:
        raise UserError(
            f"{what} under torchrun or srun: every rank would carry it out. Start it as one process, without them; "
            f"with trainer=ddp it starts the ranks of each training itself."
        )


def leave_process_group(strategy: Any) -> None:
    """Part from the other ranks, once all have got here: what follows is rank 0's alone."""
    if dist.is_initialized():
        strategy.barrier()
        dist.destroy_process_group()


def on_gpu(cfg: DictConfig) -> bool:
    """Whether a GPU is to train."""
    accelerator = cfg.trainer.accelerator
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())


def requested_devices(cfg: DictConfig) -> int:
    """How many devices of this machine ``trainer.devices`` means. Raises UserError where it has them not."""
    devices = OmegaConf.to_container(cfg.trainer).get("devices", 1)  # type: ignore[union-attr]
    there = torch.cuda.device_count() if on_gpu(cfg) else None
    if there == 0:
        raise UserError(
            f"trainer.accelerator={cfg.trainer.accelerator}: torch finds no GPU here. Take trainer=ddp_cpu for several "
            f"processes, or trainer=cpu."
        )
    if devices in ("auto", -1):
        return there or 1
    if isinstance(devices, list) and there is not None and devices and set(devices) <= set(range(there)):
        return len(devices)
    if isinstance(devices, int) and 1 <= devices <= (there or sys.maxsize):
        return devices
    allowed = f"1 to {there}, auto, or a list of 0 to {there - 1}" if there else "a number of processes, or auto for 1"
    raise UserError(f"trainer.devices={str(devices).replace(' ', '')}: allowed is {allowed}.")


def check(cfg: DictConfig, found: RankInfo) -> None:
    """Raise UserError where the devices asked for are not those that this process was started for."""
    if cfg.trainer.get("strategy", "auto") not in STRATEGIES:
        raise UserError(
            f"trainer.strategy={cfg.trainer.strategy}: allowed is {' or '.join(STRATEGIES)}; the sums over ranks are "
            f"written for it."
        )
    own, machines = requested_devices(cfg), cfg.trainer.get("num_nodes", 1)
    asked = "auto" if cfg.trainer.devices in ("auto", -1) else own
    if found.launched and found.world_size > 1 and asked not in ("auto", found.local_size):
        raise UserError(
            f"trainer.devices={cfg.trainer.devices}, but {found.local_size} processes were started on this machine: "
            f"take trainer.devices=auto, as trainer=ddp and ddp_cpu can, or start as many as that."
        )
    if machines > 1 and found.world_size != machines * found.local_size:
        raise UserError(
            f"trainer.num_nodes={machines}: on several machines the ranks are started from outside, by torchrun or "
            f"srun, see docs/devices.md; they say how many machines there are, so leave num_nodes out."
        )


def trainer_arguments(cfg: DictConfig, found: RankInfo) -> dict[str, Any]:
    """What Lightning's Trainer is to be told of devices."""
    if found.world_size == 1:
        devices = OmegaConf.to_container(cfg.trainer).get("devices", 1)  # type: ignore[union-attr]
        return {"devices": devices if isinstance(devices, list) else 1, "strategy": "auto", "num_nodes": 1}
    listed = isinstance(cfg.trainer.devices, list) or OmegaConf.is_list(cfg.trainer.devices)
    return {
        "devices": list(cfg.trainer.devices) if listed else found.local_size,
        "num_nodes": found.world_size // found.local_size,
        "strategy": DDPStrategy(
            broadcast_buffers=False,  # at each step, and in validation, where ranks may take unequal numbers of them
            gradient_as_bucket_view=True,
            find_unused_parameters=str(cfg.trainer.get("strategy")).endswith("true"),
        ),
    }
