"""Files are written whole or not at all."""

import json
import math

import pytest
import torch

from segpipe.runs.storage import atomic_write, write_json, write_text

# files are written whole or not at all


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"status": "running", "value": math.nan})
    with pytest.raises(TypeError):
        write_json(path, {"status": object()})

    def half(temporary):
        temporary.write_text("half of it")
        raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

    with pytest.raises(UnicodeEncodeError):
        atomic_write(path, half)
    assert json.loads(path.read_text()) == {"status": "running", "value": None}
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_the_name_of_a_file_that_is_no_utf_8_does_not_fail(tmp_path):
    write_json(tmp_path / "x.json", {"name": "a\udcff"})
    assert json.loads((tmp_path / "x.json").read_text()) == {"name": "a\udcff"}


@pytest.mark.parametrize("place", ["", "missing/x.json"])
def test_an_error_names_the_file_and_not_its_temporary_one(place, tmp_path, monkeypatch):
    if place:
        monkeypatch.setattr("pathlib.Path.mkdir", lambda *given, **named: None)
    with pytest.raises(OSError, match="directory") as caught:
        write_text(tmp_path / place, "text")
    assert caught.value.filename == str(tmp_path / place)
    assert isinstance(caught.value, FileNotFoundError if place else IsADirectoryError)


def test_checkpoints_are_written_beside_their_place_and_moved(tmp_path, monkeypatch):
    from segpipe.training.callbacks import AtomicCheckpointIO

    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)

    def half(content, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
