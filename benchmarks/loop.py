"""Does Lightning cost time? Our training against a plain PyTorch loop on the same network, batches and device.

One fit, set up as ``segpipe.train`` does it, callbacks and logger included, without validation. After every STEPS of
its steps a callback stops the clock, lets the plain loop do its own STEPS on the same batches, and starts the clock
again. A segment lasts from the start of a batch to the start of the one STEPS later, loading of data included. What
happens between two epochs (checkpoint, history) is shown by itself.
"""

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.plain import PlainStep, configure
from benchmarks.timing import arguments, begin, milliseconds, now, ratio
from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.data.module import SegmentationData
from segpipe.data.samples import Batch
from segpipe.engine.resume import Start
from segpipe.training import tracking
from segpipe.training.task import SegmentationTask, parameter_groups


class PlainLoop:
    """A loop of one's own: the task's network built again, its batches from a loader of its own."""

    def __init__(self, cfg: Any, data: SegmentationData, device: torch.device) -> None:
        self.cfg, self.data, self.device = cfg, data, device
        network = build.network(cfg, len(data.split("train").classes)).to(device)
        if cfg.task.channels_last:
            network = network.to(memory_format=torch.channels_last)
        self.network = network.train()
        self.batches: Iterator[Batch] = iter([])

    def prepare(self, total: int) -> None:
        """Optimizer and schedule over ``total`` steps."""
        optimizer = build.instantiate_group(self.cfg, "optimizer")(parameter_groups(self.network))
        factor = build.instantiate_group(self.cfg, "scheduler")
        self.step = PlainStep(
            self.network,
            optimizer,
            precision=build.precision(self.cfg),
            schedule=LambdaLR(optimizer, lambda step: factor(step, total)),
        )
        self.loader: Any = self.data.loader("train", train=True)

    def begin_epoch(self, epoch: int) -> None:
        """From the first batch again."""
        self.loader.sampler.set_epoch(epoch)
        self.batches = iter(self.loader)

    def run(self, steps: int) -> None:
        """Train."""
        for _ in range(steps):
            batch = next(self.batches)
            image = batch["image"].to(self.device, non_blocking=True)
            mask = batch["mask"].to(self.device, non_blocking=True)
            self.step(image, mask)


class TakeTurns(pl.Callback):
    """Lets the plain loop have its turn after each segment of Lightning's."""

    def __init__(self, plain: PlainLoop, *, steps: int, rounds: int, device: torch.device) -> None:
        self.plain, self.steps, self.rounds, self.device = plain, steps, rounds, device
        self.times: dict[str, list[float]] = {"lightning": [], "plain": []}
        self.ends: list[float] = []
        self.difference = float("nan")
        self.began = self.ended = float("nan")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The schedule's length is known now."""
        self.plain.prepare(int(trainer.estimated_stepping_batches))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Where a segment ends, note its time, and do the next one of the plain loop."""
        if batch_idx % self.steps:
            return
        moment = now(self.device)
        if batch_idx:
            self.times["lightning"].append(moment - self.began)
            if np.isnan(self.difference):
                self.difference = largest_difference(pl_module.network, self.plain.network)
        else:
            self.ends.append(moment - self.ended)
            self.plain.begin_epoch(trainer.current_epoch)
        if len(self.times["lightning"]) > self.rounds:
            trainer.should_stop = True
        elif batch_idx + self.steps < int(trainer.num_training_batches):
            start = now(self.device)
            self.plain.run(self.steps)
            self.times["plain"].append(now(self.device) - start)
        self.began = now(self.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note when an epoch's last step was done."""
        if batch_idx + 1 == trainer.num_training_batches:
            self.ended = now(self.device)


def largest_difference(first: Any, second: nn.Module) -> float:
    """Between two networks' weights, as a share of the largest weight."""
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    largest = max(float(one.detach().abs().max()) for one, _ in pairs)
    return max(float((one - other).detach().abs().max()) for one, other in pairs) / largest


def main() -> None:
    """The command line."""
    parser = arguments(__doc__, rounds=40)
    parser.add_argument("--steps", type=int, default=20, help="of a segment (%(default)s)")
    parser.add_argument("overrides", nargs="*", help="as for segpipe.train: model=unet data=camvid data.root=...")
    given = parser.parse_args()
    device = begin(given)
    with tempfile.TemporaryDirectory() as folder:
        accelerator = "gpu" if device.type == "cuda" else "cpu"
        cfg = configure(
            f"run_dir={folder}", f"trainer.accelerator={accelerator}", "logger.mode=offline", *given.overrides
        )
        data = build.data(cfg)
        data.check()
        batches = len(data.split("train")) // cfg.data.batch_size
        if (a_round := (batches - 1) // given.steps) < 1:
            parser.error(f"an epoch has {batches} batches: --steps is {given.steps}, allowed is up to {batches - 1}")
        cfg.trainer.max_epochs = -(-(given.rounds + 1) // a_round)
        cfg.trainer.check_val_every_n_epoch = cfg.trainer.max_epochs + 1
        task: SegmentationTask = build.task(cfg, data)
        start = Start(Plan.of_trained(cfg), data, overrides=[])
        start.write()
        run = start.run
        logger = build.logger(cfg, run)
        trainer = build.trainer(cfg, run)
        build.attach_logger(trainer, logger)
        turns = TakeTurns(PlainLoop(cfg, data, device), steps=given.steps, rounds=given.rounds, device=device)
        trainer.callbacks.append(turns)
        try:
            trainer.fit(task, datamodule=data)
        finally:
            tracking.finish(logger, failed=False)
    report(turns, batches=batches)


def report(turns: TakeTurns, *, batches: int) -> None:
    """Print; the first segment of each side warmed up."""
    lightning, plain = turns.times["lightning"][1:], turns.times["plain"][1:]
    print(f"\nsegments of {turns.steps} steps, without validation")
    print(f"weights after the first: {turns.difference:.1g} of the largest apart")
    print(f"a step: Lightning {milliseconds(np.divide(lightning, turns.steps))}", end=", ")
    print(f"plain {milliseconds(np.divide(plain, turns.steps))}")
    print(f"Lightning / plain: {ratio(lightning, plain)}")
    if ends := turns.ends[1:]:
        share = float(np.median(ends)) / (batches * float(np.median(lightning)) / turns.steps)
        print(f"between two epochs: {milliseconds(ends)}, {100 * share:.1f} % of an epoch of {batches} steps")


if __name__ == "__main__":
    main()
