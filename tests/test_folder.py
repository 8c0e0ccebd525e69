"""``data=folder``: layouts, classes, encodings of masks, and that nothing is silently wrong."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest
from conftest import configure
from omegaconf import OmegaConf

from segpipe import check_data
from segpipe.config import build
from segpipe.config.messages import explain
from segpipe.data.dataset import IGNORE_INDEX
from segpipe.data.folder import Folder, folder, survey
from segpipe.data.folder.classes import read_classes
from segpipe.data.folder.layout import hash_fraction
from segpipe.engine.resume import resume_config
from segpipe.errors import UserError

RNG = np.random.default_rng(0)
SIZE = (20, 24)
STEPS = np.arange(20 * 24).reshape(SIZE) * 3 // (20 * 24)  # 0, 1, 2 in bands


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path, **options)


def write(images, masks, count=4, values=(0, 255), ending="", suffix=".png", first="a"):
    """Noise, and masks of bands of some values (numbers or colours)."""
    for number in range(count):
        name = f"{first}{number % 2}_{number}"
        save(images / f"{name}{suffix}", RNG.integers(0, 256, (*SIZE, 3), np.uint8))
        bands = np.array(values, np.uint8)[(STEPS + number) % len(values)]
        save(masks / f"{name}{ending}.png", bands)


def nested(root, splits=("train", "val", "test"), **options):
    for split in splits:
        write(root / split / "images", root / split / "masks", first=split, **options)
    return root


def flat(root, count=40, **options):
    write(root / "images", root / "masks", count=count, **options)
    return root


def splits(**arguments):
    return [Folder(split=split, **arguments) for split in ("train", "val", "test")]


def values(dataset):
    return set(np.unique(np.concatenate([dataset.read(index).mask.ravel() for index in range(len(dataset))])).tolist())


def in_another_process():
    survey.seen.clear()
    folder._cache.clear()


def report(root, *overrides):
    return check_data.check_data(configure("data=folder", f"data.root={root}", *overrides))


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
    assert any("val serves as test" in note for note in test.notes)
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
        (lambda root: flat(root, count=2), {}, ["of 2 pictures in 2 groups", "none goes to", "fractions"]),
        (
            lambda root: write(root / "images", root / "masks", count=5, first="scan_"),
            {"groups": "prefix"},
            ["groups=prefix", "5 pictures are 1 group,", "name, prefix, folder"],
        ),
        (lambda root: flat(root), {"images": "x"}, ["go together"]),
        (lambda root: flat(root), {"images": "x", "masks": "y"}, ["data.dataset.images=x", "no such folder"]),
    ],
)
def test_layouts_that_cannot_be_understood_are_refused(tmp_path, make, arguments, says):
    make(tmp_path / "root")
    with pytest.raises(UserError) as error:
        Folder(split="train", root=str(tmp_path / "root"), **arguments)
    assert [word for word in says if word not in str(error.value)] == []


def test_no_root_at_all_says_what_to_give():
    with pytest.raises(UserError, match=r"data=folder needs data\.root=FOLDER"):
        Folder(split="train")


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    nested(tmp_path / "set", values=(0, 1))
    (tmp_path / "set" / "classes.json").write_text('["a", "b"]')
    assert Folder(split="train", root="~/set").classes == ["a", "b"]
    train, val, _ = splits(images="~/set/train/images", masks="~/set/train/masks", fractions=[0.4, 0.6])
    assert len(train) + len(val) == 4


# what masks mean


@pytest.mark.parametrize("how", ["L", "1", "RGB", "RGBA", "0/1"])
def test_two_valued_masks_are_background_and_foreground_and_it_is_said(tmp_path, how):
    nested(tmp_path, values=(0, 1) if how == "0/1" else (0, 255))
    for path in tmp_path.rglob("masks/*.png"):
        picture = PIL.Image.open(path)
        (picture.convert(how) if how != "0/1" else picture).save(path)
    dataset = Folder(split="train", root=str(tmp_path))
    assert values(dataset) == {0, 1}
    raw = np.asarray(PIL.Image.open(dataset.pairs[0].mask).convert("L"))
    assert (dataset.read(0).mask == (raw > 0)).all()
    (note,) = dataset.notes
    assert "background" in note
    assert "foreground" in note
    named = Folder(split="train", root=str(tmp_path), classes=["cell"])
    assert named.classes == ["background", "cell"]


def test_255_is_ignored_where_there_are_other_classes(tmp_path):
    dataset = Folder(split="train", root=str(nested(tmp_path, values=(0, 1, 255))))
    assert values(dataset) == {0, 1, IGNORE_INDEX}


def test_classes_are_found_or_named(tmp_path):
    nested(tmp_path, values=(0, 1, 2))
    found = Folder(split="train", root=str(tmp_path))
    assert found.classes == ["class0", "class1", "class2"]
    named = Folder(split="train", root=str(tmp_path), classes=["sky", "sea", "sand"])
    assert (named.read(0).mask == found.read(0).mask).all()
    (tmp_path / "classes.json").write_text('["a", "b", "c"]')
    assert Folder(split="train", root=str(tmp_path)).classes == ["a", "b", "c"]
    both = Folder(split="train", root=str(tmp_path), classes=["sky", "sea", "sand"])
    assert both.classes == ["sky", "sea", "sand"]
    assert any("is not read" in note for note in both.notes)


@pytest.mark.parametrize(
    ("stored", "content", "expected"),
    [
        ((0, 128, 255), {"a": 0, "b": 128, "c": 255}, [0, 1, 2]),
        ((7, 128, 255), {"b": 128, "a": 7}, [1, 0, 255]),
        ((7, 128, 3), {"b": 128, "a": 7, "ignored": 3}, [1, 0, 255]),
        (([9, 0, 0], [0, 9, 0], [0, 0, 0]), {"a": [0, 0, 0], "b": [9, 0, 0], "c": [0, 9, 0]}, [1, 2, 0]),
        (([9, 0, 0], [0, 9, 0], [0, 0, 0]), {"ignored": [0, 0, 0], "b": [9, 0, 0], "c": [0, 9, 0]}, [0, 1, 255]),
        ((0, 1, 2), {"a": [9, 0, 0], "b": [0, 9, 0], "c": [0, 0, 9]}, [0, 1, 2]),
    ],
)
def test_classes_json_names_values_and_colours(tmp_path, stored, content, expected):
    nested(tmp_path, values=stored)
    (tmp_path / "classes.json").write_text(json.dumps(content))
    dataset = Folder(split="train", root=str(tmp_path))
    assert dataset.problems == []
    assert dataset.classes == [name for name in content if name != "ignored"]
    assert (dataset.read(0).mask == np.array(expected, np.uint8)[STEPS]).all()


@pytest.mark.parametrize(
    ("content", "foreground"),
    [
        ({"background": [0, 0, 0], "cell": [255, 0, 0]}, 1),
        ({"cell": [255, 0, 0], "background": [0, 0, 0]}, 0),
        ({"background": 0, "cell": 1}, 1),
        ({"cell": 1, "background": 0}, 0),
        ({"background": 0, "cell": 255}, 1),
    ],
)
def test_0_and_255_are_two_classes_whatever_classes_json_calls_them(tmp_path, content, foreground):
    nested(tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps(content))
    dataset = Folder(split="train", root=str(tmp_path))
    assert dataset.problems == []
    assert dataset.classes == list(content)
    raw = np.asarray(PIL.Image.open(dataset.pairs[0].mask))
    assert (dataset.read(0).mask == np.where(raw > 0, foreground, 1 - foreground)).all()
    noted = any("0 is read as background, 255 as cell" in note for note in dataset.notes)
    assert noted == (content["cell"] != 255)


@pytest.mark.parametrize(
    ("stored", "content", "says"),
    [
        ((0, 255), {"a": [9, 0, 0], "b": [0, 9, 0], "c": [0, 0, 9]}, ["values 0, 255", "makes a and ignored"]),
        ((0, 255), {"a": 0, "b": 1, "c": 2}, ["values 0, 255", "makes a and ignored"]),
        ((0, 255), {"a": 0, "b": 1, "ignored": 255}, ["values 0, 255", "makes a and ignored"]),
        ((0, 255), {"a": [0, 0, 0], "b": [9, 0, 0], "ignored": [255, 255, 255]}, ["255", "makes a and ignored"]),
        ((5,), {"a": 5, "b": 6}, ["value 5 alone", "makes a:"]),
        (([9, 0, 0], [0, 9, 0]), {"a": 0, "b": 1}, ["classes.json names values", '"class1": [9, 0, 0]']),
    ],
)
def test_classes_json_that_tells_nothing_apart_is_refused_in_one_line(tmp_path, stored, content, says):
    nested(tmp_path, values=stored)
    (tmp_path / "classes.json").write_text(json.dumps(content))
    (problem,) = report(tmp_path).problems
    assert [word for word in says if word not in problem] == []


def test_a_mask_that_is_spoiled_changes_nothing_in_what_the_others_mean(tmp_path):
    for stored, content in [
        ((0, 255), {"a": [0, 0, 0], "b": [9, 0, 0]}),
        (([0, 0, 0], [9, 0, 0]), {"a": [0, 0, 0], "b": [9, 0, 0]}),
        ((0, 255), {"a": 0, "b": 1}),
    ]:
        nested(tmp_path, values=stored)
        (tmp_path / "classes.json").write_text(json.dumps(content))
        save(tmp_path / "train" / "masks" / "train0_0.png", RNG.integers(0, 255, (*SIZE, 3), np.uint8))
        (problem,) = report(tmp_path).problems
        assert "train0_0.png" in problem


def test_palette_files_are_indices_unless_classes_json_names_their_colours(tmp_path):
    nested(tmp_path, values=(0, 1, 2))
    for path in tmp_path.rglob("masks/*.png"):
        picture = PIL.Image.open(path).convert("L")
        picture.putpalette([10, 10, 10, 200, 0, 0, 0, 200, 0])
        picture.save(path)
    by_index = Folder(split="train", root=str(tmp_path))
    assert by_index.palette == [(10, 10, 10), (200, 0, 0), (0, 200, 0)]
    assert (by_index.read(0).mask == STEPS).all()
    (tmp_path / "classes.json").write_text('{"green": [0, 200, 0], "red": [200, 0, 0], "gray": [10, 10, 10]}')
    by_colour = Folder(split="train", root=str(tmp_path))
    assert (by_colour.read(0).mask == 2 - STEPS).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("3", "allowed is a list of names"),
        ('["a", "a"]', "each of them once"),
        ('["a", 1]', "allowed is a list of names"),
        ('{"a": 0, "b": [1, 2, 3]}', "b is [1, 2, 3]"),
        ('{"a": 0, "b": 300}', "b is 300"),
        ('{"a": 0, "b": 0}', "a and b have the same value"),
        ('{"a": 0, "a": 1}', "stands there twice"),
        ('{"a": true, "b": 0}', "a is True"),
    ],
)
def test_classes_json_that_says_nothing_is_refused(tmp_path, text, says):
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(UserError) as error:
        read_classes(tmp_path / "classes.json")
    assert says in str(error.value)
    assert "classes.json" in str(error.value)


# what is wrong


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        (([9, 0, 0], [0, 9, 0], [0, 0, 0]), ["in colours", "classes.json", '"class2": [9, 0, 0]']),
        ((0, 3, 7), ["values 0, 3, 7", "classes.json", '{"class0": 0, "class3": 3, "class7": 7}']),
        ((5,), ["hold value 5"]),
        ((0,), ["hold 0 alone", "nothing to tell apart"]),
        ((255,), ["255", "nothing to tell apart"]),
    ],
)
def test_masks_that_cannot_be_understood_say_what_to_write(tmp_path, stored, says):
    (problem,) = report(nested(tmp_path, values=stored)).problems
    assert problem.startswith("train, val, test: ")
    assert [word for word in says if word not in problem] == []


def test_0_255_and_0_1_together_are_refused(tmp_path):
    nested(tmp_path)
    write(tmp_path / "val" / "images", tmp_path / "val" / "masks", values=(0, 1), first="val")
    (problem,) = report(tmp_path).problems
    assert "8 masks hold 0 and 255, 4 hold 0 and 1" in problem


def spoil(root):
    """Everything that may be wrong with single files, once; returns what is to be said of each."""
    images, masks = root / "train" / "images", root / "train" / "masks"
    bands = np.array([0, 255], np.uint8)[STEPS % 2]
    (masks / "train0_0.png").unlink()
    save(masks / "train0_0.jpg", RNG.integers(0, 255, SIZE, np.uint8))
    save(masks / "train0_2.png", np.array(PIL.Image.fromarray(bands).resize((9, 9)).resize(SIZE[::-1])))
    save(masks / "train0_4.png", bands[:10])
    save(masks / "train0_6.png", bands.astype(np.uint16) * 200)
    save(masks / "train1_1.png", RNG.integers(0, 255, (*SIZE, 3), np.uint8))
    (masks / "train1_3.png").unlink()
    (images / "train1_5.png").unlink()
    (images / "train1_7.png").write_bytes(b"no picture")
    (masks / "train0_8.png").write_bytes((masks / "train0_8.png").read_bytes()[:50])
    save(masks / "train1_9.png", np.where(bands > 0, 255, 7).astype(np.uint8))
    save(images / "train0_10.jpg", np.zeros((*SIZE, 3), np.uint8))
    shutil.copy(root / "val" / "images" / "val0_0.png", images / "train0_12.png")
    save(root / "val" / "masks" / "val0_2.png", np.zeros(SIZE, np.uint8))
    return {
        "train0_0.jpg": "JPEG",
        "train0_2.png": "interpolation",
        "train0_4.png": "10 x 24",
        "train0_6.png": "more than 8 bits",
        "train1_1.png": "in colours",
        "train1_3.png": "no mask of this name",
        "train1_5.png": "no picture of this name",
        "train1_7.png": "cannot be read",
        "train0_8.png": "cannot be read",
        "train1_9.png": "value 7",
        "train0_10": "the same name",
        "val0_0": "in train, too",
    }


def test_check_data_lists_every_file_that_is_wrong_and_training_refuses(tmp_path):
    nested(tmp_path, count=30)
    expected = spoil(tmp_path)
    found = report(tmp_path)
    for name, says in expected.items():
        assert len([problem for problem in found.problems if name in problem and says in problem]) == 1, name
    assert len(found.problems) == len(expected)
    assert any("background alone" in note and "val/val0_2" in note for note in found.notes)
    data = build.data(configure("data=folder", f"data.root={tmp_path}"))
    with pytest.raises(UserError) as error:
        data.check()
    assert "The train split has" in str(error.value)
    assert "segpipe.check_data" in str(error.value)


def test_links_to_nothing_are_problems(tmp_path):
    nested(tmp_path)
    for path in (tmp_path / "train" / "images" / "train0_0.png", tmp_path / "val" / "masks" / "val0_0.png"):
        path.unlink()
        path.symlink_to(tmp_path / "gone.png")
    (tmp_path / "test" / "masks" / "folder.png").mkdir()
    found = report(tmp_path).problems
    assert len([problem for problem in found if "a link to nothing, or a folder" in problem]) == 3
    for path in (tmp_path / "val" / "masks").iterdir():
        path.unlink()
        path.symlink_to(tmp_path / "gone.png")
    assert len([problem for problem in report(tmp_path).problems if "val/masks/" in problem]) == 4


def test_masks_that_are_named_otherwise_are_one_problem(tmp_path):
    write(tmp_path / "images", tmp_path / "masks", ending="_xyz")
    found = report(tmp_path)
    assert len(found.problems) == 1
    assert "none of its 4 masks is named as a picture" in found.problems[0]


def test_a_picture_that_cannot_be_read_is_a_line_from_a_worker_too(tmp_path):
    nested(tmp_path)
    (tmp_path / "val" / "images" / "val0_0.png").write_bytes(b"no picture")
    data = build.data(configure("data=folder", f"data.root={tmp_path}", "data.cache=off", "data.workers=1"))
    with pytest.raises(UserError) as error:
        list(data.val_dataloader())
    said = explain(error.value)
    assert said.startswith(str(tmp_path))
    assert len(said.splitlines()) == 1


def test_nearly_black_pictures_are_noted(tmp_path):
    nested(tmp_path)
    save(tmp_path / "val" / "images" / "val0_0.png", np.full(SIZE, 4095, np.uint16))
    found = report(tmp_path)
    assert found.problems == []
    assert any("nearly black" in note and "val/val0_0" in note for note in found.notes)


def test_a_run_goes_on_where_its_data_were_moved_to(tmp_path):
    run = tmp_path / "run"
    cfg = configure("data=folder", "data.root=old", f"run_dir={run}")
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    (run / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    overrides = [f"resume={run}", "data.root=new"]
    kept = resume_config(configure(*overrides), overrides=overrides)
    assert kept.data.root == kept.data.dataset.root == "new"


# fingerprint, and the memory of masks


def test_the_fingerprint_is_of_what_the_data_say_and_not_of_where_they_lie(tmp_path):
    def mark(root, **arguments):
        return Folder(split="train", root=str(root), **arguments).fingerprint()

    nested(tmp_path / "one")
    first = mark(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert mark(tmp_path / "two") == first
    assert mark(tmp_path / "one", classes=["sky", "sea"]) != first
    path = tmp_path / "two" / "train" / "masks" / "train0_0.png"
    save(path, 255 - np.asarray(PIL.Image.open(path)))
    assert mark(tmp_path / "two") != first


def test_masks_are_looked_at_once_and_again_when_they_change(tmp_path, monkeypatch):
    nested(tmp_path)
    looked = []
    look = survey.look
    monkeypatch.setattr(survey, "look", lambda path: looked.append(path) or look(path))
    splits(root=str(tmp_path))
    assert len(looked) == 12
    in_another_process()
    splits(root=str(tmp_path))
    assert len(looked) == 12
    save(tmp_path / "val" / "masks" / "val0_0.png", np.full(SIZE, 255, np.uint8))
    splits(root=str(tmp_path))
    assert len(looked) == 13
    in_another_process()
    monkeypatch.setattr(survey, "FORMAT", survey.FORMAT + 1)  # another version of the code
    splits(root=str(tmp_path))
    assert len(looked) == 25


def test_an_error_of_a_moment_is_not_kept(tmp_path, monkeypatch):
    nested(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(survey, "look", lambda path: survey.MaskSummary(error=f"{path}: permission denied"))
        assert len(Folder(split="train", root=str(tmp_path)).problems) == 1
    assert Folder(split="train", root=str(tmp_path)).problems == []
    save(tmp_path / "train" / "masks" / "train0_0.png", np.full((9, 9), 255, np.uint8))
    with monkeypatch.context() as patch:  # the others are kept
        patch.setattr(survey, "look", lambda path: survey.MaskSummary(error=f"{path}: permission denied"))
        assert len(Folder(split="train", root=str(tmp_path)).problems) == 1
    in_another_process()
    assert Folder(split="train", root=str(tmp_path)).problems == []


def test_files_are_read_once_for_all_splits_and_again_when_one_changes(tmp_path, monkeypatch):
    nested(tmp_path)
    asked = []
    monkeypatch.setattr(
        folder, "summarise_masks", lambda paths: asked.append(len(paths)) or survey.summarise_masks(paths)
    )
    splits(root=str(tmp_path))
    splits(root=str(tmp_path))
    assert asked == [12]
    (tmp_path / "val" / "images" / "val0_0.png").unlink()
    assert len(splits(root=str(tmp_path))[1].problems) == 1
    (tmp_path / "classes.json").write_text('["a", "b"]')
    assert splits(root=str(tmp_path))[0].classes == ["a", "b"]
    save(tmp_path / "train" / "masks" / "train0_0.png", np.full(SIZE, 7, np.uint8))
    assert len(splits(root=str(tmp_path))[0].problems) == 1
    assert asked == [12, 11, 11, 11]


@pytest.mark.parametrize("damage", ["not JSON", '{"x": {"values": "y"}}', "[1]", "null"])
def test_a_damaged_cache_is_none(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("SEGPIPE_CACHE", str(tmp_path / "cache"))
    nested(tmp_path / "data")
    first = Folder(split="train", root=str(tmp_path / "data")).fingerprint()
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_text(damage)
    in_another_process()
    assert Folder(split="train", root=str(tmp_path / "data")).fingerprint() == first


# the nuclei


def test_nuclei_need_no_line_of_python(nuclei_root, tmp_path, capsys):
    from segpipe.train import train

    overrides = ["data=folder", f"data.root={nuclei_root}", "debug=fast", "logger=none", "trainer=cpu"]
    small = ["data.crop=[64,64]", "data.eval_batch_size=1", "+trainer.enable_progress_bar=false"]
    metrics = train(configure(*overrides, *small, f"run_dir={tmp_path / 'run'}"))
    assert list(metrics["test"]["per_class_iou"]) == ["background", "foreground"]
    assert "0 is read as background, 255 as foreground" in capsys.readouterr().out
    assert report(nuclei_root).problems == []
