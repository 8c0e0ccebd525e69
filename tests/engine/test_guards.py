"""What would end a training wrongly: options of Lightning's, signals that a library swallows, a folder that is gone."""

import json
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from support.configs import TINY, configure
from support.trainings import equal, weights

from segpipe.config import build
from segpipe.config.messages import explain
from segpipe.config.plan import Plan
from segpipe.config.unsupported import LOGGING_CALLBACKS, UNSUPPORTED_CALLBACKS, check_callback
from segpipe.data import module
from segpipe.data.datasets.shapes import Shapes
from segpipe.engine import fit, shutdown
from segpipe.engine.guards import notes_on_length
from segpipe.errors import UserError
from segpipe.models.upsample import Bilinear
from segpipe.runs.run import Run
from segpipe.runs.storage import read_history
from segpipe.train import train
from segpipe.training.task import SegmentationTask


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("+trainer.max_steps=3", "set trainer.max_epochs"),
        ("+trainer.min_steps=3", "set trainer.min_epochs"),
        ("+trainer.fast_dev_run=true", "give debug=fast"),
        ("+trainer.fast_dev_run=2", "give debug=fast"),
        ("+trainer.overfit_batches=2", "give debug=overfit"),
        ("+trainer.overfit_batches=0.5", "give debug=overfit"),
        ("+trainer.val_check_interval=0.5", "trainer.check_val_every_n_epoch"),
        ("+trainer.barebones=true", "history"),
        ("+trainer.enable_checkpointing=false", "remove this option"),
        ("trainer.use_distributed_sampler=true", "set it to false"),
        ("trainer.num_nodes=0", "of 1 or more"),
        ("+trainer.max_time=soon", "DAYS:HOURS:MINUTES:SECONDS"),
        ("+trainer.max_time=5", "allowed is a text or a mapping"),
        ("+trainer.max_time={hours:-1}", "allowed is DAYS:HOURS:MINUTES:SECONDS"),
        ("+trainer.max_time={parsecs:1}", "allowed is DAYS:HOURS:MINUTES:SECONDS"),
        ("+trainer.max_time={days:9999999999999}", "at most 999,999,999 days"),
        ("+trainer.max_time=99999999999999:00:00:00", "at most 999,999,999 days"),
        ("+trainer.min_epochs=9999", "Lower the first or raise the second"),
        ("optimizer.lr=inf", "not infinite"),
        ("task.clip=nan", "above 0"),
        ("+trainer.max_time={seconds:soon}", "trainer.max_time="),
        ("+trainer.limit_train_batches=0", "at least one batch"),
        ("+trainer.limit_val_batches=0", "at least one batch"),
        ("+trainer.limit_test_batches=0.0", "at least one batch"),
        ("trainer.check_val_every_n_epoch=null", "a whole number"),
        ("callbacks.last.every_n_train_steps=0", "of 1 or more"),
        ("+callbacks.best.every_n_train_steps=5", "allowed is null"),
        ("+callbacks.last.train_time_interval=5", "callbacks.last.train_time_interval=5: allowed is"),
        ("callbacks.last.save_on_train_epoch_end=false", "allowed is true"),
        ("callbacks.best.save_top_k=0", "allowed is 1"),
        ("+callbacks.best.every_n_epochs=7", "allowed is null"),
        ("+callbacks.last.every_n_epochs=2", "allowed is null"),
        ("callbacks.best.filename=good", "allowed is best"),
        ("callbacks.best.enable_version_counter=true", "allowed is false"),
        ("+callbacks.last.save_weights_only=true", "allowed is false"),
        ("callbacks.best.dirpath=elsewhere", "hydra.run.dir=FOLDER"),
        ("+callbacks.best.save_last=true", "allowed is null"),
        ("+callbacks.last.save_last=link", "allowed is null"),
        ("+callbacks.last.monitor=val/miou", "allowed is null"),
    ],
)
def test_options_with_which_a_run_would_not_be_complete_are_refused(option, says):
    with pytest.raises(UserError, match=says):
        Plan.of(configure("run_dir=run", option))


