"""Files of a run folder that may come from a stranger: links, pipes, lying headers, weights that are none."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch

from segpipe.errors import UserError
from segpipe.runs import cells, checkpoints
from segpipe.runs.counts import read_arrays, read_confusion, write_confusion
from segpipe.runs.records import Metrics, RunRecord, SweepRecord, read_record
from segpipe.runs.run import LOCK, Run
from segpipe.runs.storage import atomic_write, inside, read_bytes, write_json, write_text
from segpipe.training.callbacks import AtomicCheckpointIO, relocate_paths


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "a/.", "x\0y"])
def test_a_path_does_not_leave_its_folder(tmp_path, name):
    with pytest.raises(UserError, match="not a path inside"):
        inside(tmp_path, name)


def test_the_folder_that_the_user_names_may_be_a_link(tmp_path):
    (tmp_path / "real" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "link", "a/b") == tmp_path / "link" / "a" / "b"


FILES = [
    ("config.yaml", lambda run: run.config),
    ("run.json", lambda run: run.record_path),
    ("metrics.json", lambda run: run.metrics),
    ("history.csv", lambda run: run.history),
    ("pictures", lambda run: run.pictures),
    ("pictures/examples", lambda run: run.examples),
    ("checkpoints", lambda run: run.checkpoint("best")),
    ("checkpoints/best.ckpt", lambda run: run.checkpoint("best")),
    ("confusion/test.npz", lambda run: run.confusion("test")),
    ("boundaries", lambda run: run.boundaries("test")),
    (LOCK, lambda run: run.lock().__enter__()),
]


@pytest.mark.parametrize(("name", "use"), FILES, ids=[name for name, _ in FILES])
def test_a_link_inside_a_run_is_not_followed(tmp_path, name, use):
    outside = tmp_path / "outside"
    outside.mkdir()
    run = Run(tmp_path / "run")
    (run.folder / name).parent.mkdir(parents=True)
    (run.folder / name).symlink_to(outside)
    with pytest.raises(UserError, match="this is a link"):
        use(run)
    assert not list(outside.iterdir())


def test_a_write_replaces_a_link_and_not_its_target(tmp_path):
    (tmp_path / "target").write_text("keep")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "target").read_text() == "keep"
    assert (tmp_path / "file").read_text() == "new"


def test_a_temporary_file_cannot_be_prepared(tmp_path):
    """Its name is unpredictable, and it is new."""
    names = []
    for _ in range(2):
        atomic_write(tmp_path / "file", lambda temporary: (names.append(temporary.name), temporary.write_text("x")))
    assert len(set(names)) == 2
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a regular file"):
        read_bytes(tmp_path / "pipe")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(2**40)  # it takes no space on the disk
    with pytest.raises(UserError, match="larger than"):
        read_bytes(tmp_path / "file")


GOOD = {
    RunRecord: {"status": "finished", "classes": ["a", "b"], "palette": [[0, 0, 0], [1, 2, 3]], "wall_time_s": 3.5},
    Metrics: {"best_epoch": 1, "val": {"miou": 0.5}, "test": {"miou": None}},
    SweepRecord: {
        "name": "x",
        "cells": [{"overrides": ["seed=1"], "choices": {"seed": 1, "stride": None}, "run": "r"}],
    },
}
BAD = [
    (RunRecord, {"status": "done"}),
    (RunRecord, {"classes": []}),
    (RunRecord, {"classes": "abc"}),
    (RunRecord, {"classes": ["a"] * 70_000}),
    (RunRecord, {"classes": ["\x1b[2J"]}),
    (RunRecord, {"palette": [[0, 0, 256]]}),
    (RunRecord, {"wall_time_s": True}),
    (RunRecord, {"identity": "../../../x"}),
    (RunRecord, {"overrides": "seed=1"}),
    (RunRecord, {"version": 2}),
    (Metrics, {"val": {"miou": 1.5}}),
    (Metrics, {"val": {"miou": True}}),
    (Metrics, {"val": {"miou": "0.5"}}),
    (Metrics, {"test": {"pixels": {"a": -1}}}),
    (Metrics, {"test": {"per_class_iou": {"a": 7}}}),
    (SweepRecord, {"cells": [{"overrides": [], "choices": {}, "run": "../../x"}]}),
    (SweepRecord, {"cells": [{"overrides": [], "choices": {}, "run": "/etc"}]}),
    (SweepRecord, {"cells": [{"overrides": [], "choices": {"seed": [1]}}]}),
    (SweepRecord, {"cells": [{"overrides": [], "choices": {}, "unknown": 1}]}),
    (SweepRecord, {"cells": {}}),
    (SweepRecord, {"tuning_seeds": ["1"]}),
]


@pytest.mark.parametrize(("model", "changes"), BAD, ids=[f"{m.__name__} {str(c)[:40]}" for m, c in BAD])
def test_a_record_of_another_form_counts_as_damaged(tmp_path, model, changes):
    path = tmp_path / "file.json"
    write_json(path, GOOD[model])
    assert read_record(path, model) == GOOD[model]
    write_json(path, GOOD[model] | changes)
    assert read_record(path, model) == {}


def test_a_sweep_reads_no_run_outside(tmp_path):
    write_json(tmp_path / "x" / "run.json", {"status": "finished"})
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "r").symlink_to(tmp_path / "x")
    with pytest.raises(UserError, match="this is a link"):
        cells.status(tmp_path / "sweep", cells.Cell([], {}, run="r"))


def npz(path, name, header, content):
    """An npz file whose array has a header of one's choice."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", file.getvalue() + content)


