"""What the lab finds in the networks of runs: maps of images, kernels, checkerboards (``segpipe.inspect``)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from segpipe.config import build
from segpipe.engine.predictor import Predictor
from segpipe.errors import UserError
from segpipe.lab import checkerboard, kernels
from segpipe.lab.cells import as_batch
from segpipe.lab.facts import (
    ImageFacts,
    Inspection,
    OperatorFacts,
    RunFacts,
    ShownImage,
)
from segpipe.lab.look import look
from segpipe.lab.monitor import small_steps
from segpipe.lab.slots import StepMaps
from segpipe.lab.split import Reason
from segpipe.models.network import Network
from segpipe.runs.run import Run
from segpipe.runs.storage import read_history


def open_predictors(
    runs: Sequence[Path], *, device: str | None = None, trust: Iterable[str] = ()
) -> list[Predictor | Reason]:
    """Return the predictor of each run, or the reason why a run has none (no weights, damaged weights).

    Raises UserError where a folder is not a run, where no run has weights, and where two runs have other classes.
    """
    opened: list[Predictor | Reason] = []
    for folder, label in zip(runs, run_labels(runs), strict=True):
        try:
            opened.append(Predictor(folder, device=device, trust=trust))
        except UserError as error:
            opened.append(Reason(label, str(error)))
    if not any(isinstance(one, Predictor) for one in opened):
        reasons = [one.text for one in opened if isinstance(one, Reason)]
        raise UserError("\n".join(["No run has weights to inspect.", *reasons]))
    named = [(folder, one.classes) for folder, one in zip(runs, opened, strict=True) if isinstance(one, Predictor)]
    for folder, classes in named[1:]:
        if classes != named[0][1]:
            raise UserError(
                f"{named[0][0]} has the classes {', '.join(named[0][1])}; {folder} has {', '.join(classes)}. Runs "
                f"stand side by side only with the same classes: inspect them one by one."
            )
    return opened


def run_labels(runs: Sequence[Path]) -> list[str]:
    """Return a short label for each run: its name; its folder where two have the same."""
    names = [str(Run.open(folder).record.get("name") or folder.resolve().name) for folder in runs]
    unique = [
        name if names.count(name) == 1 else folder.resolve().name for name, folder in zip(names, runs, strict=True)
    ]
    return [name if unique.count(name) == 1 else str(folder) for name, folder in zip(unique, runs, strict=True)]


def inspect_runs(
    runs: Sequence[Path],
    predictors: Sequence[Predictor | Reason],
    images: Sequence[ShownImage],
    *,
    all_channels: bool = False,
    report: Callable[[str], None] = lambda text: None,
) -> Inspection:
    """Return what the lab finds in each run. A run without weights has the reason in place of numbers.

    predictors: of ``open_predictors``; at least one run has weights. all_channels: keep every channel of every map.
    report: is called with a line before each run.
    """
    first = next(one for one in predictors if isinstance(one, Predictor))
    found = []
    for number, (label, one) in enumerate(zip(run_labels(runs), predictors, strict=True), start=1):
        if isinstance(one, Reason):
            found.append(RunFacts(label, reason=one.text))
            continue
        report(f"[{number}/{len(runs)}] {label}")
        start = build.network(one.cfg, len(one.classes), one.bands).eval()
        phases = checkerboard.on_constant_image(one.network)
        found.append(
            RunFacts(
                label,
                operators=operator_facts(one.network, start.to(one.device)),
                phases=phases,
                start_phases=checkerboard.on_constant_image(start, side=phases.side),
                images=[image_facts(one, image, all_channels=all_channels) for image in images],
                history=read_history(one.run.history),
            )
        )
    return Inspection(first.classes, first.palette, images, found)


@torch.inference_mode()
def operator_facts(network: Network, start: Network | None = None) -> list[OperatorFacts]:
    """Return the operators of a network, coarse to fine, with their kernels where they have some.

    start: the same network before training; None leaves out what needs it.
    """
    both = [network] if start is None else [network, start]
    ran = [small_steps(one) for one in both]
    return [
        operator_of(now, before if start is not None else None) for now, before in zip(ran[0], ran[-1], strict=True)
    ]


def operator_of(now: StepMaps, before: StepMaps | None) -> OperatorFacts:
    """Return the operator of one step. before: of the same step before training."""
    place, found = now.place, kernels.of_step(now)
    facts = OperatorFacts(place.label, place.stride, place.factor, type(place.upsample).__name__)
    if found is None:
        return facts
    facts = replace(facts, kernels=found, distances=kernels.distances(found))
    begun = None if before is None else kernels.of_step(before)
    if begun is None:
        return facts
    return replace(facts, start=begun, start_distances=kernels.distances(begun), change=kernels.change(found, begun))


def image_facts(predictor: Predictor, shown: ShownImage, *, all_channels: bool = False) -> ImageFacts:
    """Return what a run makes of one image, which its network receives as in the test."""
    image = predictor.resized(shown.image)
    size = (shown.image.shape[0], shown.image.shape[1])
    return look(
        predictor.network, as_batch(image, predictor.network), size=size, truth=shown.truth, all_channels=all_channels
    )
