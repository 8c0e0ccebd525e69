"""Do reduced training masks teach more as class shares? ``python -m benchmarks.soft_targets --root CAMVID``.

Where masks are reduced, a pixel's area may hold several classes. Training takes the largest (hard); here it is compared
with cross-entropy against the shares themselves (soft): the same networks, first weights, order and flips, each seed
trained both ways. Validation and test count full-size masks, as ever. Written to a file line by line, and gone on with.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from omegaconf import DictConfig
from scipy import stats
from torch import Tensor

from benchmarks.timing import arguments, begin
from segpipe.config import build
from segpipe.config.schema import CONF
from segpipe.data.dataset import Sample
from segpipe.data.resize import class_shares, to_network
from segpipe.data.samples import Batch, Samples
from segpipe.metrics.confusion import scores
from segpipe.training.losses import CrossEntropy


class SoftSamples(Samples):
    """Training samples whose mask is (H, W, K): of each pixel's area the share of every class, times 255."""

    def load(self, index: int) -> Sample:
        """Decode and resize."""
        image, mask = self.dataset.read(index)
        assert self.size is not None
        shares = class_shares(mask, (self.size[0], self.size[1]), range(len(self.dataset.classes)))
        return Sample(
            to_network(image, self.size), np.stack([np.rint(255 * share) for share in shares], -1).astype(np.uint8)
        )

    def __getitem__(self, keys: list[tuple[int, int]]) -> Batch:
        """Shares as (N, K, H, W), so that the last two axes are the image's."""
        batch = super().__getitem__(keys)
        return {**batch, "mask": batch["mask"].permute(0, 3, 1, 2)}


class SoftCrossEntropy(CrossEntropy):
    """Cross-entropy against shares (N, K, H, W), 0 to 255; against a hard mask (N, H, W) as ever."""

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The sum over pixels, each weighed by the share that is not ignored."""
        if mask.ndim == 3:
            return super().forward(logits, mask)
        return F.cross_entropy(logits, mask.float() / 255, reduction="sum")[None]

    def counts(self, mask: Tensor) -> Tensor:
        """The shares' sum."""
        return super().counts(mask) if mask.ndim == 3 else (mask.sum() / 255)[None]


def trained(cfg: DictConfig, *, soft: bool) -> NDArray[np.float64]:
    """Train once; each class's IoU on the test."""
    data = build.data(cfg)
    if soft:
        split = data.split("train")
        data.samples_by_split["train", True] = SoftSamples(
            split, size=data.size, train=True, augment=data.augment, seed=cfg.seed, cache="ram"
        )
    task = build.task(cfg, data)
    task.loss = SoftCrossEntropy()
    trainer = pl.Trainer(
        max_epochs=cfg.trainer.max_epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    trainer.test(task, datamodule=data, verbose=False)
    return np.array(scores(task.evaluations["test"].matrices.sum(0))["per_class_iou"])


def composed(root: str, epochs: int, seed: int, overrides: list[str]) -> DictConfig:
    """A network from scratch, with the data and the training of the CamVid study."""
    scratch = ["encoder=small", "encoder.weights=null", "encoder.freeze=0", "encoder.cache=false", "model.width=null"]
    given = [f"data.root={root}", f"seed={seed}", f"trainer.max_epochs={epochs}", "optimizer.lr=3e-3", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", ["experiment=sweep_camvid", "decoder=bilinear", "fusion=sum", *scratch, *given])


def report(found: dict[tuple[int, bool], Any], classes: list[str]) -> None:
    """Print soft less hard, in points, paired by seed."""
    seeds = sorted({seed for seed, soft in found if soft})  # trained last
    pairs = np.array([[found[seed, True], found[seed, False]] for seed in seeds]) * 100  # (S, 2, K)
    rows = {"mIoU": pairs.mean(2), **{name: pairs[..., k] for k, name in enumerate(classes)}}
    for name, row in rows.items():
        gap = row[:, 0] - row[:, 1]
        half = stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / len(gap) ** 0.5 if len(gap) > 2 else np.nan
        means = f"hard {row[:, 1].mean():5.1f}  soft {row[:, 0].mean():5.1f}"
        print(f"{name:12} {means}  difference {gap.mean():+.2f} ± {half:.2f}")


def main() -> None:
    """See the module."""
    parser = arguments(__doc__, rounds=5)  # seeds
    parser.add_argument("overrides", nargs="*", help="as for train")
    parser.add_argument("--root", required=True, help="CamVid's folder")
    parser.add_argument("--epochs", type=int, default=20, help="45 steps each (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/soft_targets.jsonl"))
    given = parser.parse_intermixed_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    begin(given)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    found = {}
    for line in given.out.read_text().splitlines() if given.out.is_file() else []:
        kept = json.loads(line)
        if kept["epochs"] == given.epochs:
            found[kept["seed"], kept["soft"]] = kept["iou"]
    for seed in range(given.rounds):
        cfg = composed(given.root, given.epochs, seed, given.overrides)
        for soft in (False, True):
            if (seed, soft) not in found:
                began = time.time()
                found[seed, soft] = trained(cfg, soft=soft).tolist()
                entry = {"seed": seed, "soft": soft, "epochs": given.epochs, "iou": found[seed, soft]}
                with given.out.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
                seconds, miou = time.time() - began, 100 * np.mean(found[seed, soft])
                print(f"seed {seed}, {'soft' if soft else 'hard'}: mIoU {miou:.1f}, {seconds:.0f} s", flush=True)
    report(found, build.dataset(cfg, "test").classes)


if __name__ == "__main__":
    main()
