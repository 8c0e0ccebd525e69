"""As much of a W&B server as a run needs, and a logger that is started and used without a training."""

import contextlib
import io
import json
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from segpipe.training import tracking

KEY = "0123456789abcdef0123456789abcdef01234567"


LOADED = 4  # how much longer things may take beside other work


@contextlib.contextmanager
def within(seconds):
    """Inside, what hangs fails. seconds: for an idle machine; LOADED times as long is waited."""

    def ring(number, frame):
        raise TimeoutError(f"not done in {LOADED * seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LOADED * seconds)
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


class Server(ThreadingHTTPServer):
    """As much of a W&B server as starts a run and takes its files; what it is asked fills ``asked``.

    streamed: what runs logged, as text. handler: the class that answers, a Handler.
    """

    daemon_threads = True

    def __init__(self, handler=None):
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.asked, self.streamed, self.gone, self.silent, self.status = [], [], False, False, 200
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
        if self.path.endswith("/file_stream"):
            self.server.streamed.append(body.decode())
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
