"""A finished run as a function, and its evaluation."""

import errno
import json
import os
import shutil

import numpy as np
import PIL.Image
import pytest
from support.camvid import write_camvid
from support.configs import TINY, configure

import segpipe
from segpipe.engine.predictor import packages
from segpipe.errors import UserError
from segpipe.evaluate import evaluate
from segpipe.runs.counts import read_boundaries
from segpipe.runs.run import Run
from segpipe.train import train

# a finished run as a function


def test_load_gives_a_mask_for_a_picture_of_any_size(finished_run):
    predictor = segpipe.load(finished_run, device="cpu")
    for size in ((45, 61), (200, 120), (7, 9)):
        mask = predictor(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
        assert (mask.shape, mask.dtype) == (size, np.uint8)
        assert mask.max() < 6
    with pytest.raises(UserError, match=r"float64 \(4, 4\)"):
        predictor(np.zeros((4, 4)))


DEEP = np.full((9, 9), 4095, np.uint16)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.random.default_rng(0).random((9, 9, 3)), r"float64 \(9, 9, 3\).*255 \* image"),
        (np.zeros((0, 9, 3), np.uint8), "no pixels"),
        (np.zeros((9, 9, 4), np.uint8), "band beside its colours"),
        (None, "NoneType"),
        ("nowhere.png", "nowhere.png: cannot be read"),
        (PIL.Image.new("RGB", (0, 4)), "no pixels"),
        (PIL.Image.fromarray(np.random.default_rng(0).random((9, 9)).astype(np.float32)), "floating point"),
        (PIL.Image.fromarray(DEEP), "16 of 256 gray levels"),
        (PIL.Image.fromarray(DEEP.astype(np.int32) * 99), "values from 405405"),
        (PIL.Image.new("RGBA", (9, 9), (9, 9, 9, 100)), "band beside its colours"),
        (np.zeros((1, 10_000_000, 3), np.uint8), "enlarged to the encoder's minimum"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_images_that_cannot_be_predicted_are_refused_in_a_sentence(finished_run, image, says):
    with pytest.raises(UserError, match=says):
        segpipe.load(finished_run, device="cpu")(image)


def test_a_pil_image_is_predicted_as_its_file(finished_run, tmp_path):
    predictor = segpipe.load(finished_run, device="cpu")
    full = np.random.default_rng(0).integers(0, 65536, (40, 50)).astype(np.uint16)
    for array in (full, (full >> 8).astype(np.uint8), np.stack([full >> 8] * 3, 2).astype(np.uint8)):
        PIL.Image.fromarray(array).save(tmp_path / "a.png")
        assert (predictor(PIL.Image.open(tmp_path / "a.png")) == predictor(tmp_path / "a.png")).all()


def test_load_says_what_is_no_run(tmp_path, finished_run):
    with pytest.raises(UserError, match="no such folder"):
        segpipe.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="Give the folder"):
        segpipe.load(Run(finished_run).best_checkpoint())
    (tmp_path / "config.yaml").write_text((finished_run / "config.yaml").read_text())
    with pytest.raises(UserError, match="no checkpoints/best"):
        Run.open(tmp_path).best_checkpoint()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "run: this is None, of the type NoneType"),
        (3, "run: this is 3, of the type int"),
        ([], "run: this is .., of the type list"),
        (b"a", "run: this is b'a', of the type bytes"),
        ("", "run: this is an empty text"),
        (os, "of the type module"),
        ("a\0b", r"a.x00b.*: this path cannot be looked up \(.*null"),
        (5000 * "x", r"xxx\.\.\.: this path cannot be looked up \(File name too long\)"),
        ("a\ud800", "a"),
    ],
)
def test_load_says_what_is_no_path(given, says):
    """In each class of path: a run's folder, an exported file, a shared one."""
    for name in (given, f"{given}.onnx", f"{given}.zip") if isinstance(given, str) and given else (given,):
        with pytest.raises(UserError, match=says) as caught:
            segpipe.load(name)
        assert "\n" not in str(caught.value)
        assert "Give" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "gpu7"}, "device=gpu7: not available"),
        ({"device": 3.5}, "device=3.5: not available"),
        ({"trust": 3}, "trust=3: allowed is a list of names"),
        ({"trust": None}, "trust=None: allowed is a list of names"),
        ({"trust": [b"a"]}, "allowed is a list of names"),
        ({"flips": "both"}, "flips='both': allowed is none or mirror or flips"),
        ({"flips": []}, "allowed is none or mirror or flips"),
        ({"scales": 2}, "scales=2: allowed is a list of numbers"),
        ({"scales": []}, "allowed is a list of numbers"),
        ({"scales": [0]}, "allowed is a list of numbers"),
        ({"scales": "12"}, "allowed is a list of numbers"),
    ],
)
def test_a_predictor_says_which_option_it_does_not_take(options, says, finished_run):
    with pytest.raises(UserError, match=says):
        segpipe.Predictor(finished_run, **options)


