"""Networks at the level that validation chose: chosen on other seeds than they are judged on, and all of it said."""

import json

import numpy as np
import pytest
from support.factor_sweeps import write_cell_run, write_factors
from support.reports import text_of

from benchmarks.simulated_factors import LEVELS, at_chosen, best_level
from segpipe.analysis.collect import collect
from segpipe.analysis.statistics.effects import analyse
from segpipe.errors import UserError
from segpipe.runs.tuned_levels import choose

RATES = (0.001, 0.01, 0.1)
SCORES = {  # by decoder: the mean of each rate
    "deconv": dict(zip(RATES, (0.50, 0.60, 0.40), strict=True)),
    "nearest": dict(zip(RATES, (0.45, 0.40, 0.30), strict=True)),
}


def score(levels):
    return SCORES[levels["decoder"]][levels["optimizer.lr"]]


DESIGN = {"decoder": [*SCORES], "optimizer.lr": [*RATES]}


def write_tuning_seeds(folder, seeds=(100, 101)):
    """Write a sweep over rates with the tuning seeds; then the chosen cells with three seeds, and one at another."""
    write_factors(folder, DESIGN, score, seeds=seeds, tuning_seeds=list(seeds))
    record = json.loads((folder / "sweep.json").read_text())
    for decoder, rate in (("deconv", 0.01), ("nearest", 0.001), ("nearest", 0.01)):
        for seed in range(3):
            levels = {"decoder": decoder, "optimizer.lr": rate}
            miou = score(levels) + 0.001 * seed
            record["cells"].append(write_cell_run(folder / f"{decoder}-{rate}-{seed}", levels, seed=seed, miou=miou))
    (folder / "sweep.json").write_text(json.dumps(record))
    return folder


def test_the_level_is_chosen_on_the_tuning_seeds_which_enter_no_comparison(tmp_path, no_drawing):
    folder = write_tuning_seeds(tmp_path / "x")
    collection = collect(folder, tuned=["lr"])
    assert {network.label: sorted(network.runs) for network in collection.networks} == {
        "deconv": [0, 1, 2], "nearest": [0, 1, 2]
    }  # fmt: skip
    rates = {
        network.label: {run.config["optimizer"]["lr"] for run in network.runs.values()}
        for network in collection.networks
    }
    assert rates == {"deconv": {0.01}, "nearest": {0.001}}
    assert [factor.key for factor in collection.factors] == ["decoder"]
    reasons = [problem.reason for problem in collection.problems if problem.kind == "tuned"]
    assert sum("tuning seed; lr was chosen on it" in reason for reason in reasons) == 12
    assert sum("judged at the chosen level, lr 0.001, not at 0.01" in reason for reason in reasons) == 3
    assert len(reasons) == 15  # every finished run is used or listed
    text, comparisons = text_of(folder, tuned=["optimizer.lr"])
    assert "At the chosen level of lr" in text
    assert "by validation on the tuning seeds 100 and 101, which enter no comparison" in text
    assert "Chosen at the edge of the tested levels, so that a level beyond may be better: nearest (0.001)." in text
    assert "--tuned optimizer.lr" in text
    assert "Resampled tuning seeds choose another level in 0 % of the draws (median over cells; at most 0 %)." in text
    (row,) = (row for row in comparisons if row["family"] == "marginal")
    assert (row["factor"], row["pairs"], row["seeds"]) == ("decoder", "1", "0 1 2")
    assert float(row["a_minus_b"]) == pytest.approx(0.15, abs=1e-3)


def test_without_tuning_seeds_each_seed_is_judged_at_the_level_that_the_others_choose(tmp_path, no_drawing):
    """Seed 2 alone would choose 0.1 for deconv, and all seeds together as well."""
    for decoder in SCORES:
        for rate in RATES:
            for seed in range(4):
                miou = SCORES[decoder][rate] + 0.001 * seed
                if (decoder, rate, seed) == ("deconv", 0.1, 2):
                    miou = 0.99
                levels = {"decoder": decoder, "optimizer.lr": rate}
                write_cell_run(tmp_path / f"{decoder}-{rate}-{seed}", levels, seed=seed, miou=miou)
    collection = collect(tmp_path, tuned=["optimizer.lr"])
    (deconv,) = (network for network in collection.networks if network.label == "deconv")
    # the others of seed 2 choose 0.01; with seed 2 among them, the means of 0.01 and 0.1 are 0.6 and 0.6 or so
    assert deconv.runs[2].config["optimizer"]["lr"] == 0.01
    assert max(run.val for run in deconv.runs.values()) < 0.7
    assert sum(len(network.runs) for network in collection.networks) == 8
    assert sum(problem.kind == "tuned" for problem in collection.problems) == 16
    assert "each seed at the level that the other seeds choose" in text_of(tmp_path, tuned=["lr"])[0]


def test_what_is_missing_at_the_chosen_level_is_named(tmp_path):
    folder = write_tuning_seeds(tmp_path / "x")
    record = json.loads((folder / "sweep.json").read_text())
    lost = ["deconv-0.01-1", *(f"run{number}-s{seed}" for number in range(3) for seed in (100, 101))]
    record["cells"] = [cell for cell in record["cells"] if cell["run"] not in lost]
    (folder / "sweep.json").write_text(json.dumps(record))
    collection = collect(folder, tuned=["lr"])
    assert [network.label for network in collection.networks] == ["nearest"]
    lacking = [problem.reason for problem in collection.problems if "no level of lr could be chosen" in problem.reason]
    assert len(lacking) == 2
    assert [cell.choice is None for cell in collection.tuned.cells] == [False, True]
    with pytest.raises(UserError, match=r"--tuned lrr: the cells do not differ in this key.*Did you mean 'lr'"):
        collect(folder, tuned=["lrr"])


