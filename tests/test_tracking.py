"""W&B is always there and never in the way: read back from its own files, with every way that a network can fail."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import wandb
from conftest import TINY, configure
from hydra.core.global_hydra import GlobalHydra
from pytorch_lightning.utilities import rank_zero_only
from support import commands
from wandb_file import read_wandb, wandb_files

from segpipe import report
from segpipe import train as training
from segpipe.data.datasets.shapes import CLASSES, Shapes
from segpipe.errors import UserError
from segpipe.metrics import confusion
from segpipe.runs.storage import read_history
from segpipe.training import tracking

pytestmark = [  # Lightning's own, of workers, of log intervals and of PyTorch's pytrees
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]
KEY = "0123456789abcdef0123456789abcdef01234567"
SMALL = [override for override in TINY if not override.startswith(("logger", "trainer.max_epochs"))]
EPOCHS = 2
TABLE = "test/confusion_matrix_table/path"
TOUCHED = ("WANDB_", "NETRC", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "XDG_", "HYDRA_")
ADDED = {  # scores that are not shipped: of the classes, and of all pixels
    "mean_missed": confusion.Score(
        lambda counts: 1 - confusion.class_accuracy(counts), "mean missed", per_class="missed", class_label="missed"
    ),
    "first": confusion.Score(lambda counts: counts[..., 0].sum(-1) / counts.sum((-2, -1)), "predicted as the first"),
}
AT_A_TERMINAL = """
import contextlib, os, pty, runpy, sys
pid, terminal = pty.fork()
if pid == 0:
    sys.modules.pop("segpipe.train", None)
    runpy.run_module("segpipe.train", run_name="__main__", alter_sys=True)
with contextlib.suppress(OSError):  # the terminal is closed
    while read := os.read(terminal, 1024):
        os.write(1, read)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


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


def lonely_environment(home):
    """An environment in which W&B finds nobody's key, settings or proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(TOUCHED)}
    return kept | {"HOME": str(home), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory):
    """For all tests here: a home, a working directory and an environment of their own, and one thread."""
    base, threads = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
    (base / "home").mkdir()
    (base / "cwd").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(lonely_environment(base)):
            patch.delenv(name)
        patch.setenv("HOME", str(base / "home"))
        patch.chdir(base / "cwd")
        torch.set_num_threads(1)
        yield base
        torch.set_num_threads(threads)
        stop_wandb()
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_SERVICE"):
            os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def settings_anew():
    """W&B reads the environment once a session: each test is one."""
    yield
    stop_wandb()


def stop_wandb():
    """End W&B's session and its process; by then all files are whole."""
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()


def train_tiny(folder, *overrides):
    """Train in this process; what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        training.train(configure(*SMALL, f"trainer.max_epochs={EPOCHS}", *overrides, f"run_dir={folder}"))
    stop_wandb()
    return said.getvalue()


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


def synced_later(said, folder, *, options=""):
    """Check the one line that says how to sync: it names the folder of the run's one W&B file."""
    found = re.findall(rf"^W&B: (.*) To upload[\w ]*: wandb sync {options}(\S+)\r?$", said, re.MULTILINE)
    assert len(found) == 1, said
    reason, path = found[0]
    assert Path(path) in [file.parent for file in wandb_files(folder)]
    assert Path(path).name.startswith("run-" if options else "offline-run-")
    return reason


def whole(folder):
    """Check that a run's folder says all of a finished training."""
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert 0 <= json.loads((folder / "metrics.json").read_text())["test"]["miou"] <= 1
    for name in (
        "config.yaml",
        "history.csv",
        "checkpoints/best.ckpt",
        "confusion/test.npz",
        "boundaries/test.npz",
        "pictures/predictions.png",
    ):
        assert (folder / name).stat().st_size > 0
    return True


# ---- two children in the background: a sweep with pipes for a terminal, and a training at a real one


@pytest.fixture(scope="module")
def children(alone):
    """Both children, started; what they print goes into files."""
    chosen = [*SMALL, "trainer.max_epochs=1"]
    sweep = ["optimizer.lr=3e-3,1e30", "sweep.name=rates", f"hydra.sweep.dir={alone}/sweeps/rates"]
    started = {
        "sweep": ["-m", "segpipe.train", "-m", *chosen, *sweep],
        "terminal": ["-c", AT_A_TERMINAL, *chosen, f"hydra.run.dir={alone}/terminal"],
    }
    running = {}
    for name, words in started.items():
        (alone / f"{name}.cwd").mkdir()
        printed = alone / f"{name}.txt"
        running[name] = commands.forker().start(
            words,
            cwd=alone / f"{name}.cwd",
            environment=lonely_environment(alone / "home"),
            output=printed,
            errors=printed,
        )
    yield running
    for child in running.values():
        if child.poll() is None:
            child.kill()
            child.wait(timeout=60)


@pytest.fixture(scope="module")
def ended(alone, children):
    """By name: wait for a child; its status, what it printed, and its working directory."""

    def wait(name):
        status = children[name].wait(timeout=120)
        return SimpleNamespace(status=status, said=(alone / f"{name}.txt").read_text(), cwd=alone / f"{name}.cwd")

    return wait


