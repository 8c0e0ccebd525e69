"""data=folder: what is wrong with files, and what is remembered of them."""

import os
import shutil

import numpy as np
import PIL.Image
import pytest
from omegaconf import OmegaConf
from support.camvid import write_camvid
from support.configs import configure
from support.folders import RNG, SIZE, STEPS, nested, report, save, splits, write

from segpipe import check_data
from segpipe.config import build
from segpipe.config.messages import explain
from segpipe.data.folder import Folder, folder, survey
from segpipe.engine.resume import resume_config
from segpipe.errors import UserError


def in_another_process():
    survey.seen.clear()
    folder._cache.clear()


# what is wrong


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        (([9, 0, 0], [0, 9, 0], [0, 0, 0]), ["in colours", "classes.json", '"class2": [9, 0, 0]']),
        ((0, 3, 7), ["values 0, 3, 7", "classes.json", '{"class0": 0, "class3": 3, "class7": 7}']),
        ((5,), ["contain value 5"]),
        ((0,), ["contain only 0", "at least two classes are needed"]),
        ((255,), ["255", "at least two classes are needed"]),
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
    assert "8 masks contain 0 and 255, 4 contain 0 and 1" in problem


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
        "train1_5.png": "no image of this name",
        "train1_7.png": "cannot be read",
        "train0_8.png": "cannot be read",
        "train1_9.png": "value 7",
        "train0_10": "the same name",
        "val0_0": "also in train",
    }


def test_check_data_lists_every_file_that_is_wrong_and_training_refuses(tmp_path):
    nested(tmp_path, count=30)
    expected = spoil(tmp_path)
    found = report(tmp_path)
    for name, says in expected.items():
        assert len([problem for problem in found.problems if name in problem and says in problem]) == 1, name
    assert len(found.problems) == len(expected)
    assert any("only background" in note and "val/val0_2" in note for note in found.notes)
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
    assert len([problem for problem in found if "a broken link" in problem or "a folder, not a file" in problem]) == 3
    for path in (tmp_path / "val" / "masks").iterdir():
        path.unlink()
        path.symlink_to(tmp_path / "gone.png")
    assert len([problem for problem in report(tmp_path).problems if "val/masks/" in problem]) == 4


def test_masks_that_are_named_otherwise_are_one_problem(tmp_path):
    write(tmp_path / "images", tmp_path / "masks", ending="_xyz")
    found = report(tmp_path)
    assert len(found.problems) == 1
    assert "none of its 4 masks has the name of an image" in found.problems[0]


def test_a_picture_that_cannot_be_read_is_a_line_from_a_worker_too(tmp_path):
    nested(tmp_path)
    path = tmp_path / "val" / "images" / "val0_0.png"
    path.write_bytes(path.read_bytes()[:200])  # a whole header
    data = build.data(configure("data=folder", f"data.root={tmp_path}", "data.cache=off", "data.workers=1"))
    with pytest.raises(UserError) as error:
        list(data.val_dataloader())
    said = explain(error.value)
    assert said.startswith(str(tmp_path))
    assert len(said.splitlines()) == 1


def test_nearly_black_pictures_are_noted(tmp_path):
    nested(tmp_path)
    save(tmp_path / "val" / "images" / "val0_0.png", np.full(SIZE, 15, np.uint8))
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
    save(tmp_path / "train" / "masks" / "train0_0.png", np.full((20, 24), 255, np.uint8))
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
    for kept in (tmp_path / "cache").iterdir():
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


# which files are found


def test_linked_folders_are_searched_and_loops_refused(tmp_path):
    nested(tmp_path / "set")
    write(tmp_path / "more" / "images", tmp_path / "more" / "masks", first="more")
    for kind in ("images", "masks"):
        (tmp_path / "set" / "train" / kind / "linked").symlink_to(tmp_path / "more" / kind)
    found = splits(root=str(tmp_path / "set"))
    assert len(found[0]) == 8
    assert found[0].problems == []
    assert "linked/more0_0" in found[0].names
    before = folder.folder_digest([tmp_path / "set"])
    save(tmp_path / "more" / "images" / "more0_0.png", np.zeros(SIZE, np.uint8))
    assert folder.folder_digest([tmp_path / "set"]) != before
    (tmp_path / "more" / "images" / "again").symlink_to(tmp_path / "set" / "train" / "images")
    (problem,) = splits(root=str(tmp_path / "set"))[0].problems
    assert "linked/again: the same folder as" in problem


