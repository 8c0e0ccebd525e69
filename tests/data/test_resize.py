"""Images and masks stay registered, whatever resizes or moves them; the prediction is what was tested."""

import json
from importlib import import_module
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from support.configs import TINY, configure
from support.grid import grid

import segpipe
from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.config.schema import CONF, options
from segpipe.data.augment import REGISTERED, Augment, PadTo, strict
from segpipe.data.dataset import IGNORE_INDEX, Sample, SegmentationDataset
from segpipe.data.files import read_image
from segpipe.data.resize import resize_image, resize_mask
from segpipe.data.samples import Samples
from segpipe.evaluate import evaluate
from segpipe.metrics.confusion import confusion_matrices
from segpipe.models.network import resize_logits
from segpipe.models.windows import Windows
from segpipe.predict import predict
from segpipe.runs import cells
from segpipe.runs.archive import as_folder
from segpipe.runs.run import Run
from segpipe.train import train

CLOSE = 0.02  # pixels


SIZES = {  # source to target: reductions and enlargements, even, odd and fractional, each axis its own way
    "half": ((96, 120), (48, 60)), "third": ((96, 120), (32, 40)), "quarter": ((192, 240), (48, 60)),
    "fifth": ((180, 240), (36, 48)), "two fifths": ((180, 240), (72, 96)), "0.7": ((90, 120), (63, 84)),
    "double": ((48, 60), (96, 120)), "triple": ((48, 60), (144, 180)), "1.5": ((48, 60), (72, 90)),
    "2.5": ((48, 60), (120, 150)), "1.3": ((50, 60), (65, 78)), "other aspect": ((96, 60), (48, 120)),
}  # fmt: skip


def drawn(rng, size):
    """A disc or a rectangle on black, at any place, as image and mask."""
    rows, columns = np.indices(size)
    centre = rng.uniform(0.4, 0.6, 2) * size
    radius = rng.uniform(0.12, 0.22, 2) * min(size)
    offset = np.abs(rows - centre[0]) / radius[0], np.abs(columns - centre[1]) / radius[1]
    inside = np.maximum(*offset) < 1 if rng.random() < 0.5 else offset[0] ** 2 + offset[1] ** 2 < 1
    low, high = sorted(rng.choice(10, 2, replace=False))  # the shape's class is above the ground's as often as below
    shape, ground = (high, low) if rng.random() < 0.5 else (low, high)
    mask = np.where(inside, shape, ground).astype(np.uint8)
    return Sample(np.repeat(np.uint8(160) * inside[..., None].astype(np.uint8), 3, 2), mask), shape


def offsets(sample, shape):
    """Of the mask's shape against the image's: centroid (row, column), and how far its outline lies further out."""
    brightness = sample.image.astype(float).mean(2)
    found = sample.mask == shape
    ground = np.median(brightness[~found & (sample.mask != IGNORE_INDEX)])
    bright = brightness - ground
    bright /= np.median(bright[cv2.erode(found.astype(np.uint8), np.ones((3, 3))) > 0])
    places = np.indices(found.shape)
    centroids = [(places * part).sum((1, 2)) / part.sum() for part in (found, bright)]
    outline = 2 * np.sqrt(np.pi * found.sum())
    return [*(centroids[0] - centroids[1]), (found.sum() - bright.sum()) / outline]


def transforms():
    """Every transform of every conf/augment, those that resize or warp in other ways, and our own."""
    found = {}
    for name in options("augment"):
        cfg = OmegaConf.load(CONF / "augment" / f"{name}.yaml")
        for item in [*cfg.before_crop, *cfg.after_crop]:
            given = OmegaConf.to_container(item)
            target = get_class(given.pop("_target_"))
            found[f"{name}: {target.__name__}"] = strict(target, **given | {"p": 1.0})
    smaller, larger = [-0.6, -0.1], [0.1, 1.5]
    return found | {
        "smaller": strict(A.RandomScale, scale_limit=smaller, p=1.0),
        "larger": strict(A.RandomScale, scale_limit=larger, p=1.0),
        "to half": strict(A.Resize, height=48, width=60),
        "to 1.5": strict(A.Resize, height=144, width=180),
        "longest": strict(A.LongestMaxSize, max_size=50),
        "smallest": strict(A.SmallestMaxSize, max_size=150),
        "resized crop": strict(A.RandomResizedCrop, size=[48, 60], scale=[0.7, 1.0], ratio=[0.7, 1.4], p=1.0),
        "sized crop": strict(A.RandomSizedCrop, min_max_height=[80, 96], size=[120, 150], p=1.0),
        "crop and pad": strict(A.CropAndPad, percent=[-0.15, 0.1], p=1.0),
        "affine": strict(A.Affine, scale=[0.7, 1.4], rotate=[-15, 15], translate_percent=[-0.1, 0.1], p=1.0),
        "elastic": strict(A.ElasticTransform, alpha=30, sigma=6, p=1.0),
        "pad": PadTo(128, 128),
        "crop": A.RandomCrop(90, 110),
    }


