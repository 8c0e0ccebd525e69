"""Does the input keep up? Our augmentation against torchvision's, and how long a training waits for its data.

First, batches of CamVid on one core, through the operations of ``augment=strong`` and ``augment=light``: as
segpipe makes them, and by the same operations of torchvision.transforms.v2 on the same images; from memory, and from
the files. Then real fits with their default settings: the share of their steps
spent waiting for the next batch.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from pytorch_lightning.profilers import Profiler
from torch import Tensor
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from benchmarks.plain import configure
from benchmarks.timing import arguments, begin, interleaved, milliseconds, ratio, timed
from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.data.samples import Samples
from segpipe.engine.resume import Start
from segpipe.metrics.confusion import IGNORE_INDEX

FILL = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE_INDEX}
WAIT, WORK = "[_TrainingEpochLoop].train_dataloader_next", "run_training_batch"  # Lightning's names for them


def torchvision_transforms(name: str, crop: list[int]) -> v2.Transform:
    """What conf/augment/NAME.yaml says, in torchvision's words; plain enlargement, as OpenCV does it."""
    height, width = crop
    cropping = v2.RandomCrop((height, width), pad_if_needed=True, fill=FILL)
    if name == "light":
        return v2.Compose([cropping, v2.RandomHorizontalFlip(0.5)])
    jitter = v2.ColorJitter(brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.7, 1.3), hue=(-0.03, 0.03))
    blur = v2.RandomChoice([v2.GaussianBlur(3, sigma=(0.5, 3.0)), v2.GaussianBlur(5, sigma=(0.5, 3.0))])
    turn = v2.RandomRotation(10, interpolation=v2.InterpolationMode.BILINEAR, fill=FILL)
    return v2.Compose(
        [
            v2.ScaleJitter((height, width), scale_range=(0.5, 2.0), antialias=False),
            v2.RandomApply([turn], p=0.5),
            cropping,
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([jitter], p=0.8),
            v2.RandomApply([blur], p=0.2),
        ]
    )


