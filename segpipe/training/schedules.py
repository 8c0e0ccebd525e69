"""Learning-rate schedules: functions of (step, steps in all) to a factor of the optimizer's rate.

Each climbs from 1/warmup to 1 in its first ``warmup`` steps, in a straight line, and is at its own value after.
"""

import math


def constant(step: int, total: int, *, warmup: int = 0) -> float:
    """Always the same."""
    return ramp(step, warmup)


def poly(step: int, total: int, *, power: float = 0.9, warmup: int = 0) -> float:
    """(1 - step / total)^power (DeepLab)."""
    return ramp(step, warmup) * max(0.0, 1 - step / total) ** power


def cosine(step: int, total: int, *, warmup: int = 0) -> float:
    """Half a cosine wave, from 1 to 0 (Loshchilov and Hutter 2017)."""
    return ramp(step, warmup) * (1 + math.cos(math.pi * min(1.0, step / total))) / 2


def ramp(step: int, warmup: int) -> float:
    """The warm-up's factor."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0
