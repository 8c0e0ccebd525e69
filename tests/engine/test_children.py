"""What a sweep's jobs get of the command line: a user's own configuration files, classes and search path."""

import json
import re
import shlex

import pytest
import torch
from omegaconf import OmegaConf
from support.commands import run
from support.configs import TINY
from support.paths import ROOT

from segpipe.config.schema import CONF
from segpipe.engine.processes import hydra_options, shown_options
from segpipe.errors import UserError
from segpipe.runs import cells
from segpipe.runs.run import Run
from segpipe.training.devices import split_devices

CHOICES = [*TINY, "trainer.max_epochs=1"]
CLASS = "from segpipe.models.upsample import Bilinear\n\n\nclass Mine(Bilinear):\n    pass\n"
EXPERIMENT = """# @package _global_
defaults:
  - override /decoder: mine
  - override /fusion: other
  - _self_
sweep: {name: own}
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      seed: 0,1
"""


@pytest.fixture
def own(tmp_path):
    """A folder with a package and two configuration folders of a user."""
    (tmp_path / "my_operators.py").write_text(CLASS)
    for folder, name, text in (
        ("my conf/experiment", "own", EXPERIMENT),
        ("my conf/decoder", "mine", "_target_: my_operators.Mine\n_partial_: true\nname: mine\nsmooth: null\n"),
        ("more/fusion", "other", (ROOT / "conf" / "fusion" / "sum.yaml").read_text()),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{name}.yaml").write_text(text)
    return tmp_path


def test_a_users_own_experiment_is_swept_resumed_and_printed(own):
    """The second job starts when Hydra has ended and knows its command line no more."""
    options = ["--config-dir", "my conf", "hydra.searchpath=[file://more]"]
    command = ["segpipe.train", *options, "experiment=own", *CHOICES]
    said = run(*command, cwd=own)
    folder = own / "outputs" / "sweeps" / "own"
    assert [cells.status(folder, cell) for cell in cells.read(folder)] == ["finished", "finished"]
    assert cells.read_options(folder) == ["--config-dir=my conf", "hydra.searchpath=[file://more]"]
    (first, second) = [Run(path) for path in sorted(folder.glob("[!.]*/"))]
    for path in (first.record_path, first.metrics):
        path.unlink()
    again = run(*command, cwd=own)
    assert re.search(rf"finished +{first.folder.name}", again)
    assert second.folder.name not in again.partition("Sweep:")[0]
    assert "goes on with other code" not in said + again
    assert [set(start) for start in Run(first.folder).record["starts"]] == [{"time", "git"}]

    printed = (first.folder / "output.log").read_text()
    (line,) = {line.strip() for line in printed.splitlines() if "segpipe.train" in line}
    words = shlex.split(line)
    words = words[words.index("segpipe.train") :]
    assert words[1] == "--config-dir=my conf"
    alone = run(*words, "decoder=mine", "run_dir=alone", cwd=own)  # the printed command finds the user's files
    assert "Training " in alone
    assert "--trust my_operators" in printed
    resumed = run("segpipe.train", "resume=alone", "trust=my_operators", "trainer.max_epochs=2", cwd=own)
    assert "best epoch" in resumed


def options_of(config_dir=None, config_name="train", main=None, given=()):
    sources = [{"provider": "main", "path": str(main or CONF)}, {"provider": "hydra", "path": "hydra.conf"}]
    sources += [{"provider": "command-line", "path": config_dir}] if config_dir else []
    return OmegaConf.create(
        {"runtime": {"config_sources": sources}, "job": {"config_name": config_name}, "overrides": {"hydra": given}}
    )


@pytest.mark.parametrize(
    ("hydra", "options", "given"),
    [
        (options_of(), [], []),
        (options_of(config_dir="/a/b"), ["--config-dir=/a/b"], []),
        (options_of(main="/c", config_name="mine"), ["--config-path=/c", "--config-name=mine"], []),
        (
            options_of(
                given=["hydra.mode=MULTIRUN", "hydra.sweep.dir=x", "hydra.searchpath=[a]", "hydra.verbose=true"]
            ),
            [],
            ["hydra.searchpath=[a]", "hydra.verbose=true"],
        ),
    ],
)
def test_what_a_command_gives_to_hydra_itself_is_given_to_children(hydra, options, given):
    assert hydra_options(hydra) == (options, given)
    assert shown_options(hydra) == [*options, *(word for word in given if "searchpath" in word)]


def test_jobs_that_share_a_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    first, second = {"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}
    assert split_devices(2, gpu=True, per_gpu=3) == [first, second] * 3
    assert split_devices(1, gpu=True, per_gpu=2) == [{"CUDA_VISIBLE_DEVICES": "0,1"}] * 2
    with pytest.raises(UserError, match=r"allowed is 1 to 2, the GPUs.*sweep.per_gpu"):
        split_devices(4, gpu=True, per_gpu=2)
    with pytest.raises(UserError, match=r"sweep.per_gpu=2: these jobs train on the CPU"):
        split_devices(1, gpu=False, per_gpu=2)


NAMED = "# @package _global_\nsweep: {name: %s}\n"


@pytest.fixture
def own_experiments(tmp_path):
    """Experiments that name their sweep, and one that sweeps keys."""
    for name in ("first", "second"):
        file = tmp_path / "conf" / "experiment" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(NAMED % name)
    file.with_name("grid.yaml").write_text(
        "# @package _global_\nhydra: {sweeper: {params: {seed: '0,1', fusion: sum}}}\n"
    )
    return tmp_path


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["", "dry"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["experiment=first,second"],
            "experiment=first: this job would be written to outputs/sweeps/first, but the sweep is written to .*"
            "Give one folder for all jobs: sweep.name=NAME",
        ),
        (["decoder=deconv,unpool", "experiment=second,first"], "experiment=second: this job would be written to"),
        (
            ["seed=0,1", "hydra.sweep.dir=out/${seed}"],
            r"seed=1: this job would be written to out/1, .* all jobs: hydra.sweep.dir=FOLDER",
        ),
        (
            ["experiment=first,grid", "seed=0", "sweep.name=x"],
            r"experiment=grid: it sweeps keys of its own \(fusion in hydra.sweeper.params\), .* Run it alone: .*"
            r"segpipe.train --config-dir=conf experiment=grid",
        ),
        (["sweep.name=a,b"], "sweep.name=a,b: several values, but this key is the same for all jobs"),
    ],
)
def test_jobs_that_do_not_belong_to_one_sweep_are_refused_before_any_training(own_experiments, given, said, dry):
    """They would be listed in another folder than they are trained in, or lack cells."""
    before = sorted(own_experiments.rglob("*"))
    options = ["--config-dir=conf", *dry, "-m", *given]
    assert re.search(f"segpipe: {said}", run("segpipe.train", *options, cwd=own_experiments, status=1))
    assert sorted(own_experiments.rglob("*")) == before


