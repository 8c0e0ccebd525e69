import albumentations as A
import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from support.camvid import spoil, write_camvid
from support.configs import configure

from segpipe.config import build
from segpipe.data.augment import Augment, strict
from segpipe.data.dataset import IGNORE_INDEX, Sample
from segpipe.data.datasets.camvid import CamVid
from segpipe.data.datasets.shapes import Scene, Shapes
from segpipe.data.files import read_image
from segpipe.data.samplers import EvalBatches, TrainBatches
from segpipe.data.samples import Samples
from segpipe.errors import UserError


def module(*overrides):
    return build.data(configure("data.dataset.train=12", "data.dataset.val=5", "data.dataset.test=3", *overrides))


# shapes


def test_shapes_are_a_function_of_seed_split_and_index():
    train, again = Shapes(split="train"), Shapes(split="train")
    assert (train.read(3).image == again.read(3).image).all()
    others = [train.read(4), Shapes(split="val").read(3), Shapes(split="train", seed=1).read(3)]
    assert all((train.read(3).image != other.image).any() for other in others)
    assert train.size(0) == train.read(0).mask.shape == (96, 96)


def test_every_labelled_object_changes_pixels():
    """A silent copy between types once painted labels without pixels."""
    for name, label in [("blob", {1, 2}), ("ellipse", {3}), ("disc", {4}), ("curve", {5})]:
        for seed in range(8):
            scene = Scene(np.random.default_rng(seed), 96)
            before = scene.canvas.copy()
            getattr(scene, name)()
            changed = np.abs(scene.canvas - before).max(2) > 1
            assert set(np.unique(scene.mask)) - {0} <= label
            assert (changed[scene.mask > 0]).mean() > 0.8
            assert not changed[scene.mask == 0].any()


def test_every_class_is_there_in_every_split():
    for split in ("train", "val", "test"):
        dataset = Shapes(split=split)
        found = np.unique(np.concatenate([dataset.read(index).mask.ravel() for index in range(20)]))
        assert found.tolist() == list(range(6))


# camvid


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_camvid_reads_any_suffix_and_maps_void(tmp_path, suffix):
    dataset = CamVid(root=str(write_camvid(tmp_path, suffix=suffix)), split="train")
    sample = dataset.read(0)
    raw = cv2.imread(str(tmp_path / "trainannot" / "clip0_000.png"), cv2.IMREAD_UNCHANGED)
    assert (sample.mask == np.where(raw == 11, IGNORE_INDEX, raw)).all()
    assert dataset.names == ["clip0_000", "clip0_002", "clip1_001"]
    assert dataset.groups == ["clip0", "clip0", "clip1"]


def test_camvid_itself(camvid_root):
    sizes = {split: len(CamVid(root=str(camvid_root), split=split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 367, "val": 101, "test": 233}
    sample = CamVid(root=str(camvid_root), split="test").read(0)
    assert sample.image.shape == (360, 480, 3)
    assert set(np.unique(sample.mask)) <= {*range(11), IGNORE_INDEX}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", ["trainannot", "no such folder", "annotations", "data.root"]),
        ("unpaired", ["clip1_001.png", "no file of the same stem", "1 of 3", "remove this one"]),
        ("sizes", ["clip1_001.png", "20 x 20", "40 x 48", "same size"]),
        ("label", ["clip1_001.png", "label 13", "0 to 10", "Correct the mask"]),
        ("unreadable", ["clip1_001.png", "cannot be read", "Replace or remove"]),
        ("empty", ["clip1_001.png", "cannot be read", "0 bytes"]),
        ("truncated", ["clip1_001.png", "cannot be read", "Replace or remove"]),
        ("colours", ["clip1_001.png", "RGB", "single-channel", "Convert"]),
        ("twins", ["clip1_001.png", "same stem", "Keep only one"]),
    ],
)
def test_what_is_wrong_with_files_is_one_error_that_names_the_file(tmp_path, how, says):
    spoil(write_camvid(tmp_path), how)

    def read_all():
        dataset = CamVid(root=str(tmp_path), split="train")
        return [dataset.read(index) for index in range(len(dataset))]

    with pytest.raises(UserError) as error:
        read_all()
    assert [word for word in says if word not in str(error.value)] == []


def test_exif_orientation_is_honoured(tmp_path):
    picture = PIL.Image.fromarray(np.arange(30 * 20 * 3, dtype=np.uint8).reshape(30, 20, 3))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture.save(tmp_path / "turned.png", exif=exif)
    turned = np.asarray(picture.rotate(-90, expand=True))
    assert (read_image(tmp_path / "turned.png") == turned).all()


# augmentation


