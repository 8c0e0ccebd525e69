"""Two sides in one process, taking turns: what a machine does beside them then falls on both.

Times are medians; a comparison is the median of the rounds' own ratios, with the range that holds 80 % of them.
"""

import argparse
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

Side = Callable[[], float]  # does its work and gives the seconds it took


class Ratio(NamedTuple):
    """Median and the range from the 10th to the 90th percentile of what single rounds gave."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        """As it is printed."""
        return f"{self.median:.4g} ({self.low:.4g} to {self.high:.4g} in 80 % of {self.rounds} rounds)"


def arguments(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each side has its turn (%(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="of torch; its own choice unless given")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    return parser


def begin(given: argparse.Namespace) -> torch.device:
    """Set the threads, print what the figures hold for, and give the device."""
    if given.threads:
        torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    print(
        f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )
    if device.type == "cuda":
        print(f"GPU: {torch.cuda.get_device_name(device)}")
    return device


def processor() -> str:
    """The processor's name, where the system tells it."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def now(device: torch.device) -> float:
    """Seconds of a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(work: Callable[[], object], device: torch.device) -> Side:
    """A side that does ``work``."""

    def side() -> float:
        start = now(device)
        work()
        return now(device) - start

    return side


def interleaved(sides: dict[str, Side], *, rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of every side in every round; the order is shuffled, and turned round in the round that follows."""
    order, shuffle = list(sides), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-warmup, rounds):
        if number % 2:
            order.reverse()
        else:
            shuffle.shuffle(order)
        for name in order:
            seconds = sides[name]()
            if number >= 0:
                times[name].append(seconds)
    return times


def ratio(above: Sequence[float], below: Sequence[float], *, factor: float = 1.0) -> Ratio:
    """``factor`` times the first side's over the second's, round by round."""
    single = factor * np.asarray(above) / np.asarray(below)
    low, median, high = np.quantile(single, [0.1, 0.5, 0.9])
    return Ratio(float(median), float(low), float(high), len(single))


def milliseconds(seconds: Sequence[float]) -> str:
    """The median, to be printed."""
    return f"{1000 * float(np.median(seconds)):.2f} ms"
