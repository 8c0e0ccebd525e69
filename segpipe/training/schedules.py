"""Learning-rate schedules: functions from (step, total steps) to a factor of the optimizer's learning rate.

In the first ``warmup`` steps, the factor is multiplied by a linear ramp from 1/warmup to 1.
"""

import math


def constant(step: int, total: int, *, warmup: int = 0) -> float:
    """A constant factor of 1."""
    return ramp(step, warmup)


def poly(step: int, total: int, *, power: float = 0.9, warmup: int = 0) -> float:
    """Polynomial decay, (1 - step / total)^power (DeepLab)."""
    return ramp(step, warmup) * max(0.0, 1 - step / total) ** power


def cosine(step: int, total: int, *, warmup: int = 0) -> float:
    """Cosine decay from 1 to 0 (Loshchilov and Hutter 2017)."""
    return ramp(step, warmup) * (1 + math.cos(math.pi * min(1.0, step / total))) / 2


def ramp(step: int, warmup: int) -> float:
    """The factor of the warm-up, 1/warmup to 1."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0