@pytest.mark.parametrize("name", ["none", "light", "strong"])
def test_padding_is_ignored_in_the_mask_and_nothing_else_is(name):
    """A picture of one class, smaller than the crop: every padded pixel is 255, every other keeps the class."""
    augment = build.augment(configure(f"augment={name}", "data.crop=[64,80]"))
    image = np.full((40, 48, 3), 200, np.uint8)
    seen = set()
    for index in range(30):
        done = augment(Sample(image, np.full((40, 48), 7, np.uint8)), seed=0, epoch=0, index=index)
        assert done.image.shape == (64, 80, 3)
        assert done.mask.shape == (64, 80)
        assert done.mask.dtype == np.uint8
        seen |= set(np.unique(done.mask))
    assert seen == {7, IGNORE_INDEX}


def test_picture_edges_are_repeated_where_the_mask_is_ignored():
    augment = build.augment(configure("augment=none", "data.crop=[64,80]"))
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    done = augment(Sample(image, np.zeros((40, 48), np.uint8)), seed=0, epoch=0, index=0)
    assert (done.mask[40:] == IGNORE_INDEX).all()
    assert (done.mask[:, 48:] == IGNORE_INDEX).all()
    assert (done.image[40:, :48] == image[39]).all()
    assert (done.image[:40, 48:] == image[:, 47:48]).all()


def test_masks_stay_with_their_pictures():
    """A picture that shows its own mask: after any geometry the two still agree."""
    augment = build.augment(configure("augment=strong", "data.crop=[48,48]"))
    augment.compose.transforms = [
        t for t in augment.compose.transforms if type(t).__name__ not in ("ColorJitter", "GaussianBlur")
    ]
    mask = np.zeros((64, 64), np.uint8)
    mask[20:50, 10:30] = 1
    image = np.repeat(mask[..., None] * 255, 3, 2)
    for index in range(20):
        done = augment(Sample(image, mask), seed=0, epoch=0, index=index)
        square = (done.mask == 1).astype(np.uint8)
        edge = cv2.dilate(square, np.ones((5, 5))) != cv2.erode(square, np.ones((5, 5)))
        clear = (done.mask != IGNORE_INDEX) & ~edge  # interpolation of the picture may differ at an edge,
        clear[[0, 1, 2, -3, -2, -1]] = clear[:, [0, 1, 2, -3, -2, -1]] = False  # also at one just outside the frame
        assert clear.sum() > 500
        assert ((done.image[..., 0] > 127) == square)[clear].all()


def test_a_renamed_argument_is_refused_and_not_ignored():
    import albumentations

    with pytest.raises(UserError, match="PadIfNeeded"):
        strict(albumentations.PadIfNeeded, min_height=10, min_width=10, mask_value=255)


def test_an_argument_out_of_range_is_one_line():
    with pytest.raises(UserError, match=r"HorizontalFlip cannot be built: .* less than or equal to 1") as error:
        strict(A.HorizontalFlip, p=3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("transform", "made"),
    [
        (A.Normalize(), "float32 with 3 channels"),
        (A.ToFloat(), "float32 with 3 channels"),
        (A.ToGray(num_output_channels=1, p=1), "uint8 with no channels"),
    ],
)
def test_a_transform_that_changes_the_type_or_channels_of_images_is_refused(transform, made):
    augment = Augment(before_crop=[], after_crop=[transform], crop=None)
    with pytest.raises(UserError, match=f"made {made} of an image of uint8 with 3 channels. Remove"):
        augment(Shapes(split="train").read(0), seed=0, epoch=0, index=0)


def drawn(workers, epoch):
    """Index to augmented sample, read through a loader of so many processes."""
    data = module("augment=strong", "data.crop=[64,64]", f"data.workers={workers}", "data.batch_size=3")
    loader = data.loader("train", train=True)
    loader.sampler.set_epoch(epoch)
    found = {}
    for batch in loader:
        for position, index in enumerate(batch["index"].tolist()):
            found[index] = (batch["image"][position].clone(), batch["mask"][position].clone())
    return found


def test_draws_depend_on_seed_epoch_and_index_and_not_on_workers():
    alone = drawn(0, epoch=2)
    for workers in (1, 2):
        others = drawn(workers, epoch=2)
        assert alone.keys() == others.keys()
        assert all(torch.equal(alone[i][0], others[i][0]) and torch.equal(alone[i][1], others[i][1]) for i in alone)
    later = drawn(0, epoch=3)
    assert not any(torch.equal(alone[index][0], later[index][0]) for index in alone)


