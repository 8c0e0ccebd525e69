"""Trainings on images of any bands, whole: training, evaluation, prediction, and resuming use the same ranges."""

import json
import re

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from support.configs import configure
from support.trainings import interrupted_in

from segpipe.data.bands import Bands
from segpipe.data.folder import Folder
from segpipe.engine import dry_run
from segpipe.engine.evaluation import evaluate
from segpipe.engine.export import export
from segpipe.engine.fit import train
from segpipe.engine.predictor import Predictor
from segpipe.engine.shared import share
from segpipe.errors import UserError
from segpipe.metrics.confusion import confusion_matrices
from segpipe.predict import find_images, predict

NETWORK = [
    "model=unet", "encoder.widths=[8,8]", "encoder.depths=[1,1]", "neck=none", "trainer=cpu", "trainer.max_epochs=20",
    "+trainer.enable_progress_bar=false", "logger=none", "data.crop=[32,32]", "data.batch_size=2", "optimizer.lr=0.01",
]  # fmt: skip


def tif5(generator, mask):
    noise = generator.integers(100, 300, (40, 48, 5))
    return (noise + mask[..., None] * np.array([0, 0, 900, 0, 500])).astype(np.uint16)


def npy1(generator, mask):
    image = (generator.random((40, 48)) + 3 * mask - 7).astype(np.float32)
    image[0, :3] = np.nan
    return image


def png4(generator, mask):
    return (generator.integers(0, 100, (40, 48, 4)) + mask[..., None] * np.array([0, 0, 0, 150])).astype(np.uint8)


KINDS = {"tif5": (tif5, ".tif", []), "npy1": (npy1, ".npy", []), "png4": (png4, ".png", ["data.channels=4"])}


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".tif" and array.ndim == 3:
        tifffile.imwrite(path, array, photometric="minisblack", planarconfig="contig", tile=(16, 16))
    elif path.suffix == ".tif":
        tifffile.imwrite(path, array)
    else:
        PIL.Image.fromarray(array).save(path)


def folder_of(root, kind):
    """Images in which one or two bands show the mask."""
    make, suffix, _ = KINDS[kind]
    generator = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for number in range(4):
            mask = (generator.random((5, 6)) > 0.5).repeat(8, 0).repeat(8, 1).astype(np.uint8)
            write(root / split / "images" / f"{number}{suffix}", make(generator, mask))
            write(
                root / split / "masks" / f"{number}{suffix}", mask.astype(np.uint16 if suffix == ".tif" else np.uint8)
            )
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """By kind, trained once: the folder of the data, the overrides, the run, and its metrics."""
    done = {}

    def get(kind):
        if kind not in done:
            place = tmp_path_factory.mktemp(kind)
            root = folder_of(place / "data", kind)
            data = ["data=folder", f"data.root={root}", *KINDS[kind][2]]
            metrics = train(configure(*data, *NETWORK, f"run_dir={place / 'run'}"))
            done[kind] = root, data, place / "run", metrics
        return done[kind]

    return get


def test_a_dry_run_reads_no_image(tmp_path, monkeypatch):
    root = folder_of(tmp_path, "tif5")
    monkeypatch.setattr(Folder, "read", None)
    size = dry_run.size_of(configure("data=folder", f"data.root={root}", *NETWORK))
    assert size.parameters > 0


