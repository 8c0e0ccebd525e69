"""``--dry-run``: what a command would train, and about what that costs. Nothing is trained and nothing is written."""

import json
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from inspect import isclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor

from segpipe.config import build
from segpipe.config.plan import Plan, make_cell
from segpipe.config.schema import key_of, locate
from segpipe.config.width_search import architecture_key, parameters
from segpipe.data.module import SegmentationData
from segpipe.errors import UserError, pluralise, printable
from segpipe.models import cost
from segpipe.models.encoders import Encoder
from segpipe.runs.cells import Cell
from segpipe.runs.environment import cores
from segpipe.runs.labels import labels
from segpipe.runs.records import RunRecord, read_record
from segpipe.runs.run import Run
from segpipe.training import devices
from segpipe.training.ema import MovingAverage
from segpipe.training.task import SegmentationTask

OPTION = "--dry-run"
requested = [False]  # whether this process was asked for a dry run
OVERHEAD = 5.0  # seconds of a job that are not training: start, cost, example images
EVALUATION = 1 / 3  # of the time of a training step, for the same image: the forward pass alone
MOMENTS = {"AdamW": 2, "Adam": 2, "SGD": 1}  # numbers that an optimizer stores for each weight; others: 2
REPORT_EVERY = 30.0  # seconds between two lines on the progress
WARM_UP = 2  # steps before those that are timed: the first ones allocate memory and choose algorithms
STEPS = 5  # that are timed
MOST_SECONDS = 20.0  # after which no further step is timed


def take_option(arguments: list[str]) -> None:
    """Remove ``--dry-run`` from a command line, and store that it was there."""
    while OPTION in arguments:
        arguments.remove(OPTION)
        requested[0] = True


class Size(NamedTuple):
    """The amount of work of a cell. parameters: of the network. per_image: multiply-adds for one test image.

    training, evaluation: multiply-adds of all training steps, of the forward pass alone, and of all evaluations;
    without those of an encoder whose features are kept (``encoder.cache``). encoding: the configuration of that
    encoder, and its multiply-adds for all images, which other cells share; otherwise 0. stored: bytes of the
    checkpoints and results that are kept.
    """

    parameters: int
    per_image: int
    training: float
    evaluation: float
    encoding: tuple[str, float]
    stored: float

    def seconds(self, rate: float) -> float:
        """Return the duration of the job. rate: see ``Speed``."""
        return OVERHEAD + rate * (self.training + EVALUATION * self.evaluation)


