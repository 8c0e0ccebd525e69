"""Every data set under conf/, on tiny folders in their layouts; and what VOC, Pets and Cityscapes do besides."""

import numpy as np
import PIL.Image
import pytest
import scipy.io
import torchvision.datasets
from support.configs import configure

from segpipe.config import build
from segpipe.config.schema import options
from segpipe.data.check import contract, contract_of_sample
from segpipe.data.dataset import IGNORE_INDEX, Sample
from segpipe.data.datasets.cityscapes import Cityscapes
from segpipe.data.datasets.pets import Pets
from segpipe.data.datasets.public import split_names
from segpipe.data.datasets.voc import VOC
from segpipe.errors import UserError

RNG = np.random.default_rng(0)


SIZE = (12, 16)


SETS = {"voc": VOC, "pets": Pets, "cityscapes": Cityscapes}


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(RNG.integers(0, 256, (*SIZE, 3), np.uint8)).save(path)


def mask(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = PIL.Image.fromarray(np.resize(np.array(labels, np.uint8), SIZE))
    image.putpalette(list(range(256)) * 3)
    image.save(path)


def lists(path, names, behind=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}{behind}\n" for name in names))


def write_voc(root):
    base = root / "VOCdevkit" / "VOC2012"
    names = {"train": [f"2007_{n:06d}" for n in range(30)], "val": [f"2008_{n:06d}" for n in range(5)]}
    for split, listed in names.items():
        lists(base / "ImageSets" / "Segmentation" / f"{split}.txt", listed)
        for name in listed:
            picture(base / "JPEGImages" / f"{name}.jpg")
            mask(base / "SegmentationClass" / f"{name}.png", [0, 15, 20, 255])
    return root


def write_sbd(root):
    named = {"train": ["2007_000000", "2009_000001", "2009_000002"], "val": ["2008_000001", "2009_000003"]}
    for split, listed in named.items():
        lists(root / "sbd" / f"{split}.txt", listed)
        for name in listed:
            picture(root / "sbd" / "img" / f"{name}.jpg")
            (root / "sbd" / "cls").mkdir(exist_ok=True)
            struct = np.zeros((1, 1), dtype=[("Segmentation", object)])
            struct[0, 0] = (np.full(SIZE, 7, np.uint8),)
            scipy.io.savemat(root / "sbd" / "cls" / f"{name}.mat", {"GTcls": struct})


def write_pets(root):
    base = root / "oxford-iiit-pet"
    for split, number in (("trainval", 30), ("test", 5)):
        names = [f"{split}_cat_{n}" for n in range(number)]
        lists(base / "annotations" / f"{split}.txt", names, " 1 1 1")
        for name in names:
            picture(base / "images" / f"{name}.jpg")
            mask(base / "annotations" / "trimaps" / f"{name}.png", [1, 2, 3])
    return root


def write_cityscapes(root):
    for split, cities in (("train", ("aachen", "ulm", "zurich")), ("val", ("lindau",))):
        for city in cities:
            for number in range(2):
                stem = f"{city}_{number:06d}_000019"
                picture(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
                mask(root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", [0, 7, 33, 29, 255])
    return root


def write_camvid(root):
    for split in ("train", "val", "test"):
        for number in range(3):
            picture(root / split / f"{split}{number}_0.png")
            mask(root / f"{split}annot" / f"{split}{number}_0.png", [0, 10, 11])
    return root


def write_folder(root):
    for split in ("train", "val", "test"):
        for number in range(3):
            picture(root / split / "images" / f"{split}{number}.jpg")
            mask(root / split / "masks" / f"{split}{number}.png", [0, 1, 2])
    return root


WRITE = {name.removeprefix("write_"): value for name, value in globals().items() if name.startswith("write_")}


def add_strays(root):
    for below in [path for path in root.rglob("*") if path.is_dir()]:
        for name in ("._x.png", "._x_leftImg8bit.png", ".DS_Store", "Thumbs.db"):
            (below / name).write_bytes(b"no picture")
        (below / "__MACOSX").mkdir()


def of_conf(name, root, split):
    """A split of what a file under conf/data makes."""
    return build.dataset(configure(f"data={name}", *([f"data.root={root}"] if in_files(name) else [])), split)


def in_files(name):
    """Whether a data set is read, and not drawn."""
    return "root" in configure(f"data={name}").data.dataset


@pytest.mark.parametrize("name", options("data"))
def test_every_data_set_keeps_the_contract(tmp_path, name):
    if in_files(name):
        if name not in WRITE:
            pytest.skip(f"no write_{name} here writes its files; segpipe.check_data asks the same of files that exist")
        WRITE[name](tmp_path)
    seen, marks = [], []
    for split in ("train", "val", "test"):
        dataset = of_conf(name, tmp_path, split)
        assert len(dataset) > 0
        assert [*contract(dataset), *dataset.problems] == []
        assert len(set(dataset.palette)) == len(dataset.classes)
        for index in (0, len(dataset) - 1):
            assert contract_of_sample(dataset, index, dataset.read(index)) is None
        marks.append(dataset.fingerprint())
        assert of_conf(name, tmp_path, split).fingerprint() == marks[-1]
        seen += dataset.names
    assert len(seen) == len(set(seen))
    assert len(set(marks)) == len(marks)


@pytest.mark.parametrize("name", [name for name in options("data") if in_files(name)])
def test_a_folder_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(UserError) as error:
        of_conf(name, tmp_path / "nowhere", "train")
    assert str(tmp_path / "nowhere") in str(error.value)


@pytest.mark.parametrize("name", SETS)
def test_public_sets_say_how_they_are_split(tmp_path, name):
    WRITE[name](tmp_path)
    assert all(of_conf(name, tmp_path, split).notes for split in ("train", "val", "test"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"palette": [(0, 0, 0)]}, "palette has 1 colours for 11 classes"),
        ({"classes": ["a"] * 11}, "each of them once"),
        ({"groups": ["a"]}, "3 names and 1 groups for 3 samples"),
    ],
)
def test_a_data_set_with_other_attributes_is_found(tmp_path, change, says):
    dataset = of_conf("camvid", write_camvid(tmp_path), "train")
    for attribute, value in change.items():
        setattr(dataset, attribute, value)
    (problem,) = contract(dataset)
    assert says in problem


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": np.zeros((*SIZE, 3))}, "the image is float64"),
        ({"image": np.zeros((*SIZE, 4), np.uint8)}, "allowed is uint8 (H, W, 3)"),
        ({"mask": np.zeros(SIZE, np.int64)}, "the mask is int64"),
        ({"mask": np.zeros((12, 15), np.uint8)}, "they differ"),
        ({"mask": np.full(SIZE, 11, np.uint8)}, "the mask has 11; allowed are 0 to 10"),
    ],
)
def test_a_sample_that_is_otherwise_is_found(tmp_path, change, says):
    dataset = of_conf("camvid", write_camvid(tmp_path), "train")
    sample = Sample(*dataset.read(0))
    assert contract_of_sample(dataset, 0, sample) is None
    assert says in contract_of_sample(dataset, 0, sample._replace(**change))


