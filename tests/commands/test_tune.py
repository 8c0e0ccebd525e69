"""Choosing the level of a nuisance factor: what is chosen, how sure it is, what is written, what is rejected."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from support.commands import run
from support.configs import configure

from segpipe import tune
from segpipe.config.schema import allows
from segpipe.engine import tuning
from segpipe.engine.sweep import read_lines
from segpipe.errors import UserError
from segpipe.runs import archive, cells, tuned_levels
from segpipe.runs.cells import Cell
from segpipe.runs.storage import read_json, write_json

RATES = ("0.001", "0.003", "0.01")


SCORES = {  # validation mIoU by (decoder, rate): of seeds 100 and 101
    ("deconv", "0.001"): (0.50, 0.30), ("deconv", "0.003"): (0.45, 0.40), ("deconv", "0.01"): (0.10, 0.10),
    ("nearest", "0.001"): (0.20, 0.20), ("nearest", "0.003"): (0.30, 0.30), ("nearest", "0.01"): (0.40, 0.50),
}  # fmt: skip


def write_tuning(folder, *, scores=SCORES, seeds=(100, 101), named=True, states=None, constant=()):
    """A sweep's folder whose runs hold a validation score and nothing else: a test score would not be found."""
    states = states or {}
    for (decoder, rate), found in scores.items():
        for seed, miou in zip(seeds, found, strict=True):
            name = f"{decoder}-{rate}-s{seed}"
            overrides = [f"seed={seed}", f"decoder={decoder}", f"optimizer.lr={rate}", "experiment=sweep_x", *constant]
            state = states.get((decoder, rate, seed), "finished")
            choices = {"decoder": decoder, "seed": seed}
            refused = state == "refused"
            cell = Cell(overrides, choices, None if refused else name, refused="no" if refused else None)
            cells.add(folder, cell, tuning_seeds=seeds if named else None)
            if state not in ("missing", "refused"):
                write_json(folder / name / "run.json", {"status": state})
                write_json(folder / name / "metrics.json", {"val": {"miou": miou}})
    return folder


def tuned(folder, **given):
    """The exit status, and the lines written."""
    status = tune.tune(folder, ["optimizer.lr"], **given)
    file = folder / tune.OUT
    return status, [line.words for line in read_lines(file)] if file.is_file() else None


def test_each_cell_gets_the_level_with_the_highest_mean_and_the_next_command_runs_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_tuning(tmp_path / "outputs/sweeps/x", constant=["trainer.max_epochs=3"])
    assert tuned(folder) == (0, [["decoder=deconv", "optimizer.lr=0.003"], ["decoder=nearest", "optimizer.lr=0.01"]])
    said = " ".join(capsys.readouterr().out.split())
    command = "segpipe.train -m experiment=sweep_x trainer.max_epochs=3 sweep.name=x sweep.cells="
    assert command in said
    assert said.endswith("seed=0,1,2,3,4")
    header = (folder / tune.OUT).read_text().split("decoder=")[0]
    assert "segpipe.tune" in header
    assert "100, 101" in header
    assert command in header
    assert "At the edge of the grid: optimizer.lr=0.01, chosen for nearest. Also try optimizer.lr=0.03." in said
    assert "chosen for deconv" not in said


@pytest.mark.parametrize(
    ("place", "name"), [("outputs/sweeps/a/b", "a/b"), ("outputs/sweeps/x", "x"), ("kept/sweeps/x", "x"), ("a/b", "b")]
)
def test_the_next_command_has_the_whole_name_of_the_sweep(place, name, tmp_path, capsys):
    tuned(write_tuning(tmp_path / place))
    assert f"sweep.name={name} " in " ".join(capsys.readouterr().out.split())


def test_seeds_of_the_comparison_do_not_change_the_choice(tmp_path):
    """Seeds 0 and 1 would choose 0.001 for both."""
    folder = write_tuning(tmp_path / "x")
    before = tuned(folder)
    later = {(decoder, rate): (0.9, 0.9) if rate == "0.001" else (0.1, 0.1) for decoder, rate in SCORES}
    write_tuning(folder, scores=later, seeds=(0, 1), named=False)
    assert cells.read_tuning_seeds(folder) == [100, 101]
    assert tuned(folder) == before


