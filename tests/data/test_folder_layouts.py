"""data=folder: every layout is read to the same pixels."""

import base64
import io
import json
import re
import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import PIL.Image
import pytest
from support import commands, layouts
from support.configs import configure
from support.folders import report, save, splits
from support.layouts import CLASSES, LAYOUTS, SIZE, SPLITS, samples, write_files

from segpipe.config.plan import Plan
from segpipe.data.folder import Folder, drawing
from segpipe.data.folder.annotations import read_labelme
from segpipe.errors import UserError
from segpipe.runs.run import quote_template


def check_same(parts, *, classes=CLASSES):
    """The three splits have the images and masks of ``samples``."""
    for split, dataset in zip(SPLITS, parts, strict=True):
        assert dataset.problems == []
        assert dataset.classes == classes or dataset.classes == ["class0", "class1", "class2"]
        expected = list(samples(split))
        assert len(dataset) == len(expected)
        for index, (_, image, mask) in enumerate(expected):
            sample = dataset.read(index)
            assert (sample.image == image).all()
            assert (sample.mask == mask).all()
            assert dataset.size(index) == SIZE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read_to_the_same_pixels(tmp_path, layout):
    options = LAYOUTS[layout](tmp_path)
    parts = splits(root=str(tmp_path), **options)
    check_same(parts)
    named = parts[0].classes == CLASSES
    assert parts[0].notes or named  # what was guessed is said
    assert len({part.fingerprint() for part in parts}) == 3


def test_nnunet(tmp_path):
    parts = splits(root=str(tmp_path), **layouts.nnunet(tmp_path))
    assert [len(part) for part in parts[2:]] == [2]
    assert len(parts[0]) + len(parts[1]) == 6
    assert parts[0].classes == CLASSES
    expected = {name: (image, mask) for split in SPLITS for name, image, mask in samples(split)}
    for part in parts:
        assert part.problems == []
        for index, name in enumerate(part.names):
            assert all((one == other).all() for one, other in zip(part.read(index), expected[name], strict=True))


def test_channels_of_nnunet_are_bands(tmp_path):
    write_files(tmp_path, "imagesTr/{name}_0000.png", "labelsTr/{name}.png")
    for path in sorted((tmp_path / "imagesTr").iterdir()):
        gray = np.asarray(PIL.Image.open(path))
        for channel in range(3):
            save(path.with_name(path.name.replace("0000", f"000{channel}")), np.ascontiguousarray(gray[..., channel]))
    parts = splits(root=str(tmp_path), fractions=[0.4, 0.3, 0.3])
    expected = {name: image for split in SPLITS for name, image, _ in samples(split)}
    part = next(part for part in parts if len(part))
    assert (part.read(0).image == expected[part.names[0]]).all()
    before = [dataset.fingerprint() for dataset in parts]
    save(tmp_path / "imagesTr" / f"{part.names[0]}_0002.png", np.zeros(SIZE, np.uint8))
    assert [dataset.fingerprint() for dataset in splits(root=str(tmp_path), fractions=[0.4, 0.3, 0.3])] != before
    (tmp_path / "imagesTr" / f"{part.names[0]}_0002.png").unlink()
    problems = splits(root=str(tmp_path), fractions=[0.4, 0.3, 0.3])[0].problems
    assert "has the channels [0, 1], others have [0, 1, 2]" in problems[0]


def write_channels(root, second, suffix):
    """nnU-Net's layout with two channels; ``second`` is the array of the second one."""
    write_files(root, "imagesTr/{name}_0000.png", "labelsTr/{name}.png")
    for path in sorted((root / "imagesTr").iterdir()):
        other = path.with_name(path.name.replace("0000.png", f"0001{suffix}"))
        save(other, second) if suffix == ".png" else np.save(other, second)