TRANSFORMS = transforms()


@pytest.mark.parametrize("name", grid(TRANSFORMS, quick=["to half", "larger", "affine"]))
def test_every_transform_keeps_masks_registered(name):
    rng = np.random.default_rng(0)
    augment = Augment(before_crop=[TRANSFORMS[name]], after_crop=[], crop=None)
    found = []
    for index in range(1000):
        sample, shape = drawn(rng, (96, 120))
        found.append(offsets(augment(sample, seed=0, epoch=0, index=index), shape))
    assert np.abs(np.mean(found, 0)).max() < CLOSE, np.mean(found, 0)


@pytest.mark.parametrize("name", grid(SIZES, quick=["third", "2.5"]))
def test_every_resize_keeps_masks_registered(name):
    rng = np.random.default_rng(0)
    source, target = SIZES[name]
    found = []
    for _ in range(1000):
        sample, shape = drawn(rng, source)
        found.append(offsets(Sample(resize_image(sample.image, target), resize_mask(sample.mask, target)), shape))
    assert np.abs(np.mean(found, 0)).max() < CLOSE, np.mean(found, 0)


@pytest.mark.parametrize("name", grid(SIZES, quick=["third", "2.5"]))
def test_scores_come_back_to_where_they_were(name):
    """Towards the label's size, up or down, a shape's outline stays."""
    rng = np.random.default_rng(0)
    source, target = SIZES[name]
    found = []
    for _ in range(200):
        sample, _ = drawn(rng, source)
        scores = resize_logits(torch.from_numpy(sample.image[None, ..., 0] / 160.0)[None], target)[0, 0].numpy()
        image = resize_image(sample.image, target)
        found.append(offsets(Sample(image, (scores > 0.5).astype(np.uint8)), 1)[:2])
    assert np.abs(np.mean(found, 0)).max() < CLOSE, np.mean(found, 0)


def test_samples_are_resized_by_that():
    """What a training gets of a data set at another size."""

    class Drawn(SegmentationDataset):
        classes, palette = [str(i) for i in range(10)], [(i, i, i) for i in range(10)]

        def __init__(self):
            rng = np.random.default_rng(0)
            self.drawn = [drawn(rng, (96, 120)) for _ in range(300)]
            self.names = self.groups = [str(i) for i in range(300)]

        def read(self, index):
            return self.drawn[index][0]

        def size(self, index):
            return 96, 120

        def fingerprint(self):
            return "drawn"

    dataset = Drawn()
    for size in ([48, 60], [32, 40], [144, 180], [48, 240]):
        samples = Samples(dataset, size=size, train=True, augment=None, seed=0, cache="off")
        assert samples.load(0).image.shape[:2] == samples.load(0).mask.shape == tuple(size)
        found = [offsets(samples.load(i), shape) for i, (_, shape) in enumerate(dataset.drawn)]
        assert np.abs(np.mean(found, 0)).max() < CLOSE, size


def test_reduced_masks_take_the_largest_share_ignored_pixels_among_them():
    mask = np.array([[1, 1, 255, 255, 4, 4], [1, 2, 255, 3, 5, 5], [2, 2, 255, 3, 5, 5]], np.uint8)
    assert resize_mask(mask, (1, 2)).tolist() == [[1, 5]] or resize_mask(mask, (1, 2)).tolist() == [[2, 5]]
    assert resize_mask(mask[:2, 2:4], (1, 1)).tolist() == [[IGNORE_INDEX]]
    halves = resize_mask(np.tile(np.array([[0, 9]], np.uint8), (8, 4)), (4, 4))
    assert (halves == 0).sum() == (halves == 9).sum() == 8  # neither of two alike is preferred
    assert (resize_mask(mask, mask.shape) == mask).all()
    assert (resize_mask(mask, (6, 12)) == mask.repeat(2, 0).repeat(2, 1)).all()


