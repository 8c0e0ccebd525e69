"""Factors and score are data: a report with other factors and another score names these and no others."""

import csv
import itertools
import json
import re

import numpy as np
import pytest
import yaml
from support.fake_runs import matrices, write_run

from segpipe import report
from segpipe.analysis.collect import collect
from segpipe.analysis.design_points import DesignPoint, find_levels
from segpipe.analysis.factors import DECODER, FACTORS, FUSION, NOT_SET, STRIDE, Factor, by_size
from segpipe.analysis.scores import MIOU, ReportScore
from segpipe.analysis.statistics.contrasts import ONLY, Design
from segpipe.analysis.statistics.effects import analyse, score_counts
from segpipe.analysis.statistics.resample import Matrices, ScoreCounts, score_and_resample
from segpipe.errors import UserError
from segpipe.metrics.confusion import scores
from segpipe.runs.cells import Cell
from segpipe.runs.counts import write_confusion

NECK = Factor("neck", "neck", "necks", path="neck.name")


LOSS = Factor("loss", "loss", "losses", path="loss.name")


RATE = Factor("optimizer.lr", "learning rate", "learning rates", quantity=True)


ACCURACY = ReportScore(
    "pixel_accuracy", "pixel accuracy", compute=lambda m: np.trace(m, axis1=-2, axis2=-1) / m.sum((-2, -1))
)


SETS = {  # the levels of each factor, and what each level adds to the score
    "neck instead of fusion": {
        DECODER: {"deconv": 0.1, "nearest": 0}, NECK: {"fc": 0.05, "ppm": 0}, STRIDE: {8: 0, 4: 0.02},
    },
    "two": {LOSS: {"ce": 0, "dice": 0.05}, DECODER: {"deconv": 0.1, "nearest": 0}},
    "four": {
        DECODER: {"deconv": 0.1, "nearest": 0}, FUSION: {"none": 0, "sum": 0.05}, STRIDE: {8: 0, 4: 0.02},
        RATE: {0.01: 0, 0.001: 0.03},
    },
    "one": {LOSS: {"ce": 0, "dice": 0.05, "focal": 0.02}},
    "one quantity": {RATE: {0.01: 0, 0.001: 0.03}},
}  # fmt: skip


WORDS = ("decoder", "fusion", "stride", "neck", "loss", "learning rate")


def write_cell(folder, levels, *, seed, miou):
    """One run at these levels, by factor; what is no factor is the same for all. Its score is of validation as well."""
    base = {"decoder": levels.get(DECODER, "deconv"), "fusion": levels.get(FUSION, "sum")}
    write_run(folder, **base, stride=levels.get(STRIDE, 8), seed=seed, miou=miou, cost=seed < 3)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    record = json.loads((folder / "run.json").read_text())
    for factor in levels.keys() - set(FACTORS):
        *groups, last = factor.config_path.split(".")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = levels[factor]
        record["overrides"].append(f"{factor.override_key}={levels[factor]}")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "run.json").write_text(json.dumps(record))
    counts = matrices([miou] * 4)
    write_confusion(folder / "confusion" / "val.npz", names=list("abcd"), groups=list("abcd"), matrices=counts)


