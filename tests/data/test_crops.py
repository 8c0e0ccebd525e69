"""Crops that make an epoch (data.steps_per_epoch): where they lie, how often, and what is read for them."""

import albumentations as A
import numpy as np
import pytest
from support.configs import TINY, configure
from support.folders import save
from support.trainings import equal, weights

from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.data import class_places
from segpipe.data.augment import Augment
from segpipe.data.class_places import cached_class_places
from segpipe.data.crops import Crops, amounts, automatic_steps, offset, place_of
from segpipe.data.dataset import Sample, SegmentationDataset
from segpipe.data.samplers import TrainBatches
from segpipe.data.samples import Samples
from segpipe.engine import dry_run
from segpipe.errors import UserError
from segpipe.runs.run import Run
from segpipe.train import train
from segpipe.training.task import SegmentationTask


class Ramp(SegmentationDataset):
    """Images whose first two bands are row and column, so that a crop says where it comes from. One pixel is rare."""

    classes, palette = ["ground", "tree", "car"], [(0, 0, 0), (0, 255, 0), (255, 0, 0)]

    def __init__(self, *sizes, rare=(3, 5)):
        self.sizes, self.rare, self.parts = sizes, rare, []
        self.names = self.groups = [f"image{index}" for index in range(len(sizes))]

    def size(self, index):
        return self.sizes[index]

    def fingerprint(self):
        return f"ramp {self.sizes} {self.rare}"

    def read(self, index):
        height, width = self.sizes[index]
        rows, columns = np.mgrid[:height, :width].astype(np.uint8)
        mask = (columns >= width // 2).astype(np.uint8)
        if index == 0 and self.rare:
            mask[self.rare] = 2
        return Sample(np.dstack([rows, columns, np.full_like(rows, index)]), mask)

    def read_window(self, index, rows, columns):
        self.parts.append((rows.stop - rows.start, columns.stop - columns.start))
        return super().read_window(index, rows, columns)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGPIPE_CACHE", str(tmp_path / "cache"))


def augment(crop, before=()):
    return Augment(before_crop=list(before), after_crop=[], crop=list(crop))


def samples(dataset, crop, *, before=(), cache="off", size=None, length=64, **options):
    trained = [tuple(size)] * len(dataset) if size else dataset.sizes
    crops = Crops(trained, crop=crop, length=length, seed=0, **options)
    return Samples(dataset, size=size, train=True, augment=augment(crop, before), seed=0, cache=cache, crops=crops)


# ---- where crops lie


@pytest.mark.parametrize(("length", "crop"), [(20, 8), (8, 8), (5, 8), (6000, 256)])
def test_uniform_places_give_each_offset_equally_often(length, crop):
    number = max(length - crop, 0) + 1
    offsets = [offset((step + 0.5) / (7 * number), length, crop) for step in range(7 * number)]
    assert np.bincount(offsets).tolist() == [7] * number


@pytest.mark.parametrize(("centre", "first"), [(0.5, 0), (10.5, 7), (10, 6), (19.5, 12)])
def test_a_crop_is_centred_as_far_as_the_border_allows(centre, first):
    assert offset(place_of(centre, 20, 8), 20, 8) == first


def test_offsets_have_the_distribution_of_albumentations_crop():
    dataset = Ramp((20, 12))
    drawn = samples(dataset, (8, 8), length=4000)
    whole = augment((8, 8))
    ours = np.array([drawn.sample(0, number).image[0, 0, :2] for number in range(4000)])
    theirs = np.array([whole(dataset.read(0), seed=0, epoch=0, index=n).image[0, 0, :2] for n in range(4000)])
    for axis, possible in ((0, 13), (1, 5)):
        counts = [np.bincount(found[:, axis], minlength=possible) for found in (ours, theirs)]
        expected = 4000 / possible
        for count in counts:
            assert len(count) == possible
            assert ((count - expected) ** 2 / expected).sum() < 2.5 * possible  # chi-square, p < 0.001
    assert abs(np.corrcoef(ours.T)[0, 1]) < 0.06


@pytest.mark.parametrize("place", [(0.0, 0.0), (0.5, 0.3), (0.99, 0.999), (0.2, 0.9)])
@pytest.mark.parametrize("seed", range(4))
def test_a_crop_of_a_scaled_window_is_the_crop_of_the_scaled_image(place, seed):
    def scale():
        return build.strict(A.RandomScale, scale_limit=(-0.5, 1.0), p=1.0)

    dataset = Ramp((200, 160))
    drawn = samples(dataset, (24, 24), before=[scale()])
    window = drawn.window(0, place)
    assert window.image.shape[0] < 100
    whole = drawn.augment(dataset.read(0), seed=seed, epoch=0, index=0, place=place).image.astype(int)
    part = drawn.augment(window, seed=seed, epoch=0, index=0, place=place).image.astype(int)
    assert np.abs(whole - part).max() <= 3


def test_what_is_read_is_the_crop_or_what_its_transforms_need():
    dataset = Ramp((100, 120), (90, 20))
    drawn = samples(dataset, (16, 32))
    drawn[[(0, number) for number in range(20)]]
    assert set(dataset.parts) == {(16, 32)}
    assert augment((16, 16), [A.Rotate(limit=10)]).window == (21, 21)
    side = augment((16, 16), [build.strict(A.RandomScale, scale_limit=(-0.5, 1.0), p=1.0)]).window[0]
    assert 32 < side < 48
    assert augment((16, 16), [build.strict(A.Resize, height=64, width=64)]).window is None
    assert augment((16, 16), [A.RandomCrop(80, 80)]).window is None
    assert Augment(before_crop=[], after_crop=[], crop=None).window is None


def test_whole_images_are_windows_where_transforms_need_them():
    dataset = Ramp((100, 120))
    drawn = samples(dataset, (16, 16), before=[build.strict(A.Resize, height=64, width=64)])
    assert drawn.sample(0, 0).image.shape == (16, 16, 3)
    assert set(dataset.parts) == {(100, 120)}


@pytest.mark.parametrize("options", [{"cache": "ram"}, {"cache": "off"}, {"cache": "off", "size": [60, 60]}])
def test_crops_are_the_same_from_memory_and_from_files(options):
    dataset = Ramp((60, 60), (60, 60))
    first, second = samples(dataset, (16, 16)), samples(dataset, (16, 16), **options)
    for number in range(10):
        assert (first.sample(3, number).image == second.sample(3, number).image).all()
        assert (first.sample(3, number).mask == second.sample(3, number).mask).all()


def test_images_smaller_than_the_crop_are_padded_and_ignored():
    sample = samples(Ramp((10, 40), rare=None), (16, 16)).sample(0, 0)
    assert sample.image.shape == (16, 16, 3)
    assert (sample.mask[10:] == 255).all()
    assert (sample.mask[:10] != 255).all()


# ---- how often


def test_images_are_drawn_by_area():
    sizes = [(100, 100), (300, 100), (20, 20), (20, 400)]
    assert amounts(sizes, (50, 50)).tolist() == [4, 12, 1, 8]
    assert amounts(sizes, None).tolist() == [1, 1, 1, 1]
    drawn = Crops(sizes, crop=(50, 50), length=100, seed=0)
    for epoch in range(5):
        counts = np.bincount([drawn.draw(epoch, number).image for number in range(100)])
        assert np.abs(counts - [16, 48, 4, 32]).max() <= 1


def test_images_of_one_crop_are_each_drawn_once_in_an_epoch():
    drawn = Crops([(64, 64)] * 30, crop=(64, 64), length=30, seed=1)
    assert sorted(drawn.draw(2, number).image for number in range(30)) == list(range(30))


@pytest.mark.parametrize(
    ("sizes", "crop", "batch", "steps"),
    [
        ([(6000, 6000)] * 2, (256, 256), 8, 137),
        ([(600, 600)] * 2, (64, 64), 8, 50),
        ([(6000, 6000)] * 40, (256, 256), 8, 250),
        ([(256, 256)] * 4000, (256, 256), 8, 500),
        ([(300, 300)], None, 1, 50),
    ],
)
def test_the_automatic_number_of_batches(sizes, crop, batch, steps):
    assert automatic_steps(sizes, crop, batch) == steps


def test_crops_are_a_function_of_seed_epoch_and_number():
    one, again, other = (Crops([(90, 90)] * 3, crop=(16, 16), length=40, seed=seed) for seed in (0, 0, 1))
    assert [one.draw(1, n) for n in range(40)] == [again.draw(1, n) for n in reversed(range(40))][::-1]
    assert [one.draw(1, n) for n in range(40)] != [one.draw(2, n) for n in range(40)]
    assert [one.draw(1, n) for n in range(40)] != [other.draw(1, n) for n in range(40)]


# ---- rare classes


def test_the_stated_share_of_crops_is_centred_on_classes():
    dataset = Ramp((100, 100), (200, 100), rare=(70, 20))
    places = cached_class_places(dataset)
    drawn = Crops(dataset.sizes, crop=(16, 16), length=6000, seed=0, rare_share=0.5, places=places)
    crops = [drawn.draw(0, number) for number in range(6000)]
    at_car = [crop for crop in crops if crop.image == 0 and offset(crop.place[0], 100, 16) == 63
              and offset(crop.place[1], 100, 16) == 13]  # fmt: skip
    assert len(at_car) == pytest.approx(6000 * 0.5 / 3, rel=0.1)
    # the others: by area, and for two classes that cover each image alike, by area too
    assert sum(crop.image for crop in crops) == pytest.approx(6000 * (0.5 + 0.5 * 2 / 3) * 2 / 3, rel=0.05)


@pytest.mark.parametrize("rare", [(0, 0), (99, 0), (50, 50), (3, 97)])
@pytest.mark.parametrize("before", [(), "scale"])
def test_a_centred_crop_contains_its_pixel(rare, before):
    if before:
        before = [build.strict(A.RandomScale, scale_limit=(-0.4, 0.9), p=1.0), A.HorizontalFlip(p=0.0)]
    dataset = Ramp((100, 100), rare=rare)
    places = [one for one in cached_class_places(dataset) if one.ends[-1] == 1]
    drawn = samples(dataset, (24, 24), before=before, rare_share=1.0, places=places)
    found = [drawn.sample(0, number).image[..., :2].astype(int) for number in range(12)]
    assert all(np.abs(image - rare).sum(-1).min() <= 3 for image in found)


def test_pixels_of_classes_are_drawn_evenly_and_kept(monkeypatch):
    dataset = Ramp((40, 60), (80, 60), rare=None)
    monkeypatch.setattr(class_places, "KEPT", 200)
    places = cached_class_places(dataset)
    assert [one.images.tolist() for one in places] == [[0, 1], [0, 1], []]
    assert places[0].ends.tolist() == [1200, 3600]
    assert [len(rows) for rows in places[1].rows] == [100, 100]
    for index in (0, 1):
        height, width = dataset.size(index)
        rows, columns = places[1].rows[index] * height, places[1].columns[index] * width
        assert (dataset.read(index).mask[rows.astype(int), columns.astype(int)] == 1).all()
        assert rows.mean() == pytest.approx(height / 2, rel=0.2)
    monkeypatch.setattr(Ramp, "read", None)
    again = cached_class_places(dataset)
    assert all((one == two).all() for one, two in zip(again[0].rows, places[0].rows, strict=True))


@pytest.mark.parametrize(
    "content",
    [None, [], {}, {"places": 3}, {"places": [[], []]}, {"places": [[], [], [[0, 1, [-1], [0]]]]},
     {"places": [[], [], [[7, 1, [0], [0]]]]}, {"places": [[], [], [[0, 1, [0], []]]]}, {"places": [[], [], [5]]},
     {"places": [[], [], [["a", 1, [0], [0]]]]}, {"places": [[], [], [[0, 1, [1e9], [0]]]]}],
)  # fmt: skip
def test_damaged_places_in_the_cache_are_found_again(content, monkeypatch):
    dataset = Ramp((40, 60))
    monkeypatch.setattr(class_places.cache, "read", lambda name: content)
    assert cached_class_places(dataset)[2].images.tolist() == [0]


def test_without_labelled_pixels_all_crops_are_drawn_by_area():
    drawn = Crops([(64, 64)] * 4, crop=(16, 16), length=40, seed=0, rare_share=1.0, places=[])
    assert np.bincount([drawn.draw(0, number).image for number in range(40)]).tolist() == [10] * 4


# ---- in a training


TILES = ["data=folder", "data.crop=[64,64]", "data.cache=ram", *TINY[3:]]  # TINY without the numbers of scenes


def tile(root, split, name, *, side=600, seed=0):
    """A tile: discs of one class on striped ground, and one small square of a rare class."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    mask = np.zeros((side, side), np.uint8)
    for _ in range(side // 12):
        (row, column), radius = random.integers(0, side, 2), random.integers(8, 20)
        mask[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = 1
    row, column = random.integers(20, side - 40, 2)
    mask[row : row + 16, column : column + 16] = 2
    colours = np.array([[90, 110, 80], [60, 150, 60], [200, 60, 50]])
    image = colours[mask] + random.normal(0, 12, (side, side, 3))
    save(root / split / "images" / f"{name}.png", image.clip(0, 255).astype(np.uint8))
    save(root / split / "masks" / f"{name}.png", mask)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiles")
    for number, (split, name) in enumerate([("train", "a"), ("train", "b"), ("val", "c"), ("test", "d")]):
        tile(root, split, name, seed=number)
    (root / "classes.json").write_text('["ground", "tree", "car"]')
    return root


def test_two_tiles_train_well(tiles, tmp_path, capsys):
    options = [one for one in TILES if not one.startswith("neck.")]
    cfg = configure(
        *options, f"data.root={tiles}", f"run_dir={tmp_path}", "encoder.widths=[16,16,16,16,16]", "model=ladder",
        "model.stride=2", "data.rare_share=0.5",
    )  # fmt: skip
    metrics = train(cfg)
    printed = capsys.readouterr().out
    assert "an epoch is 50 batches of 8 crops of 64 x 64, about 228 % of the area of the 2 training images" in printed
    assert "50 % of the crops are centred on pixels of a class" in printed
    assert metrics["training"]["steps"] == 100
    assert metrics["test"]["per_class_iou"]["tree"] > 0.8
    assert metrics["test"]["per_class_iou"]["car"] > 0.5


def test_two_tiles_pass_the_checks(tiles):
    cfg = configure(*TILES, f"data.root={tiles}")
    data = build.data(cfg)
    data.check(ranks=1)
    assert len(data.train_dataloader()) == data.train_batches() == 50
    with pytest.raises(UserError, match=r"has 2 samples, but a batch has 8"):
        build.data(configure(*TILES, f"data.root={tiles}", "data.steps_per_epoch=null")).check()
    with pytest.raises(UserError, match=r"set data\.batch_size=9"):
        data.check_shares(3, "3 devices")


def test_the_dry_run_counts_the_steps(tiles):
    sizes = [
        dry_run.size_of(configure(*TILES, f"data.root={tiles}", f"data.steps_per_epoch={steps}")).training
        for steps in (20, 40)
    ]
    assert sizes[1] == 2 * sizes[0]


def test_a_number_of_steps_sets_the_schedule_and_the_epoch(tmp_path):
    cfg = configure(*TINY, "data.steps_per_epoch=3", "data.batch_size=2", f"run_dir={tmp_path}")
    assert train(cfg)["training"] | {"seconds": 0} == {"seconds": 0, "epochs": 2, "steps": 6}
    assert len(Run(tmp_path).history.read_text().splitlines()) == 3


def test_overfit_trains_on_the_first_batch_as_before(tmp_path):
    cfg = configure(*TINY, "data.steps_per_epoch=3", "data.batch_size=2", "data.overfit=true", f"run_dir={tmp_path}")
    assert build.data(cfg).train_batches() == 1


def test_an_epoch_is_divided_among_ranks_and_resumed(tiles):
    data = build.data(configure(*TILES, f"data.root={tiles}"))
    drawn = data.samples("train", train=True)
    whole = list(TrainBatches(len(drawn), batch_size=8, seed=0))
    parts = [list(TrainBatches(len(drawn), batch_size=8, seed=0, rank=rank, world_size=2)) for rank in (0, 1)]
    assert all(sorted([*one, *two]) == sorted(both) for one, two, both in zip(*parts, whole, strict=True))
    images = drawn[whole[3]]["image"]
    assert (drawn[whole[3][0::2]]["image"] == images[0::2]).all()
    assert list(TrainBatches(len(drawn), batch_size=8, seed=0, start=(0, 30))) == whole[30:]


def test_a_training_on_crops_is_resumed_within_an_epoch(tmp_path, monkeypatch):
    options = [*TINY, "data.steps_per_epoch=4", "data.batch_size=2", "data.workers=0", "data.rare_share=0.5"]
    train(configure(*options, f"run_dir={tmp_path / 'whole'}"))
    original = SegmentationTask.training_step

    def interrupted(self, batch, batch_idx):
        if self.trainer.global_step == 6:
            raise KeyboardInterrupt
        original(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationTask, "training_step", interrupted)
    every = "callbacks.last.every_n_train_steps=2"
    with pytest.raises(KeyboardInterrupt):
        train(configure(*options, f"run_dir={tmp_path / 'parts'}", every))
    monkeypatch.setattr(SegmentationTask, "training_step", original)
    train(configure(*options, f"resume={tmp_path / 'parts'}"))
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


# ---- identity


def test_identities_are_those_of_before_where_an_epoch_has_a_crop_of_each_image():
    plain, rare, steps, both = (
        Plan.of(configure(*TINY, *more)).identity
        for more in (
            [],
            ["data.rare_share=0.5"],
            ["data.steps_per_epoch=5"],
            ["data.steps_per_epoch=5", "data.rare_share=0.5"],
        )
    )
    assert plain == rare
    assert len({plain, steps, both}) == 3
    without = configure(*TINY)
    del without.data.steps_per_epoch, without.data.rare_share
    assert Plan.of(without).identity == plain
    assert "data.rare_share=0.5 has no effect" in " ".join(Plan.of(configure(*TINY, "data.rare_share=0.5")).notes)


@pytest.mark.parametrize("name", ["nuclei", "paper/unet"])
def test_recipes_with_own_images_crop_each_image_once(name):
    cfg = configure(f"experiment={name}", "data.root=x")
    assert (cfg.data.steps_per_epoch, cfg.data.rare_share) == (None, 0)


@pytest.mark.parametrize("override", ["data.steps_per_epoch=0", "data.steps_per_epoch=all", "data.rare_share=1.5"])
def test_invalid_values_are_rejected(override):
    with pytest.raises(UserError, match=override.partition("=")[0]):
        Plan.of(configure(*TINY, override))
