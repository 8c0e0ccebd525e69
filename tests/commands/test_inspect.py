"""``python -m segpipe.inspect``: the page, its images, and inputs that cannot be used."""

import re
import shutil
import sys

import numpy as np
import PIL.Image
import pytest

from segpipe import inspect, report
from segpipe.errors import UserError


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def truth(tmp_path):
    path = tmp_path / "truth.png"
    mask = np.zeros((70, 90), np.uint8)
    mask[20:50, 30:60] = 2
    PIL.Image.fromarray(mask).save(path)
    return path


@pytest.fixture
def without_weights(finished_run, tmp_path):
    folder = tmp_path / "compact"
    shutil.copytree(finished_run, folder)
    shutil.rmtree(folder / "checkpoints")
    return folder


def size_of(path):
    with PIL.Image.open(path) as image:
        return image.size


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["inspect", *map(str, words)])
    inspect.main()


def test_runs_stand_side_by_side(finished_run, without_weights, photo, truth, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    call(monkeypatch, finished_run, without_weights, "--image", photo, "--mask", truth, "--out", out, "--sheets")
    page = (out / "inspect.html").read_text()
    for text in ("The climb", "Switches", "Kernels", "Checkerboards", "Method", "photo.png", "ground truth"):
        assert text in page
    assert "the weights were not kept" in page  # the other run, with its reason
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)  # nothing is requested
    assert "inspect.html" in capsys.readouterr().out
    assert size_of(out / "climb-photo.png")[0] > 300
    maps = {path.name: size_of(path) for path in (out / "maps").rglob("*.png")}
    assert maps["photo-16-after-upsampling.png"] == (6, 6)  # 96 x 96 padded, at stride 16: true resolution
    assert maps["photo-08-after-fusion.png"] == (12, 12)
    assert maps["photo-08-after-fusion-all.png"][0] > 12
    assert finished_run.name in page  # both have one name, so the folders stand for the runs
    assert without_weights.name in page


def test_a_run_is_inspected_without_images(finished_run, tmp_path, monkeypatch):
    call(monkeypatch, finished_run, "--out", tmp_path / "out")
    page = (tmp_path / "out" / "inspect.html").read_text()
    assert "Kernels" in page
    assert "The climb" not in page
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["inspect.html"]


def test_the_page_can_be_made_twice(finished_run, photo, tmp_path, monkeypatch):
    pages = []
    for _ in range(2):
        call(monkeypatch, finished_run, "--image", photo, "--out", tmp_path / "out")
        pages.append((tmp_path / "out" / "inspect.html").read_text())
    assert re.sub(r"panel-?\d+|#\w+", "", pages[0]) == re.sub(r"panel-?\d+|#\w+", "", pages[1])


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.int64])
def test_a_mask_may_have_more_than_8_bits(kind, finished_run, photo, truth, tmp_path):
    with PIL.Image.open(truth) as image:
        labels = np.asarray(image)
    path = tmp_path / {np.uint16: "wide.png", np.int32: "wide.tif", np.int64: "wide.npy"}[kind]
    np.save(path, labels.astype(kind)) if kind is np.int64 else PIL.Image.fromarray(labels.astype(kind)).save(path)
    predictors = inspect.open_predictors([finished_run], device="cpu")
    (shown,) = inspect.read_images([photo], [path], predictors)
    assert (shown.truth == labels).all()
    assert shown.truth.dtype == np.uint8


@pytest.mark.parametrize(("factor", "says"), [(100, "label 200 in a mask of 6 classes"), (150, "values up to 300")])
def test_a_mask_with_labels_that_are_no_classes_is_refused(factor, says, finished_run, photo, truth, tmp_path):
    with PIL.Image.open(truth) as image:
        labels = np.asarray(image).astype(np.uint16)
    PIL.Image.fromarray(labels * factor).save(tmp_path / "wrong.png")
    predictors = inspect.open_predictors([finished_run], device="cpu")
    with pytest.raises(UserError, match=rf"wrong\.png: .*{says}"):
        inspect.read_images([photo], [tmp_path / "wrong.png"], predictors)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{run}", "--image", "{photo}", "--mask", "{truth}", "--mask", "{truth}"], "2 masks for 1 image"),
        (["{run}", "--image", "{photo}", "--mask", "{small}"], "40 x 50 pixels; its image"),
        (["{run}", "--image", "nowhere.png"], "nowhere.png"),
        (["nowhere"], "not a run"),
        (["{photo}"], "not a run (a file)"),
        (["{empty}"], "No run has weights to inspect"),
    ],
    ids=["masks", "size", "image", "run", "file", "weights"],
)
def test_what_cannot_be_inspected_is_said(
    words, says, finished_run, without_weights, photo, truth, tmp_path, monkeypatch, capsys
):
    small = tmp_path / "small.png"
    PIL.Image.fromarray(np.zeros((40, 50), np.uint8)).save(small)
    places = {"run": finished_run, "photo": photo, "truth": truth, "small": small, "empty": without_weights}
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, *(word.format(**places) for word in words), "--out", tmp_path / "out")
    assert end.value.code == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_runs_of_other_classes_do_not_stand_side_by_side(finished_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(finished_run, other)
    record = (other / "run.json").read_text()
    (other / "run.json").write_text(record.replace('"striped"', '"spotted"'))
    with pytest.raises(UserError, match="spotted"):
        inspect.inspect([finished_run, other], out=tmp_path / "out")


def test_the_report_links_the_page_and_shows_the_checkerboard(finished_run, tmp_path, monkeypatch):
    folder = tmp_path / "a sweep"
    shutil.copytree(finished_run, folder / "run 1")
    call(monkeypatch, folder / "run 1")  # without --out: into the run's folder
    report.report(folder, resamples=100)
    page = (folder / "report.html").read_text()
    assert 'href="run%201/inspect/inspect.html"' in page
    assert "checkerboard" in page
    report.report(folder, out=tmp_path / "out", resamples=100)
    assert 'href="../a%20sweep/run%201/inspect/inspect.html"' in (tmp_path / "out" / "report.html").read_text()


def test_nothing_is_written_through_a_link(finished_run, photo, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    (tmp_path / "elsewhere").mkdir()
    (folder / "inspect").mkdir()
    (folder / "inspect" / "maps").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemExit):
        call(monkeypatch, folder, "--image", photo)
    assert "link" in capsys.readouterr().err
    assert not list((tmp_path / "elsewhere").iterdir())
