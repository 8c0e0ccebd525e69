"""W&B's modes: online, offline, disabled, by keys and by the environment."""

import sys

import pytest
from hydra.core.global_hydra import GlobalHydra
from pytorch_lightning.utilities import rank_zero_only
from support.configs import configure
from support.wandb_alone import MARKS, SMALL, stop_wandb, train_tiny, whole
from support.wandb_file import read_wandb, wandb_files
from support.wandb_server import KEY, start, use, within

from segpipe import train as training
from segpipe.training import tracking

pytestmark = MARKS


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
