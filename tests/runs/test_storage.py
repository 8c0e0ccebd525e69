"""Files are written whole or not at all."""

import json
import math

import pytest
import torch

from segpipe.runs.storage import write_json, write_text

# files are written whole or not at all


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"status": "running", "value": math.nan})
    with pytest.raises(TypeError):
        write_json(path, {"status": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half of it \ud800")
    assert json.loads(path.read_text()) == {"status": "running", "value": None}
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


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