# ---- what a training tells W&B


@pytest.fixture(scope="module")
def tracked(children, alone):
    """A training of two epochs: its folder, its W&B file, what it printed, and its metrics."""
    folder = alone / "tracked"
    with pytest.MonkeyPatch.context() as patch:
        for name, score in ADDED.items():
            patch.setitem(confusion.SCORES, name, score)
        said = train_tiny(folder, "logger.mode=offline")
    found = json.loads((folder / "metrics.json").read_text())
    return SimpleNamespace(folder=folder, file=read_wandb(folder), said=said, metrics=found)


def rows(tracked, key):
    """The rows of W&B's history that hold a key."""
    return [row for row in tracked.file.history if key in row]


def test_config_is_nested_and_resolved(tracked):
    config = {key: value for key, value in tracked.file.config.items() if not key.startswith("_wandb")}
    assert config["optimizer"]["lr"] == 3e-3
    assert config["data"]["dataset"]["train"] == 16
    assert "${" not in json.dumps(config)


def test_history_has_one_validation_an_epoch(tracked):
    told, kept = rows(tracked, "val/miou"), read_history(tracked.folder / "history.csv")
    assert [row["epoch"] for row in told] == [0, 1]  # and not the best checkpoint's once more, behind the last epoch
    for name in ["miou", "loss", *(f"iou/{name}" for name in CLASSES)]:
        key = f"val/{name}"
        assert [row[key] for row in told] == pytest.approx([row[key] for row in kept], nan_ok=True), key
    assert [row["train/loss"] for row in rows(tracked, "train/loss")] == pytest.approx(
        [row["train/loss"] for row in kept]
    )


@pytest.fixture(scope="module")
def reported(tracked, alone):
    """A report of that training: the row of results.csv, and the row of the table of all scores by heading."""
    shutil.copytree(tracked.folder, alone / "reported" / "run")
    with pytest.MonkeyPatch.context() as patch:
        for name, score in ADDED.items():
            patch.setitem(confusion.SCORES, name, score)
        report.report(alone / "reported", resamples=100, as_markdown=True)
    (row,) = csv.DictReader((alone / "reported" / "results.csv").read_text().splitlines())
    table = (alone / "reported" / "report.md").read_text().split("## All scores")[1]
    heads, _, cells = ([cell.strip() for cell in line.split("|")] for line in table.splitlines()[2:5])
    return SimpleNamespace(row=row, table=dict(zip(heads, cells, strict=True)))


@pytest.mark.parametrize("name", ["dice", *ADDED])
def test_a_score_that_is_defined_in_one_place_is_everywhere(tracked, reported, name):
    """In metrics.json, the history, W&B's history and summary, what is printed, and the report."""
    score = (confusion.SCORES | ADDED)[name]
    value = tracked.metrics["test"][name]
    counts = np.load(tracked.folder / "confusion" / "test.npz")["matrices"].sum(0)
    assert value == pytest.approx(float(score.value(counts)))
    by_class = tracked.metrics["test"][f"per_class_{score.per_class}"] if score.per_class else {}
    assert list(by_class) == (CLASSES if score.per_class else [])
    told, kept = rows(tracked, f"val/{name}"), read_history(tracked.folder / "history.csv")
    assert [row["epoch"] for row in told] == [0, 1]
    for key in (name, *(f"{score.per_class}/{of}" for of in by_class)):
        assert [row[f"val/{key}"] for row in told] == pytest.approx([row[f"val/{key}"] for row in kept]), key
    summary = tracked.file.summary
    assert [summary[f"best/test/{name}"], summary[f"test/{name}"]] == pytest.approx([value, value])
    assert summary[f"best/val/{name}"] == pytest.approx(tracked.metrics["val"][name])
    assert (score.class_label or score.label) in tracked.said
    for number in (value, *by_class.values()):
        assert f"{number:.3f}" in tracked.said
    assert float(reported.row[f"test_{name}"]) == pytest.approx(value)
    for of, number in by_class.items():
        assert float(reported.row[f"test_{score.per_class}/{of}"]) == pytest.approx(number)
    assert reported.table[score.label] == f"{100 * value:.1f}"


def test_every_chart_is_drawn_over_the_epoch(tracked):
    assert tracked.file.axes == {"epoch": "", "*": "epoch"}
    assert all("epoch" in row for row in tracked.file.history)


def test_overlays_show_the_same_pictures_each_epoch(tracked):
    told = rows(tracked, "val/predictions/captions")
    assert [row["epoch"] for row in told] == [0, 1]
    files = tracked.file.path.parent / "files"
    data = Shapes(split="val", train=16, val=5, test=7)
    for row in told:
        assert row["val/predictions/captions"] == [data.names[index] for index in (0, 1, 3, 4)]
        shown = zip((0, 1, 3, 4), row["val/predictions/filenames"], row["val/predictions/all_masks"], strict=True)
        for index, name, masks in shown:
            image, mask = data.read(index)
            assert (cv2.imread(str(files / name))[:, :, ::-1] == image).all()
            assert (cv2.imread(str(files / masks["truth"]["path"]), cv2.IMREAD_UNCHANGED) == mask).all()
            predicted = cv2.imread(str(files / masks["prediction"]["path"]), cv2.IMREAD_UNCHANGED)
            assert predicted.shape == mask.shape
            assert set(np.unique(predicted)) <= set(range(len(CLASSES)))


