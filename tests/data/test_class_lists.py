"""data=folder: the lists of classes that other tools write."""

import json

import numpy as np
import pytest
from support.folders import SIZE, STEPS, nested, report, save

from segpipe.data.folder import Folder
from segpipe.data.folder.classes import read_classes
from segpipe.errors import UserError

COLOURS = [[0, 0, 0], [9, 0, 0], [0, 9, 0]]
NAMES = ["sky", "sea", "sand"]
INDICES, VALUES = (0, 1, 2), (3, 128, 7)


def of_pairs(names, values):
    return dict(zip(names, values, strict=True))


FORMS = {  # the content of the file, the values in the masks, and the index that each value gets
    "list": (NAMES, INDICES, [0, 1, 2]),
    "numbers to names": (of_pairs("012", NAMES), INDICES, [0, 1, 2]),
    "values to names": (of_pairs(map(str, VALUES), NAMES), VALUES, [0, 1, 2]),
    "names to values": (of_pairs(NAMES, VALUES), VALUES, [0, 1, 2]),
    "names to colours": (of_pairs(NAMES, COLOURS), COLOURS, [0, 1, 2]),
    "names to hex": (of_pairs(NAMES, ["#000000", "#090000", "#000900"]), COLOURS, [0, 1, 2]),
    "names to text": (of_pairs(NAMES, ["0,0,0", "9, 0, 0", "(0,9,0)"]), COLOURS, [0, 1, 2]),
    "colours to names": (of_pairs(["0,0,0", "[9, 0, 0]", "#000900"], NAMES), COLOURS, [0, 1, 2]),
    "opaque colours": (of_pairs(NAMES, [[*colour, 255] for colour in COLOURS]), COLOURS, [0, 1, 2]),
    "names to objects": ({name: {"id": value} for name, value in of_pairs(NAMES, VALUES).items()}, VALUES, [0, 1, 2]),
    "objects, id": ([{"name": n, "id": v} for n, v in zip(NAMES, VALUES, strict=True)], VALUES, [0, 1, 2]),
    "objects, color": ([{"title": n, "color": c} for n, c in zip(NAMES, COLOURS, strict=True)], COLOURS, [0, 1, 2]),
    "objects, both, masks of ids": (
        [{"name": n, "id": v, "color": c} for n, v, c in zip(NAMES, VALUES, COLOURS, strict=True)], VALUES, [0, 1, 2]
    ),
    "objects, both, masks of colours": (
        [{"name": n, "id": v, "color": c} for n, v, c in zip(NAMES, VALUES, COLOURS, strict=True)], COLOURS, [0, 1, 2]
    ),
    "classes": ({"classes": NAMES}, INDICES, [0, 1, 2]),
    "labels, others": ({"labels": NAMES, "version": 3, "tags": []}, INDICES, [0, 1, 2]),
    "id2label": ({"id2label": of_pairs("012", NAMES)}, INDICES, [0, 1, 2]),
    "classes and colours": ({"classes": NAMES, "colours": COLOURS}, COLOURS, [0, 1, 2]),
    "classes and colors, masks of indices": ({"classes": NAMES, "colors": COLOURS}, INDICES, [0, 1, 2]),
    "classes and a flat palette": ({"classes": NAMES, "palette": [0, 0, 0, 9, 0, 0, 0, 9, 0]}, COLOURS, [0, 1, 2]),
    "classes and colours by name": ({"classes": NAMES, "colors": of_pairs(NAMES, COLOURS)}, COLOURS, [0, 1, 2]),
    "ignore 255": ({"classes": NAMES[:2], "ignore": 255}, (0, 1, 255), [0, 1, 255]),
    "ignore a value": ({"classes": NAMES[:2], "ignore": 9}, (0, 1, 9), [0, 1, 255]),
    "ignore a name": ({"classes": NAMES, "ignore": "sky"}, INDICES, [255, 0, 1]),
    "ignore names": ({"classes": [*NAMES, "x"], "ignore": ["sand", "x"]}, INDICES, [0, 1, 255]),
    "ignore an index": ({"classes": NAMES, "ignore_index": 0}, INDICES, [255, 0, 1]),
    "ignore a colour": (
        {"classes": NAMES[:2], "colours": COLOURS[:2], "ignore": COLOURS[2]}, COLOURS, [0, 1, 255]
    ),
    "ignore 255 of colours": ({"classes": NAMES, "colours": COLOURS, "ignore": 255}, INDICES, [0, 1, 2]),
    "merge": ({"classes": NAMES, "merge": {"sand": "sea"}}, INDICES, [0, 1, 1]),
    "merge to ignored": ({"classes": of_pairs(NAMES, VALUES), "merge": {"sea": "ignored"}}, VALUES, [0, 255, 1]),
}  # fmt: skip
KEPT = {"ignore a name": NAMES[1:], "ignore an index": NAMES[1:], "merge to ignored": ["sky", "sand"]}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_classes_json(tmp_path, form):
    content, stored, expected = FORMS[form]
    nested(tmp_path, values=stored)
    (tmp_path / "classes.json").write_text(json.dumps(content))
    train = Folder(split="train", root=str(tmp_path))
    assert train.problems == []
    assert train.classes == KEPT.get(form, NAMES[: max(index for index in expected if index != 255) + 1])
    assert (train.read(0).mask == np.array(expected, np.uint8)[STEPS]).all()
    assert report(tmp_path).classes == train.classes


