"""How a run is called on W&B, and what is sent only if asked for: read back from the offline files."""

import pytest
from support.configs import configure
from support.wandb_alone import MARKS, stop_wandb, train_tiny
from support.wandb_file import records, wandb_files
from support.wandb_server import start, use

from segpipe.config import build
from segpipe.runs.run import Run
from segpipe.training import tracking

pytestmark = MARKS

NAME = "fcn8s-deconv-sum-s0-12345678"

VARIABLES = {
    "WANDB_PROJECT": "theirs", "WANDB_NAME": "called", "WANDB_RUN_GROUP": "group", "WANDB_TAGS": "one, two",
    "WANDB_NOTES": "a note", "WANDB_RUN_ID": "my-id", "WANDB_JOB_TYPE": "probe", "WANDB_RESUME": "never",
}  # fmt: skip


def logged(folder, *overrides):
    """What a run with these options tells W&B at its start."""
    cfg = configure("logger=wandb", "logger.mode=offline", *overrides, f"run_dir={folder}")
    run = Run(folder)
    run.record = {"name": NAME, "overrides": ["seed=0"], "identity": "12345678"}
    logger = build.logger(cfg, run)
    use(logger)
    stop_wandb()
    return sent(folder)[-1]


def sent(folder):
    """The record of the start of each W&B file of a folder."""
    starts = []
    for path in wandb_files(folder):
        (found,) = [one.run for one in records(path.read_bytes()) if one.WhichOneof("record_type") == "run"][:1]
        starts.append(found)
    return starts


def test_the_environment_of_wandb_is_respected(tmp_path, monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    run = logged(tmp_path / "2026-11-26_10-00-00_run")
    assert (run.project, run.display_name, run.run_group, run.run_id) == ("theirs", "called", "group", "my-id")
    assert (list(run.tags), run.notes, run.job_type) == (["one", "two", "seed=0"], "a note", "probe")


def test_options_come_before_the_environment(tmp_path, monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    given = ["logger.project=mine", "logger.group=own", "logger.tags=[x]", "logger.notes=said"]
    run = logged(tmp_path / "run", *given)
    assert (run.project, run.run_group, run.notes) == ("mine", "own", "said")
    assert list(run.tags) == ["x", "one", "two", "seed=0"]


def test_the_cells_of_a_sweep_share_neither_name_nor_id(tmp_path, monkeypatch):
    """WANDB_NAME and WANDB_RUN_ID are meant for one run; for several they are beginnings."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(build.SWEEP, "swept")
    run = logged(tmp_path / "run")
    assert (run.display_name, run.run_id) == (f"called-{NAME}", f"my-id-{NAME}")
    assert run.run_group == "group"
    monkeypatch.delenv("WANDB_RUN_GROUP")
    assert logged(tmp_path / "other").run_group == "swept"


def test_without_variables_the_run_has_its_own_name(tmp_path):
    run = logged(tmp_path / "2026-11-25_10-00-00_fcn8s-deconv-sum-s0-12345678")
    assert (run.project, run.display_name, run.run_group, run.notes) == ("segpipe", NAME, "", "")
    assert run.run_id.startswith("fcn8s-deconv-sum-s0-12345678-")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fcn8s-deconv-s0-12345678", "fcn8s-deconv-s0-12345678"),
        ("a b/c", "a-b-c"),
        ("fcn8s-" + "word-" * 20 + "12345678", "fcn8s-" + "word-" * 10 + "12345678"),
        ("x" * 100, "x" * 64),
    ],
)
def test_an_id_is_never_cut_within_a_word(text, expected):
    assert tracking.fit_id(text) == expected
    assert len(tracking.new_run_id(text)) <= tracking.LONGEST_ID


def test_a_resumed_offline_run_stays_one_run(tmp_path):
    """Also where it had another name before, and next to a file that is not W&B's."""
    folder = tmp_path / "run"
    (folder / "wandb" / "offline-run-20200101_000000-a b").mkdir(parents=True)
    (folder / "wandb" / "offline-run-20200101_000000-a b" / "run-a b.wandb").touch()
    first, _ = start(folder, mode="offline")
    use(first)
    stop_wandb()
    second, _ = start(folder, mode="offline")
    assert second.experiment.id == first.experiment.id
    use(second)
    stop_wandb()
    assert len([path for path in wandb_files(folder) if path.stat().st_size]) == 2


@pytest.mark.slow
def test_a_training_that_is_resumed_offline_is_one_run(tmp_path):
    folder = tmp_path / "run"
    train_tiny(folder, "logger.mode=offline", "trainer.max_epochs=1")
    from segpipe.train import train

    train(configure(f"resume={folder}", "trainer.max_epochs=2", "logger=wandb", "logger.mode=offline"))
    stop_wandb()
    assert len({run.run_id for run in sent(folder)}) == 1
    assert len(sent(folder)) == 2


def test_statistics_and_the_model_are_sent_only_if_asked_for(tmp_path):
    settings = [tracking.quiet_settings(1.0, stats=stats) for stats in (False, True)]
    assert [one.x_disable_stats for one in settings] == [True, False]
    assert all(one.host == "" and one.x_disable_machine_info for one in settings)
    plain, asked = tmp_path / "plain", tmp_path / "asked"
    train_tiny(plain, "logger.mode=offline", "trainer.max_epochs=1")
    train_tiny(asked, "logger.mode=offline", "trainer.max_epochs=1", "logger.log_model=true")
    assert artifacts(plain) == []
    (model,) = [one for one in artifacts(asked) if one.type == "model"]
    assert "best" in model.aliases
    assert [entry.path for entry in model.manifest.contents] == ["best.ckpt"]
    assert not (asked / "wandb" / "best.ckpt").exists()
    assert "identity" in model.metadata
    assert str(tmp_path) not in model.metadata


def artifacts(folder):
    """The artifacts of type model in the W&B file of a folder. Tables and images are artifacts too."""
    (path,) = wandb_files(folder)
    found = [one.request.log_artifact.artifact for one in records(path.read_bytes()) if one.HasField("request")]
    found += [one.artifact for one in records(path.read_bytes()) if one.WhichOneof("record_type") == "artifact"]
    return [one for one in found if one.type == "model"]
