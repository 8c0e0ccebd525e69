"""W&B is never in the way: every way that a network can fail, keys and modes."""

import contextlib
import io
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from pytorch_lightning.utilities import rank_zero_only
from support.configs import configure
from support.wandb_alone import MARKS, SMALL, stop_wandb, synced_later, train_tiny, whole
from support.wandb_file import read_wandb, wandb_files

from segpipe import train as training
from segpipe.errors import UserError
from segpipe.training import tracking

pytestmark = MARKS


KEY = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def within(seconds):
    """Inside, what takes longer fails, even where it hangs."""

    def ring(number, frame):
        raise TimeoutError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def start(folder, **given):
    """A logger and what was printed when it started."""
    said = io.StringIO()
    asked = {"config": {"a": {"b": 1}}, "name": "n", "group": None, "tags": [], "run_id": folder.name, "timeout": 1.0}
    with contextlib.redirect_stdout(said):
        logger = tracking.wandb_logger(folder=folder, **(asked | given))
    return logger, said.getvalue()


def use(logger):
    """Log what a training logs, and end the run; what it printed."""
    said = io.StringIO()
    picture, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    with contextlib.redirect_stdout(said):
        logger.log_metrics({"val/miou": 0.5, "epoch": 0}, step=1)
        tracking.log_overlays(
            logger, key="val/p", images=[picture], truths=[mask], predictions=[mask], names=["x"], classes=["a", "b"]
        )
        tracking.log_confusion(logger, key="test/c", matrix=np.ones((2, 2), np.int64), classes=["a", "b"])
        tracking.finish(logger, failed=False)
    return said.getvalue()


# ---- where W&B cannot be reached
class Server(ThreadingHTTPServer):
    """As much of a W&B server as starts a run and takes its files; what it is asked fills ``asked``."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.gone, self.silent, self.status = [], False, False, 200
        self.leaves_after = "never"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """Clients that hang up are none."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Answers GET /healthz and the queries of a run; once the server is gone, hangs up."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Silent."""

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({})

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        self.answer({})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.silent:
            time.sleep(100)
        if self.server.gone:
            self.close_connection = True
            return
        sent = json.loads(body) if self.path == "/graphql" else {"query": self.path}
        self.server.asked.append(sent["query"])
        self.answer(self.data(sent["query"], sent.get("variables", {})), self.server.status)
        self.server.gone = self.server.leaves_after in sent["query"]

    def data(self, query, variables):
        if "UpsertBucket" in query:
            project = {"id": "p", "name": "segpipe", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": variables["name"], "displayName": "n", "project": project, "config": "{}"}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if "CreateRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/{name}"} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        if "query Viewer" in query:
            teams = {"edges": []}
            return {"data": {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": teams}}}
        if "RunResumeStatus" in query:
            return {"data": {"model": None}}
        return {"data": None, "errors": [{"message": "not known here"}]} if "(" in query else {}


@pytest.fixture
def server(monkeypatch):
    """A server that W&B is told to take, with a key for it."""
    running = Server()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", running.url)
    yield running
    running.shutdown()
    running.server_close()


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
        assert time.monotonic() - began < 40
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
    os.kill(int(core), signal.SIGKILL)
    os.waitpid(int(core), 0)
    with within(20):
        said = use(logger)
    assert "W&B: lost some metrics" in said
    assert "not everything" in said


# ---- keys and modes


def test_a_key_that_cannot_be_one(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert tracking.choose_mode("auto", 1.0) == (
        "offline",
        "WANDB_API_KEY invalid: API key must have 40+ characters, has 5",
    )


def test_a_key_is_found_where_wandb_login_puts_it(server, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY")
    assert tracking.choose_mode("auto", 1.0)[0] == "offline"
    monkeypatch.setenv("NETRC", str(tmp_path / "keys"))
    machine = server.url.removeprefix("http://")  # with its port, as `wandb login` writes it
    (tmp_path / "keys").write_text(f"machine {machine}\n  login user\n  password {KEY}\n")
    (tmp_path / "keys").chmod(0o600)
    assert tracking.choose_mode("auto", 1.0)[0] == "online"


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_auto_takes_the_mode_of_the_environment(mode, server, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", mode)
    assert tracking.choose_mode("auto", 1.0)[0] == mode
    stop_wandb()
    assert tracking.choose_mode("online", 1.0)[0] == "online"  # the command line says more than the environment


def test_disabled_leaves_nothing(tmp_path):
    said = train_tiny(tmp_path / "run", "debug=fast")
    assert configure("debug=fast").logger.mode == "disabled"
    assert "W&B" not in said
    assert not wandb_files(tmp_path / "run")
    assert whole(tmp_path / "run")


def test_without_a_logger(finished_run):
    assert whole(finished_run)
    assert not (finished_run / "wandb").exists()


def test_other_ranks_start_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger, said = start(tmp_path / "run", mode="offline")
    assert use(logger) == said == ""
    assert not (tmp_path / "run").exists()


def test_two_runs_never_share_an_id(tmp_path):
    first, _ = start(tmp_path / "a" / "same name", mode="offline")
    second, _ = start(tmp_path / "b" / "same name", mode="offline")
    assert first.experiment.id != second.experiment.id
    assert use(first) == use(second) == ""
    stop_wandb()
    assert [len(read_wandb(tmp_path / name / "same name").history) for name in "ab"] == [2, 2]


def test_online_without_a_key_is_refused_before_training(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["train", *SMALL, "logger.mode=online", f"hydra.run.dir={run}"])
    try:
        with within(30), pytest.raises(SystemExit) as ending:
            training.main()
    finally:
        GlobalHydra.instance().clear()
    said = capsys.readouterr().err
    assert ending.value.code == 1
    assert len(said.strip().splitlines()) <= 3
    assert all(words in said for words in ("logger.mode=online", "`wandb login`", "logger.mode=offline"))
    assert not (run / "checkpoints").exists()
