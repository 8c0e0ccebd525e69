"""A place that cannot be written to is refused before the work."""

import errno
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path

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


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EACCES, "Permission denied"), (errno.EROFS, "Read-only file system"), (errno.ENOENT, "it takes no files")],
)
def test_a_folder_that_takes_no_files_is_refused(number, reason, tmp_path, monkeypatch):
    """Root may write to every folder, whatever its permissions are; a read-only place and /proc refuse it too."""

    def refuse(**given):
        raise OSError(number, os.strerror(number), given["dir"])

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(UserError, match=rf"--out x: .* cannot be written \({reason}\)\. Change its permissions"):
        check_can_write(tmp_path / "a", "--out x")


@pytest.mark.skipif(sys.platform != "linux", reason="it has no /proc")
def test_proc_takes_no_files():
    with pytest.raises(UserError, match=r"--out /proc/x: /proc cannot be written \("):
        check_can_write(Path("/proc/x"), "--out /proc/x")


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