def write_design(folder, design, *, seeds=3):
    """Every cell of a design, whose levels add up."""
    random = np.random.default_rng(0)
    for number, levels in enumerate(itertools.product(*design.values())):
        own = dict(zip(design, levels, strict=True))
        score = 0.5 + sum(design[factor][level] for factor, level in own.items())
        for seed in range(seeds):
            miou = float(score + 0.001 * random.standard_normal())
            write_cell(folder / f"cell{number}-s{seed}", own, seed=seed, miou=miou)
    return folder


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.parametrize("score", [MIOU, ACCURACY], ids=lambda score: score.key)
@pytest.mark.parametrize("design", SETS.values(), ids=SETS)
def test_other_factors_and_another_score_give_a_report_that_names_these_and_no_others(tmp_path, design, score):
    factors = tuple(design)
    folder = write_design(tmp_path / "runs", design)
    report.report(folder, resamples=100, as_markdown=True, factors=factors, score=score)
    results, comparisons = rows_of(folder / "results.csv"), rows_of(folder / "comparisons.csv")
    keys = [factor.key for factor in factors]
    all_keys = {factor.key for factor in (DECODER, FUSION, STRIDE, NECK, LOSS, RATE)}
    assert results[0].keys() & all_keys == set(keys)
    cells = {tuple(row[key] for key in keys) for row in results}
    assert cells == {tuple(map(str, levels)) for levels in itertools.product(*design.values())}
    marginal = [row for row in comparisons if row["family"] == "marginal"]
    assert {row["factor"] for row in marginal} == set(keys)
    pairs = {" x ".join(pair) for pair in itertools.combinations(keys, 2)}
    assert {row["factor"] for row in comparisons if row["family"] == "interaction"} == pairs
    assert {row["score"] for row in comparisons} <= {score.key}
    for row in marginal:
        (factor,) = (factor for factor in factors if factor.key == row["factor"])
        effect = {str(level): added for level, added in design[factor].items()}
        assert row["real"] == "True"
        assert effect[row["a"]] > effect[row["b"]]
    page = (folder / "report.html").read_text()
    body = page[page.index("<body>") : page.index("<script>")]
    for text in (re.sub(r"<[^>]*>", " ", body), (folder / "report.md").read_text().replace("\\", "")):
        said = {word for word in WORDS if re.search(rf"\b{word}s?\b", text, re.IGNORECASE)}
        assert said == {factor.label for factor in factors}
        assert score.label in text
        assert "nan" not in text.lower().split()
        assert ("No history.csv of the runs has val/pixel_accuracy" in text) == (score is ACCURACY)


def test_the_verdict_names_levels_as_the_factors_do(tmp_path):
    folder = write_design(tmp_path / "runs", SETS["four"])
    paragraphs = report.report(folder, resamples=100, factors=tuple(SETS["four"]))
    found = {finding.topic: f"{finding.headline}. {finding.text}" for part in paragraphs for finding in part.findings}
    assert found["Learning rate"].startswith("0.001 > 0.01. 1 of 1") or found["Learning rate"].startswith(
        "0.001 > 0.01. "
    )
    assert "Learning rate 0.001 is 3." in found["Learning rate"]
    assert found["Decoder"].startswith("deconv > nearest. ")
    assert "ladder4 deconv sum lr=0.001" in found["Best network"]


def test_a_score_is_that_of_matrices_added_up_by_hand(tmp_path):
    folder = write_design(tmp_path / "runs", SETS["two"])
    collection = collect(folder, factors=tuple(SETS["two"]), score=ACCURACY)
    found = analyse(collection, resamples=50)
    for number, network in enumerate(collection.networks):
        for seed, run in network.runs.items():
            expected = scores(run.matrices.sum(0))["pixel_accuracy"]
            assert found.scores.observed[number, collection.seeds.index(seed)] == pytest.approx(expected, abs=1e-12)
            assert run.val == pytest.approx(expected, abs=1e-12)  # the same matrices are those of validation


