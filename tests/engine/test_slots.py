"""The slots of a sweep, and processes."""

import shlex
import sys
import threading

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from segpipe.engine import processes
from segpipe.engine.progress import ProgressView
from segpipe.errors import UserError
from segpipe.runs.run import quote_override, typed
from segpipe.training import devices

# ---- slots


def test_each_slot_has_its_share_of_the_devices(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert devices.split_devices(2, gpu=True) == [{"CUDA_VISIBLE_DEVICES": "3,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]
    with pytest.raises(UserError, match=r"allowed is 1 to 4, the GPUs"):
        devices.split_devices(5, gpu=True)
    monkeypatch.setattr(devices, "cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    assert devices.split_devices(4, gpu=False) == [{"OMP_NUM_THREADS": "2"}] * 4
    assert devices.split_devices(1, gpu=False) == [{"OMP_NUM_THREADS": "6"}]
    for workers in (0, 9):
        with pytest.raises(UserError, match=rf"sweep.workers={workers}: allowed is 1 to 8, the cores"):
            devices.split_devices(workers, gpu=False)


def test_the_view_leaves_the_streams_that_jobs_are_forked_with(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    before = sys.stdout, sys.stderr
    board = ProgressView(workers=1)
    try:
        assert board.live.is_started
        assert (sys.stdout, sys.stderr) == before
    finally:
        board.close()


def test_a_process_of_several_threads_is_not_forked():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    assert not processes.may_fork()
    done.set()
    thread.join()


@pytest.mark.parametrize("value", ["a b", "it's", "x=1,2", "back\\slash", "end\\", "both\\'", "(1)"])
def test_quoted_survives_hydras_grammar(value):
    (override,) = OverridesParser.create().parse_overrides([f"key={quote_override(value)}"])
    assert override.value() == value


@pytest.mark.parametrize(
    "value", ["a b", "it's", "x=1,2", "back\\slash", "$(touch x)", "a;b", "(1)", "plain/path.1", "`x`"]
)
def test_a_printed_override_survives_the_shell_and_hydra(value):
    (word,) = shlex.split(typed("run_dir", value))
    (override,) = OverridesParser.create().parse_overrides([word])
    assert override.value() == value
