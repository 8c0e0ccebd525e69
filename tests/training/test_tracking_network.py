"""W&B is never in the way: every way that a network can fail."""

import contextlib
import gc
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from support.wandb_alone import MARKS, stop_wandb, synced_later, train_tiny, whole
from support.wandb_file import read_wandb
from support.wandb_server import KEY, start, use, within

from segpipe.errors import UserError

pytestmark = MARKS


def refusing():
    """Nothing listens."""
    return contextlib.nullcontext("http://127.0.0.1:9")


@contextlib.contextmanager
def mute():
    """Something listens and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(("network", "reason"), [(refusing, "cannot be reached"), (mute, "did not answer in 1 s")])
def test_a_key_but_no_network(network, reason, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with network() as url, within(60):
        monkeypatch.setenv("WANDB_BASE_URL", url)
        began = time.monotonic()
        said = train_tiny(tmp_path / "run", "logger.timeout=1", "trainer.max_epochs=1")
        assert time.monotonic() - began < 85  # W&B itself would wait for 90 s, and longer
    assert reason in synced_later(said, tmp_path / "run")
    assert whole(tmp_path / "run")
    assert read_wandb(tmp_path / "run").exit_code == 0


def test_a_server_that_answers(server, tmp_path):
    with within(30):
        logger, said = start(tmp_path / "run")
        assert said == f"W&B: {server.url}/me/segpipe/runs/{logger.experiment.id}\n"
        assert use(logger) == ""
    assert any("val/p" in path for path in server.asked)
    stop_wandb()
    assert read_wandb(tmp_path / "run").exit_code == 0
    with within(30):
        again, _ = start(tmp_path / "run")  # a training that is gone on with goes on in the run that it had
        assert again.experiment.id == logger.experiment.id
        assert use(again) == ""


@pytest.mark.slow
def test_a_server_that_dies_during_the_run(server, tmp_path, monkeypatch):
    monkeypatch.setattr("wandb.apis.public.Api._HTTP_TIMEOUT", 2)
    server.leaves_after = "UpsertBucket"
    with within(70):
        said = train_tiny(tmp_path / "run", "logger.timeout=1", "trainer.max_epochs=1")
    assert f"W&B: {server.url}" in said
    assert "lost test/confusion_matrix" in said
    assert "Timed out" in synced_later(said, tmp_path / "run", options="--include-online ")
    assert whole(tmp_path / "run")
    assert read_wandb(tmp_path / "run").exit_code == 0


@pytest.mark.parametrize(("flaw", "reason"), [({"silent": True}, "deadline"), ({"status": 401}, "401")])
def test_a_server_that_starts_no_run(flaw, reason, server, tmp_path):
    vars(server).update(flaw)
    with within(20):
        logger, said = start(tmp_path / "run")
        assert use(logger) == ""
    assert reason in synced_later(said, tmp_path / "run")
    assert logger.experiment.settings.mode == "offline"


def test_online_is_refused_where_the_server_refuses(server, tmp_path):
    server.status = 401
    with within(20), pytest.raises(UserError, match=r"401.*logger\.mode=offline"):
        start(tmp_path / "run", mode="online")


def test_the_end_of_wandbs_own_process_is_not_the_runs(tmp_path):
    logger, _ = start(tmp_path / "run", mode="offline")
    started = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if not started.is_file():
        pytest.skip("the system does not list child processes")
    (core,) = [pid for pid in started.read_text().split() if "wandb-core" in Path(f"/proc/{pid}/comm").read_text()]
    (process,) = [one for one in gc.get_objects() if type(one) is subprocess.Popen and one.pid == int(core)]
    process.kill()
    process.wait()  # by its object, which would otherwise warn, in a later test, that nobody has waited
    with within(20):
        said = use(logger)
    assert "W&B: lost some metrics" in said
    assert "not everything" in said
