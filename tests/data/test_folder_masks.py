"""data=folder: what masks mean."""

import json

import numpy as np
import PIL.Image
import pytest
from support.folders import RNG, SIZE, STEPS, nested, report, save, values

from segpipe.data.dataset import IGNORE_INDEX
from segpipe.data.folder import Folder
from segpipe.data.folder.classes import read_classes
from segpipe.errors import UserError

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
        ((0, 255), {"a": [9, 0, 0], "b": [0, 9, 0], "c": [0, 0, 9]}, ["values 0, 255", "this is a and ignored"]),
        ((0, 255), {"a": 0, "b": 1, "c": 2}, ["values 0, 255", "this is a and ignored"]),
        ((0, 255), {"a": 0, "b": 1, "ignored": 255}, ["values 0, 255", "this is a and ignored"]),
        ((0, 255), {"a": [0, 0, 0], "b": [9, 0, 0], "ignored": [255, 255, 255]}, ["255", "this is a and ignored"]),
        ((5,), {"a": 5, "b": 6}, ["only value 5", "this is a:"]),
        (([9, 0, 0], [0, 9, 0]), {"a": 0, "b": 1}, ["classes.json has values", '"class1": [9, 0, 0]']),
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
        ('["a", "a"]', "up to 254 different names"),
        ('["a", 1]', "allowed is a list of names"),
        ('{"a": 0, "b": [1, 2, 3]}', "b is [1, 2, 3]"),
        ('{"a": 0, "b": 300}', "b is 300"),
        ('{"a": 0, "b": 0}', "a and b have the same value"),
        ('{"a": 0, "a": 1}', "occurs twice"),
        ('{"a": true, "b": 0}', "a is True"),
    ],
)
def test_classes_json_that_says_nothing_is_refused(tmp_path, text, says):
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(UserError) as error:
        read_classes(tmp_path / "classes.json")
    assert says in str(error.value)
    assert "classes.json" in str(error.value)
