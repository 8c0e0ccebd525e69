"""Runs that are resumed: for more epochs, on other data, after a move."""

import json
import shutil

import pytest
import torch
from omegaconf import OmegaConf
from support.configs import TINY, configure

from segpipe.config import build
from segpipe.config.messages import explain
from segpipe.config.plan import Plan
from segpipe.data.datasets.shapes import Shapes
from segpipe.engine import scheduler
from segpipe.engine.fit import run_training
from segpipe.engine.resume import check_same_config, identified, resolve_resume
from segpipe.errors import UserError
from segpipe.runs import cells
from segpipe.runs.cells import Cell
from segpipe.runs.run import Run
from segpipe.runs.storage import read_history, write_text
from segpipe.train import train
from segpipe.training import devices


# a run that is resumed for more epochs is another training
def resume(folder, *overrides):
    """What the command line does with ``resume=FOLDER`` and overrides."""
    with Run(folder).lock():
        cfg = resolve_resume(configure(f"resume={folder}", *overrides), overrides=list(overrides))
        run_training(Plan.of(cfg), list(overrides), devices.connect_ranks())
    return Run(folder).record


def test_a_run_that_is_resumed_for_more_epochs_gets_their_identity_and_says_which_it_had(tmp_path, capsys):
    folder = tmp_path / "run"
    asked = {epochs: [*TINY, f"trainer.max_epochs={epochs}"] for epochs in (1, 2, 3)}
    identities = {epochs: Plan.of(configure(*choices)).identity for epochs, choices in asked.items()}
    train(configure(*asked[1], f"run_dir={folder}"))
    before = Run(folder).record
    assert (before["identity"], before["max_epochs"]) == (identities[1], [1])
    again = resume(folder, "trainer.max_epochs=1")  # which changes nothing
    assert (again["identity"], again["max_epochs"], "extended_from" in again) == (identities[1], [1], False)
    more = resume(folder, "trainer.max_epochs=2")
    assert (more["identity"], more["extended_from"], more["max_epochs"]) == (identities[2], identities[1], [1, 2])
    assert more["name"] == before["name"]
    again = resume(folder)
    assert [again[key] for key in ("identity", "extended_from", "max_epochs")] == [identities[2], identities[1], [1, 2]]

    check_same_config(Run(folder), Plan.of(configure(*asked[2])))
    for other in (1, 3):
        with pytest.raises(UserError, match=r"it was resumed with another trainer\.max_epochs"):
            check_same_config(Run(folder), Plan.of(configure(*asked[other])))
    capsys.readouterr()
    train(configure(*asked[2], "resume=auto", f"run_dir={folder}"))
    assert "is already finished" in capsys.readouterr().out
    with pytest.raises(UserError, match="rename this folder"):
        train(configure(*asked[1], "resume=auto", f"run_dir={folder}"))
    with pytest.raises(UserError, match=r"has already trained 2 epochs. Give 2 or more"):
        resume(folder, "trainer.max_epochs=1")
    kept = (folder / "run.json").read_text()
    cell = Cell([], {"seed": 0}, run="run")
    assert cells.status(tmp_path, cell) == "extended"
    slots = scheduler.Scheduler(name="x", workers=1, gpu=False)
    slots.submit(folder, asked[1])
    slots.close()
    assert "it is not the cell's run" in capsys.readouterr().out
    assert (slots.jobs, list(slots.waiting), (folder / "run.json").read_text()) == ([], [], kept)


