"""A function that is called after each validation, and a study with Optuna's median pruner that uses it."""

import runpy
import shlex

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from support.configs import TINY, configure
from support.paths import ROOT

from segpipe.config.plan import Plan
from segpipe.runs.run import Run
from segpipe.runs.storage import read_history
from segpipe.train import train


class Pruned(Exception):
    """Stands for ``optuna.TrialPruned``."""


def test_a_function_is_called_after_each_validation_and_may_end_the_training(tmp_path):
    """By then the history and the checkpoints of the epoch are written, so that the run can be resumed."""
    seen = []

    def on_validation(epoch, scores):
        rows = read_history(tmp_path / "run" / "history.csv")
        assert scores["miou"] == rows[-1]["val/miou"]
        assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
        seen.append((epoch, len(rows)))
        if len(seen) == 2:
            raise Pruned("enough")

    steps = ["trainer.max_epochs=6", "trainer.check_val_every_n_epoch=2"]
    with pytest.raises(Pruned):
        train(configure(*TINY, *steps, f"run_dir={tmp_path / 'run'}"), on_validation=on_validation)
    assert seen == [(1, 2), (3, 4)]
    assert Run(tmp_path / "run").record["status"] == "failed"
    assert Run(tmp_path / "run").record["error"] == "Pruned: enough"
    found = train(configure(f"resume={tmp_path / 'run'}"), on_validation=lambda *given: seen.append(given[0]))
    assert found["training"]["epochs"] == 6
    assert seen[2:] == [5]


@pytest.mark.slow
def test_the_example_with_a_median_pruner(tmp_path):
    optuna = pytest.importorskip("optuna", reason="optuna is not installed")
    example = runpy.run_path(str(ROOT / "examples" / "optuna_pruner.py"))
    overrides = [*TINY, "trainer.max_epochs=4", "optimizer=sgd", "data.batch_size=4"]
    study = example["study"](overrides, tmp_path, trials=5)
    states = [trial.state for trial in study.trials]
    assert len(states) == 5
    assert set(states) <= {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED}
    best = Run(tmp_path / f"trial-{study.best_trial.number}")
    assert best.record["status"] == "finished"
    for trial in study.trials:
        assert Run(tmp_path / f"trial-{trial.number}").record["status"] in ("finished", "failed")


def test_the_example_of_a_wandb_sweep_gives_commands_that_train():
    """W&B puts the values of a trial in the place of ${args_no_hyphens}, as KEY=VALUE."""
    content = yaml.safe_load((ROOT / "examples" / "wandb_sweep.yaml").read_text())
    values = {key: one.get("values", [one.get("min")])[0] for key, one in content["parameters"].items()}
    words = content["command"][content["command"].index("segpipe.train") + 1 : -1]
    assert content["command"][-1] == "${args_no_hyphens}"
    overrides = [*words, *(f"{key}={value}" for key, value in values.items())]
    assert len(OverridesParser.create().parse_overrides(shlex.split(" ".join(overrides)))) == len(overrides)
    Plan.of(configure(*overrides))
    assert content["metric"]["name"] == "val/miou"
