"""Data sets of images of any bands and depth: their form, their ranges, masks of other numbers, the augmentation."""

import json

import albumentations as A
import numpy as np
import PIL.Image
import pytest
import tifffile
from support.configs import configure
from support.folders import RNG, SIZE, STEPS, nested, report, save

from segpipe.config import build
from segpipe.data.augment import Augment, strict
from segpipe.data.bands import Bands, Scaled, cached_bands, measure, visible
from segpipe.data.dataset import ImageForm, Sample, SegmentationDataset
from segpipe.data.folder import Folder
from segpipe.data.folder.survey import decode, decode_window
from segpipe.data.resize import resize_image
from segpipe.errors import UserError

MASK = (STEPS % 2).astype(np.uint8)


def as_tiff(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    tifffile.imwrite(path, array, photometric="minisblack", planarconfig="contig" if array.ndim == 3 else None)


def as_npy(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def bands_of(number, kind, most=4000):
    return (RNG.random((*SIZE, number)) * most).astype(kind)


def folder_of(root, make, suffix=".tif", mask=MASK, mask_suffix=".png", count=4):
    """A data set in which ``make(number)`` gives each image."""
    writers = {".tif": as_tiff, ".npy": as_npy, ".png": save}
    for split in ("train", "val"):
        for number in range(count):
            writers[suffix](root / split / "images" / f"{split}{number}{suffix}", make(number))
            writers[mask_suffix](root / split / "masks" / f"{split}{number}{mask_suffix}", mask)
    return root


# the form of the images


@pytest.mark.parametrize(
    ("make", "suffix", "options", "form"),
    [
        (lambda _: bands_of(5, "uint16"), ".tif", {}, ImageForm(5, "uint16")),
        (lambda _: bands_of(2, "uint8", 255), ".tif", {"channels": 2}, ImageForm(2, "uint8")),
        (lambda _: bands_of(4, "uint16"), ".tif", {}, ImageForm(4, "uint16")),
        (lambda _: bands_of(1, "uint16")[..., 0], ".png", {}, ImageForm(1, "uint16")),
        (lambda _: bands_of(1, "uint16", 65535)[..., 0], ".tif", {}, ImageForm(1, "uint16")),
        (lambda _: bands_of(1, "int16")[..., 0], ".tif", {}, ImageForm(1, "int16")),
        (lambda _: bands_of(1, "float64")[..., 0], ".npy", {}, ImageForm(1, "float32")),
        (lambda _: np.moveaxis(bands_of(6, "float32"), 2, 0), ".npy", {}, ImageForm(6, "float32")),
        (lambda _: bands_of(4, "uint8", 255), ".png", {"channels": 4}, ImageForm(4, "uint8")),
        (lambda _: bands_of(1, "uint8", 255)[..., 0], ".png", {"channels": 1}, ImageForm(1, "uint8")),
        (lambda _: bands_of(3, "uint8", 255), ".tif", {}, ImageForm(3, "uint8")),  # not said to be colours
        (lambda _: bands_of(3, "uint8", 255), ".png", {}, None),
        (lambda _: bands_of(3, "uint8", 255), ".npy", {"channels": 3}, None),
        (lambda n: bands_of(1 + 2 * (n % 2), "uint8", 255).squeeze(), ".png", {}, None),
    ],
)
def test_the_form_is_found_from_the_files(tmp_path, make, suffix, options, form):
    dataset = Folder(split="train", root=str(folder_of(tmp_path, make, suffix)), **options)
    assert dataset.problems == []
    assert dataset.form == form
    image, mask = dataset.read(0)
    assert image.shape == (*SIZE, form.channels if form else 3)
    assert image.dtype.name == (form.depth if form and form.depth != "int16" else "float32" if form else "uint8")
    assert (mask == MASK).all()
    part = dataset.read_window(1, slice(3, 9), slice(4, 20))
    whole = dataset.read(1)
    assert (part.image == whole.image[3:9, 4:20]).all()
    assert (part.mask == whole.mask[3:9, 4:20]).all()


@pytest.mark.parametrize(
    ("make", "suffix", "options", "says"),
    [
        (lambda _: bands_of(4, "uint8", 200), ".png", {}, r"beside its colours.*data\.channels=4"),
        (lambda _: bands_of(4, "uint8", 200), ".tif", {}, r"beside its colours.*data\.channels=4"),
        (
            lambda _: bands_of(5, "uint16"),
            ".tif",
            {"channels": 4},
            r"data\.channels=4 is given, but the images are: 8 of",
        ),
        (
            lambda n: bands_of(5 if n else 4, "uint16"),
            ".tif",
            {},
            r"train0.*4 bands of uint16, but 6 of 8 .* have 5",
        ),
        (
            lambda n: bands_of(5 if n else 4, "uint16"),
            ".tif",
            {"channels": 4},
            r"train1.*5 bands of uint16, but data",
        ),
        (lambda n: bands_of(1, "uint16" if n else "float32"), ".tif", {}, r"train0.*1 band of float32, but 6 of 8"),
        (lambda _: RNG.random((24, 24, 24)), ".npy", {}, r"data\.dataset\.axes=HWC"),
        (lambda _: np.zeros((513, *SIZE), np.uint8), ".npy", {"axes": "CHW"}, "513 bands; allowed are 512"),
    ],
)
def test_images_of_different_forms_are_named(tmp_path, make, suffix, options, says):
    root = str(folder_of(tmp_path, make, suffix))
    problems = Folder(split="train", root=root, **options).problems
    assert problems
    with pytest.raises(UserError, match=says):
        raise UserError("\n".join(problems))
    given = [f"data.{'' if key == 'channels' else 'dataset.'}{key}={value}" for key, value in options.items()]
    assert report(root, *given).problems
    with pytest.raises(UserError, match=says):
        build.data(configure("data=folder", f"data.root={root}", *given)).check()


def test_a_jpeg_of_cmyk_is_an_image_of_rgb(tmp_path):
    root = folder_of(tmp_path, lambda _: bands_of(3, "uint8", 255), ".png")
    for split in ("train", "val"):
        path = root / split / "images" / f"{split}1.png"
        PIL.Image.open(path).convert("CMYK").save(path.with_suffix(".jpg"))
        path.unlink()
    dataset = Folder(split="train", root=str(root))
    assert (dataset.problems, dataset.form) == ([], None)
    assert dataset.read(1).image.shape == (*SIZE, 3)
    assert Folder(split="train", root=str(root), channels=3).problems == []


def test_a_palette_of_colours_is_not_one_band(tmp_path):
    root = folder_of(tmp_path, lambda number: bands_of(3 if number else 1, "uint8", 255).squeeze(), ".png")
    for path in root.rglob("images/*.png"):
        picture = PIL.Image.open(path)
        picture.quantize(64).save(path)
    dataset = Folder(split="train", root=str(root), channels=1)
    assert dataset.read(0).image.shape == (*SIZE, 1)
    with pytest.raises(UserError, match=r"train1.*palette of colours: save it in three bands"):
        dataset.read(1)


@pytest.mark.parametrize(
    ("suffix", "axes", "make"),
    [
        (".tif", None, lambda _: bands_of(5, "uint16")),
        (".npy", "CHW", lambda _: np.moveaxis(bands_of(5, "uint16"), 2, 0)),
        (".png", None, lambda _: bands_of(3, "uint8", 255)),
    ],
)
def test_an_image_larger_than_its_mask_is_a_problem(tmp_path, suffix, axes, make):
    """A window of both would fit, so that reading crops would not notice it."""
    root = folder_of(tmp_path, make, suffix)
    assert Folder(split="train", root=str(root), axes=axes).problems == []
    save(root / "train" / "masks" / "train1.png", MASK[2:, 3:])
    (problem,) = Folder(split="train", root=str(root), axes=axes).problems
    assert f"a mask of {SIZE[0] - 2} x {SIZE[1] - 3} for an image of {SIZE[0]} x {SIZE[1]}" in problem
    assert report(str(root), *([f"data.dataset.axes={axes}"] if axes else [])).problems == [f"train: {problem}"]


def test_an_opaque_band_beside_the_colours_is_left_out_or_asked_for(tmp_path):
    opaque = [np.concatenate([bands_of(3, "uint8", 255), np.full((*SIZE, 1), 255, np.uint8)], 2) for _ in range(4)]
    root = str(folder_of(tmp_path, lambda number: opaque[number], ".png"))
    plain, four = Folder(split="train", root=root), Folder(split="train", root=root, channels=4)
    assert plain.form is None
    assert (plain.read(1).image == opaque[1][..., :3]).all()
    assert (four.read(1).image == opaque[1]).all()
    assert plain.fingerprint() != four.fingerprint()


def test_pages_are_bands_where_the_user_says_so(tmp_path):
    stacks = [bands_of(3, "uint16") for _ in range(4)]
    root = folder_of(tmp_path, lambda number: stacks[number])
    for path in root.glob("*/images/*.tif"):
        tifffile.imwrite(path, np.moveaxis(stacks[int(path.stem[-1])], 2, 0), photometric="minisblack")
    assert "data.dataset.pages=bands" in Folder(split="train", root=str(root)).problems[0]
    dataset = Folder(split="train", root=str(root), pages="bands")
    assert dataset.problems == []
    assert any("3 pages of each TIFF are read as bands" in note for note in dataset.notes)
    assert (dataset.read(2).image == stacks[2]).all()
    assert (dataset.read_window(2, slice(2, 5), slice(0, 9)).image == stacks[2][2:5, :9]).all()


def test_ordinary_images_keep_their_fingerprint_and_16_bits_get_another(tmp_path):
    """What ``identity`` is made of: the line of the form is there only where images are read in another way."""
    root = nested(tmp_path / "a")
    before = Folder(split="train", root=str(root))
    assert before.form is None
    for channels in (None, 3):
        assert Folder(split="train", root=str(root), channels=channels).fingerprint() == before.fingerprint()
    assert Folder(split="train", root=str(root), channels=1).problems
    gray = folder_of(tmp_path / "b", lambda _: bands_of(1, "uint8", 255)[..., 0], ".png")
    one, three = (Folder(split="train", root=str(gray), channels=channels).fingerprint() for channels in (1, None))
    assert one != three


# ranges


class Drawn(SegmentationDataset):
    """Images given as arrays."""

    classes, palette = ["a", "b"], [(0, 0, 0), (9, 9, 9)]

    def __init__(self, images):
        self.images = images
        self.form = ImageForm(images[0].shape[2], images[0].dtype.name)
        self.names = self.groups = [str(number) for number in range(len(images))]

    def read(self, index):
        return Sample(self.images[index], np.zeros(self.images[index].shape[:2], np.uint8))

    def size(self, index):
        return self.images[index].shape[:2]

    def fingerprint(self):
        return "drawn"


def test_ranges_are_quantiles_and_moments_are_those_of_the_scaled_values():
    images = [RNG.normal([100, -5, 3e5], [10, 2, 1e4], (80, 90, 3)).astype(np.float32) for _ in range(5)]
    dataset = Drawn(images)
    bands = measure(dataset, dataset.form)
    pixels = np.concatenate([image.reshape(-1, 3) for image in images])
    np.testing.assert_allclose(bands.low, np.quantile(pixels, 0.001, axis=0), rtol=1e-4)
    np.testing.assert_allclose(bands.high, np.quantile(pixels, 0.999, axis=0), rtol=1e-4)
    scaled = bands.scale(pixels[None])[0]
    assert scaled.dtype == np.float32
    assert (scaled.min(), scaled.max()) == (0, 255)
    np.testing.assert_allclose(bands.mean, scaled.mean(0) / 255, atol=1e-3)
    np.testing.assert_allclose(bands.std, scaled.std(0) / 255, atol=1e-3)
    assert measure(dataset, dataset.form) == bands


def test_a_12_bit_microscope_uses_the_whole_range():
    dataset = Drawn([RNG.integers(200, 4000, (64, 64, 1)).astype(np.uint16)])
    scaled = measure(dataset, dataset.form).scale(dataset.images[0])
    assert len(np.unique(scaled.round())) > 250


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_constant_and_nearly_empty_bands(kind):
    spots = np.zeros((100, 100, 2), kind)
    spots[50, 50, 0] = 200
    dataset = Drawn([spots])
    bands = measure(dataset, dataset.form)
    scaled = bands.scale(spots)
    assert scaled[50, 50, 0] == 255
    assert np.isfinite(scaled).all()
    assert min(bands.std) > 0
    assert all(high > low for low, high in zip(bands.low, bands.high, strict=True))


def test_numbers_without_data_are_not_measured_and_become_0():
    image = RNG.random((60, 60, 2)).astype(np.float32) + 5
    clean = Drawn([image])
    holes = image.copy()
    holes[:20, :, 0], holes[:5, :, 1], holes[5:9, :, 1] = np.nan, np.inf, np.finfo(np.float32).min
    dataset = Drawn([holes])
    bands = measure(dataset, dataset.form)
    np.testing.assert_allclose(bands.low, measure(clean, clean.form).low, atol=0.01)
    assert (bands.scale(holes)[:5] == 0).all()
    assert bands.missing > 0.1
    assert any("no data" in note for note in bands.notes())
    empty = Drawn([np.full((9, 9, 1), np.nan, np.float32)])
    assert (measure(empty, empty.form).scale(empty.images[0]) == 0).all()


def test_a_placeholder_that_spoils_the_range_is_said():
    image = RNG.random((60, 60, 1)).astype(np.float32)
    image[:9] = -9999
    dataset = Drawn([image])
    assert any("-9999" in note and "gdal_edit.py" in note for note in measure(dataset, dataset.form).notes())


def test_bands_are_cached_with_the_fingerprint_of_the_data(tmp_path, monkeypatch):
    dataset = Folder(split="train", root=str(folder_of(tmp_path, lambda _: bands_of(5, "uint16"))))
    first = cached_bands(dataset)
    monkeypatch.setattr("segpipe.data.bands.measure", None)
    assert cached_bands(dataset) == first
    assert Bands.from_record(json.loads(json.dumps(first.record()))) == first


GOOD = Bands(2, (0.0, 1.0), (5.0, 9.0), (0.5, 0.4), (0.2, 0.2), ImageForm(2, "uint16")).record()


@pytest.mark.parametrize(
    "change",
    [
        {"low": [0.0]}, {"low": [0.0, 9.0]}, {"low": [0.0, float("nan")]}, {"std": [0.0, 1.0]}, {"channels": 10**6},
        {"channels": "2"}, {"mean": [1e400, 0.0]}, {"form": {"channels": 3, "depth": "uint16"}},
        {"form": {"channels": 2, "depth": "__import__"}}, {"form": None}, {"missing": 7.0}, {"high": {}},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_record_is_refused(change):
    assert Bands.from_record(GOOD).channels == 2
    with pytest.raises(UserError, match=r"entry bands of run\.json is damaged"):
        Bands.from_record(GOOD | change)
    for other in (None, [], "x", {}):
        with pytest.raises(UserError, match="damaged"):
            Bands.from_record(other)


def test_the_module_gives_scaled_images_and_counts_their_bytes(tmp_path):
    root = folder_of(tmp_path, lambda _: bands_of(5, "uint16"))
    data = build.data(configure("data=folder", f"data.root={root}", "data.crop=[16,16]", "data.batch_size=2"))
    data.check()
    dataset = data.split("train")
    assert isinstance(dataset, Scaled)
    assert (dataset.read_window(0, slice(2, 7), slice(3, 9)).image == dataset.read(0).image[2:7, 3:9]).all()
    samples = data.samples("train", train=True)
    assert samples.bytes() == sum(one.image.nbytes + one.mask.nbytes for one in samples.kept)
    batch = samples[[(0, 0), (0, 1)]]
    assert batch["image"].shape == (2, 5, 16, 16)
    assert 0 <= batch["image"].min() < batch["image"].max() <= 255
    assert any("5 bands of uint16" in note and "range" in note for note in data.notes())
    assert any("5 bands of uint16" in note for note in report(root).notes)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 11])
def test_images_of_any_bands_are_resized_as_their_bands_alone(bands):
    image = bands_of(bands, "float32")
    for size in ((10, 12), (40, 48), (10, 60)):
        alone = [resize_image(image[..., band : band + 1], size) for band in range(bands)]
        resized = resize_image(image, size)
        assert resized.shape == (*size, bands)
        np.testing.assert_allclose(resized, np.concatenate(alone, 2), rtol=1e-5)


def test_three_bands_are_shown_or_one():
    image = np.linspace(-5, 300, 2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)
    assert (visible(image) == np.clip(image[..., :3], 0, 255).round()).all()
    assert (visible(image[..., :2]) == np.clip(image[..., :1], 0, 255).round()).all()
    rgb = RNG.integers(0, 256, (4, 4, 3), np.uint8)
    assert visible(rgb) is rgb


# augmentation


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 9, 129])
@pytest.mark.parametrize("name", ["light", "strong"])
def test_augmentation_keeps_any_number_of_bands(name, bands):
    augment = build.augment(configure(f"augment={name}", "data.crop=[40,40]"))
    image = (255 * RNG.random((48, 30, bands))).astype(np.float32)
    image[...] = image[..., :1]  # all bands are equal, and stay so
    changed = [augment(Sample(image, np.ones((48, 30), np.uint8)), seed=0, epoch=epoch, index=0) for epoch in range(12)]
    for one in changed:
        assert one.image.shape == (40, 40, bands)
        assert one.image.dtype == np.float32
        assert 0 <= one.image.min() <= one.image.max() <= 255
        np.testing.assert_allclose(one.image, one.image[..., :1].repeat(bands, 2), atol=0.01)
    assert len({one.image.mean().round(3) for one in changed}) > 1
    assert augment.notes(bands) == []