FILES = {
    "labelmap.txt": ("# label:color_rgb:parts:actions\nsky:0,0,0::\nsea:9,0,0::\nsand:0,9,0:part:act\n", COLOURS),
    "class_dict.csv": ("name,r,g,b\nsky,0,0,0\nsea,9,0,0\nsand,0,9,0\n", COLOURS),
    "classes.csv": ("Class;Red;Green;Blue\nsky;0;0;0\nsea;9;0;0\nsand;0;9;0\n", COLOURS),
    "_classes.csv": ("Pixel Value, Class\n3, sky\n128, sea\n7, sand\n", VALUES),
}


@pytest.mark.parametrize("file", FILES)
def test_a_list_of_another_tool(tmp_path, file):
    text, stored = FILES[file]
    nested(tmp_path, values=stored)
    (tmp_path / file).write_text("\ufeff" + text.replace("\n", "\r\n"))
    train = Folder(split="train", root=str(tmp_path))
    assert (train.problems, train.classes) == ([], NAMES)
    assert (train.read(0).mask == STEPS).all()
    assert f"the classes are those of {tmp_path / file}." in train.notes
    (tmp_path / "classes.json").write_text(json.dumps({**dict(zip("abc", stored, strict=True))}))
    both = Folder(split="train", root=str(tmp_path))
    assert both.classes == ["a", "b", "c"]
    assert any(f"{file} is not read" in note for note in both.notes)


@pytest.mark.parametrize("text", ["sky,0,0,0\nsea,9,0,0\n", "0,sky\n1,sea\n", "sky,0\nsea,1\n", "sky\nsea\n"])
def test_a_csv_file_without_a_line_of_words(tmp_path, text):
    (tmp_path / "classes.csv").write_text(text)
    assert read_classes(tmp_path / "classes.csv").names == ["sky", "sea"]


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("classes.json", '{"classes": ["a", "b"], "colours": [[1, 2, 3]]}', "2 classes, but the colours are"),
        ("classes.json", '{"classes": ["a", "b"], "colours": [[1, 2], [3, 4]]}', "a is [1, 2]"),
        ("classes.json", '{"classes": ["a", "b"], "ignore": "c"}', "ignore is c"),
        ("classes.json", '{"classes": ["a", "b"], "ignore": -1}', "ignore is -1"),
        ("classes.json", '{"classes": ["a", "b"], "merge": ["a"]}', "merge is"),
        ("classes.json", '{"classes": ["a", "b"], "merge": {"a": 3}}', "merge is"),
        ("classes.json", '[{"name": "a"}, {"id": 3}]', "is"),
        ("classes.json", '[{"name": "a", "id": 0}, {"name": "a", "id": 1}]', "a occurs twice"),
        ("classes.json", '[{"name": "a", "id": 0}, {"name": "b"}]', "b is None"),
        ("classes.json", '[["a", 1], ["b", 2]]', "allowed is a list of names"),
        ("classes.json", '{"a": "#12"}', "a is #12"),
        ("classes.json", "[" * 5000, "cannot be read as JSON"),
        ("class_dict.csv", "", "it is empty"),
        ("class_dict.csv", "name,r,g,b\nsky,0,0\n", "has 3 cells"),
        ("class_dict.csv", "name,r,g,b\nsky,0,0,x\n", "cannot be read as a list of classes"),
        ("class_dict.csv", "name,r,g,b\nsky,0,0,300\n", "sky is [0, 0, 300]"),
        ("labelmap.txt", "sky\n", "no line name:r,g,b"),
        ("labelmap.txt", "sky:red::\n", "sky is red"),
    ],
)
def test_a_list_that_is_wrong_is_refused_in_a_sentence(tmp_path, file, text, says):
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError) as error:
        read_classes(tmp_path / file)
    assert says in str(error.value)
    assert file in str(error.value)
    assert "\n" not in str(error.value)


def test_a_merge_in_the_option_adds_to_that_of_the_file(tmp_path):
    nested(tmp_path, values=INDICES)
    (tmp_path / "classes.json").write_text(json.dumps({"classes": NAMES, "merge": {"sand": "land", "sea": "water"}}))
    train = Folder(split="train", root=str(tmp_path), merge={"sea": "land"})
    assert train.classes == ["sky", "land"]
    save(tmp_path / "train" / "masks" / "train0_0.png", np.full(SIZE, 5, np.uint8))
    (problem,) = Folder(split="train", root=str(tmp_path), merge={"sea": "land"}).problems
    assert "value 5" in problem