INT = {"descr": "<i8", "fortran_order": False}


@pytest.mark.parametrize(
    ("header", "content", "reason"),
    [
        (INT | {"shape": (10**9, 10**3)}, b"", "its header says"),
        (INT | {"shape": (2,)}, bytes(17), "its header says"),
        (INT | {"shape": (1,)}, np.int64(-1).tobytes(), "not counts"),
        (INT | {"shape": (1,)}, np.int64(2**60).tobytes(), "not counts"),
        (INT | {"shape": (1,), "descr": "<f8"}, np.float64(np.inf).tobytes(), "not counts"),
        (INT | {"shape": (1,), "descr": "|O"}, bytes(8), "only numbers and texts"),
        (INT | {"shape": (1,), "descr": "|b1"}, bytes(1), "only numbers and texts"),
        (INT | {"shape": (1001,)}, bytes(8008), "at most"),
    ],
)
def test_arrays_are_counts(tmp_path, monkeypatch, header, content, reason):
    monkeypatch.setattr("segpipe.runs.counts.MAX_ARRAY_BYTES", 8000)
    npz(tmp_path / "file.npz", "matrices", header, content)
    with pytest.raises(ValueError, match=reason):
        read_arrays(tmp_path / "file.npz")


@pytest.mark.parametrize(
    "arrays",
    [
        {"names": np.array(["a"]), "groups": np.array(["g"])},
        {"names": np.array(["a"]), "groups": np.array(["g"]), "matrices": np.zeros((2, 3, 3), int)},
        {"names": np.array(["a"]), "groups": np.array(["g"]), "matrices": np.zeros((1, 3, 4), int)},
        {"names": np.array(["a"]), "groups": np.array(["g"]), "matrices": np.zeros((1, 3, 3))},
        {"names": np.array([1]), "groups": np.array(["g"]), "matrices": np.zeros((1, 3, 3), int)},
    ],
)
def test_matrices_fit_their_images(tmp_path, arrays):
    np.savez(tmp_path / "file.npz", **arrays)
    with pytest.raises(ValueError, match=r"missing|do not fit|hold"):
        read_confusion(tmp_path / "file.npz")


def test_what_was_written_is_read(tmp_path):
    matrices = np.arange(18).reshape(2, 3, 3)
    write_confusion(tmp_path / "file.npz", names=["a", "b"], groups=["g", "g"], matrices=matrices)
    content = read_confusion(tmp_path / "file.npz")
    assert np.array_equal(content["matrices"], matrices)
    assert content["names"].tolist() == ["a", "b"]