@dataclass
class Summary:
    """What the jobs of a command are. sizes: of each run that is to be trained. done: runs that are finished.

    rejected: labels of invalid cells by reason. cells: the number of all of them. first: a valid configuration.
    """

    cells: int = 0
    sizes: dict[str, tuple[Cell, Size]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    rejected: dict[str, list[str]] = field(default_factory=dict)
    first: DictConfig | None = None


def show(
    configs: Iterable[tuple[DictConfig, list[str]]], *, total: int, folder: Path | None, has_workers: bool = False
) -> None:
    """Print what would be trained.

    configs: the configuration and the overrides of each job. total: their number. folder: of the sweep; None for a
    single training. has_workers: whether the jobs are trained by the workers of a sweep. Raises UserError where no job
    is valid, and where there are fewer devices than workers.
    """
    summary = Summary()
    reported = time.monotonic()
    for cfg, overrides in configs:
        summary.cells += 1
        before = summary.first
        note(summary, cfg, [one for one in overrides if not key_of(one).startswith("sweep.")], folder)
        if has_workers and before is None and summary.first is not None:  # the one for which a sweep makes its workers
            devices.split_devices(cfg.sweep.workers, gpu=devices.on_gpu(cfg), per_gpu=cfg.sweep.per_gpu)
        if time.monotonic() - reported > REPORT_EVERY:
            reported = time.monotonic()
            print(f"Checked {summary.cells:,} of {total:,} cells.", flush=True)
    console = Console(highlight=False)
    for reason, cells in summary.rejected.items():
        more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
        console.print(printable(f"Rejected: {'; '.join(cells[:3])}{more}: {reason}"), markup=False, soft_wrap=True)
    if summary.first is None:
        raise UserError(f"None of the {summary.cells} cells can be trained. The reasons are above.")
    print_estimate(console, summary, summary.first)


def note(summary: Summary, cfg: DictConfig, overrides: list[str], folder: Path | None) -> None:
    """Add a job to a summary."""
    cfg.run_dir = cfg.run_dir or "."  # the run has no folder
    cell = make_cell(cfg, overrides)
    try:
        if cell.run is None:
            raise UserError(cell.refused or cell.error)
        plan = Plan.of(cfg)
        name = plan.name()
        record = read_record(Run(folder / name).record_path, RunRecord) if folder else {}
        if record.get("status") == "finished":
            summary.done.add(name)
        else:
            summary.sizes[name] = (cell._replace(run=name), size_of(plan.cfg))
        summary.first = summary.first or plan.cfg
    except UserError as error:
        summary.rejected.setdefault(str(error), []).append(cell.label)


def size_of(cfg: DictConfig) -> Size:
    """Return the amount of work of a configuration. Raises the data set's UserError where the data are missing."""
    data = data_of(cfg)
    images = {split: len(data.stored(split)) for split in ("train", "val", "test")}
    classes, crop, whole = len(data.stored("train").classes), training_size(cfg, data), evaluation_size(cfg, data)
    form = data.stored("train").form
    architecture = architecture_key(cfg, form.channels if form else 3)
    step, test = network_cost(architecture, classes, crop), network_cost(architecture, classes, whole)
    evaluated = images["val"] + images["test"]
    epochs, batch = cfg.trainer.max_epochs, cfg.data.batch_size
    batches = limited(data.train_batches(), cfg.trainer.get("limit_train_batches"))
    validations = epochs // cfg.trainer.check_val_every_n_epoch
    moments = MOMENTS.get(str(cfg.optimizer._target_).rpartition(".")[2], 2)
    callbacks = [locate(node._target_) for node in cfg.callbacks.values() if node is not None and "_target_" in node]
    averaged = any(isclass(made) and issubclass(made, MovingAverage) for made in callbacks)
    number = 4.0 * step.parameters  # bytes
    weights = number * (2 if averaged else 1)
    checkpoints = {"all": 2 * (weights + number * moments), "best": number, "none": 0.0}[cfg.sweep.keep]
    counts = 0.4 * evaluated * classes**2  # compressed to about a tenth
    variants = 1 if data.overfit else 2 ** len(data.augment.flips())
    return Size(
        parameters=step.parameters,
        per_image=test.multiply_adds,
        training=float(step.trained * batch * batches * epochs),
        evaluation=float(test.trained * (validations * images["val"] + images["test"])),
        encoding=(
            repr(build.resolve(cfg.encoder)),
            float(step.encoding * variants * images["train"] + test.encoding * evaluated),
        ),
        stored=checkpoints + counts + 3e5,
    )


def limited(batches: int, limit: float | int | None) -> int:
    """Return the number of batches of an epoch: at most ``limit``, or that share of them."""
    if limit is None:
        return batches
    return int(batches * limit) if isinstance(limit, float) else min(batches, limit)


def training_size(cfg: DictConfig, data: SegmentationData) -> tuple[int, int]:
    """Return height and width of the images in training."""
    given = cfg.data.get("crop") or cfg.data.get("size")
    return (given[0], given[1]) if given else data.stored("train").size(0)


def evaluation_size(cfg: DictConfig, data: SegmentationData) -> tuple[int, int]:
    """Return height and width of the images in a test; as ``metrics.json``, those of the first image."""
    given = cfg.data.get("size")
    return (given[0], given[1]) if given else data.stored("test").size(0)


modules: dict[str, SegmentationData] = {}  # the data module of the last cell, by its configuration


def data_of(cfg: DictConfig) -> SegmentationData:
    """Return the data module of a configuration; the same one for neighbouring cells with the same data."""
    key = repr(build.resolve(cfg.data))
    if key not in modules:
        modules.clear()
        modules[key] = build.data(cfg)
    return modules[key]


class NetworkCost(NamedTuple):
    """Parameters, and multiply-adds for one image. encoding: those of an encoder whose features are kept, or 0."""

    parameters: int
    multiply_adds: int
    encoding: int

    @property
    def trained(self) -> int:
        """Multiply-adds for one image whose features, if any are kept, are read."""
        return self.multiply_adds - self.encoding


@cache
def network_cost(architecture: str, classes: int, size: tuple[int, int]) -> NetworkCost:
    """Return the cost of a network for images of a size (height, width), without memory for its weights."""
    cfg: Any = OmegaConf.create(json.loads(architecture))
    with torch.device("meta"):
        encoder = build.meta_encoder(cfg, channels=cfg.get("in_channels", 3))
        network = build.network_factory(cfg, encoder, classes)().eval()
        image = torch.zeros(1, encoder.in_channels, *size)
    whole, kept = cost.multiply_adds(network, size), cfg.encoder.get("cache")
    encoding = cost.count(lambda: network.encoder.extract(network.pad(image))) if kept else 0
    return NetworkCost(parameters(network), whole, encoding)


class KeptFeatures:
    """In the place of ``Encoder.extract``: returns the maps of the first batch each time, as if they were read.

    seconds: to compute these maps, after a first time that is not timed.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.maps: dict[int, Tensor] = {}
        self.seconds = 0.0

    def __call__(self, image: Tensor, x: Tensor) -> dict[int, Tensor]:
        """Stride: (N, C, H/stride, W/stride). image, x: as given to a network's ``extractor``, of one shape."""
        for _ in range(0 if self.maps else 2):
            start = time.monotonic()
            with torch.no_grad():
                self.maps = self.encoder.extract(x)
            wait_for(x.device)
            self.seconds = time.monotonic() - start
        return self.maps


class Speed(NamedTuple):
    """The measured speed of training. rate: seconds of a step for each multiply-add of its forward pass.

    An encoder whose features are kept is in neither; encoding: its seconds for each of its multiply-adds, or 0.
    steps: the seconds of each step that was timed, on ``threads`` threads of the CPU.
    """

    rate: float
    encoding: float
    steps: list[float]
    threads: int

    def __str__(self) -> str:
        """What was measured."""
        middle, low, high = (f"{value:.2g}" for value in (statistics.median(self.steps), *self.range))
        steps = pluralise(len(self.steps), "warm training step")
        return f"the median of {steps} on {pluralise(self.threads, 'thread')}: {middle} s ({low} to {high} s)"

    @property
    def range(self) -> tuple[float, float]:
        """The fastest and the slowest step, in seconds."""
        return min(self.steps), max(self.steps)


def measure_speed(cfg: DictConfig) -> Speed:
    """Time training steps with random images, with the threads that a job of the sweep has. No image is loaded.

    The rate is from the median of STEPS steps, after WARM_UP steps that are not timed.
    """
    data, gpu = data_of(cfg), devices.on_gpu(cfg)
    task = build.task(cfg, data).to("cuda" if gpu else "cpu")
    kept = KeptFeatures(task.network.encoder)
    if cfg.encoder.get("cache"):
        task.network.extractor = kept
    size, batch = training_size(cfg, data), cfg.data.batch_size
    image = torch.randint(256, (batch, task.network.encoder.in_channels, *size), dtype=torch.uint8, device=task.device)
    mask = torch.randint(len(task.classes), (batch, *size), device=task.device)
    given = torch.get_num_threads()
    threads = given if gpu or cfg.sweep.workers == 1 else max(cores() // cfg.sweep.workers, 1)
    times: list[float] = []
    began = time.monotonic()
    torch.set_num_threads(threads)
    try:
        for number in range(WARM_UP + STEPS):
            start = time.monotonic()
            one_step(task, cfg, image, mask)
            if number >= WARM_UP:
                times.append(time.monotonic() - start)
            if times and time.monotonic() - began > MOST_SECONDS:
                break
    finally:
        torch.set_num_threads(given)
    step = network_cost(architecture_key(cfg, image.shape[1]), len(task.classes), size)
    encoding = kept.seconds / (step.encoding * batch) if step.encoding else 0.0
    return Speed(statistics.median(times) / (step.trained * batch), encoding, times, threads)


def one_step(task: SegmentationTask, cfg: DictConfig, image: Tensor, mask: Tensor) -> None:
    """Compute the loss of a batch and its gradients. image: (N, 3, H, W), uint8. mask: (N, H, W)."""
    task.zero_grad()
    with torch.autocast(task.device.type, torch.bfloat16, enabled=build.precision(cfg) == "bf16-mixed"):
        sums = task.step(image, mask)[1]
    task.loss.combine(sums, task.loss.counts(mask).float()).backward()
    wait_for(task.device)


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given, so that the time can be taken."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def print_estimate(console: Console, summary: Summary, cfg: DictConfig) -> None:
    """Print a table of the networks, and the time and disk space of all jobs. cfg: of one of them, which is timed."""
    speed = measure_speed(cfg)
    table = Table(title="Dry run: nothing is trained or written", title_justify="left")
    for heading in ("cell", "runs", "parameters", "multiply-adds", "time each"):
        table.add_column(heading, overflow="fold", justify="left" if heading == "cell" else "right")
    for label, number, size in grouped(summary):
        cells = (f"{size.parameters:,}", f"{size.per_image / 1e6:,.1f} M", duration(size.seconds(speed.rate)))
        table.add_row(printable(label), str(number), *cells)
    console.print(table)
    sizes = [size for _, size in summary.sizes.values()]
    rejected = sum(map(len, summary.rejected.values()))
    counts = [pluralise(summary.cells, "cell"), f"{pluralise(len(sizes), 'run')} to train"]
    counts += [f"{len(summary.done):,} finished"] if summary.done else []
    counts += [f"{rejected:,} rejected"] if rejected else []
    print(f"{', '.join(counts)}.")
    gpu = devices.on_gpu(cfg)
    workers = cfg.sweep.workers
    features = speed.encoding * sum(dict(size.encoding for size in sizes).values())
    seconds = (features + sum(size.seconds(speed.rate) for size in sizes)) / workers
    place = "this CPU" if not gpu else "one GPU" if workers == 1 else f"{workers} GPUs"
    once = f", with {duration(features)} to compute the features that are kept" if features else ""
    loaded = "images and features" if features else "images"
    print(f"About {duration(seconds)} on {place}{once}; loading {loaded} is not included.")
    print(f"Measured here, now: {speed}. Other work on this machine makes it longer.")
    stored = sum(size.stored for size in sizes)
    print(f"About {stored / 1e6:,.0f} MB on the disk (sweep.keep={cfg.sweep.keep}).")


def grouped(summary: Summary) -> Iterator[tuple[str, int, Size]]:
    """Yield each network to train without its seed: the label, the number of runs, and the size of one."""
    runs: dict[str, list[Size]] = {}
    names = labels([cell for cell, _ in summary.sizes.values()], with_seed=False)
    for label, (_, size) in zip(names, summary.sizes.values(), strict=True):
        runs.setdefault(label, []).append(size)
    for label, sizes in runs.items():
        yield label, len(sizes), sizes[0]


def duration(seconds: float) -> str:
    """Return a duration with its unit, rounded to what an estimate can say."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