def test_draws_do_not_depend_on_what_was_drawn_before():
    augment: Augment = build.augment(configure("augment=strong", "data.crop=[64,64]"))
    sample = Shapes(split="train").read(0)
    first = augment(sample, seed=1, epoch=2, index=3)
    augment(sample, seed=1, epoch=2, index=4)
    assert (augment(sample, seed=1, epoch=2, index=3).image == first.image).all()


def test_transforms_draw_independently_of_one_another():
    flips = [strict(flip, p=0.5) for flip in (A.HorizontalFlip, A.VerticalFlip)]
    augment = Augment(before_crop=flips[:1], after_crop=flips[1:], crop=None)
    sample = Sample(np.zeros((2, 2, 3), np.uint8), np.array([[0, 1], [2, 3]], np.uint8))
    corners = [int(augment(sample, seed=0, epoch=0, index=index).mask[0, 0]) for index in range(200)]
    assert np.bincount(corners, minlength=4).min() > 30  # neither, one, the other, both: 50 of each


# sampling and batches


def test_training_batches_are_global_and_dealt_out_to_ranks():
    whole = list(TrainBatches(20, batch_size=6, seed=1))
    parts = [list(TrainBatches(20, batch_size=6, seed=1, rank=rank, world_size=2)) for rank in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert sorted(batch) == sorted(first + second)
    assert len({index for batch in whole for _, index in batch}) == 18


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_reads_every_sample_once_at_any_number_of_ranks(world_size):
    sizes = [(10, 10)] * 3 + [(8, 12)] * 4
    seen = []
    for rank in range(world_size):
        for batch in EvalBatches(sizes, batch_size=2, rank=rank, world_size=world_size):
            assert len({sizes[index] for _, index in batch}) == 1
            seen += [index for _, index in batch]
    assert sorted(seen) == list(range(7))


def test_evaluation_keeps_the_stored_size_of_masks(tmp_path):
    root = write_camvid(tmp_path)
    data = build.data(configure("data=camvid", f"data.root={root}", "data.size=[32,40]", "data.batch_size=2"))
    train, val = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    assert (train["image"].shape[-2:], train["mask"].shape[-2:]) == ((32, 40), (32, 40))
    assert (val["image"].shape[-2:], val["mask"].shape[-2:]) == ((32, 40), (40, 48))
    assert val["image"].is_contiguous(memory_format=torch.channels_last)


def test_too_few_pictures_for_a_batch_is_refused_with_the_number_to_give():
    with pytest.raises(UserError, match=r"12 samples.*data.batch_size=12"):
        module("data.batch_size=16").check()


@pytest.mark.parametrize("cache", ["ram", "off"])
def test_the_cache_changes_nothing(cache):
    dataset = Shapes(split="val", val=3)
    samples = Samples(dataset, size=[48, 48], train=False, augment=None, seed=0, cache=cache)
    assert (samples.kept is not None) == (cache == "ram")
    direct = cv2.resize(dataset.read(1).image, (48, 48), interpolation=cv2.INTER_AREA)
    assert (samples.sample(0, 1).image == direct).all()


def test_median_frequency_weights():
    data = module()
    masks = [data.split("train").read(index).mask for index in range(12)]
    frequency = [sum((m == c).sum() for m in masks) / sum(m.size for m in masks if (m == c).any()) for c in range(6)]
    expected = np.median(frequency) / np.array(frequency)
    np.testing.assert_allclose(data.median_frequency().numpy(), expected)


def uneven(root, sizes):
    """CamVid's layout with pictures of several sizes."""
    write_camvid(root)
    rng = np.random.default_rng(0)
    for split, size in sizes.items():
        path = sorted((root / split).iterdir())[0]
        PIL.Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
        PIL.Image.fromarray(rng.integers(0, 11, size, np.uint8)).save(root / f"{split}annot" / path.name)
    return build.data(configure("data=camvid", f"data.root={root}", "data.batch_size=1", "augment=none"))


def test_pictures_of_several_sizes_make_batches_of_one(tmp_path):
    """FCN's release trains so: whole pictures, one at a time."""
    data = uneven(tmp_path, {"train": (36, 50)})
    data.check(smallest=32)
    assert {tuple(batch["image"].shape[2:]) for batch in data.loader("train", train=True)} == {(40, 48), (36, 50)}
    data.batch_size = 2
    with pytest.raises(UserError, match=r"2 different sizes.*data\.batch_size=1"):
        data.check()


def test_too_small_a_picture_is_named_before_training(tmp_path):
    with pytest.raises(UserError, match=r"\(val\) is 20 x 48 pixels; this encoder needs at least 32 x 32"):
        uneven(tmp_path, {"val": (20, 48)}).check(smallest=32)
