"""Which runs are seeds of one network: no other runs are pooled, and no run is dropped."""

import itertools
import json
import re

import numpy as np
import pytest
import yaml
from support.fake_runs import write_run
from support.grid import grid
from support.reports import written

from segpipe.analysis.collect import collect
from segpipe.analysis.spreadsheets import format_field
from segpipe.errors import UserError
from segpipe.runs import cells
from segpipe.runs.counts import read_confusion, write_confusion


def trained(folder, *, keys=None, told=(), **given):
    """Write a finished run. keys: further dotted keys of its configuration. told: overrides besides its cell's."""
    write_run(folder, **given)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for path, value in (keys or {}).items():
        *groups, last = path.split(".")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    config |= {"run_dir": str(folder), "callbacks": {"best": {"dirpath": str(folder), "mode": "max"}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    record = json.loads((folder / "run.json").read_text())
    record["overrides"] += [*told, "sweep.name='x'", "resume=auto"]
    (folder / "run.json").write_text(json.dumps(record))


def cell_of_run(folder):
    """Return the entry of a run in a sweep's list."""
    record, config = (yaml.safe_load((folder / name).read_text()) for name in ("run.json", "config.yaml"))
    choices = {"model": config["model"]["name"], "stride": config["model"]["stride"]}
    choices |= {group: config[group]["name"] for group in ("decoder", "fusion")} | {"seed": config["seed"]}
    overrides = [one for one in record["overrides"] if not one.startswith(("sweep.", "resume"))]
    return {"overrides": overrides, "choices": choices, "run": folder.name}


def listed_in_order(folder, names):
    """Write a sweep's list as several starts do: for equal overrides, it has the last run."""
    entries = {tuple(cell["overrides"]): cell for cell in (cell_of_run(folder / name) for name in names)}
    (folder / "sweep.json").write_text(json.dumps({"name": folder.name, "cells": list(entries.values())}))


def held(collection):
    """Return the sets of run folders by network."""
    return {
        network.label: {run.run.folder.name for run in network.runs.values()}
        for network in collection.networks
        if network.runs
    }


TOLD = {"on the command line": ["trainer.max_epochs=10"], "in an edited experiment": []}


AGAIN = {"all again": range(3), "other seeds": range(3, 5), "some again": range(2)}


@pytest.mark.parametrize(("told", "again", "listed"), grid(TOLD, AGAIN, ["sweep", "loose runs"]))
def test_a_second_start_with_more_epochs_is_another_stratum(tmp_path, told, again, listed):
    told, seeds, with_list = TOLD[told], AGAIN[again], listed == "sweep"
    for decoder, seed in itertools.product(("deconv", "nearest"), range(3)):
        keys = {"trainer.max_epochs": 5, "trainer.devices": seed}
        trained(tmp_path / f"a-{decoder}-{seed}", decoder=decoder, seed=seed, miou=0.5 + seed / 100, keys=keys)
    for seed in seeds:  # of one cell only
        keys = {"trainer.max_epochs": 10}
        trained(tmp_path / f"b-deconv-{seed}", decoder="deconv", seed=seed, miou=0.8, keys=keys, overridden=told)
    if with_list:
        listed_in_order(tmp_path, sorted(path.name for path in tmp_path.iterdir()))
    collection = collect(tmp_path)
    assert held(collection) == {
        "deconv max_epochs=5": {f"a-deconv-{seed}" for seed in range(3)},
        "nearest max_epochs=5": {f"a-nearest-{seed}" for seed in range(3)},
        "deconv max_epochs=10": {f"b-deconv-{seed}" for seed in seeds},
    }
    assert collection.problems == []
    page, _, comparisons = written(tmp_path)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    assert f"trainer.max_epochs: 5 (6 runs) and 10 ({len(seeds)} runs)" in text
    assert ("Nothing is missing" in text) == with_list
    pairs = {row["factor"]: (row["pairs"], row["seeds"]) for row in comparisons if row["family"] == "marginal"}
    common = "0 1 2" if len([seed for seed in seeds if seed < 3]) == 3 else ""
    assert pairs["decoder"] == ("1", "0 1 2")  # at 5 epochs alone
    assert pairs["trainer.max_epochs"] == (("1", common) if common else ("0", ""))


def test_other_lengths_at_other_places_are_not_compared_as_if_the_decoder_made_it(tmp_path):
    for seed in range(3):
        trained(tmp_path / f"a{seed}", decoder="nearest", seed=seed, miou=0.5, keys={"trainer.max_epochs": 5})
        trained(tmp_path / f"b{seed}", decoder="deconv", seed=seed, miou=0.8, keys={"trainer.max_epochs": 10})
    _, _, comparisons = written(tmp_path)
    assert not [row for row in comparisons if row["family"] == "marginal"]


def test_a_second_run_of_one_training_is_named(tmp_path):
    for seed in range(2):
        trained(tmp_path / f"a{seed}", seed=seed, miou=0.5)
    trained(tmp_path / "b1", seed=1, miou=0.9, git="b" * 40)
    (problem,) = collect(tmp_path).problems
    assert (problem.kind, problem.label) == ("duplicate", "b1")
    assert "as a1, which is used; this run is excluded" in problem.reason
    assert "Different: code commit" in problem.reason
    page, results, _ = written(tmp_path)
    assert "Nothing is missing" not in page
    assert "Second runs of the same configuration and seed, excluded: 1" in page
    assert [row["run"] for row in results] == ["a0", "a1"]


def test_cells_that_are_one_network_stay_one_whichever_was_trained(tmp_path):
    """At the coarsest stride fusion has nothing to join: seed 0 was trained as the one cell, seed 1 as the other."""
    cells = []
    for seed, fusion in ((0, "none"), (1, "sum")):
        keys = {
            "trainer.max_epochs": 5,
            "model.taps": "conv" if fusion == "none" else "pool",
            "fusion._target_": fusion,
        }
        trained(tmp_path / f"s{seed}", model="fcn", stride=32, fusion=fusion, seed=seed, keys=keys)
        own = cell_of_run(tmp_path / f"s{seed}")
        for other in ("none", "sum"):
            choices = own["choices"] | {"fusion": other}
            cells.append(own | {"choices": choices, "overrides": [f"fusion={other}", f"seed={seed}"]})
    (tmp_path / "sweep.json").write_text(json.dumps({"name": "x", "cells": cells}))
    collection = collect(tmp_path)
    assert held(collection) == {"none": {"s0", "s1"}}
    assert (len(collection.networks[0].points), collection.problems, collection.separating) == (2, [], {})


def test_runs_from_before_and_after_a_fix_of_results_are_no_seeds_of_one_another(tmp_path):
    for seed in range(4):
        trained(tmp_path / f"a{seed}", seed=seed, **({"revisions": {"data": 1}} if seed > 1 else {}))
    assert held(collect(tmp_path)) == {
        "ladder8 deconv sum": {"a0", "a1"}, "revision=1": {"a2", "a3"}
    }  # fmt: skip


def test_tuning_seeds_are_in_no_comparison(tmp_path):
    for seed in (100, 101):
        trained(tmp_path / f"t{seed}", seed=seed, miou=0.9)
    listed_in_order(tmp_path, ["t100", "t101"])
    named = json.loads((tmp_path / "sweep.json").read_text()) | {"tuning_seeds": [100, 101]}
    (tmp_path / "sweep.json").write_text(json.dumps(named))
    assert held(collect(tmp_path)) == {"ladder8 deconv sum": {"t100", "t101"}}  # there are no others yet
    for seed in range(3):
        trained(tmp_path / f"a{seed}", seed=seed, miou=0.5)
    listed_in_order(tmp_path, ["t100", "t101", "a0", "a1", "a2"])
    listed = json.loads((tmp_path / "sweep.json").read_text()) | {"tuning_seeds": [100, 101]}
    (tmp_path / "sweep.json").write_text(json.dumps(listed))
    collection = collect(tmp_path)
    assert (held(collection), collection.seeds) == ({"ladder8 deconv sum": {"a0", "a1", "a2"}}, [0, 1, 2])
    assert [problem.kind for problem in collection.problems] == ["tuning", "tuning"]
    assert "Runs of tuning seeds (segpipe.tune), excluded from all comparisons: 2" in written(tmp_path)[0]


def test_data_that_are_drawn_with_the_seed_are_no_difference(tmp_path):
    for seed in range(3):
        data = {"train": f"drawn-{seed}", "val": "b", "test": "c"}
        trained(tmp_path / f"a{seed}", seed=seed, keys={"data.dataset.seed": seed}, data_fingerprint=data)
    assert [len(network.runs) for network in collect(tmp_path).networks] == [3]


def test_a_run_that_was_trained_longer_is_not_the_cell_that_was_asked_for(tmp_path):
    for seed in range(3):
        keys = {"trainer.max_epochs": 10 if seed == 2 else 5}
        more = {"extended_from": "01234567", "max_epochs": [5, 10]} if seed == 2 else {}
        trained(tmp_path / f"a{seed}", seed=seed, keys=keys, **more)
    listed_in_order(tmp_path, [f"a{seed}" for seed in range(3)])
    trained(tmp_path / "fresh", seed=2, keys={"trainer.max_epochs": 10})  # whose schedule was another
    collection = collect(tmp_path)
    assert held(collection) == {
        "max_epochs=5": {"a0", "a1"},
        "extended_from=5_epochs max_epochs=10": {"a2"},
        "max_epochs=10": {"fresh"},
    }
    assert [problem.kind for problem in collection.problems] == ["extended"]
    assert "Nothing is missing" not in written(tmp_path)[0]


CHANGES = [
    {"trainer.max_epochs": 10},
    {"trainer.max_epochs": 20, "optimizer.lr": 0.01},
    {"optimizer.name": "sgd", "optimizer._target_": "torch.optim.SGD", "optimizer.momentum": 0.9},
    {"decoder.kernel": 8},
    {"model.zero_start": True},
    {"match": "params", "budget": 4e5, "model.width": 34},
    {"match": "params", "budget": 6e5, "model.width": 51},
    {"loss.terms": [{"weight": 0.5}, {"weight": None}]},
    {"warm_start": "/elsewhere/run"},
    {"augment.after_crop": [{"_target_": "Flip", "p": 0.5}], "data.crop": [64, 64]},
    {},
]


@pytest.mark.parametrize("number", grid(range(40), quick=range(6)))
def test_nothing_is_pooled_and_nothing_is_dropped(tmp_path, number):
    """Starts of one sweep, or loose runs: each with some cells and seeds, of a training that is told or is not."""
    random = np.random.default_rng(number)
    truth, order = {}, []
    for start in range(random.integers(2, 5)):
        change = CHANGES[random.integers(len(CHANGES))]
        told = random.random() < 0.4
        overrides = [f"{key}={value}" for key, value in change.items() if not isinstance(value, list)] if told else []
        for decoder, fusion, seed in itertools.product(("deconv", "nearest"), ("sum", "none"), range(4)):
            if random.random() < 0.5:
                continue
            name = f"{'zyxw'[start]}-{decoder}-{fusion}-{seed}"
            status = "failed" if random.random() < 0.1 else "finished"
            given = {"decoder": decoder, "fusion": fusion, "seed": seed, "status": status}
            trained(tmp_path / name, keys=change | {"trainer.devices": start}, overridden=overrides, **given)
            order.append(name)
            if status == "finished":
                truth[name] = decoder, fusion, json.dumps(change, sort_keys=True)
    if with_list := random.random() < 0.6:
        listed_in_order(tmp_path, order)
    collection = collect(tmp_path)
    networks = [{run.run.folder.name for run in network.runs.values()} for network in collection.networks]
    for runs in networks:
        assert len({truth[name] for name in runs}) <= 1, f"pooled: {runs}"
    used = set().union(*networks)
    assert sum(map(len, networks)) == len(used)
    said = {problem.label: problem for problem in collection.problems if problem.kind == "duplicate"}
    assert used | said.keys() == truth.keys()
    assert not used & said.keys()
    for name, problem in said.items():
        first = re.search(r"seed as (\S+), which", problem.reason)[1]
        assert first in used
        assert (truth[first], first[-1]) == (truth[name], name[-1])
    names = [network.label for network in collection.networks]
    assert len(names) == len(set(names))
    assert with_list == collection.has_cell_list


def test_a_run_without_a_score_is_named(tmp_path):
    """Validation had no labelled pixel: the score is null."""
    for seed in (0, 1):
        write_run(tmp_path / f"run{seed}", seed=seed)
    path = tmp_path / "run1" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["val"]["miou"] = None
    path.write_text(json.dumps(metrics))
    collection = collect(tmp_path)
    assert collection.seeds == [0]
    (problem,) = collection.problems
    assert (problem.kind, "no mIoU on validation" in problem.reason) == ("damaged", True)


@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_run_whose_test_images_have_no_labels_is_named(all_of_them, tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"run{seed}", seed=seed)
    for seed in (0, 1) if all_of_them else (1,):
        path = tmp_path / f"run{seed}" / "confusion" / "test.npz"
        counts = read_confusion(path)
        names, groups = counts["names"].tolist(), counts["groups"].tolist()
        write_confusion(path, names=names, groups=groups, matrices=0 * counts["matrices"])
    if all_of_them:
        with pytest.raises(UserError, match=r"no finished run \(2 damaged\)"):
            collect(tmp_path)
        return
    collection = collect(tmp_path)
    assert collection.seeds == [0]
    (problem,) = collection.problems
    assert (problem.kind, "no mIoU on test" in problem.reason) == ("damaged", True)


def test_a_run_that_may_not_be_read_does_not_end_the_report(tmp_path, monkeypatch):
    for seed in (0, 1):
        write_run(tmp_path / f"run{seed}", seed=seed)
    status = cells.status

    def refuse(folder, cell):
        if cell.run == "run1":
            raise PermissionError(13, "Permission denied", str(folder / "run1" / "run.json"))
        return status(folder, cell)

    monkeypatch.setattr(cells, "status", refuse)
    collection = collect(tmp_path)
    assert collection.seeds == [0]
    assert "Permission denied" in collection.problems[0].reason


def test_links_and_damaged_lists_are_named(tmp_path):
    """What lies in a sweep of a stranger: a run that is a link, and a list that is none."""
    write_run(tmp_path / "elsewhere")
    write_run(tmp_path / "sweep" / "run0")
    (tmp_path / "sweep" / "run1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "sweep" / "sweep.json").write_text('{"cells": [{"run": "../elsewhere"}]}')
    collection = collect(tmp_path / "sweep")
    assert [run.run.folder.name for run in collection.runs] == ["run0"]
    assert [problem.label for problem in collection.problems] == ["sweep.json", "run1"]


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-2", "@SUM(A1)", "\tx"])
def test_a_text_in_a_table_is_no_formula(text):
    assert format_field(text) == f"'{text}"
    assert format_field(-2.5) == "-2.5"
