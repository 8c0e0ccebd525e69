"""What people look at: precision and recall, curves, confusion matrix, worst images, a line for each epoch."""

import io
import json
import os
import pty
import warnings

import numpy as np
import PIL.Image
import pytest
from support.configs import TINY, configure

from segpipe.analysis import run_pictures
from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.data import visualise
from segpipe.engine import pictures
from segpipe.errors import in_words
from segpipe.metrics.confusion import named_scores
from segpipe.runs.run import Run
from segpipe.runs.summary import score_table
from segpipe.train import train
from segpipe.training import callbacks
from segpipe.training.callbacks import epoch_line

DRAWN = ["confusion.png", "curves.png", "worst.png"]


def size_of(picture):
    return PIL.Image.open(io.BytesIO(picture)).size


# ---- precision and recall


def test_precision_and_recall_of_each_class():
    matrices = np.array([[[6, 2, 0, 0], [1, 3, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]])
    scores = named_scores(matrices, ["a", "b", "c", "d"])
    assert scores["per_class_precision"] == pytest.approx({"a": 6 / 9, "b": 3 / 5, "c": 0, "d": np.nan}, nan_ok=True)
    assert scores["per_class_recall"] == pytest.approx({"a": 6 / 8, "b": 3 / 4, "c": 0, "d": np.nan}, nan_ok=True)
    assert scores["per_class_recall"] == pytest.approx(scores["per_class_accuracy"], nan_ok=True)


def test_the_table_of_a_test_has_dice_precision_and_recall():
    scores = named_scores(np.array([[[6, 2], [1, 3]]]), ["a", "b"])
    table = score_table(scores, title="Test")
    assert [column.header for column in table.columns] == ["class", "IoU", "Dice", "precision", "recall", "pixels"]
    cells = [list(column.cells) for column in table.columns]
    assert cells[3] == [f"{6 / 7:.3f}", f"{3 / 5:.3f}", f"{(6 / 7 + 3 / 5) / 2:.3f}"]
    assert cells[4] == [f"{6 / 8:.3f}", f"{3 / 4:.3f}", f"{(6 / 8 + 3 / 4) / 2:.3f}"]
    assert cells[1][-1] == f"{scores['miou']:.3f}"


def test_scores_of_an_earlier_version_have_a_dash():
    scores = named_scores(np.array([[[6, 2], [1, 3]]]), ["a", "b"])
    del scores["per_class_precision"]
    assert list(score_table(scores, title="Test").columns[3].cells) == ["-", "-", "-"]


# ---- pictures


@pytest.fixture(scope="module")
def drawn_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    metrics = train(configure(*TINY, f"run_dir={folder}"))
    return Run(folder), metrics


def test_a_run_has_its_pictures(drawn_run):
    run, metrics = drawn_run
    for name in DRAWN:
        width, height = size_of((run.pictures / name).read_bytes())
        assert 300 < width <= 1100
        assert height > 200
    test = json.loads(run.metrics.read_text())["test"]
    assert test["per_class_precision"].keys() == test["per_class_recall"].keys() == set(metrics["test"]["pixels"])


@pytest.mark.parametrize(
    ("value", "sweep", "expected"),
    [("auto", None, True), ("auto", "mine", False), (True, "mine", True), (False, None, False)],
)
def test_the_key_pictures(value, sweep, expected, monkeypatch):
    monkeypatch.delenv(build.SWEEP, raising=False)
    if sweep:
        monkeypatch.setenv(build.SWEEP, sweep)
    cfg = configure(*TINY, f"pictures={value}")
    assert pictures.wanted(cfg) is expected
    assert Plan.of(cfg).identity == Plan.of(configure(*TINY)).identity
    del cfg.pictures
    assert pictures.wanted(cfg) is (sweep is None)  # the configuration of a run of before


def test_a_picture_that_fails_is_a_line(tmp_path, monkeypatch, capsys):
    for name in ("learning_curves", "confusion_matrix"):
        monkeypatch.setattr(run_pictures, name, lambda *arguments, **named: 1 / 0)
    monkeypatch.setattr(pictures, "save_worst_images", lambda *arguments, **named: 1 / 0)
    metrics = train(configure(*TINY, "trainer.max_epochs=1", f"run_dir={tmp_path}"))
    printed = capsys.readouterr().out
    for what in ("the learning curves", "the confusion matrix", "the worst images"):
        assert f"Warning: drawing {what} failed (division by zero)" in printed
    assert Run(tmp_path).record["status"] == "finished"
    assert json.loads(Run(tmp_path).metrics.read_text())["test"]["miou"] == metrics["test"]["miou"]
    assert "predictions.png" in printed


def test_no_pictures_where_none_are_wanted(tmp_path, capsys):
    train(configure(*TINY, "trainer.max_epochs=1", "pictures=false", f"run_dir={tmp_path}"))
    assert sorted(path.name for path in (tmp_path / "pictures").glob("*.png")) == ["predictions.png"]
    assert "pictures: predictions.png" in capsys.readouterr().out


def rows(count, **columns):
    return [{"epoch": e, "step": e, "lr": 0.1 / (e + 1), "train/loss": 1 / (e + 1), **columns} for e in range(count)]


@pytest.mark.parametrize(
    "history",
    [
        rows(1, **{"val/loss": 1.0, "val/miou": 0.3}),
        rows(300, **{"val/loss": 1.0, "val/miou": 0.3}),
        rows(3),
        [],
        rows(2, **{"val/loss": float("nan"), "val/miou": float("nan")}),
        [*rows(2), {"epoch": 2, "step": 3, "lr": 0.1, "train/loss": float("inf")}],
    ],
)
def test_curves_of_any_history(history):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        width, height = size_of(run_pictures.learning_curves(history, title="a $run$ of <any> name"))
    assert 900 < width < 1100
    assert 300 < height < 450


@pytest.mark.parametrize("number", [2, 3, 11, 24, 25, 60])
def test_confusion_matrices_of_any_number_of_classes(number):
    matrix = np.random.default_rng(0).integers(0, 1000, (number, number))
    matrix[1] = 0  # absent from the truth
    names = [f"{'a long $name$ ' * (index % 4)}{index} \u6811" for index in range(number)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        width, height = size_of(run_pictures.confusion_matrix(matrix, names, title="a run"))
    assert width < 1150
    assert height < 1150


def test_a_confusion_matrix_without_pixels():
    assert size_of(run_pictures.confusion_matrix(np.zeros((3, 3), int), ["a", "b", "c"], title="none"))


def test_nothing_is_cut_at_the_border():
    names = ["a name of more than twenty letters", *"bc"]
    for picture in (
        run_pictures.confusion_matrix(np.eye(3, dtype=int), names, title="a run"),
        run_pictures.learning_curves(rows(9, **{"val/miou": 0.00001}), title="a run"),
    ):
        image = np.asarray(PIL.Image.open(io.BytesIO(picture)).convert("L"))
        for edge in (image[:3], image[-3:], image[:, :3], image[:, -3:]):
            assert (edge == 255).all()


def test_the_worst_images_are_those_with_the_lowest_score(drawn_run, tmp_path, monkeypatch):
    class Result:
        indices = np.array([2, 5, 7, 8])
        matrices = np.array([[[9, 1], [0, 5]], [[1, 9], [5, 0]], [[0, 0], [0, 0]], [[5, 5], [1, 5]]])

    class Task:
        evaluations, classes = {"test": Result}, ["a", "b"]

    class Data:
        def split(self, name):
            return type("Split", (), {"palette": [(0, 0, 0), (255, 0, 0)]})

    asked, grids = [], []
    image = np.zeros((8, 8, 3), np.uint8)

    def predict(task, data, split, chosen):
        asked.extend(chosen)
        count = len(chosen)
        samples = [callbacks.Sample(image, image[..., 0])] * count
        return samples, [image[..., 0]] * count, [f"image {index}" for index in chosen]

    original = visualise.prediction_grid
    monkeypatch.setattr(callbacks, "predict_chosen", predict)
    monkeypatch.setattr(
        visualise, "prediction_grid", lambda *given, **named: grids.append(named) or original(*given, **named)
    )
    callbacks.save_worst_images(Task(), Data(), Run(tmp_path), count=2)
    assert asked == [5, 8]  # image 7 has no labelled pixel
    assert grids[0]["labels"][0].startswith("image 5   mIoU 0.0")
    assert grids[0]["title"] == "2 of 4 test images: those with the lowest mIoU"
    assert (tmp_path / "pictures" / "worst.png").is_file()


def test_long_labels_are_cut_in_their_middle():
    font = visualise.PIL.ImageFont.load_default(15)
    text = visualise.fitted("a/very/long/folder/name/with/an/image/at/its/end.png   mIoU 0.123", font, 200)
    assert font.getlength(text) <= 200
    assert text.startswith("a/very")
    assert text.endswith("0.123")
    assert visualise.fitted("short", font, 200) == "short"


# ---- a line for each epoch


def test_the_line_of_an_epoch():
    history = [
        {"epoch": 0, "train/loss": 1.2, "val/miou": 0.5},
        {"epoch": 1, "train/loss": 0.5, "val/miou": 0.63},
        {"epoch": 2, "train/loss": 0.4123, "val/miou": 0.615},
    ]
    line = epoch_line(history, epochs=16, seconds=[30, 12, 12])
    assert line == "epoch 3/16  loss 0.412  val mIoU 0.615 (best 0.630 at 2)  12 s an epoch, 3 min left"
    assert "val mIoU 0.630 (best so far)" in epoch_line(history[:2], epochs=16, seconds=[1])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"train/loss": 0.5}, "epoch 3/3  loss 0.500  4.0 s an epoch"),
        (
            {"train/loss": 0.5, "val/miou": float("nan")},
            "epoch 3/3  loss 0.500  val mIoU nan  4.0 s an epoch",
        ),
        ({}, "epoch 3/3  loss nan  4.0 s an epoch"),
    ],
)
def test_the_line_of_an_epoch_without_a_score(row, expected):
    assert epoch_line([{"epoch": 2, **row}], epochs=3, seconds=[4]) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.44, "0.4 s"),
        (12.3, "12 s"),
        (99, "99 s"),
        (130, "2 min"),
        (5999, "1 h 40 min"),
        (90000, "25 h 0 min"),
    ],
)
def test_durations_in_words(seconds, text):
    assert in_words(seconds) == text


