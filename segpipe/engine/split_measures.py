"""What ``python -m segpipe.inspect RUN ... --split`` measures of runs on a split, for segpipe.lab.split."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from segpipe.config import build
from segpipe.data.dataset import Mask, Sample, Split, Subset, evenly
from segpipe.data.samples import Samples, as_tensor
from segpipe.engine.evaluation import load_data
from segpipe.engine.prediction import EVERY, Eta
from segpipe.engine.predictor import Predictor
from segpipe.errors import UserError
from segpipe.lab import content, failures, probes, receptive_field, skips, switches
from segpipe.lab.failures import FailureMeasures
from segpipe.lab.skips import Advance
from segpipe.lab.split import Reason, RunMeasures, SplitMeasures
from segpipe.metrics.bootstrap import MIN_UNITS
from segpipe.models.network import Network
from segpipe.runs.storage import inside, read_json, write_json

VERSION = 3  # raised when a number changes; results of another version are not used
FIT_IMAGES = 4  # times as many images as are measured, for the probes


class SampleSequence(Sequence[Sample]):
    """The samples of a split, read again each time: images as the network receives them, masks of their own size."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        """Return a sample, or a list of samples for a slice."""
        if isinstance(index, slice):
            return [self.samples.load(number) for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)  # ends a loop over the sequence
        return self.samples.load(index)


@dataclass(frozen=True)
class Job:
    """One run with its data.

    data: name of the data set. measured, fitted: the images that are measured, and those that the probes are fitted on,
    of the splits ``split`` and ``fit_split``. total: number of images of the split. size: [height, width] of the
    network's input; None keeps the size. key: of the run's results.
    """

    predictor: Predictor
    data: str
    split: Split
    fit_split: Split
    total: int
    measured: Subset
    fitted: Subset
    size: list[int] | None
    key: str

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.predictor.run.folder.resolve().name

    def samples(self, subset: Subset) -> SampleSequence:
        """Return the samples of some images."""
        return SampleSequence(Samples(subset, size=self.size, train=False, augment=None, seed=0, cache="off"))


class Task(NamedTuple):
    """One result that is measured, or read from the cache.

    kind: the dataclass of the result. passes: forward passes that ``run`` reports.
    """

    key: str
    kind: type
    passes: float
    run: Callable[[Advance], Any]


def measure_split(
    predictors: Sequence[Predictor | Reason],
    *,
    overrides: list[str],
    split: Split,
    limit: int,
    folder: Path,
    trust: Iterable[str] = (),
) -> SplitMeasures:
    """Measure each run (``RunMeasures``), and compare the first run with each of the others.

    predictors: the runs; a Reason for a run that has no weights is kept, without numbers. Networks stay on the devices
    of their predictors. overrides: the data, as for ``evaluation.evaluate``. limit: number of images, taken at equal
    distances from the split. folder: results are kept in ``folder/cache`` and used again for equal weights, images and
    versions. trust: see ``Predictor``. Raises UserError where the data are missing, or of other classes than a run's.
    """
    given: dict[str, Any] = {"overrides": overrides, "split": split, "limit": limit, "trust": tuple(trust)}
    jobs = [one if isinstance(one, Reason) else prepare(one, **given) for one in predictors]
    pairs = [(jobs[0], job) for job in jobs[1:]]
    tasks = [run_task(job) for job in jobs if isinstance(job, Job)]
    tasks += [pair_task(*pair) for pair in pairs if not difference(*pair)]  # type: ignore[arg-type]
    results = iter(run_tasks(tasks, inside(folder, "cache"), f"Measuring {split}"))
    runs = [
        replace(next(results), name=job.name) if isinstance(job, Job) else RunMeasures(job.name, job.text, split=split)
        for job in jobs
    ]
    compared = []
    for first, second in pairs:
        names, reason = (first.name, second.name), difference(first, second)
        compared.append(FailureMeasures(names, reason) if reason else replace(next(results), names=names))
    return SplitMeasures(split, runs, compared)


def prepare(predictor: Predictor, *, overrides: list[str], split: Split, limit: int, trust: tuple[str, ...]) -> Job:
    """Return a run with its data. Raises UserError as ``load_data``, for a limit below 1, and for an empty split."""
    if limit < 1:
        raise UserError(f"--limit {limit}: allowed is a number of images of 1 or more.")
    cfg, data = load_data(predictor, overrides=overrides, split=split, trust=trust)
    fit_split: Split = "train" if split == "val" else "val"
    measured, fitted = (
        Subset(data.split(name), evenly(len(data.split(name)), count))
        for name, count in ((split, limit), (fit_split, FIT_IMAGES * limit))
    )
    for name, subset in ((split, measured), (fit_split, fitted)):
        if not len(subset):
            what = "measured" if name == split else "used to fit the probes"
            raise UserError(f"The {name} split has no image; its images are {what}. Add images, or give other data.")
    size = None if data.size is None else list(data.size)
    content = {
        "run": predictor.run.record.get("identity"),
        "weights": weights_digest(predictor.network),
        "split": split,
        "limit": limit,
        "data": [measured.fingerprint(), fitted.fingerprint(), *measured.groups],
        "size": size,
    }
    total = len(data.split(split))
    key = digest(content)
    return Job(predictor, str(cfg.data.name), split, fit_split, total, measured, fitted, size, key)


def digest(content: Any) -> str:
    """Return 16 hexadecimal digits that depend on JSON content and on VERSION."""
    return hashlib.blake2b(json.dumps([VERSION, content]).encode(), digest_size=8).hexdigest()


def weights_digest(network: Network) -> str:
    """Return a digest of a network's weights: a run that is trained further keeps its name."""
    whole = hashlib.blake2b(digest_size=16)
    for name, tensor in network.state_dict().items():
        whole.update(name.encode())
        whole.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return whole.hexdigest()