def write_photos(root, size):
    """A data set of two folders: blobs of two classes, so that there is something to learn."""
    rng = np.random.default_rng(0)
    for index in range(24):
        sample, _ = drawn(rng, size)
        inside = sample.image[..., 0] > 0
        noise = rng.integers(0, 60, (*size, 3)).astype(np.uint8)
        for folder, array in (("images", sample.image + noise), ("masks", inside.astype(np.uint8) * 255)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(array).save(root / folder / f"{index:02}.png")


@pytest.mark.parametrize("windows", [False, True], ids=["whole", "windows"])
@pytest.mark.parametrize("size", grid([None, [32, 40], [96, 72], [64, 32]], quick=[None, [32, 40]]), ids=str)
def test_predicted_masks_counted_by_hand_give_the_matrices_of_the_test(tmp_path, monkeypatch, size, windows):
    """data.size below, above and of another aspect than the images. windows: an image of 48 x 60 counts as large."""
    if windows:
        for name, value in {"limit": 500, "side": 32, "overlap": 16}.items():
            monkeypatch.setitem(Windows.__init__.__kwdefaults__, name, value)
    write_photos(tmp_path / "photos", (48, 60))
    chosen = "null" if size is None else str(size).replace(" ", "")
    cfg = configure(
        *[one for one in TINY if not one.startswith("data.")], "data=folder", f"data.root={tmp_path / 'photos'}",
        f"data.size={chosen}", "data.crop=[32,32]", "data.batch_size=4", f"run_dir={tmp_path / 'run'}",
    )  # fmt: skip
    train(cfg)
    dataset = build.dataset(cfg, "test")
    with np.load(Run(tmp_path / "run").confusion("test")) as file:
        tested = dict(zip(file["names"].tolist(), file["matrices"], strict=True))
    paths = {name: tmp_path / "photos" / "images" / f"{name}.png" for name in tested}
    predict(tmp_path / "run", paths, tmp_path / "masks")
    predictor = segpipe.load(tmp_path / "run")
    differ = 0
    for index, name in enumerate(dataset.names):
        written = np.array(PIL.Image.open(tmp_path / "masks" / f"{name}_mask.png"))
        assert (written == predictor(read_image(tmp_path / "photos" / "images" / f"{name}.png"))).all()
        truth = torch.from_numpy(dataset.read(index).mask)[None]
        matrix = confusion_matrices(torch.from_numpy(written)[None].long(), truth, 2)[0].numpy()
        differ += np.abs(matrix - tested[name]).sum() // 2
        assert 0 < (written == 1).mean() < 1 or tested[name][:, 1].sum() in (0, written.size)
    assert differ <= 2, differ  # ties: the test computes batches, the prediction single images
    data = ["data=folder", f"data.root={tmp_path / 'photos'}", f"data.size={chosen}", "data.crop=[32,32]"]
    again = evaluate(tmp_path / "run", overrides=data, split="test", out=tmp_path / "again", device="cpu")
    with np.load(Path(again["folder"]) / "confusion.npz") as file:
        evaluated = dict(zip(file["names"].tolist(), file["matrices"], strict=True))
    assert sum(np.abs(evaluated[name] - tested[name]).sum() // 2 for name in dataset.names) <= 2


# identities


def test_only_runs_that_are_touched_have_another_identity(tmp_path):
    """A repair that changes results is part of the identity of those runs alone."""
    write_photos(tmp_path, (48, 60))
    data = ["data=folder", f"data.root={tmp_path}", "data.crop=null"]

    def revisions(*overrides):
        return Plan.of(configure(*data, *overrides)).revisions

    assert revisions() == {"augment": 0, "data": 0, "encoder": 0, "neck": 0}
    assert revisions("data.size=[48,60]")["data"] == 0  # nothing is resized
    assert revisions("data.size=[36,45]")["data"] == 1
    assert revisions("augment=strong", "data.crop=[48,48]")["augment"] == 1
    assert (revisions("encoder=alexnet")["encoder"], revisions("encoder=vgg11")["encoder"]) == (1, 0)
    assert (revisions("neck=fc", "neck.kernel=6")["neck"], revisions("neck=fc", "neck.kernel=7")["neck"]) == (1, 0)
    assert Plan.of(configure(*data, "data.size=[36,45]")).identity != Plan.of(configure(*data)).identity


@pytest.mark.parametrize("sweep", ["sweep_shapes", "sweep_ladder"])
def test_experiments_of_the_kept_sweeps_have_the_identities_of_their_runs(sweep):
    folder = as_folder(CONF.parent / "docs" / "sweeps" / f"{sweep}.zip")
    listed = json.loads((folder / "sweep.json").read_text())["cells"]
    chosen = [cell for cell in listed if cell["choices"]["seed"] == 0][::4]
    assert len(chosen) > 10
    for cell in (cells.Cell(**entry) for entry in chosen):
        overrides = [one for one in cell.overrides if not one.startswith(("experiment=", "hydra"))]
        assert cell.run.endswith(f"-{Plan.of(configure(f'experiment={sweep}', *overrides)).identity}"), cell.label


def test_what_resizes_is_known():
    """A transform of albumentations that resizes masks by itself, and is not in the table, would shift them."""
    resizing = {
        transform
        for module in ("geometric.resize", "crops.transforms")
        for transform in vars(import_module(f"albumentations.augmentations.{module}")).values()
        if "mask_interpolation" in getattr(getattr(transform, "InitSchema", None), "model_fields", {})
        and not transform.__name__.startswith(("_", "MaxSize"))  # what others are made of
    }
    with_boxes = {A.RandomSizedBBoxSafeCrop}  # it crops by objects' boxes, of which a sample has none
    assert resizing - with_boxes == {*REGISTERED, A.CropAndPad}