def test_without_tuning_seeds_all_are_taken_and_it_is_said(tmp_path, capsys):
    folder = write_tuning(tmp_path / "x", seeds=(0, 1), named=False)
    status, _ = tuned(folder)
    said = capsys.readouterr().out
    assert status == 0
    assert "names no tuning seeds" in said
    assert "seed=2,3,4,5,6" in said


def test_how_often_resampled_seeds_choose_another_and_the_regret():
    cell = tuning.Tuning((), {(rate,): dict(enumerate(SCORES["deconv", rate])) for rate in RATES})
    choice = tuning.choose(cell, [(rate,) for rate in RATES], [0, 1])
    assert choice.level == ("0.003",)
    assert choice.other == 0.25  # of the four resamples, that of seed 0 twice
    assert choice.regret == pytest.approx((0.50 + 0.40) / 2 - 0.425)
    one = tuning.choose(cell, [(rate,) for rate in RATES], [0])
    assert (one.level, one.regret) == (("0.001",), 0)
    assert np.isnan(one.other)


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_the_share_of_resamples_is_that_of_a_slow_loop(seeds):
    random = np.random.default_rng(seeds)
    scores = random.normal(size=(3, seeds))
    best = scores.mean(1).argmax()
    if seeds < 8:
        drawn = list(itertools.product(range(seeds), repeat=seeds))
    else:
        drawn = random.integers(seeds, size=(20_000, seeds)).tolist()
    slow = np.mean([np.argmax([np.mean([row[i] for i in one]) for row in scores]) != best for one in drawn])
    assert tuned_levels.share_of_others(scores, best) == pytest.approx(slow, abs=1e-9 if seeds < 8 else 0.015)


def test_a_level_with_a_failed_run_is_named_and_not_chosen(tmp_path, capsys):
    folder = write_tuning(tmp_path / "x", states={("nearest", "0.01", 101): "failed"})
    assert tuned(folder) == (0, [["decoder=deconv", "optimizer.lr=0.003"], ["decoder=nearest", "optimizer.lr=0.003"]])
    assert "failed: nearest optimizer.lr=0.01 seed=101" in capsys.readouterr().out
    assert tuned(folder, incomplete=True)[1][1] == ["decoder=nearest", "optimizer.lr=0.01"]
    assert "Chosen only on the seeds 100: nearest" in capsys.readouterr().out


def test_nothing_is_written_before_the_tuning_seeds_are_finished(tmp_path, capsys):
    folder = write_tuning(tmp_path / "x", states={("nearest", "0.01", 101): "missing"})
    assert tuned(folder) == (1, None)
    assert "Nothing was written: 1 run of the tuning seeds is not finished" in capsys.readouterr().out
    assert tuned(folder, incomplete=True)[0] == 0


def test_a_cell_of_which_no_level_is_complete_is_left_out_and_said_with_1(tmp_path, capsys):
    folder = write_tuning(tmp_path / "x", states={("nearest", rate, 100): "failed" for rate in RATES})
    assert tuned(folder) == (1, [["decoder=deconv", "optimizer.lr=0.003"]])
    assert "No choice: nearest" in capsys.readouterr().out


def test_a_refused_cell_is_no_cell(tmp_path):
    refused = {("nearest", rate, seed): "refused" for rate in RATES for seed in (100, 101)}
    folder = write_tuning(tmp_path / "x", states=refused)
    assert tuned(folder) == (0, [["decoder=deconv", "optimizer.lr=0.003"]])


