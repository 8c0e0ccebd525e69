import json
import math
import shutil

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import TINY, configure
from omegaconf import OmegaConf
from support.grid import slow
from test_data import write_camvid

import segpipe
from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.engine import scheduler
from segpipe.engine.fit import run_training
from segpipe.engine.resume import check_same_config, identified, resolve_resume
from segpipe.errors import UserError
from segpipe.evaluate import evaluate
from segpipe.metrics.confusion import mean_ratio, scores
from segpipe.runs import cells
from segpipe.runs.cells import Cell
from segpipe.runs.counts import read_boundaries
from segpipe.runs.run import Run
from segpipe.runs.storage import read_history, write_history, write_json, write_text
from segpipe.train import train
from segpipe.training import devices
from segpipe.training.task import SegmentationTask, parameter_groups


def weights(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_is_a_folder(finished_run):
    record = json.loads((finished_run / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["seed"] == 0
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert record["data_fingerprint"]["train"].startswith("shapes-")
    assert record["world_size"] == 1
    assert "${" not in (finished_run / "config.yaml").read_text()
    assert OmegaConf.load(finished_run / "config.yaml").data.crop == [96, 96]
    assert {path.name for path in (finished_run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (finished_run / "pictures" / "predictions.png").is_file()
    assert not list(finished_run.rglob("*.part"))


def test_history_has_a_line_an_epoch(finished_run):
    rows = read_history(finished_run / "history.csv")
    assert [row["epoch"] for row in rows] == [0, 1]
    assert [row["step"] for row in rows] == [2, 4]
    assert {"train/loss", "val/loss", "val/miou", "val/iou/disc", "lr"} <= rows[0].keys()


def test_scores_are_those_of_the_matrices_of_every_picture(finished_run):
    metrics = json.loads((finished_run / "metrics.json").read_text())
    for split, count in (("val", 5), ("test", 7)):
        with np.load(finished_run / "confusion" / f"{split}.npz") as file:
            names, groups, matrices = file["names"], file["groups"], file["matrices"]
        assert (len(names), len(groups), matrices.dtype, matrices.shape) == (count, count, np.int32, (count, 6, 6))
        assert names.tolist() == [f"{split}-{index:04d}" for index in range(count)]
        assert (matrices.sum((1, 2)) == 96 * 96).all()
        assert scores(matrices.sum(0))["miou"] == pytest.approx(metrics[split]["miou"])
    found = read_boundaries(Run(finished_run).boundaries("test"))
    shown = {name: None if math.isnan(mean_ratio(tally)) else mean_ratio(tally) for name, tally in found.items()}
    assert metrics["test"]["boundaries"] == shown
    assert all(len(part) == 7 for tally in found.values() for part in tally)
    assert "boundaries" not in metrics["val"]
    assert not Run(finished_run).boundaries("val").exists()


def test_every_run_says_what_it_costs(finished_run):
    cost = json.loads((finished_run / "metrics.json").read_text())["cost"]
    network = build.network(OmegaConf.load(finished_run / "config.yaml"), 6)
    assert cost["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert cost["size"] == [96, 96]
    assert all(cost[name] > 0 for name in ("gmac", "latency_ms", "images_per_s", "peak_memory_mib"))


def test_a_run_repeats_itself_bit_for_bit(finished_run, tmp_path):
    train(configure(*TINY, f"run_dir={tmp_path / 'again'}"))
    assert equal(weights(finished_run), weights(tmp_path / "again"))


@pytest.mark.parametrize("workers", [slow(0, several=False), 1])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(workers, tmp_path):
    """Dropout too: it depends on (seed, epoch). The schedule must be that of the whole."""
    choices = [*TINY, "neck.dropout=0.3", "scheduler=constant", f"data.workers={workers}"]
    train(configure(*choices, f"run_dir={tmp_path / 'whole'}"))
    train(configure(*choices, "trainer.max_epochs=1", f"run_dir={tmp_path / 'halves'}"))
    config = tmp_path / "halves" / "config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 1", "max_epochs: 2"))
    train(configure(f"resume={tmp_path / 'halves'}"))
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "halves"))
    assert [row["epoch"] for row in read_history(tmp_path / "halves" / "history.csv")] == [0, 1]


def interrupted_in(epoch, monkeypatch):
    """Let a training be interrupted at the end of an epoch."""
    ended = SegmentationTask.on_train_epoch_end

    def interrupt(self):
        if self.current_epoch == epoch:
            raise KeyboardInterrupt
        ended(self)

    monkeypatch.setattr(SegmentationTask, "on_train_epoch_end", interrupt)


def test_the_history_of_a_resumed_run_is_that_of_one_that_was_not_interrupted(tmp_path, monkeypatch):
    choices = [*TINY, "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2"]
    train(configure(*choices, f"run_dir={tmp_path / 'whole'}"))
    interrupted_in(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(configure(*choices, f"run_dir={tmp_path / 'halves'}"))
    monkeypatch.undo()
    assert not (tmp_path / "halves" / "metrics.json").exists()
    train(configure(f"resume={tmp_path / 'halves'}"))
    whole, halves = ((tmp_path / name / "history.csv").read_bytes() for name in ("whole", "halves"))
    assert b"\n0,2,0.0" in whole
    assert halves == whole


def test_a_history_that_was_read_is_written_the_same(tmp_path):
    rows = [
        {"epoch": 0, "step": 20, "lr": 0.1, "train/loss": 1.0},
        {"epoch": 1, "step": 10**17 + 1, "lr": 1, "train/loss": math.nan, "val/miou": 1e-07, "val/loss": -math.inf},
        {"epoch": 2, "step": 60, "lr": 0.0, "train/loss": -3.0, "val/miou": 0.1 + 0.2, "val/loss": -2},
    ]
    write_history(tmp_path / "one.csv", rows)
    write_history(tmp_path / "two.csv", read_history(tmp_path / "one.csv"))
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert [type(row["epoch"]) for row in read_history(tmp_path / "two.csv")] == [int] * 3


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
        with pytest.raises(UserError, match=r"resumed with another trainer\.max_epochs since"):
            check_same_config(Run(folder), Plan.of(configure(*asked[other])))
    capsys.readouterr()
    train(configure(*asked[2], "resume=auto", f"run_dir={folder}"))
    assert "is finished already" in capsys.readouterr().out
    with pytest.raises(UserError, match="rename this folder"):
        train(configure(*asked[1], "resume=auto", f"run_dir={folder}"))
    with pytest.raises(UserError, match=r"has done 2 epochs already. Give 2 or more"):
        resume(folder, "trainer.max_epochs=1")
    kept = (folder / "run.json").read_text()
    cell = Cell([], {"seed": 0}, run="run")
    assert cells.status(tmp_path, cell) == "extended"
    slots = scheduler.Scheduler(name="x", workers=1, gpu=False)
    slots.submit(folder, asked[1])
    slots.close()
    assert "it is no run of its cell" in capsys.readouterr().out
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
    with pytest.raises(UserError, match=r"the data are not those that it was trained on \(train differ\)"):
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
    trainer = build.trainer(
        configure("trainer=cpu", "trainer.max_epochs=7", f"run_dir={tmp_path}"), Run(tmp_path), None
    )
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


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_best_is_validated_once(tmp_path, monkeypatch, mode):
    """Right after the epoch, or again with its checkpoint: the pictures counted are those of the best network."""
    calls = []
    validate = pl.Trainer.validate
    monkeypatch.setattr(pl.Trainer, "validate", lambda *given, **named: calls.append(1) or validate(*given, **named))
    found = train(
        configure(
            *TINY, "trainer.max_epochs=2", "optimizer.lr=0.01", f"callbacks.best.mode={mode}", f"run_dir={tmp_path}"
        )
    )
    best_is_last = found["best_epoch"] == 1
    assert len(calls) == (0 if best_is_last else 1)
    rows = read_history(tmp_path / "history.csv")
    assert found["val"]["miou"] == pytest.approx(rows[found["best_epoch"]]["val/miou"], abs=1e-6)
    again = evaluate(tmp_path, overrides=[], split="val", out=tmp_path / "again")
    assert again["miou"] == found["val"]["miou"]
    choose = max if mode == "max" else min
    assert found["val"]["miou"] == pytest.approx(choose(row["val/miou"] for row in rows), abs=1e-6)


def test_accumulation_gives_the_step_of_the_whole_batch(tmp_path):
    """Without batch normalisation, whose statistics are of a part; masks with unequal numbers of valid pixels."""
    ends = []
    for parts in (1, 3):
        choices = [*TINY, "+encoder.norm=false", "optimizer=sgd", "optimizer.lr=0.01", "data.batch_size=6"]
        cfg = configure(*choices, "trainer.max_epochs=1", f"task.accumulate={parts}")
        cfg.run_dir = str(tmp_path / str(parts))
        train(cfg)
        ends.append(weights(tmp_path / str(parts)))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], atol=1e-5, rtol=1e-4)


def test_decay_spares_norms_and_biases():
    network = build.network(configure(*TINY), 3)
    decayed, spared = parameter_groups(network)
    assert all(parameter.ndim == 4 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in spared["params"])
    assert spared["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(spared["params"]) == len(list(network.parameters()))


@pytest.mark.parametrize(
    "choices",
    [
        ["loss=dice", "optimizer=sgd", "scheduler=cosine", "task.clip=1.0", "augment=strong", "data.crop=[64,64]"],
        ["loss=cross_entropy_dice", "loss.terms.0.weight=median_frequency", "callbacks=early_stopping"],
        ["loss=focal", "loss.weight=median_frequency", "scheduler=cosine", "task.accumulate=2"],
        *(
            slow(choices, several=False)
            for choices in (
                ["loss=cross_entropy_lovasz", "loss.terms.0.weight=median_frequency"],
                ["loss=ohem", "callbacks=ema", "optimizer=sgd", "data.crop=[64,64]"],
                ["loss=lovasz", "task.clip=1.0"],
                [
                    "loss.weight=median_frequency",
                    "loss.label_smoothing=0.1",
                    "model=ladder",
                    "decoder=unpool",
                    "augment=none",
                ],
            )
        ),
    ],
)
def test_every_loss_optimizer_and_schedule_trains(choices, tmp_path):
    without_neck = [choice for choice in TINY if not ("model=ladder" in choices and choice.startswith("neck."))]
    metrics = train(configure(*without_neck, "trainer.max_epochs=1", *choices, f"run_dir={tmp_path / 'run'}"))
    assert 0 <= metrics["test"]["miou"] <= 1
    assert math.isfinite(read_history(tmp_path / "run" / "history.csv")[0]["train/loss"])


def test_warm_start_copies_what_fits_and_names_the_rest(finished_run, tmp_path, capsys):
    finer = [
        *TINY,
        "trainer.max_epochs=1",
        "model=fcn4s",
        f"warm_start={finished_run}",
        f"run_dir={tmp_path / 'finer'}",
    ]
    train(configure(*finer, "optimizer.lr=1e-12"))
    said = capsys.readouterr().out
    assert "Warm start:" in said
    assert "decoder.steps.4" in said
    source, end = weights(finished_run, "best"), weights(tmp_path / "finer")
    name = "network.decoder.steps.16.upsample.weight"
    torch.testing.assert_close(end[name], source[name], atol=1e-6, rtol=0)
    other = configure("model=segnet_basic", "encoder.widths=[4,4,4,4]", "logger=none", f"warm_start={finished_run}")
    other.run_dir = str(tmp_path / "other")
    with pytest.raises(UserError, match="none of its"):
        train(other)


def test_a_loss_that_is_no_number_ends_the_run_with_what_to_do(tmp_path):
    cfg = configure(*TINY, "optimizer=sgd", "optimizer.lr=1e30", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match=r"loss became (nan|inf).*Lower optimizer.lr"):
        train(cfg)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed"
    assert "optimizer.lr" in record["error"]


def test_what_is_interrupted_says_so_and_how_to_go_on(tmp_path, monkeypatch, capsys):
    interrupted_in(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(configure(*TINY, f"run_dir={tmp_path / 'run'}"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    assert f"resume={tmp_path / 'run'}" in capsys.readouterr().err


def test_a_folder_with_a_run_is_not_written_over(finished_run):
    before = (finished_run / "run.json").read_text()
    with pytest.raises(UserError, match="there is a run in this folder already"):
        train(configure(*TINY, f"run_dir={finished_run}"))
    assert (finished_run / "run.json").read_text() == before


def test_a_finished_run_whose_checkpoints_were_not_kept_is_not_overwritten(tmp_path, finished_run):
    shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    with pytest.raises(UserError, match="there is a run in this folder already"):
        train(configure(*TINY, f"run_dir={tmp_path / 'run'}"))
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before


def test_overfit_learns_one_batch(tmp_path):
    choices = ["debug=overfit", "model=unet", "encoder=small", "data.batch_size=2", "trainer=cpu", "logger=none"]
    metrics = train(
        configure(
            *choices, "trainer.max_epochs=30", "+trainer.enable_progress_bar=false", f"run_dir={tmp_path / 'run'}"
        )
    )
    assert metrics["val"]["images"] == 2
    assert metrics["val"]["miou"] > 0.6


def test_profiling_leaves_a_table(tmp_path, capsys):
    train(configure(*TINY, "debug=profile", "logger=none", f"run_dir={tmp_path / 'run'}"))
    (table,) = (tmp_path / "run").glob("fit-*profile*.txt")
    assert "training_step" in table.read_text()
    assert table.name in capsys.readouterr().out


# files are written whole or not at all


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"status": "running", "value": math.nan})
    with pytest.raises(TypeError):
        write_json(path, {"status": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half of it \ud800")
    assert json.loads(path.read_text()) == {"status": "running", "value": None}
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_checkpoints_are_written_beside_their_place_and_moved(tmp_path, monkeypatch):
    from segpipe.training.callbacks import AtomicCheckpointIO

    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)

    def half(content, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


# a finished run as a function


def test_load_gives_a_mask_for_a_picture_of_any_size(finished_run):
    predictor = segpipe.load(finished_run, device="cpu")
    for size in ((45, 61), (200, 120), (7, 9)):
        mask = predictor(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
        assert (mask.shape, mask.dtype) == (size, np.uint8)
        assert mask.max() < 6
    with pytest.raises(UserError, match=r"float64 \(4, 4\)"):
        predictor(np.zeros((4, 4)))


def test_load_says_what_is_no_run(tmp_path, finished_run):
    with pytest.raises(UserError, match="no such folder"):
        segpipe.load(tmp_path / "nothing")
    (tmp_path / "config.yaml").write_text((finished_run / "config.yaml").read_text())
    with pytest.raises(UserError, match="no checkpoints/best"):
        Run.open(tmp_path).best_checkpoint()


def test_evaluating_again_gives_the_same_numbers(finished_run, tmp_path):
    metrics = json.loads((finished_run / "metrics.json").read_text())
    for split in ("val", "test"):
        again = evaluate(finished_run, overrides=[], split=split, out=tmp_path / split, device="cpu")
        assert again["miou"] == metrics[split]["miou"]
        with (
            np.load(finished_run / "confusion" / f"{split}.npz") as a,
            np.load(tmp_path / split / "confusion.npz") as b,
        ):
            assert (a["matrices"] == b["matrices"]).all()
        counted = read_boundaries(tmp_path / split / "boundaries.npz")
        assert all(len(part) == again["images"] for tally in counted.values() for part in tally)
    for name, tally in read_boundaries(Run(finished_run).boundaries("test")).items():
        assert all((one == other).all() for one, other in zip(tally, counted[name], strict=True))
    fewer = evaluate(finished_run, overrides=["data.dataset.test=3"], split="test", out=tmp_path / "few", device="cpu")
    assert fewer["images"] == 3
    with pytest.raises(UserError, match="trained on the classes background"):
        evaluate(
            finished_run, overrides=["data=camvid", f"data.root={write_camvid(tmp_path / 'camvid')}"], split="test"
        )