@pytest.mark.parametrize("name", SETS)
def test_what_is_not_there_is_said_with_how_to_get_it(tmp_path, name):
    with pytest.raises(UserError) as error:
        SETS[name](root=str(tmp_path), split="train")
    assert f"data.root={tmp_path}" in str(error.value)
    assert ("data.dataset.download=true" if name != "cityscapes" else "leftImg8bit_trainvaltest.zip") in str(
        error.value
    )


@pytest.mark.parametrize("name", SETS)
def test_a_file_that_is_missing_is_named(tmp_path, name):
    root = WRITE[name](tmp_path)
    dataset = SETS[name](root=str(root), split="train")
    dataset.masks[0].unlink()
    with pytest.raises(UserError) as error:
        SETS[name](root=str(root), split="train")
    assert str(dataset.masks[0]) in str(error.value)
    assert "1 of" in str(error.value)


@pytest.mark.parametrize(("name", "reader"), [("voc", "VOCSegmentation"), ("pets", "OxfordIIITPet")])
def test_a_download_without_a_network_is_said_in_a_line(tmp_path, name, reader, monkeypatch):
    def refuse(*_, **__):
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    module = __import__(getattr(torchvision.datasets, reader).__module__, fromlist=["x"])
    monkeypatch.setattr(module, "download_and_extract_archive", refuse)
    with pytest.raises(UserError, match=r"Name or service not known.*move") as error:
        SETS[name](root=str(tmp_path), split="train", download=True)
    assert len(str(error.value).splitlines()) == 1