@pytest.mark.parametrize(
    ("second", "suffix", "options", "says"),
    [
        (np.zeros((SIZE[0] - 1, SIZE[1]), np.uint8), ".png", {}, "15 x 20 pixels, but .*_0000.png has 16 x 20"),
        (np.zeros((*SIZE, 16), np.uint8), ".npy", {}, "_0001.npy: an array of the shape .*data.dataset.axes=HWC"),
        (np.zeros((*SIZE, 20), np.uint8), ".npy", {"axes": "HWC"}, None),
        (np.zeros((20, *SIZE), np.float32), ".npy", {"axes": "CHW"}, None),
    ],
)
def test_channels_of_nnunet_that_do_not_fit_together_are_problems(tmp_path, second, suffix, options, says):
    write_channels(tmp_path, second, suffix)
    for part in splits(root=str(tmp_path), fractions=[0.4, 0.3, 0.3], **options):
        if says is None:
            assert part.problems == []
            assert part.form.channels == 23
            assert part.read_window(0, slice(2, 5), slice(3, 7)).image.shape == (3, 4, 23)
        else:
            assert all(re.search(says, problem) for problem in part.problems)
            with pytest.raises(UserError, match=says):
                part.read_window(0, slice(2, 5), slice(3, 7))


def test_two_channels_of_nnunet_are_two_bands(tmp_path):
    """One has 16 bits, so the image has the numbers of both."""
    write_files(tmp_path, "imagesTr/{name}_0000.png", "labelsTr/{name}.png")
    expected = {}
    for path in sorted((tmp_path / "imagesTr").iterdir()):
        first = np.ascontiguousarray(np.asarray(PIL.Image.open(path))[..., 0])
        save(path, first)
        second = 257 * first.astype(np.uint16)
        assert cv2.imwrite(str(path.with_name(path.name.replace("0000", "0001"))), second)
        expected[path.stem.removesuffix("_0000")] = np.dstack([first, second])
    for part in splits(root=str(tmp_path), fractions=[0.4, 0.3, 0.3]):
        assert part.problems == []
        assert part.form.channels == 2
        for index, name in enumerate(part.names):
            assert (part.read(index).image == expected[name]).all()
            window = part.read_window(index, slice(2, 7), slice(3, 5))
            assert (window.image == expected[name][2:7, 3:5]).all()


# what is wrong


def coco_with(**changes):
    """A COCO layout in which something is changed: a key of all annotations, images or of the file."""

    def write(root):
        layouts.coco("{split}.json", "images/{name}.png")(root)
        content = json.loads((root / "train.json").read_text())
        for key, value in changes.items():
            place, _, name = key.partition("_of_")
            for entry in content[name] if name else [content]:
                entry[place] = value
        (root / "train.json").write_text(json.dumps(content))
        return {}

    return write


def labelme_with(**changes):
    def write(root):
        layouts.labelme("{split}/{name}.json", "{split}/{name}.png")(root)
        path = root / "train" / "train_0.json"
        content = json.loads(path.read_text())
        content["shapes"][0] |= changes
        path.write_text(json.dumps(content))
        return {}

    return write


def with_line(line):
    def write(root):
        layouts.lists("a/{name}.png b/{name}.png", "a/{name}.png", "b/{name}.png", ".")(root)
        (root / "train.txt").write_text(line)
        return {}

    return write


def link_out(root):
    outside = root.parent / "outside.png"
    save(outside, np.zeros((*SIZE, 3), np.uint8))
    with_line("a/link.png b/train_0.png")(root)
    (root / "a" / "link.png").symlink_to(outside)
    return {}


