"""``python -m segpipe.predict``: which files it predicts, and where it writes."""

import errno
import json
import os
import sys

import numpy as np
import PIL.Image
import pytest
from support.commands import time_limit

import segpipe
from segpipe import predict
from segpipe.data import png
from segpipe.data.files import read_image
from segpipe.data.masks import read_mask
from segpipe.data.visualise import overlay
from segpipe.engine import outputs
from segpipe.engine.video import VideoFile, frames, number_of_frames
from segpipe.errors import UserError
from segpipe.models.windows import Windows


def photo(path, *, size=(40, 50), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)
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
    batch, write = predict.Predictor.batch, outputs.write_png
    if fault == "a folder":
        (out / "a_mask.png").mkdir(parents=True)
    elif fault == "memory":
        answers = iter([True, True])  # of both images, and of the first one alone

        def scarce(self, images, sizes):
            if next(answers, False):
                raise MemoryError("7 GiB")
            yield from batch(self, images, sizes)

        monkeypatch.setattr(predict.Predictor, "batch", scarce)
    elif fault == "full":

        def full(path, bands, size, photo=False):
            if path.name.startswith("a"):
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            write(path, bands, size, photo=photo)

        monkeypatch.setattr(outputs, "write_png", full)
    assert call(monkeypatch, finished_run, photos, "--out", out) == 1
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert "1 of 2 images" in said.out
    assert (out / "b_overlay.png").is_file()


def test_images_of_any_name_are_predicted(tmp_path, monkeypatch, finished_run, capsys):
    names = [os.fsdecode(b"a\xff"), "[red]x", "नमस्ते", "é", "two\nlines"]
    for name in names:
        photo(tmp_path / "photos" / f"{name}.png")
    assert call(monkeypatch, finished_run, tmp_path / "photos", "--out", tmp_path / "masks") == 0
    assert all((tmp_path / "masks" / f"{name}_mask.png").is_file() for name in names)
    assert len(capsys.readouterr().out.splitlines()) == len(names) + 1


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


# files of each image


def masks_of(run, paths):
    predictor = segpipe.load(run, device="cpu")
    return {path.stem: predictor(path) for path in paths}


def test_images_in_batches_have_the_masks_of_images_alone(tmp_path, monkeypatch, finished_run, capsys):
    photos = tmp_path / "photos"
    for number, size in enumerate([(40, 50), (64, 64), (40, 50), (64, 64), (40, 50), (33, 90)]):
        photo(photos / f"{number}.png", size=size, seed=number)
    (photos / "2b.png").write_bytes(b"no picture")
    batches = []
    batch = predict.Predictor.batch
    monkeypatch.setattr(
        predict.Predictor,
        "batch",
        lambda self, images, sizes: (batches.append(len(images)), batch(self, images, sizes))[1],
    )
    assert call(monkeypatch, finished_run, photos, "--out", tmp_path / "masks", "--device", "cpu") == 1
    assert sorted(batches) == [1, 2, 3]
    said = capsys.readouterr()
    assert "2b.png: cannot be read" in said.err
    assert "6 of 7 images" in said.out
    for name, mask in masks_of(finished_run, photos.glob("?.png")).items():
        assert (read_mask(tmp_path / "masks" / f"{name}_mask.png") != mask).mean() < 0.001  # rounding


def test_what_options_write(tmp_path, monkeypatch, finished_run):
    path = photo(tmp_path / "a.png")
    out = tmp_path / "masks"
    options = ["--probabilities", "--confidence", "--polygons"]
    assert call(monkeypatch, finished_run, path, "--out", out, "--device", "cpu", *options) == 0
    predictor = segpipe.load(finished_run, device="cpu")
    probabilities = predictor.probabilities(path)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(0), 1, atol=1e-5)
    stored = np.load(out / "a_probabilities.npy", mmap_mode="r")
    assert (stored.dtype, stored.shape) == (np.float16, (6, 40, 50))
    assert np.abs(stored - probabilities).max() < 1e-3
    mask = read_mask(out / "a_mask.png")
    assert (mask == probabilities.argmax(0)).all()
    confidence = read_mask(out / "a_confidence.png")
    assert np.abs(confidence / 255 - probabilities.max(0)).max() < 0.003
    polygons = json.loads((out / "a_polygons.geojson").read_text())
    areas = {one["properties"]["class"]: 0 for one in polygons["features"]}
    for one in polygons["features"]:
        areas[one["properties"]["class"]] += one["properties"]["pixels"]
    assert areas == {predictor.classes[index]: (mask == index).sum() for index in np.unique(mask)}
    assert read_image(out / "a_overlay.png").shape == (40, 50, 3)


