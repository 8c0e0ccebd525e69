"""A training step in plain PyTorch, as one would write it without segpipe or Lightning."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from segpipe.config.plan import Plan
from segpipe.config.schema import CONF


class PlainStep:
    """Forward, cross-entropy, backward, optimizer, and the schedule where there is one."""

    def __init__(
        self, network: nn.Module, optimizer: Optimizer, *, precision: str, schedule: LambdaLR | None = None
    ) -> None:
        self.network, self.optimizer, self.precision, self.schedule = network, optimizer, precision, schedule

    def __call__(self, image: Tensor, mask: Tensor) -> Tensor:
        """One step; the loss, still on the device."""
        self.optimizer.zero_grad()
        with autocast(image.device, self.precision):
            loss = F.cross_entropy(self.network(image), mask.long(), ignore_index=255)
        loss.backward()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return loss.detach()


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """What Lightning's precision of this name computes in."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16-mixed" else nullcontext()


def configure(*overrides: str) -> DictConfig:
    """The configuration that a command line of ``segpipe.train`` makes; refused where that would refuse it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", list(overrides)).copy()
    Plan.of(cfg)
    return cfg
