"""A relative data.root is found again from any folder; the one in a run's files is never used."""

import shutil

import pytest
from support.configs import TINY, configure
from support.folders import nested

from segpipe.config import data_folders
from segpipe.data import cache
from segpipe.engine.evaluation import evaluate
from segpipe.errors import UserError
from segpipe.runs.run import Run, resume_command
from segpipe.train import train

NETWORK = [choice for choice in TINY if not choice.startswith("data.")]
DATA = ["data=folder", "data.root=photos", "data.size=[32,32]", "data.crop=[32,32]", "data.batch_size=2"]


def test_the_folder_of_a_training_is_found_from_another_one(tmp_path, monkeypatch, cache_folder):
    here, elsewhere = tmp_path / "here", tmp_path / "else where"
    nested(here / "photos", values=(0, 1))
    elsewhere.mkdir()
    monkeypatch.chdir(here)
    train(configure(*NETWORK, *DATA, "trainer.max_epochs=1", "run_dir=run"))
    assert "/" not in Run(here / "run").config.read_text().partition("root: ")[2].partition("\n")[0]
    run = elsewhere / "moved"
    shutil.move(here / "run", run)
    monkeypatch.chdir(elsewhere)
    assert evaluate(run, overrides=[], split="test", device="cpu")["images"] == 4
    cfg = configure(f"resume='{run}'", "logger=none")
    monkeypatch.setattr("segpipe.engine.resume.check_length", lambda run, epochs: None)
    assert train(cfg)["training"]["epochs"] == 1
    for path in cache_folder.glob("data-folders-*"):  # of another user, or a stranger's run
        path.unlink()
    for use in (lambda: evaluate(run, overrides=[], split="test", device="cpu"), lambda: train(cfg)):
        with pytest.raises(UserError, match="give the folder of the data again"):
            use()


def test_a_note_is_used_only_for_the_same_data_that_are_still_there(tmp_path, monkeypatch, cache_folder):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    data_folders.note(configure("data=folder", "data.root=photos"), {"train": "a", "val": "b"})
    noted = dict.fromkeys(("data.root", "data.dataset.root"), str(tmp_path / "photos"))
    assert data_folders.noted({"val": "b", "train": "a"}) == noted
    assert data_folders.noted({"train": "a", "val": "other"}) == {}
    assert data_folders.noted({}) == {}
    (tmp_path / "photos").rmdir()
    assert data_folders.noted({"train": "a", "val": "b"}) == {}
    data_folders.note(configure(), {"train": "drawn"})
    assert len(list(cache_folder.iterdir())) == 1


@pytest.mark.parametrize("content", [[1], {"data.root": 3}, {"trainer": "/"}, {"data.root": ["/"]}, "x"])
def test_a_note_of_another_form_is_not_used(content, cache_folder):
    name = data_folders.name_of({"train": "a"})
    cache.write(name, content if isinstance(content, dict) else {})
    if not isinstance(content, dict):
        (cache_folder / f"{name}.json").write_text(str(content))
    assert data_folders.noted({"train": "a"}) == {}


@pytest.mark.parametrize(("root", "repeated"), [("photos", True), ("'my photos'", True), ("elsewhere", False)])
def test_the_printed_command_repeats_a_folder_only_where_it_exists(root, repeated, tmp_path, monkeypatch):
    for name in ("photos", "my photos", "run"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path / "run")
    run.record = {"overrides": ["data=folder", f"data.root={root}", "logger=none"]}
    said = resume_command(run)
    assert ("data.root" in said) is repeated
    assert "logger=none" in said