@pytest.mark.parametrize("at_once", [2**20, 1000])
def test_the_overlay_has_a_legend_of_the_classes_that_occur(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(png, "AT_ONCE", at_once)
    mask = np.zeros((300, 200), np.uint8)
    mask[:9] = 2
    image = np.full((300, 200, 3), 99, np.uint8)
    counts = np.bincount(mask.ravel(), minlength=256)
    palette = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    for name, wanted in (("with", True), ("without", False)):
        given = outputs.Outputs(tmp_path, ["road", "tree", "sky"], palette, show_legend=wanted)
        outputs.write_outputs(name, tmp_path / "a.png", image, outputs.Prediction(mask, counts), given)
    shown, plain = (read_image(tmp_path / f"{name}_overlay.png") for name in ("with", "without"))
    assert (plain == overlay(image, mask, palette)).all()
    height = int((shown != plain).any((1, 2)).sum())
    assert 20 <= height <= 37
    assert (shown[:-height] == plain[:-height]).all()
    pure = [(shown[-height:] == colour).all(2).any() for colour in palette]
    assert pure == [True, False, True]  # no tree


def test_a_large_image_has_all_files(tmp_path, monkeypatch, finished_run):
    path = photo(tmp_path / "a.png", size=(300, 420))
    for name, value in {"limit": 5000, "side": 192, "overlap": 96}.items():
        monkeypatch.setitem(Windows.__init__.__kwdefaults__, name, value)
    monkeypatch.setattr(png, "AT_ONCE", 5000)
    out = tmp_path / "masks"
    options = ["--probabilities", "--confidence", "--polygons", "--tta", "mirror", "--no-legend"]
    assert call(monkeypatch, finished_run, path, "--out", out, "--device", "cpu", *options) == 0
    predictor = predict.Predictor(finished_run, device="cpu", flips="mirror")
    mask = read_mask(out / "a_mask.png")
    assert (mask == predictor(path)).all()
    assert len(list(predictor.tiles(predictor.as_input(path)))) > 2
    assert np.allclose(np.load(out / "a_probabilities.npy"), predictor.probabilities(path), atol=1e-3)
    shown = read_image(out / "a_overlay.png")
    colour = read_image(out / "a_colour.png")
    image = read_image(path)
    assert np.abs(shown - (0.45 * image + 0.55 * colour)).max() <= 0.51


@pytest.mark.parametrize("options", [{"flips": "mirror"}, {"flips": "flips"}, {"scales": [0.75, 1.25]}], ids=str)
def test_averages_over_flips_and_scales(finished_run, tmp_path, options):
    plain = predict.Predictor(finished_run, device="cpu")
    averaged = predict.Predictor(finished_run, device="cpu", **options)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    result = averaged.probabilities(image)
    assert np.allclose(result.sum(0), 1, atol=1e-4)
    if "flips" in options:
        axes = {"mirror": [(), (1,)], "flips": [(), (1,), (0,), (0, 1)]}[options["flips"]]
        parts = [np.flip(plain.probabilities(np.flip(image, axis)), [a + 1 for a in axis]) for axis in axes]
        assert np.allclose(result, np.mean(parts, 0), atol=1e-5)
        assert np.allclose(averaged.probabilities(image[:, ::-1]), result[:, :, ::-1], atol=1e-5)
    else:
        assert np.abs(result - plain.probabilities(image)).max() > 1e-3


def test_a_geotiff_gives_a_mask_on_the_map(tmp_path, monkeypatch, finished_run, capsys):
    rasterio = pytest.importorskip("rasterio")
    path = photo(tmp_path / "photos" / "a.tif")
    transform = rasterio.Affine(2.0, 0.0, 500000.0, 0.0, -2.0, 5400000.0)
    pixels = read_image(path).transpose(2, 0, 1)
    about = {"driver": "GTiff", "height": 40, "width": 50, "count": 3, "dtype": "uint8", "photometric": "RGB"}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=transform, **about) as file:
        file.write(pixels)
    out = tmp_path / "masks"
    assert call(monkeypatch, finished_run, path.parent, "--out", out, "--polygons") == 0
    with rasterio.open(out / "a_map.tif") as file:
        assert (file.crs.to_epsg(), file.transform) == (32633, transform)
        assert (file.read(1) == read_mask(out / "a_mask.png")).all()
    collection = json.loads((out / "a_polygons.geojson").read_text())
    assert collection["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    x, y = np.concatenate([one["geometry"]["coordinates"][0] for one in collection["features"]]).T
    assert (x.min(), x.max(), y.min(), y.max()) == (500000, 500100, 5399920, 5400000)
    capsys.readouterr()
    monkeypatch.setattr(predict, "is_installed", lambda: False)
    assert call(monkeypatch, finished_run, path.parent, "--out", tmp_path / "plain") == 0
    assert capsys.readouterr().out.count("segpipe[rasterio]") == 1
    assert not (tmp_path / "plain" / "a_map.tif").exists()


def test_frames_of_a_video(tmp_path, monkeypatch, finished_run, capsys):
    path = tmp_path / "videos" / "clip.mp4"
    file = VideoFile(path, rate=10, size=(64, 80))
    for number in range(5):
        file.write(np.full((64, 80, 3), 40 * number, np.uint8))
    file.close()
    out = tmp_path / "masks"
    assert call(monkeypatch, finished_run, path.parent, "--out", out, "--frames", "3", "--video", "both") == 0
    assert "3 of 3 images" in capsys.readouterr().out
    assert sorted(str(one.relative_to(out)) for one in out.rglob("*.*")) == [
        *(f"clip/frame_{number:06}_mask.png" for number in range(3)),
        "clip_overlay.mp4",
    ]
    assert read_mask(out / "clip" / "frame_000002_mask.png").shape == (64, 80)
    assert len(list(frames(out / "clip_overlay.mp4", most=99))) == 3
    with monkeypatch.context() as patch:
        patch.setattr(predict.Report, "note", lambda report, item: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict.predict(finished_run, {"clip": path}, tmp_path / "ended", video="overlay")
    assert list((tmp_path / "ended").iterdir()) == []
    path.write_bytes(b"no video")
    assert call(monkeypatch, finished_run, path, "--out", out) == 1
    assert "cannot be read as a video" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--scales", "0"], "--scales 0: allowed are 1 to 9 numbers from 0.25 to 4"),
        (["--scales", "1,x"], "--scales 1,x: allowed"),
        (["--scales", "nan"], "--scales nan: allowed"),
        (["--tta", "flip"], "--tta flip: allowed is mirror or flips. Did you mean 'flips'?"),
        (["--video", "mask"], "--video mask: allowed is masks or overlay or both"),
        (["--frames", "-1"], "--frames -1: allowed is a whole number above 0"),
        (["--device", "abacus"], "device=abacus: not available"),
    ],
    ids=str,
)
def test_wrong_values_of_options_are_refused_in_a_line(tmp_path, monkeypatch, finished_run, capsys, options, says):
    path = photo(tmp_path / "a.png")
    assert call(monkeypatch, finished_run, path, "--out", tmp_path / "masks", *options) == 1
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_said_before_work(tmp_path, monkeypatch, finished_run, capsys):
    (tmp_path / "masks").write_text("a file")
    monkeypatch.setattr(predict, "Predictor", None)
    assert call(monkeypatch, finished_run, photo(tmp_path / "a.png"), "--out", tmp_path / "masks") == 1
    said = capsys.readouterr().err
    assert "masks is a file. Give a folder" in said
    assert said.count("\n") == 1


