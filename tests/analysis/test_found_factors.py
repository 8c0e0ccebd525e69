"""Factors are found from what differs: nothing reads alike, nothing is pooled, nothing is left uncompared."""

import json
import re

import numpy as np
import pytest
import yaml
from support.factor_sweeps import write_cell_run, write_factors
from support.grid import grid
from support.reports import text_of

from segpipe import report
from segpipe.analysis.collect import collect
from segpipe.analysis.page import figures
from segpipe.analysis.roles import Roles
from segpipe.analysis.statistics.effects import analyse
from segpipe.errors import UserError

EFFECTS = {"vgg16": 0.05, "dice": 0.02, 0.01: 0.04, "light": 0.03, "deconv": 0.1, None: 0.02, 128: 0.02, "unet": 0.03}


def added(levels):
    """Return the score of a cell whose levels add up."""
    return 0.4 + sum(EFFECTS.get(v[0] if isinstance(v, list) else v, 0) for v in levels.values())


DESIGNS = {
    "encoder x loss": {"encoder": ["small", "vgg16"], "loss": ["cross_entropy", "dice", "focal"]},
    "lr x augment": {"optimizer.lr": [0.001, 0.01], "augment": ["none", "light"]},
    "lists and null": {"data.crop": [[64, 64], [128, 128], None], "decoder": ["deconv", "nearest"]},
    "nested": {"+loss.terms.weight": [0.5, 1], "data.dataset.noise": [0, 1]},
    "models": {"model": ["ladder", "fcn"], "encoder": ["small", "vgg16"]},
}


@pytest.mark.parametrize(("name", "listed"), grid(DESIGNS, [True, False]))
def test_every_key_that_differs_is_a_factor(tmp_path, name, listed):
    design = {key.lstrip("+"): levels for key, levels in DESIGNS[name].items()}
    folder = write_factors(tmp_path / "x", design, added, listed=listed)
    collection = collect(folder)
    assert {factor.key for factor in collection.factors} == {*design}
    assert collection.outer == ()
    names = [network.label for network in collection.networks]
    assert len(set(names)) == len(names) == np.prod([len(levels) for levels in design.values()])
    assert all(len(network.runs) == 3 for network in collection.networks)
    found = analyse(collection, resamples=100)
    assert {one.contrast.factor for one in found.marginal} == {*design}
    assert all(one.estimate.trainings is not None for one in [*found.marginal, *found.interactions])
    others = {key: len(levels) for key, levels in design.items()}
    for one in found.marginal:
        assert one.contrast.contexts == np.prod([n for key, n in others.items() if key != one.contrast.factor])


def test_a_key_that_no_override_sets_is_a_factor(tmp_path):
    """An experiment's file was edited between two starts: the difference is the length's, not the decoder's."""
    for seed in range(3):
        for decoder, epochs in (("deconv", 5), ("nearest", 5), ("deconv", 9), ("nearest", 9)):
            levels = {"decoder": decoder, "trainer.max_epochs": epochs}
            name = f"{decoder}-{epochs}-{seed}"
            write_cell_run(tmp_path / name, levels, seed=seed, miou=0.5 + epochs / 100, told=False)
    collection = collect(tmp_path)
    assert [factor.key for factor in collection.factors] == ["decoder", "trainer.max_epochs"]
    assert [network.label for network in collection.networks][:2] == ["deconv max_epochs=5", "deconv max_epochs=9"]
    found = {one.contrast.factor: one for one in analyse(collection, resamples=100).marginal}
    assert found["trainer.max_epochs"].estimate.difference == pytest.approx(-0.04, abs=1e-3)
    assert found["decoder"].estimate.difference == pytest.approx(0, abs=1e-3)


def test_what_a_model_or_a_value_brings_with_it_is_no_factor(tmp_path):
    """A model's file sets the fusion, data.crop is copied into augment.crop, resized data have a revision."""
    for seed in range(3):
        for model, fusion in (("ladder", "sum"), ("fcn", "concat")):
            for crop in (64, 128):
                levels = {"model": model, "data.crop": [crop, crop]}
                folder = tmp_path / f"{model}-{crop}-{seed}"
                revisions = {"data": int(crop == 64)}
                write_cell_run(folder, levels, seed=seed, miou=0.5, fusion=fusion, revisions=revisions)
                config = yaml.safe_load((folder / "config.yaml").read_text())
                config["augment"] = {"crop": [crop, crop]}
                (folder / "config.yaml").write_text(yaml.safe_dump(config))
    collection = collect(tmp_path)
    assert [factor.key for factor in collection.factors] == ["model", "data.crop"]
    assert collection.separating == {}


FIVE = {
    "decoder": ["deconv", "nearest"], "encoder": ["small", "vgg16"], "loss": ["dice", "focal"],
    "optimizer.lr": [0.1, 0.01], "augment": ["none", "light"],
}  # fmt: skip


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    return write_factors(tmp_path_factory.mktemp("runs") / "five", FIVE, added)


def test_of_many_factors_the_largest_are_drawn_and_the_others_are_compared_over_all_groups(five, tmp_path, no_drawing):
    text, comparisons = text_of(five, tmp_path)
    assert "mIoU by decoder, encoder and lr" in text
    assert "Drawn and ordered in each group: decoder, encoder and lr. A group has one level of loss and augment" in text
    marginal = [row for row in comparisons if row["family"] == "marginal"]
    groups = {row["setting"] for row in marginal if row["factor"] == "decoder"}
    assert groups == {f"augment={a} loss={b}" for a in FIVE["augment"] for b in FIVE["loss"]}
    (loss,) = (row for row in marginal if row["factor"] == "loss")
    assert (loss["setting"], loss["pairs"], loss["a"], loss["real"]) == ("all groups", "16", "dice", "True")
    assert "loss x augment" in {row["factor"] for row in comparisons if row["family"] == "interaction"}


