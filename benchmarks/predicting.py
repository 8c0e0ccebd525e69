"""How fast is ``python -m segpipe.predict`` on many small images, and how much memory does a large one need?

Many images: one image after the other, with Pillow's PNG files, as before; against the pipeline, which reads ahead,
computes batches and writes in a thread. Both write the same three files of photos. Beside them, the forward pass alone,
in batches of 16 and of 4. ``--large SIDE``: instead, predict an image of SIDE x SIDE pixels in a
process of its own, and print the memory that it needs beside the process with the network. Weights are drawn, not
trained: they do not change the time.
"""

import os
import resource
import shutil
import tempfile
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.plain import configure
from benchmarks.timing import arguments, begin, interleaved, milliseconds, ratio, timed
from segpipe.config import build
from segpipe.data.dataset import IGNORE_INDEX
from segpipe.data.files import read_image
from segpipe.data.samples import as_tensor
from segpipe.data.visualise import save_image
from segpipe.engine.outputs import Outputs
from segpipe.engine.prediction import BATCH, Pipeline
from segpipe.engine.predictor import Predictor
from segpipe.models.network import resize_logits

CLASSES = [f"class {number}" for number in range(11)]


class Drawn(Predictor):
    """A predictor whose weights are drawn."""

    def __init__(self, overrides, device):
        self.cfg = configure(*overrides)
        self.classes, self.size, self.bands, self.device = CLASSES, None, None, device
        self.palette = [tuple(colour) for colour in np.random.default_rng(0).integers(0, 256, (11, 3)).tolist()]
        self.network = build.network(self.cfg, len(CLASSES)).eval().to(device)
        self.use(self.network, flips="none", scales=(1.0,))


def photo(rng, side):
    """A smooth picture with noise, (side, side, 3)."""
    coarse = rng.integers(0, 256, (side // 16 + 2, side // 16 + 2, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return cv2.add(smooth, rng.integers(0, 12, (side, side, 3)).astype(np.uint8))


def one_by_one(predictor, images, out):
    """The loop of earlier versions, with its drawing and its files."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(predictor.palette)] = predictor.palette
    table[IGNORE_INDEX] = 0
    for name, path in images.items():
        image = read_image(path)
        with torch.inference_mode():
            logits = resize_logits(predictor.network(as_tensor(image)).float(), image.shape[:2])[0]
        mask = logits.argmax(0).byte().cpu().numpy()
        save_image(mask, out / f"{name}_mask.png")
        save_image(table[mask], out / f"{name}_colour.png")
        save_image((0.45 * image + 0.55 * table[mask]).round().astype(np.uint8), out / f"{name}_overlay.png")
        [float((mask == index).mean()) for index in range(len(CLASSES))]


def in_pipeline(predictor, images, out):
    """The present command, without its imports."""
    failed = []
    outputs = Outputs(out, predictor.classes, predictor.palette, geo=False)
    Pipeline(predictor, outputs, report=lambda item, found, error: failed.append(error)).run(images)
    assert not any(failed)


def forward(predictor, batch, number):
    """The network alone, in batches."""
    with torch.inference_mode():
        for _ in range(number):
            predictor.network(batch)


def many(given, device):
    """Time a folder of small images."""
    rng = np.random.default_rng(0)
    predictor = Drawn(given.overrides, device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = {f"{number:04}": folder / f"{number:04}.png" for number in range(given.images)}
        for path in images.values():
            cv2.imwrite(str(path), photo(rng, given.side))
        batch = torch.cat([as_tensor(read_image(path)) for path in images.values()][:BATCH])
        alone = {f"batches of {size}": (batch[:size], given.images // min(size, len(batch))) for size in (BATCH, 4)}
        sides = {
            "one by one": partial(one_by_one, predictor, images, folder / "before"),
            "pipeline": partial(in_pipeline, predictor, images, folder / "after"),
        } | {name: partial(forward, predictor, *work) for name, work in alone.items()}
        times = interleaved({name: timed(work, device) for name, work in sides.items()}, rounds=given.rounds)
        for name, seconds in times.items():
            rate = given.images / float(np.median(seconds))
            print(f"{name:16}{milliseconds(seconds):>12}  {rate:6.1f} images/s")
        print(f"one by one / pipeline: {ratio(times['one by one'], times['pipeline'])}")
        for name in alone:
            print(f"pipeline / {name}: {ratio(times['pipeline'], times[name])}")


@contextmanager
def watched():
    """Take the largest memory of this process every few milliseconds: yields a list whose item 0 is it, in MiB."""
    page, largest, ended = os.sysconf("SC_PAGE_SIZE"), [0.0], threading.Event()

    def watch():
        while not ended.wait(0.005):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            largest[0] = max(largest[0], pages * page / 2**20)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield largest
    finally:
        ended.set()
        thread.join()


def large(given, device):
    """Measure the memory of one large image."""
    folder = Path(tempfile.mkdtemp())
    try:
        pid = os.fork()  # the image is drawn in another process: its memory is not counted
        if not pid:
            tile = photo(np.random.default_rng(0), min(given.large, 1000))
            repeats = -(-given.large // len(tile))
            cv2.imwrite(str(folder / "a.png"), np.tile(tile, (repeats, repeats, 1))[: given.large, : given.large])
            os._exit(0)
        os.waitpid(pid, 0)
        predictor = Drawn(given.overrides, device)
        forward(predictor, torch.zeros(1, 3, 256, 256, dtype=torch.uint8, device=device), 1)
        start = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        begun = time.perf_counter()
        with watched() as largest:
            in_pipeline(predictor, {"a": folder / "a.png"}, folder / "out")
        peak = max(largest[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        print(f"with the network: {start:.0f} MiB; peak: {peak:.0f} MiB; more: {peak - start:.0f} MiB")
        print(f"{given.large} x {given.large}: {time.perf_counter() - begun:.0f} s")
        assert len(list((folder / "out").iterdir())) == 3
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Time the sides, or measure the memory."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("overrides", nargs="*", default=["encoder=small"], help="of the network (%(default)s)")
    parser.add_argument("--images", type=int, default=64, help="number of images (%(default)s)")
    parser.add_argument("--side", type=int, default=256, help="of the small images (%(default)s)")
    parser.add_argument("--large", type=int, help="side of one large image")
    given = parser.parse_args()
    device = begin(given)
    if given.large:
        large(given, device)
    else:
        many(given, device)


if __name__ == "__main__":
    main()