def test_a_wrong_run_leaves_no_folder(tmp_path, monkeypatch):
    assert call(monkeypatch, tmp_path / "no run", photo(tmp_path / "a.png"), "--out", tmp_path / "masks") == 1
    assert not (tmp_path / "masks").exists()


def test_a_full_disk_ends_the_command(tmp_path, monkeypatch, finished_run, capsys):
    for number in range(9):
        photo(tmp_path / "photos" / f"{number}.png")

    def full(path, bands, size, photo=False):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(outputs, "write_png", full)
    assert call(monkeypatch, finished_run, tmp_path / "photos", "--out", tmp_path / "masks") == 1
    said = capsys.readouterr().err
    assert "the disk is full; 0 of 9 images are predicted" in said
    assert said.count("\n") == predict.FULL + 1


def test_the_time_that_is_left_is_said_where_there_is_no_terminal(tmp_path, monkeypatch, finished_run, capsys):
    monkeypatch.setattr(predict, "EVERY", 0.0)
    monkeypatch.setattr(predict, "LISTED", 2)
    for number in range(3):
        photo(tmp_path / "photos" / f"{number}.png")
    assert call(monkeypatch, finished_run, tmp_path / "photos", "--out", tmp_path / "masks") == 0
    said = capsys.readouterr().out
    assert "2 of 3 images, about 0 s left" in said
    assert "[1/3]" not in said
    assert "3 of 3 images" in said


def test_a_changed_aspect_ratio_is_said_once(tmp_path, monkeypatch, finished_run, capsys):
    for number in range(2):
        photo(tmp_path / "photos" / f"{number}.png")
    init = predict.Predictor.__init__

    def with_size(self, *args, **options):
        init(self, *args, **options)
        self.size = [64, 64]

    monkeypatch.setattr(predict.Predictor, "__init__", with_size)
    assert call(monkeypatch, finished_run, tmp_path / "photos", "--out", tmp_path / "masks") == 0
    said = capsys.readouterr().out
    assert said.count("are resized to 64 x 64") == 1
    assert "changes the aspect ratio by 25%" in said
    assert "aspect ratio of 2 images" in said


def test_a_pipe_is_no_video(tmp_path):
    """OpenCV would wait for ever for its content."""
    os.mkfifo(tmp_path / "a.mp4")
    with time_limit(30):
        assert number_of_frames(tmp_path / "a.mp4") == 1
        with pytest.raises(UserError, match="a named pipe, not a file"):
            next(frames(tmp_path / "a.mp4", most=3))
