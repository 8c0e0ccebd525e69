"""``python -m segpipe.predict``: which files it predicts, and where it writes."""

import errno
import os
import sys

import numpy as np
import PIL.Image
import pytest

from segpipe import predict
from segpipe.errors import UserError


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return path


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        predict.main()
    return end.value.code


def test_subfolders_are_predicted_and_keep_their_paths(tmp_path, monkeypatch, finished_run):
    photos = tmp_path / "photos"
    for name in ("a.png", "b.c/a.png", "b.c/d/e.jpg"):
        photo(photos / name)
    (photos / "linked").symlink_to(photo(tmp_path / "more" / "f.png").parent)
    for stray in ("._a.png", ".DS_Store", "Thumbs.db"):
        (photos / stray).write_bytes(b"no picture")
    photo(photos / "__MACOSX" / "z.png")
    photo(photos / "b.c" / "@eaDir" / "a.png" / "SYNOPHOTO_THUMB.jpg")
    out = photos / "masks"  # below the folder of the images
    for _ in range(2):
        assert call(monkeypatch, finished_run, photos, "--out", out) == 0
        written = sorted(str(path.relative_to(out)) for path in out.rglob("*_mask.png"))
        assert written == ["a_mask.png", "b.c/a_mask.png", "b.c/d/e_mask.png", "linked/f_mask.png"]


def test_what_cannot_be_predicted_is_said(tmp_path, monkeypatch, finished_run, capsys):
    photos = tmp_path / "photos"
    photo(photos / "a.png")
    os.mkfifo(photos / "pipe.png")
    (photos / "gone.png").symlink_to("nowhere")
    (photos / "loop").symlink_to(photos)
    photo(photos / "wide.png")
    PIL.Image.new("RGB", (1, 1)).resize((1_000_000, 1)).save(photos / "wide.png")
    assert call(monkeypatch, finished_run, photos, "--out", tmp_path / "masks") == 1
    said = capsys.readouterr()
    for words in (
        "pipe.png: a named pipe",
        "gone.png: a broken link",
        "loop: the same folder as",
        "wide.png: an image",
    ):
        assert words in said.err
    assert "1 of 2 images" in said.out


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("a folder", "a_mask.png: this is a folder, but a file is needed"),
        ("a long name", "the name is longer than this file system allows"),
        ("memory", "a.png: Out of memory"),
        ("full", "Free some space"),
    ],
)
def test_an_image_that_cannot_be_predicted_or_written_does_not_end_the_others(
    fault, says, tmp_path, monkeypatch, finished_run, capsys
):
    photos, out = tmp_path / "photos", tmp_path / "masks"
    photo(photos / "b.png")
    photo(photos / ("a.png" if fault != "a long name" else f"{'a' * 249}.png"))
    called, save = predict.Predictor.mask, predict.save_image
    if fault == "a folder":
        (out / "a_mask.png").mkdir(parents=True)
    elif fault == "memory":
        answers = iter([MemoryError("7 GiB")])

        def scarce(self, image):
            if error := next(answers, None):
                raise error
            return called(self, image)

        monkeypatch.setattr(predict.Predictor, "mask", scarce)
    elif fault == "full":

        def full(image, path):
            if path.name.startswith("a"):
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            save(image, path)

        monkeypatch.setattr(predict, "save_image", full)
    assert call(monkeypatch, finished_run, photos, "--out", out) == 1
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert "1 of 2 images" in said.out
    assert (out / "b_overlay.png").is_file()


def test_images_of_any_name_are_predicted(tmp_path, monkeypatch, finished_run):
    names = [os.fsdecode(b"a\xff"), "[red]x", "नमस्ते", "é"]
    for name in names:
        photo(tmp_path / "photos" / f"{name}.png")
    assert call(monkeypatch, finished_run, tmp_path / "photos", "--out", tmp_path / "masks") == 0
    assert all((tmp_path / "masks" / f"{name}_mask.png").is_file() for name in names)


def test_predictions_of_an_earlier_call_are_left_out(tmp_path, capsys):
    for name in ("a", "a_mask", "a_colour", "a_overlay", "b_mask"):
        photo(tmp_path / "sub" / f"{name}.png")
    images, problems = predict.find_images([tmp_path], out=tmp_path / "out")
    assert (sorted(images), problems) == (["sub/a", "sub/b_mask"], [])
    assert "3 files are left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: (photo(root / "a.png"), root)[1:], "this is the folder of the images"),
        (lambda root: [photo(root / "b" / "a.png"), photo(root / "c" / "a.png")], "would have the same name"),
        (lambda root: [root / "nothing.png"], "no such file or folder"),
        (lambda root: [photo(root / "b" / "a.txt.png").parent.parent / "c"], "no such file or folder"),
    ],
    ids=["out", "twins", "nothing", "nowhere"],
)
def test_images_that_would_be_mistaken_are_refused(tmp_path, make, says):
    paths = make(tmp_path)
    with pytest.raises(UserError, match=says):
        predict.find_images(list(paths), out=tmp_path)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "._a.png").write_bytes(b"")
    with pytest.raises(UserError, match="no images in this folder"):
        predict.find_images([tmp_path], out=tmp_path / "masks")