@pytest.mark.parametrize("name", ["config.yaml", "checkpoints/best.ckpt"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(name, finished_run, monkeypatch):
    """The run is another user's; nobody has to train it again."""
    opened = os.open

    def refuse(path, *given, **named):
        if str(path).endswith(name):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *given, **named)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=rf"{name}: cannot be read \(Permission denied\)\. C.*permissions") as caught:
        segpipe.load(finished_run)
    assert "damaged" not in str(caught.value)
    assert "train" not in str(caught.value)


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir])
def test_what_stands_in_place_of_a_checkpoint_is_not_called_missing(put, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "checkpoints" / "best.ckpt").unlink()
    put(run / "checkpoints" / "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt is damaged"):
        segpipe.load(run)


def test_a_single_package_may_be_trusted_without_a_list():
    assert packages("torch") == packages(["torch"]) == ["torch"]


def test_evaluating_again_gives_the_same_numbers(finished_run, tmp_path):
    metrics = json.loads((finished_run / "metrics.json").read_text())
    for split in ("val", "test"):
        again = evaluate(finished_run, overrides=[], split=split, out=tmp_path / split, device="cpu")
        assert again["miou"] == metrics[split]["miou"]
        with (
            np.load(finished_run / "confusion" / f"{split}.npz") as a,
            np.load(tmp_path / split / "confusion.npz") as b,
        ):
            assert (a["matrices"] == b["matrices"]).all()
        counted = read_boundaries(tmp_path / split / "boundaries.npz")
        assert all(len(part) == again["images"] for tally in counted.values() for part in tally)
    for name, tally in read_boundaries(Run(finished_run).boundaries("test")).items():
        assert all((one == other).all() for one, other in zip(tally, counted[name], strict=True))
    with pytest.raises(UserError, match=r"--data optimizer\.lr=1: only the data can be chosen"):
        evaluate(finished_run, overrides=["optimizer.lr=1"], split="test", device="cpu")
    fewer = evaluate(finished_run, overrides=["data.dataset.test=3"], split="test", out=tmp_path / "few", device="cpu")
    assert fewer["images"] == 3
    with pytest.raises(UserError, match="trained on the classes background"):
        evaluate(
            finished_run, overrides=["data=camvid", f"data.root={write_camvid(tmp_path / 'camvid')}"], split="test"
        )


def test_evaluating_on_images_of_the_training_says_so(tmp_path, capsys, cache_folder):
    write_images(tmp_path / "photos")
    overrides = ["data=folder", f"data.root={tmp_path / 'photos'}", "data.crop=[32,32]", "data.batch_size=4"]
    train(configure(*[one for one in TINY if not one.startswith("data.")], *overrides, f"run_dir={tmp_path / 'run'}"))
    capsys.readouterr()
    shutil.rmtree(cache_folder)
    with pytest.raises(UserError, match="give the folder of the data again"):
        evaluate(tmp_path / "run", overrides=[], split="test", device="cpu")
    evaluate(tmp_path / "run", overrides=overrides, split="test", device="cpu")
    assert "trained on" not in capsys.readouterr().out
    evaluate(tmp_path / "run", overrides=overrides, split="train", out=tmp_path / "again", device="cpu")
    assert "the network was trained on" in capsys.readouterr().out
    shutil.copytree(tmp_path / "photos", tmp_path / "others")
    for kind in ("images", "masks"):  # other names, so another split
        for path in (tmp_path / "others" / kind).iterdir():
            path.rename(path.with_name(f"other{path.name}"))
    others = ["data=folder", f"data.root={tmp_path / 'others'}"]
    evaluate(tmp_path / "run", overrides=others, split="test", out=tmp_path / "others1", device="cpu")
    assert "not the data of the run" in capsys.readouterr().out


def write_images(root, count=24):
    rng = np.random.default_rng(0)
    for number in range(count):
        for kind, array in (
            ("images", rng.integers(0, 256, (40, 40, 3))),
            ("masks", rng.integers(0, 2, (40, 40)) * 255),
        ):
            (root / kind).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(array.astype(np.uint8)).save(root / kind / f"{number}.png")
