"""Many images through one network: read ahead by a thread, computed in batches, written by another thread."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from segpipe.config.messages import explain
from segpipe.data.dataset import Image
from segpipe.engine.outputs import Outputs, Prediction, collect, write_outputs
from segpipe.engine.predictor import Predictor
from segpipe.errors import in_words
from segpipe.models.windows import Tile

BATCH = 16  # images of equal size that the network receives at a time
CPU_PIXELS = 2**18  # of a batch on a CPU: larger ones do not fit in its caches (benchmarks/predicting.py)
EVERY = 10.0  # seconds between two lines with the time that is left, where there is no terminal
WAITING = 64 * 2**20  # bytes of images that wait to be computed, and of those that wait to be written


@dataclass
class Loaded:
    """An image that was read, or the error. resized: as the network receives it."""

    name: str
    path: Path
    image: Image | None = None
    resized: Image | None = None
    error: Exception | None = None

    @property
    def bytes(self) -> int:
        """Return the memory of the image in bytes."""
        return sum(0 if array is None else array.nbytes for array in (self.image, self.resized))


Frames = Callable[[str, Path], Iterator[tuple[str, Image]]]
Write = Callable[[Loaded, Prediction], None]


def load(images: dict[str, Path], predictor: Predictor, frames: Frames) -> Iterator[Loaded]:
    """Yield each image with its name and size for the network. frames: yields the names and images of a file."""
    for name, path in images.items():
        try:
            for frame, image in frames(name, path):
                yield Loaded(frame, path, image, predictor.resized(image))
        except Exception as error:
            yield Loaded(name, path, error=error)


def read_ahead(items: Iterator[Loaded], *, most: int) -> Generator[Loaded, None, None]:
    """Yield items that a thread takes from an iterator, while at most ``most`` bytes of them wait."""
    ready: deque[Loaded] = deque()
    changed = threading.Condition()
    ended = stopped = False

    def work() -> None:
        nonlocal ended
        try:
            for item in items:
                with changed:
                    ready.append(item)
                    changed.notify_all()
                    changed.wait_for(lambda: stopped or sum(one.bytes for one in ready) < most)
                    if stopped:
                        break
        finally:
            with changed:
                ended = True
                changed.notify_all()

    thread = threading.Thread(target=work, name="read ahead", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: ready or ended)
                if not ready:
                    return
                item = ready.popleft()
                changed.notify_all()
            yield item
    finally:
        with changed:
            stopped = True
            changed.notify_all()
        thread.join()


def in_batches(items: Iterable[Loaded], *, limit: int) -> Iterator[list[Loaded]]:
    """Yield images of equal size together, at most BATCH of them and at most ``limit`` pixels; errors alone.

    Images wait for others of their size until WAITING bytes wait.
    """
    waiting: dict[tuple[int, ...], list[Loaded]] = {}
    for item in items:
        if item.resized is None:
            yield [item]
            continue
        shape = item.resized.shape
        group = waiting.setdefault(shape, [])
        group.append(item)
        if len(group) >= min(BATCH, max(1, limit // (shape[0] * shape[1]))):
            yield waiting.pop(shape)
        elif sum(one.bytes for members in waiting.values() for one in members) >= WAITING:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


class Pipeline:
    """Predicts images and reports each one.

    outputs: the files that are written. write: writes those of one image. report: called in the caller's thread with
    an image and its prediction, or with the error of an image that could not be read, predicted or written.
    advance: called with the share of the image that is being computed, 0 to 1, after each part of a large one.
    Errors that are not explained to users are raised.
    """

    def __init__(
        self,
        predictor: Predictor,
        outputs: Outputs,
        *,
        report: Callable[[Loaded, Prediction | None, Exception | None], None],
        advance: Callable[[float], None] = lambda share: None,
        write: Write | None = None,
    ) -> None:
        self.predictor, self.outputs, self.report, self.advance = predictor, outputs, report, advance
        self.write = write or self.write_files
        self.pending: deque[tuple[Loaded, Prediction, Future[None]]] = deque()

    def run(self, images: dict[str, Path], frames: Frames | None = None) -> None:
        """Predict images by name; see ``load`` for ``frames``."""
        items = load(images, self.predictor, frames or self.read)
        with (
            closing(read_ahead(items, most=WAITING)) as ahead,
            ThreadPoolExecutor(1, "write") as writer,
        ):
            try:
                limit = self.predictor.windows.limit
                if self.predictor.device.type == "cpu":
                    limit = min(limit, CPU_PIXELS)
                for batch in in_batches(ahead, limit=limit):
                    self.compute(batch, writer)
                self.finish(most=-1)
            except BaseException:
                writer.shutdown(wait=False, cancel_futures=True)
                raise

    def read(self, name: str, path: Path) -> Iterator[tuple[str, Image]]:
        """Yield the image of a file."""
        yield name, self.predictor.as_input(path)

    def compute(self, batch: list[Loaded], writer: ThreadPoolExecutor) -> None:
        """Predict a batch, and hand each image to the thread that writes; if a batch fails, its images alone."""
        if batch[0].error is not None:
            self.fail(batch[0], batch[0].error)
            return
        sizes = [one.image.shape[:2] for one in batch if one.image is not None]
        parts = self.predictor.batch([one.resized for one in batch if one.resized is not None], sizes)
        for place, (item, size) in enumerate(zip(batch, sizes, strict=True)):
            try:
                found = collect(self.counted(next(parts), size), size, item.name, self.outputs)
            except Exception as error:
                if len(batch) == 1:
                    self.fail(item, error)
                for one in batch[place:] if len(batch) > 1 else []:
                    self.compute([one], writer)
                return
            item.resized = None
            self.finish(most=WAITING - item.bytes)
            self.pending.append((item, found, writer.submit(self.write, item, found)))

    def counted(self, tiles: Iterable[Tile], size: tuple[int, ...]) -> Iterator[Tile]:
        """Yield tiles, and report the share of the image that they cover."""
        done = 0
        for tile in tiles:
            yield tile
            done += tile.logits.shape[-2] * tile.logits.shape[-1]
            self.advance(done / (size[0] * size[1]))

    def write_files(self, item: Loaded, found: Prediction) -> None:
        """Write the files of an image."""
        assert item.image is not None  # it was predicted
        write_outputs(item.name, item.path, item.image, found, self.outputs)

    def finish(self, *, most: int) -> None:
        """Report images that are written; wait until at most ``most`` bytes of images are not. -1: none."""
        while self.pending:
            item, found, future = self.pending[0]
            if not future.done() and sum(one.bytes for one, _, _ in self.pending) <= most:
                return
            error = future.exception()
            self.pending.popleft()
            if isinstance(error, Exception):
                self.fail(item, error)
            elif error is not None:
                raise error
            else:
                self.report(item, found, None)

    def fail(self, item: Loaded, error: Exception) -> None:
        """Report an error; raise it if it is an error in the program."""
        if explain(error) is None:
            raise error
        self.report(item, None, error)


class Eta:
    """Estimates when a number of images, or other steps, will be done. total: the number of steps."""

    def __init__(self, total: float) -> None:
        self.total, self.start = total, time.monotonic()

    def left(self, done: float) -> str:
        """Return the time that is left, in words. done: steps, with a share of the present one."""
        seconds = (time.monotonic() - self.start) / max(done, 1e-9) * max(self.total - done, 0)
        return f"about {in_words(round(seconds))} left"