def volumes(root):
    for name in ("imagesTr/case_0000.nii.gz", "labelsTr/case.nii.gz"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    return {}


def options(**given):
    def write(root):
        write_files(root, "{split}/a/{name}.png", "{split}/b/{name}.png")
        return given

    return write


FAR_POLYGON = [[0, 0] + [1, 1e9] * 10]
WRONG = {
    "coco: no list": (coco_with(categories=3), ["train.json: no COCO file"]),
    "coco: absolute": (coco_with(file_name_of_images="/etc/x.png"), ["'/etc/x.png' is not a path below"]),
    "coco: parent": (coco_with(file_name_of_images="../x.png"), ["'../x.png' is not a path below", "without '..'"]),
    "coco: missing": (coco_with(file_name_of_images="x.png"), ["lists x.png", "data.dataset.images=FOLDER"]),
    "coco: drive": (coco_with(file_name_of_images="C:\\x.png"), ["is not a path below"]),
    "coco: category": (coco_with(category_id_of_annotations=99), ["the category 99, which is not listed"]),
    "coco: image": (coco_with(image_id_of_annotations=99), ["the image 99, which is not listed"]),
    "coco: boxes": (coco_with(segmentation_of_annotations=[]), ["have no segmentation (boxes only)"]),
    "coco: coordinate": (coco_with(segmentation_of_annotations=FAR_POLYGON), ["coordinate", "annotation 1"]),
    "coco: odd": (coco_with(segmentation_of_annotations=[[1, 2, 3]]), ["list of x and y"]),
    "coco: two points": (coco_with(segmentation_of_annotations=[[1, 2, 3, 4]]), ["at least three"]),
    "coco: text": (coco_with(segmentation_of_annotations=[["a"] * 6]), ["list of x and y"]),
    "coco: sum": (coco_with(segmentation_of_annotations={"size": [16, 20], "counts": [5]}), ["5 pixels for 16 x 20"]),
    "coco: size": (coco_with(segmentation_of_annotations={"size": "x", "counts": [5]}), ["[height, width]"]),
    "coco: counts": (coco_with(segmentation_of_annotations={"size": [1, 1], "counts": "\x7f"}), ["compressed"]),
    "coco: huge": (coco_with(height_of_images=10**9), ["no valid file_name, height and width"]),
    "coco: entry": (coco_with(annotations=[3]), ["another kind than COCO's"]),
    "list: absolute": (with_line("/a/x.png /b/x.png"), ["'/a/x.png' is not a path below", "relative"]),
    "list: parent": (with_line("a/../../x.png b/x.png"), ["is not a path below"]),
    "list: link": (link_out, ["a link that leads out"]),
    "list: classification": (with_line("train_0 -1"), ["says whether an image contains a class"]),
    "list: empty": (with_line("\n"), ["an empty list"]),
    "list: names": (with_line("nothing"), ["lists nothing, but no two folders near it"]),
    "nnU-Net: volumes": (volumes, ["1 volumes", "nibabel"][1:]),
    "template: place": (options(images="{set}/a/*", masks="b/{name}"), ["{set} is not known", "{split}"]),
    "template: brace": (options(images="{split/a/*", masks="b/{name}"), ["brace"]),
    "template: parent": (options(images="../*/*", masks="{split}/b/{name}"), ["leaves data.root"]),
    "template: nothing": (
        options(images="{split}/a/*.tif", masks="{split}/b/{name}"),
        ["data.dataset.images={split}/a/*.tif: no file matches", "train/a/ (4 .png)"],
    ),
    "template: folder": (options(images="c/*.png", masks="{split}/b/{name}"), ["no such folder", "In", "train"]),
    "template: names": (
        options(images="{split}/a/*.png", masks="{split}/b/{name}?.png"),
        ["none of 8 files has the name of an image", "the images as"],
    ),
    "template: one": (options(images="{split}/a/*"), ["belong together"]),
    "lists: nothing": (options(lists="x/{split}.txt"), ["data.dataset.lists=x/{split}.txt"]),
    "lists: no file": (options(lists="{split}.txt"), ["no file matches"]),
    "seen": (options(), ["train/a/ (4 .png)", "data.dataset.images='{split}/a/*.png'", "masks='{split}/b/{name}.png'"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, case):
    write, says = WRONG[case]
    root = tmp_path / "set"
    root.mkdir()
    given = write(root)
    with pytest.raises(UserError) as error:
        splits(root=str(root), **given)
    assert [word for word in says if word not in str(error.value)] == []
    assert "\n" not in str(error.value)


def broken_labelme(root):
    layouts.labelme("{split}/labels/{name}.json", "{split}/images/{name}.png")(root)
    (root / "train" / "labels" / "train_0.json").write_text("{")


def bad_class(mask):
    def write(root):
        layouts.class_files("{label}/{name}.png")(root)
        save(root / "train" / "masks" / "cell" / "train_0.png", mask.astype(np.uint8))

    return write


PROBLEMS = {
    "labelme: kind": (labelme_with(shape_type="linestrip"), ["linestrip", "no area", "polygon, rectangle"]),
    "labelme: label": (labelme_with(label=""), ["shape 0 has the label"]),
    "labelme: points": (labelme_with(points=3), ["shape 0"]),
    "labelme: far": (labelme_with(points=[[0, 0], [1, 1], [1e300, 0]]), ["coordinate"]),
    "labelme: circle": (labelme_with(shape_type="circle", points=[[0, 0]]), ["it has two"]),
    "labelme: mask": (labelme_with(shape_type="mask", points=[[0, 0], [1, 1]], mask="AAAA"), ["not a gray PNG"]),
    "labelme: no JSON": (broken_labelme, ["train_0.json: cannot be read as JSON"]),
    "list: missing image": (with_line("a/train_0.png b/train_0.png\na/x.png b/x.png"), ["lists a/x.png, but"]),
    "list: missing mask": (with_line("a/train_0.png b/train_0.png\na/train_1.png b/x.png"), ["lists b/x.png, but"]),
    "a class: values": (bad_class(np.arange(320).reshape(16, 20)), ["256 different values", "one class (cell)"]),
    "a class: size": (bad_class(np.zeros((3, 3))), ["another size than"]),
    "coco: huge": (
        coco_with(height_of_images=999_999, width_of_images=999_999),
        ["999999 x 999999 pixels are 999998 megapixels"],
    ),
    "coco: other size": (coco_with(height_of_images=15), ["a mask of 15 x 20 for an image of 16 x 20"]),
    "coco: runs of another size": (
        coco_with(segmentation_of_annotations={"size": [2, 2], "counts": [4]}),
        ["run lengths of 2 x 2 for an image of 16 x 20"],
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_files_that_are_wrong_are_problems(tmp_path, case):
    write, says = PROBLEMS[case]
    write(tmp_path)
    problems = report(tmp_path).problems
    assert any(all(word in problem for word in says) for problem in problems), problems


@pytest.mark.parametrize("points", [[[0, number % 2 * 9000] for number in range(2000)], [[0, 0], [9, 9]] * 600_000])
def test_polygons_that_would_take_long_are_refused(points):
    with pytest.raises(ValueError, match="a polygon"):
        drawing.Polygons([drawing.polygon(points, "x")]).patch(10_000, 10_000)


def test_regions_that_cover_an_image_too_often_are_refused(tmp_path):
    coco_with()(tmp_path)
    content = json.loads((tmp_path / "train.json").read_text())
    whole = {"image_id": 0, "category_id": 10, "segmentation": [[0, 0, 20, 0, 20, 16, 0, 16]]}
    content["annotations"] += [whole] * 1001
    (tmp_path / "train.json").write_text(json.dumps(content))
    assert any("more than 1000 times" in problem for problem in splits(root=str(tmp_path))[0].problems)


@pytest.mark.parametrize("kind", ["mask", "rectangle"])
def test_one_region_of_an_annotation_file_is_in_memory_at_a_time(tmp_path, kind):
    """A short file may have many regions of many pixels, whatever the size of its image is."""
    side, number = 2000, 40
    whole = io.BytesIO()
    PIL.Image.fromarray(np.ones((side, side), np.uint8)).save(whole, "PNG")
    shape = {"label": "cell", "shape_type": kind, "points": [[0, 0], [side, side]]}
    shape |= {"mask": base64.b64encode(whole.getvalue()).decode()} if kind == "mask" else {}
    content = {"imageHeight": side, "imageWidth": side, "shapes": [shape] * number}
    (tmp_path / "a.json").write_text(json.dumps(content))
    tracemalloc.start()
    drawn = replace(read_labelme(tmp_path / "a.json", None), codes={"background": 0, "cell": 1}).decode()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (drawn.values == 1).all()
    assert peak < number * side * side * 0.75


@pytest.mark.parametrize("layout", ["voc", "lists given", "coco", "coco given", "coco given, alone"])
def test_a_changed_image_is_read_again(tmp_path, layout):
    """All splits of a process share the files' summaries, until a file changes."""
    options = LAYOUTS[layout](tmp_path)
    if layout == "voc":
        options = {"lists": "ImageSets/Segmentation/{split}.txt"}
    assert splits(root=str(tmp_path), **options)[0].problems == []
    (image,) = [path for path in tmp_path.rglob("train_1.png") if np.asarray(PIL.Image.open(path)).ndim == 3]
    save(image, np.zeros((9, 9, 3), np.uint8))
    assert "for an image of 9 x 9" in splits(root=str(tmp_path), **options)[0].problems[0]


def test_an_annotation_file_has_a_limit(tmp_path, monkeypatch):
    coco_with()(tmp_path)
    monkeypatch.setenv("SEGPIPE_MAX_JSON", "0.0001")
    with pytest.raises(UserError, match=r"MB of JSON; allowed are 0.0001.*SEGPIPE_MAX_JSON"):
        splits(root=str(tmp_path))


# what is guessed is said


def test_overlaps_crowds_and_images_without_annotations_are_said(tmp_path):
    layouts.coco("{split}.json", "images/{name}.png")(tmp_path)
    content = json.loads((tmp_path / "train.json").read_text())
    whole = {"segmentation": [[0, 0, 20, 0, 20, 16, 0, 16]], "id": 99, "image_id": 0, "category_id": 10, "iscrowd": 1}
    content["annotations"] = [whole, *(one for one in content["annotations"] if one["image_id"] < 3)]
    (tmp_path / "train.json").write_text(json.dumps(content))
    train = splits(root=str(tmp_path))[0]
    notes = "\n".join(train.notes)
    assert "1 regions are marked iscrowd" in notes
    assert "1 of 4 images have no annotation" in notes
    assert "categories without annotations are left out: unused" in notes
    assert "overlap in 1 masks" in notes
    expected = next(samples("train"))[2]
    assert (train.read(0).mask == np.where(expected == 2, 2, 1)).all()  # the later one counts


def test_images_that_are_not_listed_are_said(tmp_path):
    layouts.coco("{split}.json", "images/{name}.png")(tmp_path)
    save(tmp_path / "images" / "more.png", np.zeros((*SIZE, 3), np.uint8))
    assert any("1 images are not listed and not read" in note for note in splits(root=str(tmp_path))[0].notes)


def test_images_without_masks_are_left_out_on_request(tmp_path):
    write_files(tmp_path, "{split}/images/{name}.png", "{split}/masks/{name}.png")
    (tmp_path / "train" / "masks" / "train_0.png").unlink()
    (problem,) = splits(root=str(tmp_path))[0].problems
    assert "no mask of this name" in problem
    assert "data.dataset.unlabelled=skip" in problem
    train = splits(root=str(tmp_path), unlabelled="skip")[0]
    assert train.problems == []
    assert train.names == ["train_1", "train_2", "train_3"]
    assert any("1 images without a mask are left out (train_0.png)" in note for note in train.notes)


def test_lists_beside_folders_are_said_and_read_on_request(tmp_path):
    write_files(tmp_path, "images/{name}.png", "masks/{name}.png")
    layouts.lists("{name}", "x/{split}{name}.png", "", ".")(tmp_path)
    parts = splits(root=str(tmp_path), fractions=[0.4, 0.3, 0.3])
    assert any("data.dataset.lists='{split}.txt'" in note for note in parts[0].notes)
    check_same(splits(root=str(tmp_path), lists="{split}.txt", images="images", masks="masks"))


def test_two_coco_files_of_one_split_are_refused_with_the_option(tmp_path):
    layouts.coco("annotations/{split}.json", "images/{name}.png")(tmp_path)
    (tmp_path / "annotations" / "train_2.json").write_text(json.dumps(layouts.coco_content("train")))
    with pytest.raises(UserError, match=r"two COCO files for train.*data.dataset.masks='annotations/train_2.json'"):
        splits(root=str(tmp_path))


# numbers of objects


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_numbers_of_objects_are_foreground_on_request(tmp_path, kind):
    write_files(tmp_path, "{split}/images/{name}.png", "")
    for split in SPLITS:
        for name, _, mask in samples(split):
            numbers = np.where(mask == 2, 40_000 if kind != np.uint8 else 200, mask.astype(kind) * 7).astype(kind)
            save(tmp_path / split / "masks" / f"{name}.{'tif' if kind == np.int32 else 'png'}", numbers)
    parts = splits(root=str(tmp_path), instances="foreground")
    for split, part in zip(SPLITS, parts, strict=True):
        assert part.problems == []
        assert part.classes == ["background", "foreground"]
        for index, (_, _, mask) in enumerate(samples(split)):
            assert (part.read(index).mask == (mask > 0)).all()
    assert Folder(split="train", root=str(tmp_path), instances="foreground", classes=["cell"]).classes[1] == "cell"


def test_class_times_1000_plus_number(tmp_path):
    write_files(tmp_path, "{split}/images/{name}.png", "")
    for split in SPLITS:
        for name, _, mask in samples(split):
            numbers = np.where(mask > 0, mask.astype(np.uint16) * 1000 + 12, 0).astype(np.uint16)
            save(tmp_path / split / "masks" / f"{name}.png", numbers)
    check_same(splits(root=str(tmp_path), instances="thousands"))


def test_instances_of_named_labels_are_refused(tmp_path):
    LAYOUTS["coco"](tmp_path)
    assert any("merge" in problem for problem in splits(root=str(tmp_path), instances="foreground")[0].problems)


# classes of annotations


def test_classes_order_the_names_of_annotations(tmp_path):
    LAYOUTS["coco"](tmp_path)
    train = splits(root=str(tmp_path), classes=["debris", "cell"])[0]
    assert train.classes == ["background", "debris", "cell"]
    assert (train.read(0).mask == np.array([0, 2, 1])[next(samples("train"))[2]]).all()
    (problem,) = splits(root=str(tmp_path), classes=["debris"])[0].problems
    assert "the class cell is not among the given classes" in problem


@pytest.mark.parametrize("layout", ["coco", "x_mask", "folder for each class", "camvid of kaggle"])
@pytest.mark.parametrize(
    ("merge", "classes", "table"),
    [
        ({1: "object", 2: "object"}, [0, "object"], [0, 1, 1]),
        ({1: 0}, [0, 2], [0, 0, 1]),
        ({2: "ignored"}, [0, 1], [0, 1, 255]),
        ({0: "ignored"}, [1, 2], [255, 0, 1]),
        ({1: "nucleus"}, [0, "nucleus", 2], [0, 1, 2]),
        ({2: 2, "*": "other"}, ["other", 2], [0, 0, 1]),
    ],
)
def test_merge_makes_classes_one_renames_and_leaves_out(tmp_path, layout, merge, classes, table):
    LAYOUTS[layout](tmp_path)
    plain = Folder(split="train", root=str(tmp_path))
    name_of = dict(enumerate(plain.classes))
    given = {name_of.get(old, old): name_of.get(new, new) for old, new in merge.items()}
    train = Folder(split="train", root=str(tmp_path), merge=given)
    assert train.problems == []
    assert train.classes == [name_of.get(entry, entry) for entry in classes]
    assert (train.read(0).mask == np.array(table)[next(samples("train"))[2]]).all()
    assert any("Classes by merge" in note for note in train.notes)
    assert train.fingerprint() != plain.fingerprint()
    assert train.class_pixels().sum() == sum((train.read(index).mask != 255).sum() for index in range(len(train)))


@pytest.mark.parametrize(
    ("merge", "says"),
    [
        ({"cel": "x"}, "there is no class cel.*Did you mean 'cell'"),
        ({"*": "x"}, "leaves x of background, cell, debris"),
    ],
)
def test_a_merge_that_is_wrong_is_refused(tmp_path, merge, says):
    LAYOUTS["coco"](tmp_path)
    (problem,) = splits(root=str(tmp_path), merge=merge)[0].problems
    assert re.search(says, problem)


# a training


@pytest.mark.parametrize("layout", ["template: tif", "lists given", "coco"])
def test_a_training_on_it(tmp_path, layout, monkeypatch):
    from segpipe.engine.evaluation import evaluate
    from segpipe.train import train

    given = LAYOUTS[layout](tmp_path / "set")
    options = [f"data.dataset.{key}='{value}'" for key, value in given.items()]
    overrides = ["data=folder", f"data.root={tmp_path / 'set'}", *options, "debug=fast", "logger=none", "trainer=cpu"]
    small = [
        "data.size=[32,32]",
        "data.crop=[32,32]",
        "data.batch_size=2",
        "data.eval_batch_size=1",
        "+trainer.enable_progress_bar=false",
    ]
    metrics = train(configure(*overrides, *small, f"run_dir={tmp_path / 'run'}"))
    assert len(metrics["test"]["per_class_iou"]) == 3
    monkeypatch.chdir(tmp_path)  # the data are found without being named, from any folder
    again = evaluate(tmp_path / "run", overrides=[], split="test", out=tmp_path / "out")
    assert again["miou"] == metrics["test"]["miou"]


# the command line, and identities


def test_templates_are_typed_as_in_the_documentation(tmp_path):
    LAYOUTS["template: tif"](tmp_path / "set")
    options = ["data.dataset.images={split}/img/*.tif", "+data.dataset.masks='{split}/lab/{name}_L.png'"]
    assert quote_template(options[0]) == "data.dataset.images='{split}/img/*.tif'"
    for word in (options[1], "data.dataset.images=photos", "data.root={x}", "--dry-run", "decoder=nearest,bilinear"):
        assert quote_template(word) == word
    words = ["-m", "segpipe.check_data", "data=folder", f"data.root={tmp_path / 'set'}", options[0], options[1][1:]]
    done = commands.python(words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "No problems found" in done.stdout


def test_the_plain_layout_keeps_its_fingerprint_and_the_options_change_identities(tmp_path):
    for split in SPLITS:
        for number in range(3):
            mask = (np.arange(40 * 48).reshape(40, 48) % 3).astype(np.uint8)
            save(tmp_path / split / "images" / f"{split}{number}.bmp", np.full((40, 48, 3), 40 * number + 9, np.uint8))
            save(tmp_path / split / "masks" / f"{split}{number}.bmp", mask)
    marks = [part.fingerprint() for part in splits(root=str(tmp_path))]
    assert marks == ["3354eb45721c9e8d", "4b237da43a314dd8", "1d6e537138b8646e"]  # before there were other layouts
    others = ["data.dataset.merge={class1:class2}", "data.dataset.instances=thousands", "data.dataset.unlabelled=skip"]
    given = ["data=folder", f"data.root={tmp_path}"]
    identities = [Plan.of(configure(*given, *other)).identity for other in ([], *([option] for option in others))]
    assert len(set(identities)) == 4
    templates = ["data.dataset.images='{split}/images/*.bmp'", "data.dataset.masks='{split}/masks/{name}.bmp'"]
    assert Plan.of(configure(*given, *templates)).identity == identities[0]