def test_masks_have_class_names(tracked):
    labels = tracked.file.config["_wandb"]["mask/class_labels"]
    named = {str(index): name for index, name in enumerate(CLASSES)} | {"255": "ignored"}
    assert len(labels) == 2  # truth and prediction
    assert all(entry["value"] == named for entry in labels.values())


def test_confusion_matrix_counts_the_test_pixels(tracked):
    table = json.loads((tracked.file.path.parent / "files" / rows(tracked, TABLE)[0][TABLE]).read_text())
    matrices = np.load(tracked.folder / "confusion" / "test.npz")["matrices"].sum(0)
    assert table["columns"] == ["Actual", "Predicted", "nPredictions"]
    counts = {(true, predicted): count for true, predicted, count in table["data"]}
    assert counts == {(a, b): matrices[i, j] for i, a in enumerate(CLASSES) for j, b in enumerate(CLASSES)}
    assert sum(counts.values()) == 7 * 96 * 96 == sum(tracked.metrics["test"]["pixels"].values())
    chart = tracked.file.config["_wandb/visualize/test/confusion_matrix"]
    assert chart["panel_config"]["panelDefId"] == "wandb/confusion_matrix/v1"


def test_summary_has_scores_and_cost(tracked):
    summary = tracked.file.summary
    for split in ("val", "test"):
        assert summary[f"best/{split}/miou"] == pytest.approx(tracked.metrics[split]["miou"])
    assert summary["test/miou"] == pytest.approx(tracked.metrics["test"]["miou"])
    assert summary["best/test/boundary_f"] == pytest.approx(tracked.metrics["test"]["boundaries"]["boundary_f"])
    assert summary["cost/parameters"] == tracked.metrics["cost"]["parameters"]


def test_nothing_lies_outside_the_folder_and_one_line_is_printed(tracked, alone):
    assert synced_later(tracked.said, tracked.folder) == "offline, since it was asked for."
    assert tracked.said.lower().count("wandb") == tracked.said.count("wandb sync") + tracked.said.count("/wandb/")
    assert tracked.file.exit_code == 0
    assert not list((alone / "cwd").iterdir())
    assert not [path for path in (alone / "home").rglob("*") if "wandb" in str(path.relative_to(alone))]


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
    assert "it lost some metrics" in said
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


# ---- the children's tests stand last: they have had time to end


def test_no_key_at_a_terminal(ended, alone):
    child = ended("terminal")
    assert child.status == 0, child.said
    assert "no API key was found" in synced_later(child.said, alone / "terminal")
    assert "Enter your choice" not in child.said
    assert whole(alone / "terminal")
    file = read_wandb(alone / "terminal")
    assert (file.exit_code, file.group) == (0, "")
    assert not list(child.cwd.iterdir())


def test_each_job_of_a_sweep_is_a_run_of_its_group(ended, alone):
    child = ended("sweep")
    assert child.status == 1  # one of its jobs diverges
    assert f"wandb sync {alone}/sweeps/rates/*/wandb/offline-run-*" in child.said.replace("\n", "")
    files = {}
    for folder in (alone / "sweeps" / "rates").glob("fcn8s-*"):
        (rate,) = re.findall(r"(?m)^  lr: (\S+)", (folder / "config.yaml").read_text())
        files[float(rate)] = read_wandb(folder)
        assert f"wandb sync {files[float(rate)].path.parent}" in (folder / "output.log").read_text()
    assert {rate: file.exit_code for rate, file in files.items()} == {3e-3: 0, 1e30: 1}
    assert len({file.run_id for file in files.values()}) == 2
    for rate, file in files.items():
        assert file.group == "rates"
        *common, last = file.tags  # as Hydra writes them: 0.003, False
        assert [tag.lower() for tag in common] == [*SMALL, "trainer.max_epochs=1"]
        assert last.startswith("optimizer.lr=")
        assert float(last.partition("=")[2]) == rate
        assert file.config["optimizer"]["lr"] == rate
    assert not list(child.cwd.iterdir())


def test_no_process_of_wandb_is_left(ended):
    for name in ("terminal", "sweep"):
        ended(name)
    deadline = time.monotonic() + 10
    while (orphans := orphaned_cores()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not orphans


def orphaned_cores():
    """Processes of W&B whose ``--pid``, the process they serve, is there no more."""
    lines = [path.read_bytes().split(b"\0") for path in readable(Path("/proc").glob("[0-9]*/cmdline"))]
    served = [line[line.index(b"--pid") + 1] for line in lines if b"wandb-core" in line[0] and b"--pid" in line]
    return [pid for pid in served if not Path(f"/proc/{pid.decode()}").exists()]


def readable(paths):
    """Of processes, those that have not ended meanwhile."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.read_bytes()
            yield path