def test_an_extended_run_keeps_what_it_was_warmed_with_in_its_identity(finished_run, tmp_path):
    parent = tmp_path / "parent"
    shutil.copytree(finished_run, parent)
    choices = {epochs: [*TINY, f"trainer.max_epochs={epochs}", f"warm_start={parent}"] for epochs in (2, 3)}
    identities = {epochs: Plan.of(configure(*chosen)).identity for epochs, chosen in choices.items()}
    scratch = Plan.of(configure(*TINY, "trainer.max_epochs=3")).identity
    run = Run(tmp_path / "run")
    cold = [Plan.of(configure(*TINY, f"trainer.max_epochs={epochs}")) for epochs in (2, 3)]  # as resume has it
    write_text(run.config, OmegaConf.to_yaml(cold[0].cfg, resolve=True))
    run.record = {"identity": identities[2], "warm_start": str(parent)}  # of before lengths were recorded
    assert identified(run, cold[0]) == {"identity": identities[2], "max_epochs": [2]}
    found = {"identity": identities[3], "extended_from": identities[2], "max_epochs": [2, 3]}
    assert identified(run, cold[1]) == found
    shutil.rmtree(parent)
    assert identified(run, cold[1])["identity"] not in {scratch, *identities.values()}


def test_a_run_is_not_gone_on_with_on_other_data(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("train: 16", "train: 17"))
    with pytest.raises(UserError, match=r"the data are not those that the run was trained on \(train differ\)"):
        train(configure(f"resume={tmp_path / 'run'}"))


def test_a_run_from_before_a_fix_of_its_results_is_not_gone_on_with(tmp_path, finished_run):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    record = json.loads((folder / "run.json").read_text())
    assert record["revisions"] == {}
    (folder / "run.json").write_text(json.dumps(record | {"revisions": {"data": 1}}))
    with pytest.raises(UserError, match=r"revisions \{'data': 1\}, now \{\}.*warm_start="):
        train(configure(*TINY, f"resume={folder}", f"run_dir={tmp_path / 'other'}"))


def test_a_built_trainer_has_what_the_configuration_says(tmp_path):
    """Keys that are checked by hand must still arrive."""
    trainer = build.trainer(configure("trainer=cpu", "trainer.max_epochs=7", f"run_dir={tmp_path}"), Run(tmp_path))
    assert trainer.max_epochs == 7
    assert trainer.precision == "32-true"
    assert trainer.num_devices == 1


def test_a_run_validated_every_other_epoch_can_be_resumed_after_a_move(tmp_path):
    """Between two epochs, with the best of those before still the best, in whatever folder it lies by then."""
    choices = [*TINY, "trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2", f"run_dir={tmp_path / 'old'}"]
    train(configure(*choices))
    (tmp_path / "old").rename(tmp_path / "new")
    state = torch.load(tmp_path / "new" / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    best = next(value for name, value in state.items() if "val/miou" in name)["best_model_score"]
    config = tmp_path / "new" / "config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 4", "max_epochs: 6"))
    train(configure(f"resume={tmp_path / 'new'}"))
    assert not (tmp_path / "old").exists()
    rows = read_history(tmp_path / "new" / "history.csv")
    assert [("val/miou" in row) for row in rows] == [False, True] * 3
    metrics = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert metrics["val"]["miou"] == pytest.approx(max(row["val/miou"] for row in rows if "val/miou" in row), abs=1e-6)
    assert metrics["val"]["miou"] >= float(best) - 1e-6


@pytest.mark.parametrize(
    ("overrides", "names", "says"),
    [
        (["seed=99999999999999999999"], None, "seed=9+: allowed is a whole number of 0 or more, at most 90"),
        (["task.lr_batch=100000"], None, "task.lr_batch=100,?000"),
        ([], ["a", "\u202eb"], "control characters"),
        ([], ["a", 300 * "b"], r"classes.1: String should have at most 200 characters, but it is bbb"),
    ],
)
def test_a_run_that_could_not_be_read_again_is_refused_before_it_is_trained(
    overrides, names, says, tmp_path, monkeypatch
):
    """Its record or its configuration would count as damaged, so the training would be lost."""
    if names:
        monkeypatch.setattr(Shapes, "classes", [*names, *map(str, range(4))])
    with pytest.raises(UserError, match=says) as caught:
        train(configure(*TINY, *overrides, f"run_dir={tmp_path / 'run'}"))
    assert "\n" not in explain(caught.value)
    assert not (tmp_path / "run" / "config.yaml").exists()