def checkpoint(tmp_path, **entries):
    """A checkpoint of a run, with other entries."""
    path = tmp_path / "checkpoints" / "best.ckpt"
    checkpoints.write(path, {"epoch": 0, "state_dict": {"network.weight": torch.ones(2)}} | entries)
    return path


@pytest.mark.parametrize(
    "state",
    [
        {"w": torch.tensor([1.0, float("nan")])},
        {"w": torch.tensor([float("inf")])},
        {"w": torch.tensor([True])},
        {"w": torch.tensor([1j])},
        {"w": torch.zeros(3).to_sparse()},
        {"w": 1.0},
        {3: torch.ones(1)},
        [],
        None,
    ],
    ids=str,
)
def test_weights_are_finite_numbers(tmp_path, state):
    with pytest.raises(UserError, match=r"is damaged|Its training diverged"):
        checkpoints.read(checkpoint(tmp_path, state_dict=state))


def test_a_pickle_is_not_executed(tmp_path):
    class Planting:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'planted'}",)

    with pytest.raises(UserError, match="is damaged"):
        checkpoints.read(checkpoint(tmp_path, state_dict=Planting()))
    assert not (tmp_path / "planted").exists()


def test_a_compressed_archive_is_refused(tmp_path):
    path = checkpoint(tmp_path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert not checkpoints.is_intact(path)


def test_a_checkpoint_larger_than_its_network_is_refused(tmp_path):
    path = checkpoint(tmp_path)
    checkpoints.read(path, limit=path.stat().st_size)
    with pytest.raises(UserError, match="does not belong"):
        checkpoints.read(path, limit=path.stat().st_size - 1)


@pytest.mark.parametrize(
    "state",
    [{}, {"a": torch.ones(2), "b": torch.ones(1)}, {"a": torch.ones(3)}, {"a": torch.ones(2, dtype=torch.int64)}],
)
def test_weights_fit_the_network(tmp_path, state):
    with pytest.raises(UserError, match="does not fit the network"):
        checkpoints.require_fit(state, {"a": torch.zeros(2, device="meta")}, tmp_path / "checkpoints" / "best.ckpt")


def test_no_path_is_taken_from_a_checkpoint(tmp_path):
    victim = tmp_path / "outside" / "keep.txt"
    state = {
        "dirpath": str(victim.parent),
        "best_model_path": str(victim),
        "last_model_path": f"{tmp_path}/checkpoints/../..",
        "kth_best_model_path": "",
        "best_k_models": {str(victim): torch.tensor(0.5)},
    }
    path = checkpoint(tmp_path, callbacks={"ModelCheckpoint{}": state})
    here = str(path.parent.resolve())
    loaded = AtomicCheckpointIO().load_checkpoint(path)["callbacks"]["ModelCheckpoint{}"]
    assert loaded["dirpath"] == here
    assert loaded["best_model_path"] == f"{here}/keep.txt"
    assert loaded["last_model_path"] == ""
    assert list(loaded["best_k_models"]) == [f"{here}/keep.txt"]
    relocate_paths(loaded, here)
    assert loaded["best_model_path"] == f"{here}/keep.txt"


@pytest.mark.parametrize("make", ["folder", "link"])
def test_only_files_are_removed(tmp_path, make):
    path = tmp_path / "x.ckpt"
    if make == "folder":
        path.mkdir()
    else:
        (tmp_path / "keep").write_text("")
        path.symlink_to(tmp_path / "keep")
    AtomicCheckpointIO().remove_checkpoint(path)
    assert path.exists()


def test_partial_files_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    run = Run(tmp_path)
    write_json(run.record_path, {"status": "interrupted"})
    (tmp_path / ".run.json.abc.part").write_text("")
    (tmp_path / "keep").write_text("")
    (tmp_path / ".link.part").symlink_to(tmp_path / "keep")
    (tmp_path / ".folder.part").mkdir()
    with run.lock():
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", LOCK, "keep", ".link.part", ".folder.part"}
    assert json.loads(run.record_path.read_text()) == {"status": "interrupted"}