def test_lines_where_there_is_no_terminal(tmp_path, capsys):
    train(configure(*[one for one in TINY if "progress" not in one], f"run_dir={tmp_path}", "pictures=false"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert all("val mIoU" in line for line in lines)
    assert lines[0].endswith("left")
    assert lines[-1].endswith("an epoch")


def test_a_terminal_has_a_progress_bar_instead(monkeypatch, tmp_path):
    def kinds():
        cfg = configure(*[one for one in TINY if "progress" not in one], f"run_dir={tmp_path}")
        return {type(one).__name__ for one in build.trainer(cfg, Run(tmp_path)).callbacks}

    assert kinds() & {"EpochLines", "RichProgressBar", "TQDMProgressBar"} == {"EpochLines"}
    first, second = pty.openpty()
    with os.fdopen(second, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        found = kinds()
        monkeypatch.undo()
    os.close(first)
    assert found & {"EpochLines", "RichProgressBar", "TQDMProgressBar"} == {"RichProgressBar"}


def test_no_lines_where_the_progress_bar_is_switched_off(tmp_path):
    trainer = build.trainer(configure(*TINY, f"run_dir={tmp_path}"), Run(tmp_path))
    names = {type(one).__name__ for one in trainer.callbacks}
    assert not names & {"EpochLines", "RichProgressBar", "TQDMProgressBar"}