@pytest.mark.parametrize("name", [*UNSUPPORTED_CALLBACKS, "EMAWeightAveraging"])
def test_a_callback_that_would_steer_the_training_is_refused(name):
    node = OmegaConf.create({"_target_": f"pytorch_lightning.callbacks.{name}"})
    with pytest.raises(UserError, match=r"callbacks\.x: \w+ is not supported\. .*(Set|Sweep|[gG]ive|set|Take) "):
        check_callback("x", node)


@pytest.mark.parametrize("name", LOGGING_CALLBACKS)
def test_a_callback_that_logs_is_refused_without_a_logger(name):
    node = OmegaConf.create({"_target_": f"pytorch_lightning.callbacks.{name}"})
    check_callback("x", node)
    with pytest.raises(UserError, match=rf"callbacks\.x: {name} needs a logger\. Give logger=wandb"):
        check_callback("x", node, logs=False)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["+callbacks.x._target_=os.getcwd"], r"callbacks\.x\._target_=os\.getcwd: it makes a str; allowed is"),
        (["+callbacks.x._target_=pytorch_lightning.callbacks.ModelCheckpoint"], r"two checkpoints have the same moni"),
        (["+trainer.profiler=bogus"], "profiler"),
        (["loss._target_=torch.nn.Identity"], r"loss\._target_=torch\.nn\.Identity: it makes a Identity; allowed"),
        (["model._target_=torch.nn.Identity"], r"model\._target_=.*segpipe\.models\.network\.Network"),
        (["encoder._target_=torch.nn.Identity"], r"encoder\._target_=.*Encoder"),
        (["loss._target_=builtins.dict"], r"_target_=builtins\.dict: the arguments of this built-in are not known"),
        (["data.dataset._target_=builtins.dict"], r"_target_=builtins\.dict: "),
        (["trainer._target_=builtins.dict"], r"_target_=builtins\.dict: "),
        (["augment.after_crop=[{_target_: torch.nn.Identity}]"], "Identity is no transform of albumentations"),
        (["augment.after_crop=[{_target_: albumentations.Normalize}]"], "Normalize made float32"),
        (["augment.after_crop=hello"], "allowed is a list of objects"),
    ],
)
def test_what_a_node_cannot_make_is_refused_before_anything_is_written(options, says, tmp_path):
    with pytest.raises((UserError, MisconfigurationException), match=says) as caught:
        train(configure(*TINY, *options, f"run_dir={tmp_path / 'run'}"))
    assert "\n" not in explain(caught.value)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("options", "noted"),
    [
        (["scheduler.warmup=5"], True),
        (["scheduler.warmup=4"], False),
        (["scheduler.warmup=3", "+trainer.limit_train_batches=1"], True),
        (["scheduler.warmup=3", "+trainer.limit_train_batches=0.5"], True),
        (["scheduler.warmup=0"], False),
    ],
)
def test_a_warm_up_that_is_longer_than_the_training_is_noted(options, noted):
    cfg = configure(*TINY, *options)  # 2 epochs of 2 batches
    notes = notes_on_length(cfg, build.data(cfg))
    assert bool(notes) == noted
    assert all("is longer than the training" in note and "Set scheduler.warmup=0" in note for note in notes)


def test_a_training_prints_the_note_on_its_warm_up(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fit, "fit", lambda training: (_ for _ in ()).throw(UserError("enough")))
    with pytest.raises(UserError, match="enough"):
        train(configure(*TINY, "scheduler.warmup=99", f"run_dir={tmp_path / 'run'}"))
    assert "Note: scheduler.warmup=99 is longer than the training (4 steps)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["EarlyStopping", "LearningRateMonitor", "Timer", "ModelCheckpoint"])
def test_a_callback_that_watches_or_stops_is_allowed(name):
    check_callback("x", OmegaConf.create({"_target_": f"pytorch_lightning.callbacks.{name}"}))
    check_callback("x", None)