def test_data_that_are_there_are_not_downloaded_again(tmp_path, monkeypatch):
    write_voc(tmp_path)
    write_pets(tmp_path)
    for module in (torchvision.datasets.voc, torchvision.datasets.oxford_iiit_pet):
        monkeypatch.setattr(module, "download_and_extract_archive", None)
    assert len(VOC(root=str(tmp_path), split="train", download=True))
    assert len(Pets(root=str(tmp_path), split="train", download=True))


def test_voc_holds_out_a_part_of_its_train_and_sbd_adds_to_the_rest(tmp_path):
    write_voc(tmp_path)
    parts = {split: VOC(root=str(tmp_path), split=split).names for split in ("train", "val", "test")}
    assert len(parts["train"]) + len(parts["val"]) == 30
    assert parts["test"] == [f"2008_{n:06d}" for n in range(5)]
    assert set(np.unique(VOC(root=str(tmp_path), split="test").read(0).mask)) == {0, 15, 20, 255}
    write_sbd(tmp_path)
    more = VOC(root=str(tmp_path), split="train", sbd=True)
    assert more.names == [*parts["train"], "2009_000001", "2009_000002", "2009_000003"]
    assert VOC(root=str(tmp_path), split="val", sbd=True).names == parts["val"]
    assert (more.read(len(more) - 1).mask == 7).all()
    assert more.size(len(more) - 1) == SIZE
    more.masks[-1].write_bytes(b"no Matlab")
    with pytest.raises(UserError, match=r"2009_000003\.mat"):
        more.read(len(more) - 1)


def test_sbd_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match=r"SBD (is missing|cannot be read)"):
        VOC(root=str(write_voc(tmp_path)), split="train", sbd=True)


def test_held_out_names_are_a_tenth_that_names_alone_decide():
    names = [f"picture {n}" for n in range(1000)]
    train, val = split_names(names, "train"), split_names(names, "val")
    assert sorted(train + val) == sorted(names)
    assert 70 < len(val) < 130
    assert split_names(names[:500], "val") == [name for name in val if name in names[:500]]


def test_pets_take_borders_as_a_class_or_not_at_all(tmp_path):
    write_pets(tmp_path)
    three = Pets(root=str(tmp_path), split="train")
    two = Pets(root=str(tmp_path), split="train", border="ignored")
    assert three.classes == ["background", "pet", "border"]
    assert two.classes == ["background", "pet"]
    assert three.read(0).mask[0, :3].tolist() == [1, 0, 2]
    assert two.read(0).mask[0, :3].tolist() == [1, 0, IGNORE_INDEX]
    assert three.fingerprint() != two.fingerprint()


def test_cityscapes_ids_become_train_ids_and_cities_groups(tmp_path):
    write_cityscapes(tmp_path)
    parts = {split: Cityscapes(root=str(tmp_path), split=split) for split in ("train", "val", "test")}
    assert {split: sorted(set(part.groups)) for split, part in parts.items()} == {
        "train": ["aachen", "zurich"],
        "val": ["ulm"],
        "test": ["lindau"],
    }
    assert len(parts["train"].classes) == 19
    assert (parts["train"].classes[0], parts["train"].classes[18]) == ("road", "bicycle")
    assert parts["train"].names[0] == "aachen_000000_000019"
    assert parts["train"].read(0).mask[0, :5].tolist() == [255, 0, 18, 255, 255]
    mask(parts["train"].masks[0], [40])
    with pytest.raises(UserError, match="aachen_000000"):
        parts["train"].read(0)


@pytest.mark.parametrize("name", [name for name in WRITE if name in options("data")])
def test_stray_files_and_marks_in_lists_change_nothing(tmp_path, name):
    WRITE[name](tmp_path)
    before = [of_conf(name, tmp_path, split) for split in ("train", "val", "test")]
    add_strays(tmp_path)
    for path in tmp_path.rglob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\n\n")
    for split, dataset in zip(("train", "val", "test"), before, strict=True):
        again = of_conf(name, tmp_path, split)
        assert again.names == dataset.names
        assert again.fingerprint() == dataset.fingerprint()
        assert list(again.problems) == []
