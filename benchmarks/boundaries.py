"""What do the scores at boundaries cost? The same test pass with and without them, and their parts by image.

A network is trained a little first, since what an untrained one predicts has other boundaries than anybody's. Then
Lightning tests it on the same batches, counting at boundaries or not, in turns. On a CPU the processor's seconds are
printed beside those of the clock, since they hardly grow with what else the machine does.
"""

import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from benchmarks.plain import configure
from benchmarks.timing import arguments, begin, interleaved, milliseconds, ratio, timed
from segpipe.config import build
from segpipe.data.samples import Batch
from segpipe.metrics.boundaries import band_counts, boundary_f
from segpipe.metrics.components import object_counts
from segpipe.metrics.contours import contours, fill_ignored


def main() -> None:
    """The command line."""
    parser = arguments(__doc__, rounds=10)
    parser.add_argument("--steps", type=int, default=100, help="of the training before (%(default)s)")
    parser.add_argument("--batches", type=int, default=10, help="of a test pass (%(default)s)")
    parser.add_argument("overrides", nargs="*", help="as for segpipe.train: data=camvid data.root=...")
    given = parser.parse_args()
    device = begin(given)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*|torch\..*")
    with tempfile.TemporaryDirectory() as folder:
        cfg = configure(f"run_dir={folder}", *given.overrides)
        data = build.data(cfg)
        data.check()
        task = build.task(cfg, data)
        accelerator = "gpu" if device.type == "cuda" else "cpu"
        trainer = pl.Trainer(
            max_steps=given.steps, limit_val_batches=0, limit_test_batches=given.batches, accelerator=accelerator,
            devices=1, precision=build.precision(cfg), logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
            default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(task, datamodule=data)

        processor: dict[str, list[float]] = {"without": [], "with": []}

        def count(name: str) -> Callable[[], Any]:
            def run() -> None:
                task.test_step = lambda batch, batch_idx: task.evaluation_step(batch, at_boundaries=name == "with")
                began = time.process_time()
                trainer.test(task, datamodule=data, verbose=False)
                processor[name].append(time.process_time() - began)

            return run

        sides = {name: timed(count(name), device) for name in processor}
        times = interleaved(sides, rounds=given.rounds)
        batches = iter(data.loader("test"))
        kept = [next(batches) for _ in range(min(given.batches, 3))]
    images = len(task.evaluations["test"].indices)
    print(f"{images} images of {' x '.join(str(side) for side in kept[0]['mask'].shape[1:])}")
    processor = {name: seconds[1:] for name, seconds in processor.items()}  # the first of either side warmed up
    for kind, both in {"clock": times, "processor": processor}.items():
        if device.type == "cpu" or both is times:
            for name, seconds in both.items():
                print(f"{kind}, {name:8} {milliseconds(np.divide(seconds, images))} a image")
            print(f"{kind}: with / without: {ratio(both['with'], both['without'])}")
    parts(task, kept, rounds=given.rounds)


def parts(task: Any, batches: list[Batch], *, rounds: int) -> None:
    """Print what each score takes of a image."""
    task, classes = task.cpu().eval(), len(task.classes)
    pairs, cpu = [], torch.device("cpu")
    for batch in batches:
        with torch.inference_mode():
            guesses = task.step(batch["image"], batch["mask"].long())[0].max(1).indices.numpy().astype(np.uint8)
        pairs.append((guesses, batch["mask"].numpy()))
    whole = [fill_ignored(*pair) for pair in pairs]
    drawn = [(contours(filled.prediction), contours(filled.truth)) for filled in whole]
    present = [np.ones((len(filled.truth), classes), bool) for filled in whole]
    sides = {
        "ignored pixels filled": lambda: [fill_ignored(*pair) for pair in pairs],
        "contours": lambda: [contours(labels) for filled in whole for labels in filled[:2]],
        "boundary IoU and bands": lambda: [band_counts(*one, classes) for one in zip(whole, drawn, strict=True)],
        "boundary F": lambda: [boundary_f(*one) for one in zip(whole, drawn, present, strict=True)],
        "objects": lambda: [object_counts(filled, num_classes=classes) for filled in whole],
    }
    times = interleaved({name: timed(side, cpu) for name, side in sides.items()}, rounds=rounds)
    for name, seconds in times.items():
        print(
            f"  {name:24}{milliseconds(np.divide(seconds, sum(len(batch['mask']) for batch in batches))):>12} a image"
        )


if __name__ == "__main__":
    main()
