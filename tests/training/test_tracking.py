"""What a training tells W&B, read back from its own files."""

import csv
import json
import platform
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from support.wandb_alone import MARKS, synced_later, train_tiny
from support.wandb_file import read_wandb, records

from segpipe import report
from segpipe.data.datasets.shapes import CLASSES, Shapes
from segpipe.metrics import confusion
from segpipe.runs.storage import read_history
from segpipe.training.callbacks import may_send_images
from segpipe.training.tracking import log_overlays, without_folders

pytestmark = MARKS


TABLE = "test/confusion_matrix_table/path"


ADDED = {  # scores that are not shipped: of the classes, and of all pixels
    "mean_missed": confusion.Score(
        lambda counts: 1 - confusion.class_accuracy(counts), "mean missed", per_class="missed", class_label="missed"
    ),
    "first": confusion.Score(lambda counts: counts[..., 0].sum(-1) / counts.sum((-2, -1)), "predicted as the first"),
}


# ---- what a training tells W&B
@pytest.fixture(scope="module")
def tracked(children, alone):
    """A training of two epochs: its folder, its W&B file, what it printed, and its metrics."""
    folder = alone / "tracked"
    with pytest.MonkeyPatch.context() as patch:
        for name, score in ADDED.items():
            patch.setitem(confusion.SCORES, name, score)
        said = train_tiny(folder, "logger.mode=offline")
    found = json.loads((folder / "metrics.json").read_text())
    return SimpleNamespace(folder=folder, file=read_wandb(folder), said=said, metrics=found)


def rows(tracked, key):
    """The rows of W&B's history that hold a key."""
    return [row for row in tracked.file.history if key in row]


