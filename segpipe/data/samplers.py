"""Batch samplers. The order depends on (seed, epoch) only; samples are distributed over ranks without padding."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class TrainBatches(Sampler[list[tuple[int, int]]]):
    """Shuffled global batches of (epoch, index). Each rank gets its share of each batch.

    Samples that do not fill a last global batch are left out of the epoch. start: an epoch, and the number of its
    batches that were trained before the training was interrupted; they are left out.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start = 0, start

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls it before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches of one epoch that are still to be trained."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        done = self.start[1] if self.epoch == self.start[0] else 0
        for start in range(done * self.batch_size, len(self) * self.batch_size, self.batch_size):
            batch = order[start : start + self.batch_size]
            yield [(self.epoch, int(index)) for index in batch[self.rank :: self.world_size]]


class EvalBatches(Sampler[list[tuple[int, int]]]):
    """Every sample once, in batches of images of equal size. Each rank takes every world_size-th sample."""

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
        """Return the number of batches of this rank."""
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches, in the same order in each epoch."""
        return iter(self.batches)
