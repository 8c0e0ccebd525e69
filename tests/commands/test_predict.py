"""``python -m segpipe.predict``: which files it predicts, and where it writes."""

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