def test_resampling_by_matrices_and_by_ratios_is_the_same(tmp_path):
    random = np.random.default_rng(3)
    counts = random.integers(0, 50, (2, 3, 6, 3, 3))
    counts[..., 1:, -1, :] = 0  # the last class is in the first picture alone
    runs = {(n, s): counts[n, s] for n in range(2) for s in range(3) if (n, s) != (1, 2)}
    folder = write_design(tmp_path / "runs", SETS["two"])
    collection = collect(folder, factors=tuple(SETS["two"]))
    assert isinstance(score_counts(collection), ScoreCounts)
    tallies = [MIOU.counts(counts[n, s]) for n, s in np.ndindex(2, 3)]
    present = tallies[0].present  # of the first run; here each run has a truth of its own, so one by one
    whole = score_and_resample(Matrices(runs, (2, 3), MIOU.compute), list("abcdef"), resamples=40)
    for place, own in zip(np.ndindex(2, 3), tallies, strict=True):
        one = ScoreCounts(own.numerator[None, None], own.denominator[None, None], own.present)
        alone = score_and_resample(one, list("abcdef"), resamples=40)
        if place in runs:
            assert whole.observed[place] == pytest.approx(alone.observed[0, 0], abs=1e-12)
            assert whole.resampled[:, *place] == pytest.approx(alone.resampled[:, 0, 0], abs=1e-12)
            assert whole.influence[:, *place] == pytest.approx(alone.influence[:, 0, 0], abs=1e-6)
        else:
            assert np.isnan(whole.observed[place])
    assert present.shape == (6, 3)


def test_a_score_without_a_function_is_refused(tmp_path):
    folder = write_design(tmp_path / "runs", SETS["one"])
    with pytest.raises(UserError, match="Speed: this score is not computed from confusion matrices"):
        report.report(folder, factors=(LOSS,), score=ReportScore("miou", "Speed"))
    with pytest.raises(UserError, match="no finished run"):  # val.miou is there, val.speed is not
        report.report(folder, factors=(LOSS,), score=ReportScore("speed", "Speed"))


def test_what_is_no_factor_makes_strata(tmp_path):
    folder = write_design(tmp_path / "runs", SETS["four"])
    collection = collect(folder, factors=(DECODER, STRIDE, RATE))
    assert {place.setting for network in collection.networks for place in network.points} == {
        "fusion=none",
        "fusion=sum",
    }
    design = Design(collection.networks, collection.networks[0].points[0].stratum)
    assert [one.factor for one in design.marginal()] == ["decoder", "stride", "optimizer.lr"]
    assert {one.contexts for one in design.marginal()} == {4}


def test_interactions_of_two_factors_have_one_context(tmp_path):
    folder = write_design(tmp_path / "runs", SETS["two"])
    collection = collect(folder, factors=tuple(SETS["two"]))
    design = Design(collection.networks, collection.networks[0].points[0].stratum)
    assert [said for _, said in design.contexts(*design.factors)] == [ONLY]
    (one,) = design.interactions()
    assert (one.factor, one.square, one.contexts) == ("loss x decoder", ("ce", "dice", "deconv", "nearest"), 1)


def test_a_level_comes_from_the_choices_the_overrides_or_the_configuration():
    choices = {"model": "ladder", "seed": 0}
    cells = [
        Cell(["optimizer.lr=1e-3"], {**choices, "optimizer.lr": 0.1}, run="a"),
        Cell(["optimizer.lr=1e-3"], choices, run="b"),
        Cell([], choices, run="c"),
        Cell([], choices, run="d"),
    ]
    found = find_levels(cells, {"c": {"optimizer": {"lr": 0.5}}, "d": {"optimizer": {}}}, (RATE,))
    assert found.columns["optimizer.lr"] == [0.1, 0.001, 0.5, NOT_SET]
    assert sorted([NOT_SET, 0.5, 0.1], key=by_size) == [0.1, 0.5, NOT_SET]


def test_names_of_places():
    assert DesignPoint("", "unmodified operators", "fcn", ("deconv", "sum", 8)).label == "fcn8s deconv sum"
    four = DesignPoint("", "unmodified operators", "ladder", ("deconv", "sum", 8, 0.1), (*FACTORS, RATE))
    assert four.label == "ladder8 deconv sum optimizer.lr=0.1"
    assert four.level("stride") == 8
    assert DesignPoint("", "unmodified operators", "fcn8s", ("ce",), (LOSS,)).label == "fcn8s ce"
