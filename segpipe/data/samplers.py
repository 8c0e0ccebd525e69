"""Which samples make a batch: a function of (seed, epoch) alone, dealt out to ranks without padding."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class TrainBatches(Sampler[list[tuple[int, int]]]):
    """Shuffled global batches of (epoch, index); each rank gets its share of every one.

    The rest that does not fill a global batch is left out of the epoch.
    """

    def __init__(self, length: int, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """One epoch."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = order[start : start + self.batch_size]
            yield [(self.epoch, int(index)) for index in batch[self.rank :: self.world_size]]


class EvalBatches(Sampler[list[tuple[int, int]]]):
    """Every sample once, in batches of equal size in pixels; a rank takes every world_size-th sample, none twice."""

    def __init__(self, sizes: list[tuple[int, int]], *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        by_size: dict[tuple[int, int], list[int]] = {}
        for index in range(rank, len(sizes), world_size):
            by_size.setdefault(sizes[index], []).append(index)
        self.batches = [
            [(0, index) for index in indices[start : start + batch_size]]
            for indices in by_size.values()
            for start in range(0, len(indices), batch_size)
        ]

    def __len__(self) -> int:
        """Batches of this rank."""
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Always the same."""
        return iter(self.batches)