@pytest.mark.parametrize(
    "option",
    [
        "+trainer.max_steps=-1",
        "+callbacks.best.every_n_epochs=1",
        "+trainer.fast_dev_run=false",
        "+trainer.min_epochs=1",
        "+callbacks.best.save_last=false",
        "+optimizer.betas=[0.9,0.95]",
        "+trainer.max_time={hours:1}",
        "+trainer.enable_checkpointing=true",
    ],
)
def test_options_without_an_effect_are_allowed(option):
    Plan.of(configure("run_dir=run", option))


def test_a_monitor_that_is_not_logged_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"callbacks\.best\.monitor=val/mou: this value is not logged.*'val/miou'"):
        train(configure(*TINY, "callbacks.best.monitor=val/mou", f"run_dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run" / "run.json").exists()


NOW = "'00:00:00:00'"  # the time is over in the first step
TIMER = f"{{_target_: pytorch_lightning.callbacks.Timer, duration: {NOW}, verbose: false}}"


@pytest.mark.parametrize("option", [f"+trainer.max_time={NOW}", f"+callbacks.timer={TIMER}"])
def test_a_training_that_is_stopped_within_an_epoch_ends_after_it(option, tmp_path):
    """A complete first epoch: the same weights as without, a line of history with validation, both checkpoints."""
    train(configure(*TINY, option, f"run_dir={tmp_path / 'run'}"))
    whole = [*TINY, "trainer.max_epochs=1", "scheduler=constant", f"run_dir={tmp_path / 'whole'}"]
    (row,) = read_history(tmp_path / "run" / "history.csv")
    assert row["step"] == 2
    assert {"train/loss", "val/miou"} <= row.keys()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["training"]["epochs"] == 1
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    if option.startswith("+trainer"):
        train(configure(*TINY, option, "scheduler=constant", f"run_dir={tmp_path / 'constant'}"))
        train(configure(*whole))
        assert equal(weights(tmp_path / "constant"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("limit", ["limit_train_batches=1", "limit_val_batches=1", "limit_test_batches=1"])
def test_limited_batches_give_a_complete_run(limit, tmp_path):
    train(configure(*TINY, f"+trainer.{limit}", f"run_dir={tmp_path / 'run'}"))
    rows = read_history(tmp_path / "run" / "history.csv")
    assert [row["epoch"] for row in rows] == [0, 1]
    assert all({"train/loss", "val/miou"} <= row.keys() for row in rows)
    assert Run(tmp_path / "run").record["status"] == "finished"


@pytest.mark.parametrize("key", ["train", "val", "test"])
def test_a_share_of_less_than_one_batch_is_refused(key, tmp_path):
    with pytest.raises(
        UserError, match=rf"limit_{key}_batches=0\.1: less than one of the 2 batches of the {key} split"
    ):
        train(configure(*TINY, f"+trainer.limit_{key}_batches=0.1", f"run_dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ("val", r"val split has no labelled pixel, so val/miou has no value.*train/loss"),
        ("train", "train split has no labelled pixel, so there is nothing to learn from"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_a_split_without_labelled_pixels_is_refused(split, says, known, tmp_path, monkeypatch):
    """No epoch would be the best, or the loss 0. It is said before the training, also if pixels were never counted."""
    read = Shapes.read

    def unlabelled(self, index):
        sample = read(self, index)
        return sample._replace(mask=np.full_like(sample.mask, 255)) if self.split == split else sample

    monkeypatch.setattr(Shapes, "read", unlabelled)
    monkeypatch.setattr(Shapes, "class_pixels", lambda self: None)
    monkeypatch.setattr(  # another test may have counted the same data
        module, "known_class_pixels", lambda dataset: np.full(5, dataset.split != split) if known else None
    )
    with pytest.raises(UserError, match=says):
        train(configure(*TINY, f"run_dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run" / "run.json").exists()


def test_crops_without_a_labelled_pixel_end_the_first_epoch(tmp_path, monkeypatch):
    """A corner of each image is labelled, and no crop hits it."""
    read = Shapes.read

    def corner(self, index):
        sample = read(self, index)
        mask = np.full_like(sample.mask, 255)
        mask[0, 0] = sample.mask[0, 0]
        return sample._replace(mask=mask if self.split == "train" else sample.mask)

    monkeypatch.setattr(Shapes, "read", corner)
    with pytest.raises(UserError, match=r"first epoch show no labelled pixel.*data\.crop.*data\.rare_share=0\.5"):
        train(configure(*TINY, "data.crop=[32,32]", f"run_dir={tmp_path / 'run'}"))


@pytest.mark.parametrize("accelerator", ["tpu", "hpu", "CPU", "mps"])
def test_an_accelerator_that_is_not_there_is_refused(accelerator, tmp_path):
    with pytest.raises(UserError, match=rf"trainer\.accelerator={accelerator}: "):
        train(configure(*TINY, f"trainer.accelerator={accelerator}", f"run_dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run" / "run.json").exists()


ONE = ["data.batch_size=2", "task.accumulate=2"]


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (["encoder=resnet18", "neck=none", "data.crop=[32,32]"], "encoder"),
        (["encoder=resnet50", "neck=none", "data.crop=[32,32]"], "encoder"),
        (["neck=double_conv", "data.crop=[32,32]"], "neck"),
    ],
)
def test_batch_normalisation_of_a_single_value_is_refused(options, where):
    with pytest.raises(UserError, match=rf"batch normalisation \({where}\..*single value per channel"):
        Plan.of(configure("run_dir=run", *ONE, *options))
    larger = [*options[:-1], "data.crop=[128,128]"]
    Plan.of(configure("run_dir=run", *ONE, *larger))
    Plan.of(configure("run_dir=run", "data.batch_size=4", "task.accumulate=2", *options))


@pytest.mark.parametrize("encoder", ["small", "vgg11_bn"])
def test_an_error_of_another_norm_is_not_taken_for_batch_normalisation(encoder, monkeypatch):
    def of_groups(self, x, source):
        return torch.nn.functional.group_norm(x[:, :1, :1, :1], 1)

    monkeypatch.setattr(Bilinear, "forward", of_groups)
    Plan.of(configure("run_dir=run", *ONE, "model=ladder", f"encoder={encoder}", "data.crop=[64,64]"))


def test_a_signal_that_a_library_swallows_ends_the_training(tmp_path, monkeypatch):
    step = SegmentationTask.training_step

    def swallow(self, *given):
        if self.current_epoch == 1:
            shutdown.signals.setdefault(signal.SIGINT, time.monotonic())  # as the handler does; its error is swallowed
        return step(self, *given)

    monkeypatch.setattr(SegmentationTask, "training_step", swallow)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(KeyboardInterrupt):
            train(configure(*TINY, "trainer.max_epochs=5", f"run_dir={tmp_path}"))
    finally:
        shutdown.signals.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert Run(tmp_path).record["status"] == "interrupted"
    assert len(read_history(tmp_path / "history.csv")) == 1


@pytest.mark.parametrize(
    ("place", "is_folder"),
    [
        ("metrics.json", True),
        ("history.csv", True),
        ("run.json", True),
        ("checkpoints/best.ckpt", True),
        ("checkpoints/last.ckpt", True),
        ("confusion/val.npz", True),
        ("checkpoints", False),
        ("confusion", False),
        ("boundaries", False),
        ("pictures", False),
    ],
)
def test_what_lies_at_the_place_of_a_file_of_the_run_is_refused_before_the_training(place, is_folder, tmp_path):
    path = tmp_path / "run" / place
    path.mkdir(parents=True) if is_folder else (path.parent.mkdir(), path.write_text("x"))
    with pytest.raises(UserError, match=rf"{place}: this is a fil|{place}: this is a folder.*Remove or rename it"):
        train(configure(*TINY, f"run_dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_folder_that_is_removed_during_the_training_is_an_error(epoch, tmp_path, monkeypatch):
    """In the first epoch, and in the last one: nothing is written to a folder without a configuration."""
    begin = SegmentationTask.on_train_epoch_start

    def remove(self):
        if self.current_epoch == epoch:
            shutil.rmtree(tmp_path / "run")
        begin(self)

    monkeypatch.setattr(SegmentationTask, "on_train_epoch_start", remove)
    with pytest.raises(UserError, match="folder was removed or renamed while it was trained"):
        train(configure(*TINY, f"run_dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_removed_during_the_test_is_an_error(tmp_path, monkeypatch):
    ended = SegmentationTask.on_test_epoch_end
    monkeypatch.setattr(
        SegmentationTask, "on_test_epoch_end", lambda self: (ended(self), shutil.rmtree(tmp_path / "run"))[0]
    )
    with pytest.raises(UserError, match="folder was removed or renamed"):
        train(configure(*TINY, f"run_dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()


def test_a_best_checkpoint_that_was_not_written_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr("pytorch_lightning.callbacks.ModelCheckpoint.check_monitor_top_k", lambda *given: False)
    with pytest.raises(UserError, match=r"best\.ckpt was not written"):
        train(configure(*TINY, f"run_dir={tmp_path / 'run'}"))


def test_a_loader_that_stands_still_ends_the_run(tmp_path, monkeypatch):
    read = Shapes.read

    def slow(self, index):
        time.sleep(5)
        return read(self, index)

    monkeypatch.setattr(Shapes, "read", slow)
    monkeypatch.setattr(module, "LOADER_TIMEOUT", 1)
    cfg = configure(*TINY, "data.workers=1", "data.cache=off", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(RuntimeError, match="timed out") as caught:
        train(cfg)
    assert "Set data.workers=0" in explain(caught.value)
    assert "\n" not in explain(caught.value)
    assert "data.workers=0" in OmegaConf.load(tmp_path / "run" / "run.json").error


@pytest.mark.parametrize("workers", [1, None])
@pytest.mark.parametrize("fault", ["temporary folder is too long", "free bytes, but a batch needs", "TMPDIR=FOLDER"])
def test_loaders_that_could_not_send_batches_are_not_started(fault, workers, tmp_path, monkeypatch):
    """A worker whose batch cannot be sent waits without a message."""

    def missing():
        raise FileNotFoundError(2, "No usable temporary directory found")

    if "long" in fault:
        monkeypatch.setattr(module.tempfile, "gettempdir", lambda: "/tmp/" + 80 * "x")
    elif "FOLDER" in fault:
        monkeypatch.setattr(module.tempfile, "gettempdir", missing)
    else:
        monkeypatch.setattr(module.os, "statvfs", lambda path: SimpleNamespace(f_bavail=1, f_frsize=4096))
    cfg = configure(*TINY, "data.cache=off", f"data.workers={'null' if workers is None else workers}")
    data = build.data(cfg)
    if workers is None:
        assert data.loader("train", train=True).num_workers == 0
        return
    with pytest.raises(UserError, match=fault):
        data.check()


def test_a_training_that_was_suspended_continues():
    """Its time was over once, not twice."""
    answers = iter([RuntimeError("DataLoader timed out after 1 seconds"), "batch", RuntimeError("another")])

    class Batches:
        def __next__(self):
            if isinstance(answer := next(answers), Exception):
                raise answer
            return answer

    assert module.next_batch(Batches()) == "batch"
    with pytest.raises(RuntimeError, match="another"):
        module.next_batch(Batches())


@pytest.mark.parametrize(
    "message",
    [
        "DataLoader timed out after 900 seconds",
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        "shared memory. Please try to raise your shared memory limit.",
    ],
)
def test_loaders_without_shared_memory_are_explained(message):
    assert "Set data.workers=0" in explain(RuntimeError(message))


@pytest.mark.parametrize(("passed", "ends"), [(0.0, False), (1.0, False), (5.0, True)])
def test_a_second_signal_ends_the_process_only_after_a_while(passed, ends, monkeypatch):
    """Two at once are one request, of a terminal and a launcher, say; the clean-up is not disturbed."""
    clock, ended = [100.0], []
    monkeypatch.setattr(shutdown.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(shutdown, "exit_at_once", lambda *given: ended.append(1))
    try:
        with pytest.raises(KeyboardInterrupt):
            shutdown.raise_keyboard_interrupt(signal.SIGINT, None)
        clock[0] += passed
        shutdown.raise_keyboard_interrupt(signal.SIGTERM, None)
    finally:
        shutdown.signals.clear()
    assert bool(ended) == ends