def test_two_keys_are_tuned_together(tmp_path):
    design = {"decoder": ["deconv", "nearest"], "optimizer.lr": [0.1, 0.01], "loss": ["dice", "focal"]}
    best = {("deconv", 0.1, "focal"), ("nearest", 0.01, "dice")}
    folder = write_factors(tmp_path / "x", design, lambda one: 0.5 + 0.1 * (tuple(one.values()) in best))
    collection = collect(folder, tuned=["lr", "loss"])
    assert {network.label for network in collection.networks} == {"deconv", "nearest"}
    assert [cell.choice.level for cell in collection.tuned.cells] == [(0.1, "focal"), (0.01, "dice")]
    assert np.isclose([network.val for network in collection.networks], 0.61, atol=0.01).all()


def test_the_simulation_chooses_as_the_report_does():
    random = np.random.default_rng(0)
    for _ in range(20):
        by_level = {level: dict(enumerate(random.standard_normal(4))) for level in range(LEVELS)}
        assert choose(by_level, [*by_level], range(4)).level == best_level(by_level, [*range(4)])
    val = random.standard_normal((2, LEVELS, 5))
    test = np.arange(val.size, dtype=float).reshape(val.shape)
    separate = at_chosen(test, val, "tuning seeds", 3)
    for number in range(2):
        level = int(val[number, :, 3:].mean(1).argmax())
        assert separate[number].tolist() == test[number, level, :3].tolist()


def test_a_cell_without_a_run_at_its_chosen_level_leaves_its_context_out_in_sight(tmp_path):
    """The difference of the operators is over two fusions; the third is listed as excluded."""
    fusions = {"none": 0.001, "sum": 0.01, "concat": 0.01}  # of the cell of `nearest`: the rate that is judged
    design = {"decoder": ["deconv", "nearest"], "fusion": [*fusions], "optimizer.lr": [0.001, 0.01]}
    folder = tmp_path / "x"

    def miou(levels):
        return 0.5 + 0.1 * (levels["decoder"] == "deconv") + 0.1 * (levels["optimizer.lr"] == 0.01)

    write_factors(folder, design, miou, seeds=(100, 101), tuning_seeds=[100, 101])
    record = json.loads((folder / "sweep.json").read_text())
    for decoder in design["decoder"]:
        for fusion, rate in fusions.items():
            levels = {"decoder": decoder, "fusion": fusion, "optimizer.lr": rate if decoder == "nearest" else 0.01}
            for seed in range(3):
                run = folder / f"{decoder}-{fusion}-{seed}"
                record["cells"].append(write_cell_run(run, levels, seed=seed, miou=miou(levels) + 0.001 * seed))
    (folder / "sweep.json").write_text(json.dumps(record))
    collection = collect(folder, tuned=["lr"])
    (pair,) = [one for one in analyse(collection, resamples=100).marginal if one.contrast.factor == "decoder"]
    assert len(pair.contrast.weights) == 2
    assert pair.contrast.dropped == ("none",)
    assert sum(one.reason == "no run at the chosen level, lr 0.01" for one in collection.problems) == 3


def test_a_level_that_tune_chose_from_incomplete_seeds_is_the_one_that_is_judged(tmp_path):
    """One tuning run has failed at 0.01, the better level; ``segpipe.tune --incomplete`` has chosen it nevertheless."""
    folder = tmp_path / "x"
    write_factors(folder, DESIGN, score, seeds=(100, 101), tuning_seeds=[100, 101])
    record = json.loads((folder / "sweep.json").read_text())
    lost = next(
        cell["run"] for cell in record["cells"]
        if {"decoder=deconv", "optimizer.lr=0.01", "seed=101"} <= {*cell["overrides"]}
    )  # fmt: skip
    (folder / lost / "metrics.json").unlink()
    for seed in range(3):
        levels = {"decoder": "deconv", "optimizer.lr": 0.01}
        record["cells"].append(write_cell_run(folder / f"deconv-{seed}", levels, seed=seed, miou=0.6))
    (folder / "sweep.json").write_text(json.dumps(record))
    collection = collect(folder, tuned=["lr"])
    (judged,) = [network for network in collection.networks if network.runs]
    assert sorted(judged.runs) == [0, 1, 2]
    assert {one.label: one.choice.level for one in collection.tuned.cells}["deconv"] == (0.01,)
    text, _ = text_of(folder, tuned=["lr"])
    assert "Chosen on a part of the tuning seeds, because runs of the others are missing: deconv." in text


def test_a_sweep_without_a_run_at_a_chosen_level_is_refused_in_words(tmp_path):
    folder = tmp_path / "x"
    write_factors(folder, DESIGN, score, seeds=(100, 101), tuning_seeds=[100, 101])
    record = json.loads((folder / "sweep.json").read_text())
    levels = {"decoder": "deconv", "optimizer.lr": 0.1}
    record["cells"].append(write_cell_run(folder / "other", levels, seed=0, miou=0.4))
    (folder / "sweep.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"no run is at a level of lr that validation chose\. Run segpipe\.tune"):
        collect(folder, tuned=["lr"])