@pytest.mark.parametrize(("size", "logged"), [((1500, 1000), (512, 341)), ((30, 4000), (4, 512)), ((96, 96), (96, 96))])
def test_large_images_are_logged_small(size, logged):
    """An offline run keeps every image of every epoch."""
    kept = []
    logger = SimpleNamespace(experiment=SimpleNamespace(log=lambda content, commit: kept.append(content)))
    mask = np.zeros(size, np.uint8)
    mask[:, size[1] // 2 :] = 1
    image = np.full((*size, 3), 99, np.uint8)
    log_overlays(logger, key="x", images=[image], truths=[mask], predictions=[mask], names=["a"], classes=["b", "c"])
    (content,) = kept
    (overlay,) = content["x"]
    assert overlay.image.size == logged[::-1]
    assert {cv2.imread(one._path, cv2.IMREAD_UNCHANGED).shape[:2] for one in overlay._masks.values()} == {logged}


def test_config_is_nested_and_resolved(tracked):
    config = {key: value for key, value in tracked.file.config.items() if not key.startswith("_wandb")}
    assert config["optimizer"]["lr"] == 3e-3
    assert config["data"]["dataset"]["train"] == 16
    assert "${" not in json.dumps(config)


def test_history_has_one_validation_an_epoch(tracked):
    told, kept = rows(tracked, "val/miou"), read_history(tracked.folder / "history.csv")
    assert [row["epoch"] for row in told] == [0, 1]  # and not the best checkpoint's once more, behind the last epoch
    for name in ["miou", "loss", *(f"iou/{name}" for name in CLASSES)]:
        key = f"val/{name}"
        assert [row[key] for row in told] == pytest.approx([row[key] for row in kept], nan_ok=True), key
    assert [row["train/loss"] for row in rows(tracked, "train/loss")] == pytest.approx(
        [row["train/loss"] for row in kept]
    )


@pytest.fixture(scope="module")
def reported(tracked, alone):
    """A report of that training: the row of results.csv, and the row of the table of all scores by heading."""
    shutil.copytree(tracked.folder, alone / "reported" / "run")
    with pytest.MonkeyPatch.context() as patch:
        for name, score in ADDED.items():
            patch.setitem(confusion.SCORES, name, score)
        report.report(alone / "reported", resamples=100, as_markdown=True)
    (row,) = csv.DictReader((alone / "reported" / "results.csv").read_text().splitlines())
    table = (alone / "reported" / "report.md").read_text().split("## All scores")[1]
    heads, _, cells = ([cell.strip() for cell in line.split("|")] for line in table.splitlines()[2:5])
    return SimpleNamespace(row=row, table=dict(zip(heads, cells, strict=True)))


@pytest.mark.parametrize("name", ["dice", *ADDED])
def test_a_score_that_is_defined_in_one_place_is_everywhere(tracked, reported, name):
    """In metrics.json, the history, W&B's history and summary, what is printed, and the report."""
    score = (confusion.SCORES | ADDED)[name]
    value = tracked.metrics["test"][name]
    counts = np.load(tracked.folder / "confusion" / "test.npz")["matrices"].sum(0)
    assert value == pytest.approx(float(score.value(counts)))
    by_class = tracked.metrics["test"][f"per_class_{score.per_class}"] if score.per_class else {}
    assert list(by_class) == (CLASSES if score.per_class else [])
    told, kept = rows(tracked, f"val/{name}"), read_history(tracked.folder / "history.csv")
    assert [row["epoch"] for row in told] == [0, 1]
    for key in (name, *(f"{score.per_class}/{of}" for of in by_class)):
        assert [row[f"val/{key}"] for row in told] == pytest.approx([row[f"val/{key}"] for row in kept]), key
    summary = tracked.file.summary
    assert [summary[f"best/test/{name}"], summary[f"test/{name}"]] == pytest.approx([value, value])
    assert summary[f"best/val/{name}"] == pytest.approx(tracked.metrics["val"][name])
    assert (score.class_label or score.label) in tracked.said
    for number in (value, *by_class.values()):
        assert f"{number:.3f}" in tracked.said
    assert float(reported.row[f"test_{name}"]) == pytest.approx(value)
    for of, number in by_class.items():
        assert float(reported.row[f"test_{score.per_class}/{of}"]) == pytest.approx(number)
    assert reported.table[score.label] == f"{100 * value:.1f}"


def test_every_chart_is_drawn_over_the_epoch(tracked):
    assert tracked.file.axes == {"epoch": "", "*": "epoch"}
    assert all("epoch" in row for row in tracked.file.history)


def test_overlays_show_the_same_pictures_each_epoch(tracked):
    told = rows(tracked, "val/predictions/captions")
    assert [row["epoch"] for row in told] == [0, 1]
    files = tracked.file.path.parent / "files"
    data = Shapes(split="val", train=16, val=5, test=7)
    for row in told:
        assert row["val/predictions/captions"] == [data.names[index] for index in (0, 1, 3, 4)]
        shown = zip((0, 1, 3, 4), row["val/predictions/filenames"], row["val/predictions/all_masks"], strict=True)
        for index, name, masks in shown:
            image, mask = data.read(index)
            assert (cv2.imread(str(files / name))[:, :, ::-1] == image).all()
            assert (cv2.imread(str(files / masks["truth"]["path"]), cv2.IMREAD_UNCHANGED) == mask).all()
            predicted = cv2.imread(str(files / masks["prediction"]["path"]), cv2.IMREAD_UNCHANGED)
            assert predicted.shape == mask.shape
            assert set(np.unique(predicted)) <= set(range(len(CLASSES)))


def test_masks_have_class_names(tracked):
    labels = tracked.file.config["_wandb"]["mask/class_labels"]
    named = {str(index): name for index, name in enumerate(CLASSES)} | {"255": "ignored"}
    assert len(labels) == 2  # truth and prediction
    assert all(entry["value"] == named for entry in labels.values())


def test_confusion_matrix_counts_the_test_pixels(tracked):
    table = json.loads((tracked.file.path.parent / "files" / rows(tracked, TABLE)[0][TABLE]).read_text())
    matrices = np.load(tracked.folder / "confusion" / "test.npz")["matrices"].sum(0)
    assert table["columns"] == ["Actual", "Predicted", "nPredictions"]
    counts = {(true, predicted): count for true, predicted, count in table["data"]}
    assert counts == {(a, b): matrices[i, j] for i, a in enumerate(CLASSES) for j, b in enumerate(CLASSES)}
    assert sum(counts.values()) == 7 * 96 * 96 == sum(tracked.metrics["test"]["pixels"].values())
    chart = tracked.file.config["_wandb/visualize/test/confusion_matrix"]
    assert chart["panel_config"]["panelDefId"] == "wandb/confusion_matrix/v1"


def test_summary_has_scores_and_cost(tracked):
    summary = tracked.file.summary
    for split in ("val", "test"):
        assert summary[f"best/{split}/miou"] == pytest.approx(tracked.metrics[split]["miou"])
    assert summary["test/miou"] == pytest.approx(tracked.metrics["test"]["miou"])
    assert summary["best/test/boundary_f"] == pytest.approx(tracked.metrics["test"]["boundaries"]["boundary_f"])
    assert summary["cost/parameters"] == tracked.metrics["cost"]["parameters"]


def test_nothing_lies_outside_the_folder_and_one_line_is_printed(tracked, alone):
    assert synced_later(tracked.said, tracked.folder) == "offline, because logger.mode is set to it."
    assert tracked.said.lower().count("wandb") == tracked.said.count("wandb sync") + tracked.said.count("/wandb/")
    assert tracked.file.exit_code == 0
    assert not list((alone / "cwd").iterdir())
    assert not [path for path in (alone / "home").rglob("*") if "wandb" in str(path.relative_to(alone))]


def test_nothing_that_tells_of_the_machine_is_sent(tracked):
    """``local_path`` is where an upload finds a file. W&B's random ids may hold a short host name by chance."""
    lines = "".join(map(str, records(tracked.file.path.read_bytes()))).splitlines()
    content = "\n".join(line for line in lines if "local_path:" not in line)
    for folder in (tracked.folder, tracked.folder.parent, Path.home()):
        assert str(folder) not in content, folder
    assert {record.run.host for record in records(tracked.file.path.read_bytes())} == {""}
    if len(platform.node()) > 8:  # a shorter name may be a word of the configuration
        assert not re.search(rf"\b{re.escape(platform.node())}\b", content), platform.node()
    assert not list(tracked.folder.glob("wandb/*/files/requirements.txt"))
    assert not list(tracked.folder.glob("wandb/*/files/wandb-metadata.json"))


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("data.root=/home/a/photos", "data.root=photos"),
        ("/a/b/c/", "c"),
        ("~/photos/x", "x"),
        ("+x=[/a/b,/c]", "+x=[b,c]"),
        ("a/b", "a/b"),
        ("relative/../x", "relative/../x"),
        ("1/2", "1/2"),
        ({"root": "/a/b", "n": 3, "l": ["/q/r", None]}, {"root": "b", "n": 3, "l": ["r", None]}),
    ],
)
def test_paths_are_sent_without_their_folders(given, sent):
    assert without_folders(given) == sent


@pytest.mark.parametrize(
    ("images", "drawn", "sent"), [(None, True, 1), (None, False, 0), (True, False, 1), (False, True, 0)]
)
def test_images_of_users_stay_unless_asked_for(images, drawn, sent):
    logger = SimpleNamespace(images=images)
    scenes = Shapes(split="val", val=2) if drawn else SimpleNamespace()
    for dataset in (scenes, SimpleNamespace(whole=scenes)):  # the second: debug=overfit
        assert may_send_images(logger, SimpleNamespace(split=lambda name, dataset=dataset: dataset)) == sent