def run_tasks(tasks: Sequence[Task], cache: Path, label: str) -> list[Any]:
    """Return the result of each task. What the cache does not have is measured and added to it, with progress."""
    results = [cached(cache, task) for task in tasks]
    total = sum(task.passes for task, result in zip(tasks, results, strict=True) if result is None)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    eta, printed = Eta(total), time.monotonic()

    def advance(passes: float) -> None:
        nonlocal printed
        progress.advance(line, passes)
        done, now = progress.tasks[line].completed, time.monotonic()
        if not sys.stdout.isatty() and now - printed >= EVERY and done < total:
            printed = now
            print(f"{label}: {done / total:.0%}, {eta.left(done)}", flush=True)

    with Progress(*columns, transient=True, disable=not (total and sys.stdout.isatty())) as progress:
        line = progress.add_task(label, total=total)
        for index, task in enumerate(tasks):
            if results[index] is None:
                results[index] = result = task.run(advance)
                write_json(inside(cache, f"{task.key}.json"), {"version": VERSION, "result": asdict(result)})
    return results


def cached(cache: Path, task: Task) -> Any | None:
    """Return the kept result of a task; None where there is none, or where its file is damaged."""
    content = read_json(inside(cache, f"{task.key}.json"))
    try:
        return TypeAdapter(task.kind).validate_python(content["result"]) if content["version"] == VERSION else None
    except (KeyError, ValidationError):
        return None


def run_task(job: Job) -> Task:
    """Return the task of one run."""
    network, images = job.predictor.network, len(job.measured)
    passes = skips.passes(network, images) + receptive_field.passes(network, images) + switches.passes(network, images)
    passes += content.passes(network, images)
    return Task(
        job.key, RunMeasures, passes + probes.passes(images, len(job.fitted)), lambda advance: measure(job, advance)
    )


def measure(job: Job, advance: Advance) -> RunMeasures:
    """Measure one run."""
    network, dataset = job.predictor.network, job.measured
    test, num_classes = job.samples(dataset), len(job.predictor.classes)
    before = build.network(job.predictor.cfg, num_classes, job.predictor.bands)  # the first, random weights
    before.eval().to(job.predictor.device)
    common: dict[str, Any] = {"groups": dataset.groups, "num_classes": num_classes, "advance": advance}
    groups = len(set(dataset.groups))
    return RunMeasures(
        job.name,
        data=job.data,
        split=job.split,
        images=len(dataset),
        total=job.total,
        fit_split=job.fit_split,
        resampled="groups" if groups >= MIN_UNITS else "images",
        groups=groups,
        classes=job.predictor.classes,
        palette=[(colour[0], colour[1], colour[2]) for colour in job.predictor.palette],
        skips=skips.measure_skips(network, test, **common),
        fields=receptive_field.measure_fields(network, test, advance=advance),
        switches=switches.measure_switches(network, test, groups=dataset.groups, advance=advance),
        content=content.measure_content(network, test, groups=dataset.groups, advance=advance),
        probes=probes.measure_probes(network, before, fit=job.samples(job.fitted), test=test, **common),
    )


def difference(first: Job | Reason, second: Job | Reason) -> str:
    """Return why two runs cannot be compared; an empty string where they can."""
    for one in (first, second):
        if isinstance(one, Reason):
            return f"{one.name}: {one.text}"
    assert isinstance(first, Job)
    assert isinstance(second, Job)
    if first.predictor.classes != second.predictor.classes:
        return "The two runs have different classes."
    if first.measured.fingerprint() != second.measured.fingerprint():
        return "The two runs have different test images. Give the same data to both: --data data=NAME data.root=FOLDER."
    return ""


def pair_task(first: Job, second: Job) -> Task:
    """Return the task of comparing two runs."""
    jobs = first, second
    both = [job.samples(job.measured) for job in jobs]

    def predictor(number: int) -> Callable[[int], Mask]:
        windows = jobs[number].predictor.windows

        def predict(index: int) -> Mask:
            image, mask = both[number][index]
            return windows.masks(as_tensor(image), mask.shape)[0].numpy()

        return predict

    def run(advance: Advance) -> FailureMeasures:
        return failures.compare(
            (predictor(0), predictor(1)),
            lambda index: both[0][index],
            run_names=(first.name, second.name),
            image_names=first.measured.names,
            num_classes=len(first.predictor.classes),
            palette=first.predictor.palette,
            advance=advance,
        )

    return Task(digest([first.key, second.key]), FailureMeasures, failures.passes(len(first.measured)), run)
