"""A training that is refused, before or after it began, leaves the run that it resumes as it was, byte for byte."""

import shutil

import pytest
import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from support.configs import TINY, configure
from support.trainings import interrupted_in

from segpipe.config.plan import Plan
from segpipe.data.datasets.shapes import Shapes
from segpipe.engine.fit import run_training
from segpipe.engine.resume import resolve_resume
from segpipe.errors import UserError
from segpipe.runs.run import Run
from segpipe.train import train
from segpipe.training import devices, tracking


def resume(folder, *overrides, auto=False):
    """What the command line does with ``resume=FOLDER`` or ``resume=auto``, and overrides."""
    given = ["resume=auto", f"run_dir={folder}"] if auto else [f"resume={folder}"]
    with Run(folder).lock():
        cfg = resolve_resume(configure(*(TINY if auto else ()), *given, *overrides), overrides=list(overrides))
        run_training(Plan.of(cfg), list(overrides), devices.connect_ranks(), restart=auto)


@pytest.fixture(scope="module")
def interrupted_run(tmp_path_factory):
    """A run that was interrupted in its last of three epochs."""
    folder = tmp_path_factory.mktemp("runs") / "interrupted"
    cfg = configure(*TINY, "trainer.max_epochs=3", f"run_dir={folder}")
    with pytest.MonkeyPatch.context() as patch:
        interrupted_in(2, patch)
        with pytest.raises(KeyboardInterrupt):
            train(cfg)
    return folder


@pytest.fixture(params=["finished", pytest.param("interrupted", marks=pytest.mark.slow)])
def run(request, finished_run, interrupted_run, tmp_path):
    """The folder of a copy of a run."""
    source = {"finished": finished_run, "interrupted": interrupted_run}[request.param]
    return shutil.copytree(source, tmp_path / "run")


def content(folder):
    """Every file of a run and what is in it."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def change(folder, key, value):
    """Change the stored configuration, as a person might."""
    cfg = OmegaConf.load(folder / "config.yaml")
    OmegaConf.update(cfg, key, value, force_add=True)
    OmegaConf.save(cfg, folder / "config.yaml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.max_epochs=1"], "has already trained"),
        (["trainer.accelerator=abacus"], "accelerator"),
        (["trainer.accelerator=gpu"], "torch finds no GPU"),
        (["trainer.devices=[0,7]"], r"trainer.devices=\[0,7\]"),
        (["trainer.strategy=fsdp"], "trainer.strategy=fsdp"),
        (["optimizer.lr=1"], "would make it another training"),
        (["data.workers=-1"], "data.workers=-1"),
        (["data.root=photos"], "data=shapes is generated"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_override_is_refused(run, overrides, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    before = content(run)
    with pytest.raises((UserError, ValueError, MisconfigurationException), match=message):
        resume(run, *overrides)
    assert content(run) == before


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer.eps", -1.0, "optimizer: Invalid epsilon"),
        ("trainer.max_steps", 5, "trainer.max_steps=5 is not supported"),
        ("trainer.no_such", 5, "takes no 'no_such'"),
        ("trainer.limit_val_batches", 0, "trainer.limit_val_batches=0"),
        ("trainer.enable_checkpointing", False, "enable_checkpointing"),
        ("callbacks.best.monitor", "val/mou", "Did you mean 'val/miou'"),
        ("callbacks.best.every_n_train_steps", 5, "callbacks.best.every_n_train_steps=5"),
        ("data.dataset.train", 17, "the data are not those"),
        ("data.batch_size", 17, "a batch has 17"),
        ("model.stride", 3, "stops at stride 3"),
        ("trainer.precision", "8-true", "trainer.precision"),
    ],
)
def test_a_setting_is_refused(run, key, value, message):
    change(run, key, value)
    before = content(run)
    with pytest.raises((UserError, MisconfigurationException), match=message):
        resume(run)
    assert content(run) == before


@pytest.mark.parametrize("auto", [False, True])
def test_damaged_checkpoints_and_missing_data_are_refused(run, auto, monkeypatch):
    """With ``resume=auto`` damaged checkpoints would be renamed; not before all else has been asked."""

    def gone(self):
        raise UserError("the images are gone")

    for name in ("best", "last"):
        (run / "checkpoints" / f"{name}.ckpt").write_bytes(b"damaged")
    before = content(run)
    monkeypatch.setattr(Shapes, "fingerprint", gone)
    with pytest.raises(UserError, match="the images are gone" if auto else "damaged"):
        resume(run, auto=auto)
    assert content(run) == before


def test_fewer_epochs_are_refused_without_a_history(run):
    (run / "history.csv").unlink()
    before = content(run)
    with pytest.raises(UserError, match="has already trained 2 epochs"):
        resume(run, "trainer.max_epochs=1")
    assert content(run) == before


def test_the_logger_refuses(run, monkeypatch):
    monkeypatch.setattr(tracking, "choose_mode", lambda mode, timeout: ("offline", "no API key was found"))
    before = content(run)
    with pytest.raises(UserError, match=r"logger.mode=online, but no API key"):
        resume(run, "logger=wandb", "logger.mode=online")
    assert content(run) == before


@pytest.mark.parametrize(
    "error",
    [UserError("no"), MisconfigurationException("no"), RuntimeError("no"), MemoryError("no"), KeyboardInterrupt],
)
def test_an_error_before_the_first_checkpoint(run, error, monkeypatch):
    """Record and configuration were written by then; they are written back."""
    before = content(run)
    seen = []

    def fit(*given, **named):
        seen.append(Run(run).record["status"])
        raise error

    monkeypatch.setattr(pl.Trainer, "fit", fit)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        resume(run, "trainer.max_epochs=9")
    assert seen == ["running"]
    assert content(run) == before


def test_an_error_after_a_checkpoint_is_recorded(run, monkeypatch):
    """The run is another one by then: longer, with other weights. Its next start continues it."""
    epochs = len((run / "history.csv").read_text().splitlines()) - 1
    interrupted_in(epochs + 1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        resume(run, "trainer.max_epochs=9")
    record = Run(run).record
    assert (record["status"], record["max_epochs"][-1]) == ("interrupted", 9)
    assert OmegaConf.load(run / "config.yaml").trainer.max_epochs == 9


def test_a_new_run_that_is_refused_leaves_no_file(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="optimizer: Invalid epsilon"):
        train(configure(*TINY, "+optimizer.eps=-1", f"run_dir={folder}"))
    assert content(folder) == {}
