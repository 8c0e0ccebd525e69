"""The commands as a person would type them, each in a process of its own: forked, and in ``make test-all`` cold too."""

import json
import os
import subprocess
import sys
from functools import partial

import numpy as np
import PIL.Image
import pytest
from support import commands
from support.camvid import spoil, write_camvid
from support.configs import TINY
from support.paths import ROOT

import segpipe
from segpipe.architectures import model_table
from segpipe.data.files import read_image
from segpipe.data.masks import read_mask

SMALL = [choice for choice in TINY if choice != "logger=none"]


@pytest.fixture(params=["forked", pytest.param("cold", marks=pytest.mark.slow)])
def run(request):
    """Runs a command: see ``commands.run``."""
    return partial(commands.run, cold=request.param == "cold")


def test_train_ends_with_scores_places_and_the_next_command(run, tmp_path):
    said = run("segpipe.train", *SMALL, "logger.mode=disabled", "trainer.max_epochs=1", cwd=tmp_path)
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    for expected in (
        "Test mIoU",
        "checkered",
        f"outputs/runs/{folder.name}",
        "predictions.png",
        "python -m segpipe.predict",
    ):
        assert expected in said


def test_predict_names_what_it_cannot_read_and_goes_on(run, tmp_path, finished_run):
    photos = tmp_path / "my photos (1), a=b"
    photos.mkdir()
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(photos / "turned.jpg", exif=exif)
    picture.convert("L").save(photos / "gray.png")
    (photos / "broken.png").write_bytes(b"no picture")
    masks = tmp_path / "masks"
    said = run("segpipe.predict", finished_run, photos, "--out", masks, cwd=tmp_path, status=1)
    assert "broken.png: cannot be read" in said
    assert "2 of 3 images" in said
    written = {path.name: read_mask(path) if "mask" in path.stem else read_image(path) for path in masks.iterdir()}
    assert sorted(written) == sorted(f"{s}_{k}.png" for s in ("turned", "gray") for k in ("mask", "colour", "overlay"))
    assert written["turned_mask.png"].shape == (64, 40)
    assert written["gray_overlay.png"].shape == (40, 64, 3)
    assert written["gray_mask.png"].max() < 6


def test_evaluate_prints_and_writes(run, tmp_path, finished_run):
    said = run("segpipe.evaluate", finished_run, "--split", "val", "--out", "again", cwd=tmp_path)
    assert "val mIoU" in said
    assert json.loads((tmp_path / "again" / "metrics.json").read_text())["images"] == 5


@pytest.mark.parametrize("module", ["segpipe.predict", "segpipe.evaluate"])
def test_what_is_no_run_is_said_in_a_line(run, tmp_path, module):
    said = run(module, "nowhere", *(["."] if module == "segpipe.predict" else []), cwd=tmp_path, status=1)
    assert said.startswith("segpipe: ")
    assert len(said.splitlines()) == 1


def test_check_data_lists_everything_that_is_wrong(run, tmp_path):
    root = write_camvid(tmp_path / "data")
    spoil(root, "label")
    (root / "testannot" / "clip1_001.png").unlink()
    said = run("segpipe.check_data", "data=camvid", f"data.root={root}", cwd=tmp_path, status=1)
    assert "label 13" in said
    assert "testannot" in said
    assert "2 problems found." in said
    assert not (tmp_path / "outputs").exists()


def test_models_prints_a_row_for_every_architecture(run, tmp_path):
    said = run("segpipe.architectures", "--size", 96, 96, cwd=tmp_path)
    for name in ("fcn32s", "fcn2s", "segnet_basic", "unet", "31.044"):
        assert name in said


@pytest.mark.parametrize("wrong", [["--size", 0, 96], ["--size", -5, 5], ["--classes", 0], ["--classes", 255]])
def test_architectures_refuses_sizes_and_classes_that_no_network_has(wrong, tmp_path):
    said = commands.run("segpipe.architectures", *wrong, cwd=tmp_path, status=1)
    assert "allowed are sizes of 1 or more" in said


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["model=unet", "decoder=unpool"], ["unet"]),
        (["model=unet,fcn8s", "decoder=nearest"], ["unet", "fcn8s"]),
        (["experiment=paper/segnet"], ["segnet"]),
    ],
)
def test_architectures_prints_the_chosen_models(words, rows):
    table = model_table(words, (96, 96), 6)
    assert sorted(table.columns[0]._cells) == sorted(rows)
    assert {*table.columns[3]._cells} == {"nearest"} if "nearest" in words[-1] else {"unpool"}


def test_the_table_of_operators_takes_no_overrides(tmp_path):
    said = commands.run("segpipe.architectures", "--operators", "decoder=unpool", cwd=tmp_path, status=1)
    assert said.startswith("segpipe: --operators decoder=unpool: the table of operators takes no overrides")


@pytest.mark.slow
def test_installed_without_the_checkout_it_finds_its_configuration(tmp_path):
    """A wheel, unpacked into an empty folder: no editable install, another working folder."""
    root = ROOT
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site"), str(root)],
        check=True,
        capture_output=True,
    )
    code = (
        "import segpipe; from segpipe.config.schema import CONF; from pathlib import Path; print(CONF); "
        "print((CONF / 'train.yaml').is_file(), Path(segpipe.__file__).with_name('py.typed').is_file(), "
        "segpipe.__version__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(tmp_path / "site" / "segpipe" / "conf"), f"True True {segpipe.__version__}"]