@pytest.mark.parametrize(
    ("own", "levels", "more"),
    [
        ("lr=0.001", ["lr=0.001", "lr=0.003", "lr=0.01"], {"lr=0.001": "lr=0.0003"}),
        ("lr=0.003", ["lr=0.001", "lr=0.003", "lr=0.01"], {}),
        ("lr=0.01", ["lr=0.01"], {}),
        ("decay=0", ["decay=0", "decay=0.1"], {}),
        ("optimizer=sgd", ["optimizer=adamw", "optimizer=sgd"], {}),
        ("lr=0.010", ["lr=0.010", "lr=0.011"], {"lr=0.010": "lr=0.009"}),
        ("lr=0.011", ["lr=0.010", "lr=0.011"], {"lr=0.011": "lr=0.012"}),
        ("loss.weight=12", ["loss.weight=10", "loss.weight=12"], {"loss.weight=12": "loss.weight=14"}),
        ("loss.weight=10", ["loss.weight=10", "loss.weight=12"], {"loss.weight=10": "loss.weight=8"}),
        ("width=1", ["width=1", "width=2"], {}),
        ("model.stride=8", ["model.stride=4", "model.stride=8"], {"model.stride=8": "model.stride=16"}),
        ("optimizer.momentum=0.9", ["optimizer.momentum=0.8", "optimizer.momentum=0.9"], {}),
        ("neck.dropout=0.99", ["neck.dropout=0.9", "neck.dropout=0.95", "neck.dropout=0.99"], {}),
        ("lr=1e300", ["lr=1e10", "lr=1e300"], {}),
        ("lr=1e-5", ["lr=1e-5", "lr=3e-5"], {"lr=1e-5": "lr=3e-06"}),
    ],
)
def test_the_edge_of_the_grid(own, levels, more):
    assert tuning.beyond((own,), [(level,) for level in levels], OmegaConf.create()) == more


@pytest.mark.parametrize("value", ["2.5", "3", "1.5"])
def test_the_value_beyond_the_edge_has_the_type_of_its_key(value):
    """``model.stride`` is a whole number, ``optimizer.lr`` is any number."""
    for key, expected in (("model.stride", value == "3"), ("optimizer.lr", True)):
        number = float(value) if "." in value else int(value)
        assert allows(configure(), key, number) == expected
    assert tuning.beyond(("model.stride=2.5",), [("model.stride=2.5",), ("model.stride=2",)], configure()) == {}


def test_the_levels_beyond_the_edge_can_be_tried_for_the_cells_that_chose_it(tmp_path, capsys):
    """After them the other cells have fewer levels; they are not waited for."""
    folder = write_tuning(tmp_path / "x")
    tuned(folder)
    said = " ".join(capsys.readouterr().out.split())
    assert "To try these levels first:" in said
    assert f"sweep.name=x hydra.sweep.dir={folder} sweep.cells={folder / tuning.BEYOND} seed=100,101 " in said
    assert [line.words for line in read_lines(folder / tuning.BEYOND)] == [["decoder=nearest", "optimizer.lr=0.03"]]
    write_tuning(folder, scores={("nearest", "0.03"): (0.43, 0.44)})
    assert tuned(folder) == (0, [["decoder=deconv", "optimizer.lr=0.003"], ["decoder=nearest", "optimizer.lr=0.01"]])
    said = capsys.readouterr().out
    assert "At the edge" not in said
    assert "not listed" not in said
    assert not (folder / tuning.BEYOND).exists()


def test_a_level_that_lacks_a_run_of_one_seed_is_waited_for(tmp_path, capsys):
    folder = write_tuning(tmp_path / "x")
    write_tuning(folder, scores={("nearest", "0.03"): (0.43,)}, seeds=(100,), named=False)
    assert tuned(folder) == (1, None)
    assert "not listed: nearest optimizer.lr=0.03 seed=101" in capsys.readouterr().out


