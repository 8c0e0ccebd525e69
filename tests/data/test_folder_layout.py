"""data=folder: which layouts of folders are understood."""

import numpy as np
import pytest
from support.folders import SIZE, nested, report, splits, values, write

from segpipe.data.folder import Folder
from segpipe.data.folder.layout import hash_fraction
from segpipe.errors import UserError


def flat(root, count=40, **options):
    write(root / "images", root / "masks", count=count, **options)
    return root


# layouts


@pytest.mark.parametrize("options", [{}, {"suffix": ".jpg"}, {"ending": "_mask"}, {"ending": "_segmentation"}])
def test_a_folder_for_each_split_keeps_the_contract(tmp_path, options):
    for split, dataset in zip(("train", "val", "test"), splits(root=str(nested(tmp_path, **options))), strict=True):
        assert len(dataset) == len(dataset.groups) == 4
        assert dataset.names == [f"{split}{n % 2}_{n}" for n in (0, 2, 1, 3)]
        assert dataset.classes == ["background", "foreground"]
        assert len(dataset.palette) == 2
        assert dataset.problems == []
        for index in range(4):
            image, mask = dataset.read(index)
            assert image.shape == (*SIZE, 3)
            assert image.dtype == mask.dtype == np.uint8
            assert mask.shape == dataset.size(index) == SIZE
        assert values(dataset) == {0, 1}


def test_split_folders_may_lie_below_images_and_masks_and_be_spelled_otherwise(tmp_path):
    for split in ("train", "valid", "testing"):
        write(tmp_path / "images" / split, tmp_path / "labels" / split, first=split)
    assert [len(dataset) for dataset in splits(root=str(tmp_path))] == [4, 4, 4]


def test_fractions_split_by_name_so_that_an_added_picture_moves_no_other(tmp_path):
    before = splits(root=str(flat(tmp_path)), fractions=[0.6, 0.2, 0.2])
    names = [set(dataset.names) for dataset in before]
    assert len(names[0] | names[1] | names[2]) == 40 == sum(map(len, names))
    assert 16 <= len(names[0]) <= 32
    write(tmp_path / "images", tmp_path / "masks", count=20, first="new")
    after = splits(root=str(tmp_path), fractions=[0.6, 0.2, 0.2])
    assert all(old <= set(dataset.names) for old, dataset in zip(names, after, strict=True))
    assert any("split by name" in note for note in after[0].notes)


def test_places_are_spread_evenly():
    places = [hash_fraction(f"picture {number}") for number in range(2000)]
    assert np.histogram(places, bins=4, range=(0, 1))[0].min() > 430


@pytest.mark.parametrize("groups", ["prefix", "folder"])
def test_groups_stay_together(tmp_path, groups):
    for number in range(12):
        below = f"slide{number}" if groups == "folder" else ""
        write(tmp_path / "images" / below, tmp_path / "masks" / below, count=3, first=f"slide{number}x")
    parts = splits(root=str(tmp_path), groups=groups, fractions=[0.4, 0.3, 0.3])
    seen = [set(dataset.groups) for dataset in parts]
    assert sum(map(len, seen)) == len(seen[0] | seen[1] | seen[2]) == (24 if groups == "prefix" else 12)
    assert sum(map(len, parts)) == 36


def test_two_folders_anywhere_and_one_that_holds_both(tmp_path):
    write(tmp_path / "photos", tmp_path / "elsewhere" / "truth", count=40)
    parts = splits(images=str(tmp_path / "photos"), masks=str(tmp_path / "elsewhere" / "truth"))
    assert sum(map(len, parts)) == 40
    both = str(tmp_path / "both")
    write(tmp_path / "both", tmp_path / "both", count=40, ending="_mask")
    assert sum(map(len, splits(images=both, masks=both))) == 40


def test_without_test_pictures_val_serves_and_it_is_said(tmp_path):
    nested(tmp_path, splits=("train", "val"))
    (tmp_path / "test" / "images").mkdir(parents=True)  # pictures without masks, as competitions give them
    _, val, test = splits(root=str(tmp_path))
    assert test.names == val.names
    assert any("val is used as test" in note for note in test.notes)
    found = report(tmp_path)
    assert found.problems == []
    assert list(found.pixels) == ["train (4)", "val (4)", "test (4)"]


@pytest.mark.parametrize(
    ("make", "arguments", "says"),
    [
        (lambda root: root.mkdir(), {}, ["neither images and masks", "nothing", "data.dataset.images=FOLDER"]),
        (lambda root: None, {}, ["no such folder"]),
        (lambda root: nested(root, splits=("train",)), {}, ["no folder val", "fractions"]),
        (lambda root: nested(root), {"fractions": [0.8, 0.2]}, ["fractions", "train, val, test", "Leave it out"]),
        (lambda root: flat(root), {"fractions": [0.8, 0.3]}, ["fractions=[0.8, 0.3]", "add up to 1"]),
        (lambda root: flat(root, count=2), {}, ["of 2 images in 2 groups", "assigns none to", "fractions"]),
        (
            lambda root: write(root / "images", root / "masks", count=5, first="scan_"),
            {"groups": "prefix"},
            ["groups=prefix", "5 images form 1 group,", "name, prefix, folder"],
        ),
        (lambda root: flat(root), {"images": "x"}, ["belong together"]),
        (lambda root: flat(root), {"images": "x", "masks": "y"}, ["data.dataset.images=x", "no such folder"]),
    ],
)
def test_layouts_that_cannot_be_understood_are_refused(tmp_path, make, arguments, says):
    make(tmp_path / "root")
    with pytest.raises(UserError) as error:
        Folder(split="train", root=str(tmp_path / "root"), **arguments)
    assert [word for word in says if word not in str(error.value)] == []


def test_no_root_at_all_says_what_to_give():
    with pytest.raises(UserError, match=r"data=folder requires data\.root=FOLDER"):
        Folder(split="train")


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    nested(tmp_path / "set", values=(0, 1))
    (tmp_path / "set" / "classes.json").write_text('["a", "b"]')
    assert Folder(split="train", root="~/set").classes == ["a", "b"]
    train, val, _ = splits(images="~/set/train/images", masks="~/set/train/masks", fractions=[0.4, 0.6])
    assert len(train) + len(val) == 4