class Torchvision:
    """The same images and masks as tensors, augmented one by one and joined to a batch."""

    def __init__(self, samples: Samples, transforms: v2.Transform, *, keep: bool) -> None:
        self.dataset: Any = samples.dataset
        self.transforms = transforms
        self.kept = [self.load(index) for index in range(len(samples))] if keep else None

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """Decode."""
        image = decode_image(str(self.dataset.images[index]), ImageReadMode.RGB)
        mask = decode_image(str(self.dataset.masks[index]), ImageReadMode.UNCHANGED)
        mask[mask >= len(self.dataset.classes)] = IGNORE_INDEX
        return tv_tensors.Image(image), tv_tensors.Mask(mask)

    def __getitem__(self, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """A batch."""
        kept = self.kept
        pairs = [self.transforms(*(kept[index] if kept is not None else self.load(index))) for _, index in keys]
        images, masks = zip(*pairs, strict=True)
        return torch.stack(images), torch.stack(masks)


def augmentation(given: argparse.Namespace, device: torch.device) -> None:
    """The first question."""
    torch.set_num_threads(1)
    crop = ",".join(map(str, given.crop))
    for name in ("strong", "light"):
        for where, cache in (("memory", "ram"), ("files", "off")):
            cfg = configure(
                "data=camvid",
                f"data.root={given.root}",
                f"data.crop=[{crop}]",
                f"augment={name}",
                f"data.cache={cache}",
            )
            ours = build.data(cfg).samples("train", train=True)
            theirs = Torchvision(ours, torchvision_transforms(name, given.crop), keep=cache == "ram")
            keys = batches(len(ours), given.batch)
            sides: dict[str, Callable[[], object]] = {
                "ours": lambda ours=ours, keys=keys: ours[next(keys)],
                "torchvision": lambda theirs=theirs, keys=keys: theirs[next(keys)],
            }
            times = interleaved({side: timed(work, device) for side, work in sides.items()}, rounds=given.rounds)
            ours_speed, theirs_speed = (given.batch / float(np.median(times[side])) for side in sides)
            print(f"{name} from {where}: ours {ours_speed:.0f}/s, torchvision {theirs_speed:.0f}/s")
            print(f"  torchvision's time / ours: {ratio(times['torchvision'], times['ours'])}")


def batches(length: int, size: int) -> Iterator[list[tuple[int, int]]]:
    """(epoch, index) for ever, each batch given twice: once to each side."""
    epoch = 0
    while True:
        for first in range(0, length - size + 1, size):
            yield from [[(epoch, index) for index in range(first, first + size)]] * 2
        epoch += 1


class Stopwatch(Profiler):
    """Adds up what two of the loop's actions take, from a step on: waiting for a batch, and working on it."""

    def __init__(self, *, skip: int) -> None:
        super().__init__()
        self.seconds: dict[str, list[float]] = {WAIT: [], WORK: []}
        self.skip, self.began = skip, 0.0

    def start(self, action_name: str) -> None:
        """One of the two begins; they do not overlap."""
        if action_name in self.seconds:
            self.began = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """It ends."""
        if action_name in self.seconds:
            self.seconds[action_name].append(time.perf_counter() - self.began)

    def share(self) -> float:
        """Of waiting in both."""
        waited, worked = (sum(self.seconds[name][self.skip :]) for name in (WAIT, WORK))
        return waited / (waited + worked)


def waiting(title: str, given: argparse.Namespace, *overrides: str) -> None:
    """The second question: fit, and ask Lightning's profiler how long its loop waited for the loader."""
    accelerator = "gpu" if given.device == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        cfg = configure(f"run_dir={folder}", f"trainer.accelerator={accelerator}", "logger=none", *overrides)
        OmegaConf.set_struct(cfg, False)
        data = build.data(cfg)
        batches = min(len(data.split("train")) // cfg.data.batch_size, given.steps)
        cfg.trainer.limit_train_batches = batches
        cfg.trainer.max_epochs = -(-given.steps // batches)
        cfg.trainer.check_val_every_n_epoch = cfg.trainer.max_epochs + 1
        trainer = build.trainer(cfg, Start(Plan.of_trained(cfg), data, overrides=[]).run)
        trainer.profiler = stopwatch = Stopwatch(skip=min(10, given.steps // 2))
        trainer.fit(build.task(cfg, data), datamodule=data)
    waited, worked = (stopwatch.seconds[name][stopwatch.skip :] for name in (WAIT, WORK))
    print(f"{title}: {100 * stopwatch.share():.2f} % of {len(worked)} steps is waiting for data", end="; ")
    print(f"a step waits {milliseconds(waited)} and works {milliseconds(worked)}")


def main() -> None:
    """The command line."""
    parser = arguments(__doc__, rounds=40)
    parser.add_argument("--root", type=Path, default=Path("../shared/data/camvid"), help="CamVid (%(default)s)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, nargs=2, default=[360, 480], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--steps", type=int, default=200, help="of each fit (%(default)s)")
    parser.add_argument("overrides", nargs="*", help="laid over the fits: model=unet")
    given = parser.parse_args()
    begin(given)
    threads = torch.get_num_threads()
    if given.root.is_dir():
        augmentation(given, torch.device("cpu"))
        torch.set_num_threads(threads)
    else:
        print(f"{given.root}: no CamVid there (--root FOLDER): augmentation is left out")
    waiting("shapes", given, *given.overrides)
    if given.root.is_dir():
        waiting("CamVid, small", given, "experiment=camvid_small", f"data.root={given.root}", *given.overrides)
        decoding = ("data=camvid", f"data.root={given.root}", "data.cache=off", "augment=strong", "data.crop=[360,480]")
        waiting("CamVid, whole, decoded at each reading", given, *decoding, *given.overrides)


if __name__ == "__main__":
    main()