def test_transforms_of_rgb_and_of_8_bits_are_left_out_and_said():
    transforms = [A.HueSaturationValue, A.ImageCompression, A.Equalize, A.HorizontalFlip]  # the first three fail
    augment = Augment(before_crop=[], after_crop=[strict(one, p=1.0) for one in transforms], crop=None)
    image = (255 * RNG.random((48, 48, 5))).astype(np.float32)
    changed = augment(Sample(image, np.zeros((48, 48), np.uint8)), seed=0, epoch=0, index=0).image
    np.testing.assert_allclose(changed, image[:, ::-1], atol=1e-3)
    (note,) = augment.notes(5)
    assert "HueSaturationValue" in note
    assert "ImageCompression" in note
    large = Augment(before_crop=[strict(A.RandomCrop, height=200, width=200)], after_crop=[], crop=None)
    assert large.notes(5) == []  # a crop larger than the image that is tried


# masks of other numbers


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "int32", "int64", "float32", "float64", "bool"])
def test_masks_of_any_type_hold_indices(tmp_path, kind, suffix):
    if suffix == ".tif" and kind == "bool":
        return  # MINISWHITE, which is refused
    path = tmp_path / f"a{suffix}"
    values = STEPS.astype(kind)
    np.save(path, values) if suffix == ".npy" else tifffile.imwrite(path, values)
    assert decode(path).values.dtype == np.uint8
    assert (decode(path).values == values).all()
    assert (decode_window(path, slice(3, 9), slice(5, 20)).values == values[3:9, 5:20]).all()