def test_experiments_with_one_name_are_one_sweep(own_experiments):
    swept = ["experiment=first,second,grid", "seed=0", "fusion=sum", "optimizer.lr=1e-3,1e-4", "sweep.name=x"]
    options = ["--config-dir=conf", "--dry-run", "-m", *CHOICES]
    assert "6 cells, 2 runs to train." in run("segpipe.train", *options, *swept, cwd=own_experiments)


OPTUNA = [
    "hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1",
    "hydra.sweeper.sampler.seed=0",
]  # fmt: skip


@pytest.mark.slow
def test_optunas_sweeper_gets_the_validation_miou(tmp_path):
    """TPE, by Hydra's plugin, which reads from the returned value how good a trial was. A refused trial fails."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
    swept = ["optimizer.lr=interval(1e-4,1e-2)", "sweep.name=tpe"]
    run("segpipe.train", "-m", *OPTUNA, *CHOICES, *swept, cwd=tmp_path, cold=True)
    folder = tmp_path / "outputs" / "sweeps" / "tpe"
    scores = [
        json.loads((folder / str(cell.run) / "metrics.json").read_text())["val"]["miou"] for cell in cells.read(folder)
    ]
    assert len(scores) == 3
    best = (folder / "optimization_results.yaml").read_text()
    assert f"best_value: {max(scores)}" in best


FAILING = [*OPTUNA[:-1], "hydra.sweeper.sampler.seed=2", "hydra.sweeper.n_trials=4"]


@pytest.mark.slow
def test_a_trial_without_a_result_does_not_end_optunas_sweep(tmp_path):
    """The second of four trials diverges, and the last one is refused. The exit status is that of any such sweep."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
    swept = ["decoder.kernel=choice(4,5)", "optimizer.lr=choice(0.01,1e30)", "optimizer=sgd", "sweep.name=x"]
    options = [*FAILING, "hydra.sweeper.max_failure_rate=1.0"]
    said = run("segpipe.train", "-m", *options, *CHOICES, *swept, cwd=tmp_path, status=1)
    folder = tmp_path / "outputs" / "sweeps" / "x"
    states = [cells.status(folder, cell) for cell in cells.read(folder)]
    assert states == ["finished", "failed", "refused"]
    assert "3 cells, 2 networks: 1 cell finished, 1 refused, 1 to be done" in re.sub(r"\s+", " ", said)
    assert "best_params:\n  decoder.kernel: 4\n" in (folder / "optimization_results.yaml").read_text()


@pytest.mark.parametrize(("allowed", "said"), [("1.0", "No trial has a result"), ("0.0", "Invalid: fcn8s deconv sum")])
def test_optunas_sweep_of_invalid_cells_ends_in_a_line(tmp_path, allowed, said):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
    swept = ["decoder.kernel=choice(5,7)", "sweep.name=x", f"hydra.sweeper.max_failure_rate={allowed}"]
    lines = run("segpipe.train", "-m", *FAILING, *CHOICES, *swept, cwd=tmp_path, status=1).splitlines()
    assert lines[-1].startswith(f"segpipe: {said}")
    assert sum(line.startswith("Invalid: ") for line in lines) == (4 if allowed == "1.0" else 1)


def test_another_sweeper_may_not_choose_between_sweeps(own_experiments):
    """It composes its jobs itself, so that the first one ends the sweep; it is no failed trial."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
    swept = ["experiment=choice(first,second)", "hydra.sweeper.max_failure_rate=1.0"]
    said = run("segpipe.train", "--config-dir=conf", "-m", *OPTUNA, *swept, cwd=own_experiments, status=1)
    assert said.count("this job would be written to") == 1
    assert not list(own_experiments.rglob("run.json"))
