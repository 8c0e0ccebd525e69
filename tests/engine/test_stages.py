"""Stages: trainings one after another in one command."""

import json

import pytest
from hydra import initialize_config_dir
from hydra.errors import HydraException
from support import commands
from support.configs import TINY, configure

from segpipe.config.plan import Plan
from segpipe.config.schema import CONF
from segpipe.engine.stages import run_stages
from segpipe.errors import UserError
from segpipe.runs.run import shell_word


def test_stages_run_one_after_another_and_remember_where_they_come_from(tmp_path):
    """FCN-16s from FCN-32s in one command; started again, nothing is trained twice."""
    tiny = [word for word in TINY if not word.startswith("trainer.max_epochs")]
    command = [
        "-m", "segpipe.train", *tiny, "trainer.max_epochs=1",
        "stages=['model=fcn32s','model=fcn16s optimizer.lr=1e-4']", f"hydra.run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    done = commands.python(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    final = json.loads((tmp_path / "run" / "run.json").read_text())
    first = json.loads((tmp_path / "run" / "stages" / "1-fcn32s" / "run.json").read_text())
    assert (first["status"], final["status"], first["lineage"]) == ("finished", "finished", [])
    assert [link["identity"] for link in final["lineage"]] == [first["identity"]]
    assert final["name"].startswith("fcn16s-")
    assert "Warm start:" in done.stdout
    again = commands.python(command, cwd=tmp_path)
    assert again.returncode == 0
    assert again.stdout.count("is already finished") == 2


@pytest.mark.parametrize(
    ("stages", "given", "says"),
    [
        (["model=fcn32s", "optimizer.lrr=1"], [], "optimizer.lrr"),
        (["model=fcn32s", "model=fcn16s"], ["model=fcn8s"], "the stage 'model=fcn32s' sets this key"),
        (["model=fcn32s", ""], [], "an entry is empty"),
        (["model=fcn32s", "encoder=basic model=fcn32s"], [], "stride 32"),
        ("model=fcn32s", [], "stages=model=fcn32s: allowed is a list"),
    ],
)
def test_stages_that_mean_nothing_are_refused_before_the_first_is_begun(stages, given, says, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr("segpipe.engine.stages.train_in", lambda *args: begun.append(args) or 0)
    cfg = configure(f"run_dir={tmp_path / 'run'}")
    cfg.stages = stages
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises((UserError, HydraException), match=says):
        run_stages(cfg, given)
    assert begun == []


def test_an_interrupted_stage_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("segpipe.engine.stages.train_in", interrupted)
    cfg = configure("stages=['model=fcn32s','model=fcn16s']", f"run_dir={tmp_path / 'run'}")
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(KeyboardInterrupt):
        run_stages(cfg, ["stages=['model=fcn32s','model=fcn16s']"])
    said = capsys.readouterr().err
    assert "Stage 1 did not finish" in said
    assert shell_word("stages=['model=fcn32s','model=fcn16s']") in said


def test_staged_and_unstaged_are_two_experiments():
    staged, at_once = (configure(*choice) for choice in (["stages=['model=fcn32s','model=fcn8s']"], []))
    assert Plan.of(staged).identity != Plan.of(at_once).identity