@pytest.mark.parametrize("kind", ["uint16", "int32", "float32"])
def test_data_sets_with_such_masks_are_read(tmp_path, kind):
    root = folder_of(tmp_path, lambda _: bands_of(3, "uint8", 255), ".png", MASK.astype(kind), ".tif")
    dataset = Folder(split="train", root=str(root))
    assert dataset.problems == []
    assert (dataset.read(0).mask == MASK).all()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.arange(480).reshape(SIZE).astype(np.uint16), r"480 values up to 479.*data\.dataset\.instances=foreground"),
        (STEPS.astype(np.int32) - 1, "value -1. If it means not labelled, save it as 255"),
        (STEPS.astype(np.float32) / 2, "not whole, often probabilities"),
        (np.where(STEPS > 0, np.nan, 1.0), "not whole"),
        (np.zeros((*SIZE, 2), np.int32), "more than 8 bits"),
    ],
)
def test_masks_that_hold_no_indices_are_refused_with_the_fix(tmp_path, values, says):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(UserError, match=says):
        decode(tmp_path / "a.npy")
    if values.ndim == 2:
        tifffile.imwrite(tmp_path / "a.tif", values)
        with pytest.raises(UserError, match=says):
            decode(tmp_path / "a.tif")


def test_0_and_65535_are_0_and_255(tmp_path):
    PIL.Image.fromarray(np.where(STEPS > 1, 65535, 0).astype(np.uint16)).save(tmp_path / "a.png")
    assert (decode(tmp_path / "a.png").values == np.where(STEPS > 1, 255, 0)).all()
