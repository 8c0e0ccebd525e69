"""Evaluation of a finished run on any data set."""

import sys
from collections.abc import Iterable
from contextlib import nullcontext
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from segpipe.config import build, data_folders
from segpipe.config.overrides import composed
from segpipe.config.plan import Plan
from segpipe.config.schema import key_of, options
from segpipe.config.stored import check_data_given, read, with_local_keys
from segpipe.data.dataset import SegmentationDataset, Split
from segpipe.data.files import file_digest
from segpipe.data.findings import find_notes, find_problems
from segpipe.data.module import SegmentationData
from segpipe.engine import shared
from segpipe.engine.predictor import Predictor
from segpipe.engine.skip_ablation import SkipChange, skip_ablation
from segpipe.errors import UserError, printable
from segpipe.metrics.boundaries import boundary_scores, concatenate, count_boundaries
from segpipe.metrics.confusion import confusion_matrices, named_scores
from segpipe.runs.counts import write_boundaries, write_confusion
from segpipe.runs.run import Run
from segpipe.runs.storage import check_can_write, inside, write_json


def evaluate(
    run: Path,
    *,
    overrides: list[str],
    split: Split,
    out: Path | None = None,
    device: str | None = None,
    trust: Iterable[str] = (),
    skips: SkipChange | None = None,
) -> dict[str, Any]:
    """Evaluate a run's best checkpoint on a split, and write the scores and the counts of every image.

    overrides: of the ``data`` group, as on the command line of train. Without ``data=NAME``, the kind of data is that
    of the run; an empty list takes the data of the run, in the folder that was noted when this user trained on them,
    else in the default folder of ``conf/data``: the folder in a stored configuration is not used. trust: see
    ``Predictor``. out: the folder to write to; None takes a folder ``evaluations/DATA-SPLIT`` in the run's folder.
    device: a device name of torch; None takes a GPU if there is one. skips: see ``skip_ablation``; the default folder
    then ends with ``-skips-zero`` or ``-skips-shuffle``.
    Returns the scores (0 to 1) and counts as written to ``metrics.json``, and the folder.
    Raises UserError where the classes of the data are not those of the run, or where there are no skips to change.
    """
    if others := [override for override in overrides if key_of(override).partition(".")[0] != "data"]:
        raise UserError(f"--data {others[0]}: only the data can be chosen. Allowed are data=NAME and data.KEY=VALUE.")
    if out is None and shared.is_shared(run):
        raise UserError(f"{run}: a file, in which no results can be written. Give the folder for them: --out FOLDER.")
    predictor = Predictor(run, device=device, trust=trust)
    check_can_write(out or predictor.run.folder, f"--out {out or run}")
    with shared.opened(run) if shared.is_shared(run) else nullcontext():  # its errors name the file
        cfg, data = load_data(predictor, overrides=overrides, split=split, trust=trust)
    dataset = data.split(split)
    for note in [*dataset.notes, *trained_images(predictor.run, data, dataset)]:
        print(printable(f"Data: {note}"))
    matrices = np.zeros((len(dataset), len(dataset.classes), len(dataset.classes)), np.int64)
    places, parts = [], []
    ablation = skip_ablation(predictor.network, skips, data.samples(split))
    windows = copy(predictor.windows)
    if skips == "shuffle":
        windows.limit = sys.maxsize  # the skips of another image are those of all of it
    for batch in data.loader(split):
        with torch.inference_mode(), ablation(batch):
            prediction = windows.masks(batch["image"], batch["mask"].shape[-2:])
        mask, index = batch["mask"], batch["index"].numpy()
        matrices[index] = confusion_matrices(prediction, mask, len(dataset.classes)).numpy()
        places.append(index)
        parts.append(count_boundaries(prediction.numpy(), mask.numpy(), num_classes=len(dataset.classes)))
    at_boundaries = concatenate(parts).select(np.argsort(np.concatenate(places)))
    present = {split: matrices.sum((0, 2))}  # pixels of each class
    for text in [*(text for _, text in find_problems(dataset.classes, present)), *find_notes({split: len(dataset)})]:
        print(printable(f"Data: {text}"))
    name = f"{cfg.data.name}-{split}" + (f"-skips-{skips}" if skips else "")
    out = out or inside(predictor.run.folder, f"evaluations/{name}")
    result = named_scores(matrices, dataset.classes) | {"boundaries": boundary_scores(at_boundaries)}
    result |= {"run": str(run), "data": overrides, "split": split} | ({"skips": skips} if skips else {})
    write_confusion(out / "confusion.npz", names=dataset.names, groups=dataset.groups, matrices=matrices)
    write_boundaries(out / "boundaries.npz", names=dataset.names, counts=at_boundaries)
    write_json(out / "metrics.json", result)
    return result | {"folder": str(out)}


