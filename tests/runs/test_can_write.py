"""A place that cannot be written to is refused before the work."""

import os
import sys
from importlib import import_module

import pytest

from segpipe.errors import UserError
from segpipe.runs.storage import check_can_write


def test_a_folder_that_exists_or_can_be_made_is_accepted(tmp_path):
    check_can_write(tmp_path, "--out x")
    check_can_write(tmp_path / "a" / "b", "--out x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "/a/b"])
def test_a_file_is_refused(below, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / f"file{below}", type(tmp_path)(f"file{below}")):
        with pytest.raises(UserError, match=r"--out x: .*file is a file\. Give a folder"):
            check_can_write(folder, "--out x")


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(UserError, match=r"cannot be written\. Change its permissions"):
        check_can_write(tmp_path / "a", "--out x")


@pytest.mark.parametrize(
    ("command", "words"),
    [("predict", ["."]), ("evaluate", []), ("inspect", []), ("report", [])],
)
def test_each_command_refuses_it_before_it_works(command, words, tmp_path, finished_run, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    module = import_module(f"segpipe.{command}")
    monkeypatch.chdir(tmp_path)
    if command == "predict":
        monkeypatch.setattr(module, "find_images", lambda paths, out: ({}, []))
    monkeypatch.setattr(sys, "argv", [command, str(finished_run), *words, "--out", "file"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("segpipe: --out file: ")
