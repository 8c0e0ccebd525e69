"""Run folders like those of trainings, with scores that a test chooses."""

import numpy as np
import yaml

from segpipe.metrics.boundaries import boundary_scores, count_boundaries
from segpipe.runs.counts import write_boundaries, write_confusion
from segpipe.runs.storage import write_history, write_json

PIXELS = 1_000_000  # of each class in each image


OPERATORS = {
    "nearest": "Nearest",
    "bilinear": "Bilinear",
    "deconv": "Deconv",
    "pixelshuffle": "PixelShuffle",
    "unpool": "Unpool",
}


FUSIONS = {"none": "NoFusion", "sum": "Sum", "concat": "Concat"}


REFINE = {"fcn": "segpipe.models.refine.Merge1x1", "ladder": "segpipe.models.refine.ConvStack"}


def matrices(scores, *, classes=2):
    """Return an int64 confusion matrix (C, C) for each image, in which the IoU of every class is the image's score."""
    found = np.zeros((len(scores), classes, classes), np.int64)
    for matrix, score in zip(found, scores, strict=True):
        hits = round(2 * PIXELS * score / (1 + score))
        for index in range(classes):
            matrix[index, index] = hits
            matrix[index, (index + 1) % classes] = PIXELS - hits
    return found


def write_run(
    folder, *, model="ladder", stride=8, decoder="deconv", fusion="sum", seed=0, miou=0.5, pictures=4, **given
):
    """Write one finished run. miou: of all test images, or a list with one for each. given: entries of run.json."""
    scores = miou if isinstance(miou, list) else [miou] * pictures
    classes = given.pop("classes", ["sky", "road"])
    cost, history = given.pop("cost", True), given.pop("history", True)
    counts = matrices(scores, classes=len(classes))
    folder.mkdir(parents=True)
    config = {
        "seed": seed,
        "model": {"name": f"fcn{stride}s" if model == "fcn" else model, "stride": stride},
        "decoder": {"name": decoder, "_target_": f"segpipe.models.upsample.{OPERATORS.get(decoder)}"},
        "fusion": {"name": fusion, "_target_": f"segpipe.models.fusion.{FUSIONS.get(fusion)}"},
        "match": None,
    }
    config["model"]["refine"] = {"_target_": REFINE[model]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    names = [f"picture-{number}" for number in range(len(scores))]
    write_confusion(folder / "confusion" / "test.npz", names=names, groups=names, matrices=counts)
    mean = float(np.mean(scores))
    ious = dict.fromkeys(classes, mean)
    metrics = {"best_epoch": 1, "val": {"miou": mean + 0.01}, "test": {"miou": mean, "per_class_iou": ious}}
    metrics["training"] = {"epochs": 2, "steps": 10, "seconds": 1.0}
    if cost:
        metrics["cost"] = {"parameters": 1000 + stride, "gmac": 0.1, "latency_ms": 2.0, "peak_memory_mib": 100.0}
        metrics["cost"]["device"] = "cpu"
    if given.pop("boundaries", False):
        metrics["test"]["boundaries"] = write_edges(
            folder, pictures=len(scores), names=names, seed=seed, decoder=decoder
        )
    write_json(folder / "metrics.json", metrics)
    if history:
        rows = [{"epoch": epoch, "val/miou": mean * (epoch + 1) / 2} for epoch in range(2)]
        write_history(folder / "history.csv", rows)
    record = {
        "status": "finished",
        "classes": classes,
        "palette": [[40 * index, 90, 200] for index in range(len(classes))],
        "overrides": [f"seed={seed}", f"model={config['model']['name']}", f"model.stride={stride}",
                      f"decoder={decoder}", f"fusion={fusion}"],
        "data_fingerprint": {"train": "a", "val": "b", "test": "c"},
        "versions": {"torch": "2.10"},
        "git": "a" * 40,
    }  # fmt: skip
    write_json(folder / "run.json", record | given)
    return folder


def write_edges(folder, *, pictures, names, seed, decoder):
    """Write boundary counts of squares; predictions are shifted, except for one image of each seed."""
    truth = np.zeros((pictures, 24, 24), np.uint8)
    truth[:, 6:18, 6:18] = 1
    prediction = np.roll(truth, 3 if decoder == "nearest" else 1, axis=2)
    prediction[seed % pictures] = truth[seed % pictures]
    found = count_boundaries(prediction, truth, num_classes=2)
    write_boundaries(folder / "boundaries" / "test.npz", names=names, counts=found)
    return boundary_scores(found)


def write_sweep(folder, scores, *, seeds, noise=0.0, **given):
    """Write a run of every cell and seed. scores: mIoU by (decoder, fusion, stride). noise: deviation over seeds."""
    random = np.random.default_rng(0)
    for (decoder, fusion, stride), score in scores.items():
        for seed in range(seeds):
            name = f"{decoder}-{fusion}-{stride}-s{seed}"
            miou = float(score + noise * random.standard_normal())
            choices = {"decoder": decoder, "fusion": fusion, "stride": stride, "seed": seed}
            write_run(folder / name, miou=miou, **choices, **given)
    return folder