SLOW = [kind if kind == "tif5" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


@pytest.mark.parametrize("kind", SLOW)
def test_evaluation_and_prediction_are_those_of_the_training(trained, tmp_path, kind):
    root, data, run, metrics = trained(kind)
    record = json.loads((run / "run.json").read_text())
    predictor = Predictor(run)
    assert Bands.from_record(record["bands"]) == predictor.bands
    assert predictor.bands.channels == int(kind[-1])
    result = evaluate(run, overrides=data, split="test", out=tmp_path / "evaluation")
    assert result["miou"] == metrics["test"]["miou"]
    images, problems = find_images([root / "test" / "images"], out=tmp_path / "masks")
    assert (predict(run, images, tmp_path / "masks"), problems) == (0, [])
    matrices = np.load(tmp_path / "evaluation" / "confusion.npz")["matrices"]
    for number in range(4):
        mask = picture(tmp_path / "masks" / f"{number}_mask.png")
        (truth,) = (root / "test" / "masks").glob(f"{number}.*")
        values = {".tif": tifffile.imread, ".npy": np.load, ".png": picture}[truth.suffix](truth)
        counted = confusion_matrices(torch_of(mask), torch_of(values.astype(np.uint8)), 2)
        assert (counted.numpy()[0] == matrices[number]).all()
        assert picture(tmp_path / "masks" / f"{number}_overlay.png").shape == (40, 48, 3)
    assert (run / "pictures" / "predictions.png").is_file()


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors", ".zip"])
def test_a_file_of_a_run_predicts_as_the_run_with_every_option(trained, tmp_path, suffix):
    for library in ("onnx", "onnxscript", "onnxruntime", "safetensors"):
        pytest.importorskip(library, reason="the extra `export` is not installed")
    root, _, run, _ = trained("tif5")
    file = tmp_path / f"model{suffix}"
    if suffix == ".zip":
        share(Predictor(run, device="cpu"), file)
    else:
        export(run, form=suffix[1:], out=file, report=lambda text: None)
    images = {"a": root / "test" / "images" / "0.tif"}
    options = {"flips": "flips", "scales": [0.75, 1, 1.5], "probabilities": True, "confidence": True, "polygons": True}
    found = []
    for source in (run, file):
        out = tmp_path / f"of-{source.name}"
        assert predict(source, images, out, device="cpu", **options) == 0
        found.append(np.load(out / "a_probabilities.npy").astype(np.float32))
        assert {path.name for path in out.iterdir()} >= {"a_confidence.png", "a_polygons.geojson", "a_overlay.png"}
    assert np.abs(found[0] - found[1]).max() < 1e-3
    assert Predictor(file, device="cpu").bands == Predictor(run, device="cpu").bands


def picture(path):
    with PIL.Image.open(path) as image:
        return np.asarray(image)


def torch_of(array):
    return torch.from_numpy(array.copy())[None]


def test_the_network_sees_what_only_further_bands_show(trained):
    assert trained("tif5")[3]["test"]["miou"] > 0.8


def test_images_of_other_bands_are_refused_in_a_sentence(trained, tmp_path, capsys):
    _, _, run, _ = trained("tif5")
    others = folder_of(tmp_path / "others", "png4")
    write(tmp_path / "rgb.png", np.zeros((40, 40, 3), np.uint8))
    for path, says in (
        (others / "test" / "images" / "0.png", "4 bands of uint8"),
        (tmp_path / "rgb.png", "3 bands of uint8"),
    ):
        assert predict(run, {"a": path}, tmp_path / "masks") == 1
        said = capsys.readouterr().err
        assert re.search(rf"{path.name}: an image of {says}; needed are images of 5 bands of uint16", said)
    with pytest.raises(UserError, match="The images have 4 bands of uint8, but the network was trained on 5 bands"):
        evaluate(run, overrides=["data=folder", f"data.root={others}", "data.channels=4"], split="test")
    with pytest.raises(UserError, match=r"shape \(40, 40, 3\)"):
        Predictor(run)(np.zeros((40, 40, 3), np.uint16))


def test_a_run_of_ordinary_images_refuses_bands(finished_run, tmp_path):
    root = folder_of(tmp_path / "data", "tif5")
    with pytest.raises(UserError, match=r"0\.tif"):
        Predictor(finished_run)(root / "test" / "images" / "0.tif")


@pytest.mark.slow
def test_a_resumed_training_takes_the_ranges_of_its_run(monkeypatch, tmp_path):
    root = folder_of(tmp_path / "data", "npy1")
    run = tmp_path / "run"
    given = ["data=folder", f"data.root={root}", *NETWORK, "trainer.max_epochs=3", f"run_dir={run}"]
    with monkeypatch.context() as patch:
        interrupted_in(1, patch)
        with pytest.raises(KeyboardInterrupt):
            train(configure(*given))
    record = json.loads((run / "run.json").read_text())
    monkeypatch.setattr("segpipe.data.module.cached_bands", None)
    assert train(configure(*given, "resume=auto"))["training"]["epochs"] == 3
    assert json.loads((run / "run.json").read_text())["bands"] == record["bands"]


def test_a_damaged_entry_of_the_bands_is_refused(trained):
    run = trained("tif5")[2]
    path = run / "run.json"
    content = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(content) | {"bands": {"channels": 1}}))
        with pytest.raises(UserError, match=r"bands of run\.json is damaged"):
            Predictor(run)
    finally:
        path.write_text(content)