def test_factors_can_be_chosen_and_averaged_over(five, tmp_path, no_drawing):
    roles = Roles(["lr", "loss"], ["encoder", "augment", "decoder"])
    text, comparisons = text_of(five, tmp_path, roles=roles)
    assert "mIoU by lr and loss" in text
    assert "Averaged over: encoder, augment and decoder." in text
    assert "--factors lr,loss --average encoder --average augment --average decoder" in text
    pairs = {row["factor"]: row["pairs"] for row in comparisons if row["family"] == "marginal"}
    assert pairs == dict.fromkeys(["optimizer.lr", "loss", "encoder", "augment", "decoder"], "16")
    for roles, words in (
        (Roles(["losss"]), ["--factors losss", "differ in: decoder", "Did you mean 'loss'?"]),
        (Roles(["decoder", "encoder", "loss", "lr"]), ["at most 3"]),
        (Roles(["loss"], ["loss"]), ["loss is given in --factors and in --average"]),
        (Roles(None, [*FIVE]), ["Leave one factor"]),
        (Roles(None, ["seed"]), ["--average seed"]),
    ):
        with pytest.raises(UserError) as error:
            collect(five, roles=roles)
        assert all(word in str(error.value) for word in words), error.value


def test_missing_cells_and_runs_are_listed_and_the_state_is_at_the_top(tmp_path, no_drawing):
    design = {"encoder": ["small", "vgg16"], "loss": ["dice", "focal"]}
    folder = write_factors(tmp_path / "x", design, added, missing=[(1, 0), (3, 2)])
    text, _ = text_of(folder)
    assert "State Unfinished: 2 of 12 runs are missing 2 not started. The numbers below" in text
    assert text.index("Unfinished") < text.index("Best network")
    assert "small focal seed=0: no run yet" in text
    assert text_of(write_factors(tmp_path / "y", design, added))[0].count("Unfinished") == 0


def test_two_identities_at_one_place_are_named(tmp_path):
    for name, identity in (("a", "01234567"), ("b", "89abcdef")):
        write_cell_run(tmp_path / name, {"decoder": "deconv"}, seed=0, miou=0.5, identity=identity)
    (problem,) = collect(tmp_path).problems
    assert (problem.kind, problem.label) == ("duplicate", "b")
    assert "identity 89abcdef, but the same cell and seed as a with identity 01234567" in problem.reason


def test_one_seed_and_one_cell_are_said_in_the_singular(tmp_path, no_drawing):
    folder = write_factors(tmp_path / "x", {"encoder": ["small"]}, added, seeds=1)
    text, _ = text_of(folder)
    assert "1 cell (1 distinct network), 1 seed, 1 finished run;" in text
    two = write_factors(tmp_path / "y", {"encoder": ["small", "vgg16"]}, added, seeds=4)
    text, _ = text_of(two, reference="small")
    assert "The other network is not significantly worse." in text
    assert "The other network is significantly worse." in text_of(two, reference="vgg16")[0]
    for one in (text, text_of(folder)[0]):
        assert not re.search(r"\b1 (cells|networks|seeds|runs|images|differences|interactions)\b", one)


def test_the_scale_of_colours_is_one_for_the_page(tmp_path, monkeypatch):
    limits = []
    monkeypatch.setattr(figures, "colour_of", lambda value, low, high: limits.append((low, high)) or ("#000", "#fff"))
    design = {"decoder": ["deconv", "nearest"], "match": [None, "params"]}
    folder = write_factors(tmp_path / "x", design, added, listed=False)
    report.report(folder, resamples=100)
    assert len(set(limits)) == 1


def test_labels_on_axes_are_never_cut_so_that_two_read_alike():
    names = ["a" * 30 + "1", "a" * 30 + "2", "b" * 40]
    short = figures.shorten_all(names, 12)
    assert len(set(short)) == 3
    assert figures.shorten_all(["bilinear", "x" * 20], 12) == ["bilinear", "x" * 11 + "…"]
    assert figures.shorten_all(["x" * 20] * 2, 12) == ["x" * 11 + "…"] * 2


def test_the_list_of_a_sweep_and_the_report_name_a_cell_alike(tmp_path):
    from segpipe.runs import cells

    folder = write_factors(tmp_path / "x", DESIGNS["lists and null"], added)
    board = {label.rpartition(" ")[0] for _, label in cells.labelled(folder)}
    assert board == {network.label for network in collect(folder).networks}
    assert json.loads((folder / "sweep.json").read_text())["name"] == "x"


def test_a_group_that_changes_no_result_is_no_factor(tmp_path):
    """Some seeds were trained with trainer=cpu, others with trainer=gpu: they are seeds of one network."""
    design = {"decoder": ["deconv", "nearest"], "trainer": ["cpu", "gpu"]}
    folder = write_factors(tmp_path / "x", design, added, seeds=4)
    for name in ("run0-s0", "run0-s1", "run1-s2", "run1-s3", "run2-s0", "run2-s1", "run3-s2", "run3-s3"):
        record = json.loads((folder / name / "run.json").read_text()) | {"status": "failed"}
        (folder / name / "run.json").write_text(json.dumps(record))
    collection = collect(folder)
    assert [factor.key for factor in collection.factors] == ["decoder"]
    assert {network.label: sorted(network.runs) for network in collection.networks} == {
        "deconv": [0, 1, 2, 3], "nearest": [0, 1, 2, 3]
    }  # fmt: skip