def load_data(
    predictor: Predictor, *, overrides: list[str], split: Split, trust: Iterable[str] = ()
) -> tuple[DictConfig, SegmentationData]:
    """Return the configuration of a run with the data to be used here, and these data.

    overrides, trust: see ``evaluate``. Raises UserError where the data are missing, and where the classes of the split
    are not those of the run.
    """
    stored = read(predictor.run, trust=trust)
    same = not any(key_of(override) == "data" for override in overrides) and stored.data.get("name") in options("data")
    chosen = [f"data={stored.data.name}"] if same else []
    given = composed(overrides, before=[*chosen, f"data.size={predictor.size}".replace("None", "null")])
    cfg = with_local_keys(stored, given, predictor.run)
    if overrides:
        cfg.data = given.data
        if same:
            data_folders.use(cfg, predictor.run.record, only_missing=True)
    check_data_given(predictor.run, stored, cfg)
    Plan.of(cfg)
    data = build.data(cfg)
    data.bands = predictor.bands
    dataset = data.split(split)
    if dataset.classes != predictor.classes:
        raise UserError(
            f"{predictor.run.folder} was trained on the classes {', '.join(predictor.classes)}; these data have "
            f"{', '.join(dataset.classes)}. Give data of the same classes, in the same order (data=folder takes their "
            f"names as data.dataset.classes=[NAME,NAME])."
        )
    return cfg, data


def trained_images(run: Run, data: SegmentationData, dataset: SegmentationDataset) -> list[str]:
    """Return a note if a data set has images that the run was trained on, or if this cannot be found out.

    data: has the data set. It is known what the run was trained on if its training split is that of the run. Files are
    compared by size, and by content where sizes are equal; drawn data by their fingerprint.
    """
    try:
        trained = data.split("train")
        if trained.fingerprint() != run.record.get("data_fingerprint", {}).get("train"):
            return ["these are not the data of the run; whether they have images it was trained on is not known."]
        if trained.fingerprint() == dataset.fingerprint():
            names = list(dataset.names)
        else:
            files = dict(zip(dataset.image_files(), dataset.names, strict=False))
            names = [files[path] for path in same_content(list(files), trained.image_files())]
    except (UserError, OSError) as error:
        reason = str(error).partition("\n")[0]
        return [f"whether the network was trained on some of these images is not known: {reason}"]
    if not names:
        return []
    return [
        f"the network was trained on {len(names)} of these {len(dataset)} images ({', '.join(names[:3])}"
        f"{', ...' if len(names) > 3 else ''}): the scores say nothing about new images."
    ]


def same_content(paths: list[Path], others: list[Path]) -> list[Path]:
    """Return those of ``paths`` whose content is that of one of ``others``. Only files of equal size are read."""
    sizes = {path: path.stat().st_size for path in others}
    digests: dict[int, set[bytes]] = {}
    for size in {path.stat().st_size for path in paths} & {*sizes.values()}:
        digests[size] = {file_digest(path) for path in others if sizes[path] == size}
    same_size = [path for path in paths if path.stat().st_size in digests]
    return [path for path in same_size if file_digest(path) in digests[path.stat().st_size]]