def test_a_folder_that_cannot_be_listed_is_a_problem(tmp_path, monkeypatch):
    nested(tmp_path)
    closed = tmp_path / "train" / "images" / "closed"
    closed.mkdir()
    scan = os.scandir

    def refuse(path):
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (problem,) = splits(root=str(tmp_path))[0].problems
    assert f"{closed}: the folder cannot be listed (Permission denied)" in problem


def add_strays(root):
    for below in [path for path in root.rglob("*") if path.is_dir()]:
        for name in ("._x.png", ".DS_Store", "Thumbs.db"):
            (below / name).write_bytes(b"no picture")
        for name in ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN"):
            (below / name).mkdir()
            (below / name / "y.png").write_bytes(b"no picture")


def test_stray_files_are_left_out(tmp_path):
    nested(tmp_path)
    add_strays(tmp_path)
    assert [len(dataset) for dataset in splits(root=str(tmp_path))] == [4, 4, 4]
    assert report(tmp_path).problems == []


@pytest.mark.parametrize("place", ["photos", "truth", "both"])
def test_classes_json_beside_the_files_themselves_is_read(tmp_path, place):
    images, masks = (tmp_path / "both",) * 2 if place == "both" else (tmp_path / "photos", tmp_path / "truth")
    write(images, masks, count=30, values=(0, 1, 2), ending="_mask")
    (tmp_path / place / "classes.json").write_text('["sky", "sea", "sand"]')
    found = splits(images=str(images), masks=str(masks))
    assert found[0].classes == ["sky", "sea", "sand"]
    (tmp_path / "classes.json").write_text('["a", "b", "c"]')
    again = splits(images=str(images), masks=str(masks))
    assert again[0].classes == ["a", "b", "c"]
    assert any(f"{tmp_path / place / 'classes.json'} is not read" in note for note in again[0].notes)


# what the masks of all splits say


def test_numbers_of_objects_are_no_classes(tmp_path):
    nested(tmp_path)
    for number, path in enumerate(sorted(tmp_path.rglob("masks/*.png"))):
        save(path, (np.arange(20 * 24).reshape(SIZE) % (5 + number)).astype(np.uint8))
    (problem,) = report(tmp_path).problems
    assert "numbers of objects" in problem
    assert "n up to 15" in problem
    named = report(tmp_path, f"data.dataset.classes=[{','.join(f'c{n}' for n in range(16))}]").problems
    assert not any("numbers of objects" in problem for problem in named)


def notes_of_a_training(root):
    return build.data(configure("data=folder", f"data.root={root}")).notes()


def test_a_training_says_what_the_check_finds_in_the_masks(tmp_path):
    nested(tmp_path, values=(0, 1, 2))
    assert any('{"ignored": 0, "class1": 1, "class2": 2}' in note for note in notes_of_a_training(tmp_path))
    for path in (tmp_path / "train" / "masks").iterdir():
        save(path, (STEPS % 2).astype(np.uint8))
    for path in (tmp_path / "test" / "masks").iterdir():
        save(path, np.zeros(SIZE, np.uint8))
    for path in list((tmp_path / "test").rglob("*.png")):
        if path.stem != "test0_0":
            path.unlink()
    found, said = report(tmp_path), notes_of_a_training(tmp_path)
    for words in ("class class2: no mask has a pixel of it, but val contains it", "all masks contain only class0"):
        assert any(words in problem for problem in found.problems)
        assert any(words in note for note in said)
    assert any("test has a single image" in note for note in found.notes)
    assert any("test has a single image" in note for note in said)


def test_a_training_on_a_public_data_set_knows_what_check_data_found(tmp_path, cache_folder):
    root = write_camvid(tmp_path / "camvid")
    for path in (root / "testannot").iterdir():
        save(path, np.zeros((40, 48), np.uint8))
    cfg = configure("data=camvid", f"data.root={root}")
    words = "test: all masks contain only sky"
    assert not any(words in note for note in build.data(cfg).notes())
    assert any(words in problem for problem in check_data.check_data(cfg).problems)
    assert any(words in note for note in build.data(cfg).notes())