def test_several_keys_are_tuned_together(tmp_path):
    for decay, (rate, miou) in itertools.product(("0", "0.1"), (("0.001", 0.5), ("0.003", 0.4))):
        for seed in (0, 1):
            name = f"{decay}-{rate}-{seed}"
            overrides = [f"seed={seed}", f"optimizer.lr={rate}", f"optimizer.weight_decay={decay}"]
            cells.add(tmp_path, Cell(overrides, {"seed": seed}, name))
            write_json(tmp_path / name / "run.json", {"status": "finished"})
            write_json(
                tmp_path / name / "metrics.json", {"val": {"miou": miou + 0.5 * (decay == "0.1") * (rate == "0.003")}}
            )
    assert tune.tune(tmp_path, ["optimizer.lr", "optimizer.weight_decay"]) == 0
    assert [line.words for line in read_lines(tmp_path / tune.OUT)] == [
        ["optimizer.lr=0.003", "optimizer.weight_decay=0.1"]
    ]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("optimizer.l", "not swept in .* Swept keys are decoder, optimizer.lr. Did you mean 'optimizer.lr'?"),
        ("seed", "seed: not swept"),
        ("experiment", "experiment: not swept"),
    ],
)
def test_a_key_that_is_not_swept_is_rejected(tmp_path, key, said):
    with pytest.raises(UserError, match=said):
        tune.tune(write_tuning(tmp_path / "x"), [key])


def test_the_command_says_in_a_line_that_a_folder_is_no_sweep(tmp_path):
    said = run("segpipe.tune", "nowhere", "optimizer.lr", cwd=tmp_path, status=1)
    assert said.startswith("segpipe: nowhere: no sweep.json")
    assert len(said.splitlines()) == 1


def test_machine_overrides_and_the_order_of_keys_make_no_second_cell(tmp_path, capsys):
    """Lists of earlier versions have a cell twice where a start gave one more key, or another order."""
    folder = write_tuning(tmp_path / "x", constant=["data.workers=1"])
    before = tuned(folder)
    record = read_json(folder / "sweep.json")
    for entry in [*record["cells"]]:
        record["cells"].append(entry | {"overrides": [*entry["overrides"][-2::-1], "logger=none", "data.workers=4"]})
    write_json(folder / "sweep.json", record)
    capsys.readouterr()
    assert tuned(folder) == before
    assert "Chosen in 1 of 2 cells" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"not swept.* Swept keys are decoder, optimizer\.lr\."):
        tune.tune(folder, ["data.workers"])


@pytest.mark.parametrize("seed", ["2x", 1.5, -1, None, 10**20])
def test_a_cell_whose_seed_is_no_seed_is_ignored(tmp_path, seed):
    folder = write_tuning(tmp_path / "x", named=False)
    before = tuned(folder)
    cells.add(folder, Cell([f"seed={seed}", "decoder=deconv"], {"decoder": "deconv", "seed": seed}, error="no seed"))
    assert tuned(folder) == before


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("outputs/sweeps/a/b", "sweep.name=a/b sweep.cells="),
        ("mine", "sweep.name=mine hydra.sweep.dir=mine sweep.cells="),
        ("sub/outputs/sweeps/x", "sweep.name=x hydra.sweep.dir=sub/outputs/sweeps/x sweep.cells="),
        ("my sweeps/x", "sweep.name=x \"hydra.sweep.dir='my sweeps/x'\" "),
    ],
)
def test_the_next_command_leads_to_the_folder_of_the_sweep(place, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_tuning(tmp_path / place)
    tuned(folder)
    assert f" {words}" in " ".join(capsys.readouterr().out.split())
    assert f" {words}" in (folder / tune.OUT).read_text()


def test_an_archive_is_to_be_restored_before_the_next_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_tuning(tmp_path / "mine")
    for run_folder in folder.glob("*/"):
        (run_folder / "config.yaml").write_text("seed: 0\n")
    archive.write(folder, tmp_path / "kept.zip")
    shutil.rmtree(folder)
    assert tune.tune(Path("kept.zip"), ["optimizer.lr"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "python docs/sweeps/keep.py --restore kept.zip outputs/sweeps/mine" in said
    assert " sweep.name=mine sweep.cells=kept-tuned.cells seed=0,1,2,3,4" in said
    written = (tmp_path / "kept-tuned.cells").read_text()
    assert "# Chosen by `python -m segpipe.tune kept.zip optimizer.lr` on" in written
    assert "python docs/sweeps/keep.py --restore kept.zip outputs/sweeps/mine" in written
    assert "segpipe-archive-" not in said + written
