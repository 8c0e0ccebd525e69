"""Any score of the counts, two sweeps side by side, LaTeX, print, and the Pareto front."""

import csv
import re
import shutil

import numpy as np
import pytest
from support.factor_sweeps import write_factors
from support.fake_runs import write_sweep
from support.reports import text_of

from segpipe import report
from segpipe.analysis.collect import collect
from segpipe.analysis.network_results import compared_costs, pareto_front
from segpipe.analysis.page.latex import escape
from segpipe.analysis.scores import COUNTS, find_score
from segpipe.analysis.statistics.effects import analyse
from segpipe.errors import UserError
from segpipe.metrics.boundaries import NAMES
from segpipe.metrics.confusion import SCORES, mean_ratio

DESIGN = {"decoder": ["deconv", "nearest"], "loss": ["dice", "focal"]}


def score(levels):
    return 0.5 + 0.1 * (levels["decoder"] == "deconv") + 0.01 * (levels["loss"] == "dice")


@pytest.mark.parametrize("name", [*SCORES, "boundary_f", "band_miou_2"])
def test_any_score_of_the_counts_can_be_compared(tmp_path, name):
    """Those of boundaries are ranked by the validation mIoU, since validation images have no such counts."""
    folder = write_factors(tmp_path / "x", DESIGN, score, boundaries=name in NAMES)
    for run in folder.glob("run*"):  # the runs are older than the score, which is computed from the counts of val
        shutil.copy(run / "confusion" / "test.npz", run / "confusion" / "val.npz")
    chosen = find_score(name)
    collection = collect(folder, score=chosen)
    found = analyse(collection, resamples=100)
    assert len(collection.networks) == 4
    (decoder,) = (one for one in found.marginal if one.contrast.factor == "decoder")
    assert decoder.estimate.difference > 0
    assert decoder.score.label == chosen.label
    for number, network in enumerate(collection.networks):
        for seed, run in network.runs.items():
            tested = (
                run.metrics["test"]["boundaries"][name]
                if name in NAMES
                else float(SCORES[name].value(run.matrices.sum(0)))
            )
            assert found.scores.observed[number, collection.seeds.index(seed)] == pytest.approx(tested, abs=1e-12)
            assert name not in NAMES or run.val == run.metrics["val"]["miou"]


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_a_score_give_the_score(name):
    matrices = np.random.default_rng(0).integers(0, 50, (6, 4, 4))
    matrices[:, 3] = 0  # a class that is not in the truth
    assert mean_ratio(COUNTS[name](matrices)) == pytest.approx(float(SCORES[name].value(matrices.sum(0))), abs=1e-12)


def test_an_unknown_score_is_an_error_that_names_all():
    with pytest.raises(UserError, match=r"--score boundry_f: no such score\. .*Did you mean 'boundary_f'\?"):
        find_score("boundry_f")


def test_a_score_at_boundaries_needs_counts(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        collect(write_factors(tmp_path / "x", DESIGN, score), score=find_score("boundary_f"))


def test_the_page_of_another_score_says_so(tmp_path, no_drawing):
    folder = write_factors(tmp_path / "x", DESIGN, score, boundaries=True)
    text, comparisons = text_of(folder, score=find_score("band_miou_2"))
    assert "Score: band_miou_2 of all test images together" in text
    assert "--score band_miou_2" in text
    assert {row["score"] for row in comparisons} == {"band_miou_2", "boundary_f"}


def test_two_sweeps_stand_side_by_side(tmp_path, no_drawing):
    a = write_factors(tmp_path / "a", DESIGN, score)
    b = write_factors(
        tmp_path / "b",
        DESIGN | {"optimizer.lr": [0.1, 0.01]},
        lambda one: 1.1 - score(one),
        data_fingerprint={"test": "z"},
    )
    out = tmp_path / "out"
    report.compare([a, b], out=out, resamples=100, as_markdown=True)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", (out / "report.html").read_text()))
    assert "<title>a and b</title>" in (out / "report.html").read_text()
    assert "Different orders of means a: deconv &gt; nearest. b (mean over lr): nearest &gt; deconv." in text
    assert "a and b: \N{MINUS SIGN}1.00 over 4 cells" in text
    assert "(a: nothing; b: mean over lr)" in text
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert {row["sweep"] for row in rows} == {"a", "b"}
    ids = re.findall(r'\bid="([^"]+)"', (out / "report.html").read_text())
    assert len(ids) == len(set(ids))
    with pytest.raises(UserError, match="given twice"):
        report.compare([a, a], out=out)


def test_sweeps_are_compared_at_the_stride_that_both_have(tmp_path, no_drawing):
    """`deconv` is the better one at stride 4, which is the only one of b, and the worse one in the mean of a."""
    scores = {("deconv", 4): 0.6, ("nearest", 4): 0.5, ("deconv", 8): 0.2, ("nearest", 8): 0.5}
    a = write_sweep(
        tmp_path / "a", {(name, "sum", stride): miou for (name, stride), miou in scores.items()}, seeds=3, noise=0.001
    )
    of_b = {(name, "sum", 4): scores[name, 4] for name in ("deconv", "nearest")}
    b = write_sweep(tmp_path / "b", of_b, seeds=3, noise=0.001)
    report.compare([a, b], out=tmp_path / "out", resamples=100)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", (tmp_path / "out" / "report.html").read_text()))
    assert "The same order of means a (at stride 4): deconv &gt; nearest. b: deconv &gt; nearest." in text
    assert "(a: at stride 4; b: nothing)" in text


def test_sweeps_without_a_common_factor_are_said_to_share_nothing(tmp_path, no_drawing):
    a = write_factors(tmp_path / "a", {"decoder": ["deconv", "nearest"]}, lambda one: 0.5)
    b = write_factors(tmp_path / "b", {"loss": ["dice", "focal"]}, lambda one: 0.5)
    report.compare([a, b], out=tmp_path, resamples=100)
    assert "The sweeps have no factor in common" in (tmp_path / "report.html").read_text()


def test_tables_are_written_for_latex(tmp_path, no_drawing):
    design = {"data.crop": [[64, 64], None], "decoder": ["deconv", "nearest"]}
    folder = write_factors(tmp_path / "x_y", design, lambda one: 0.5 + 0.1 * (one["decoder"] == "deconv"))
    report.report(folder, resamples=100, as_latex=True)
    text = (folder / "report.tex").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\midrule") >= 5
    for kind in ("table", "tabular", "longtable"):
        assert text.count(rf"\begin{{{kind}}}") == text.count(rf"\end{{{kind}}}")
    for table in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in table[1].splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(table[0])}
    assert not [line for line in lines if re.search(r"(?<!\\)[%#_]|^\[", line.replace(r"\label{tab:", ""))]
    labels = re.findall(r"\\label\{([^}]+)\}", text)
    assert len(labels) == len(set(labels))
    assert escape("a_b & 5 % \N{MINUS SIGN}1 {x} [y]") == r"a\_b \& 5 \% $-$1 \{x\} {[}y]"


def test_the_pareto_front_joins_ties_and_leaves_out_what_is_only_dearer():
    seeds = range(5)
    noise = np.random.default_rng(0).normal(0, 0.01, (6, 5))
    means = {0: 0.50, 1: 0.60, 2: 0.601, 3: 0.602, 4: 0.70, 5: 0.2}
    val = {number: {seed: mean + noise[number, seed] for seed in seeds} for number, mean in means.items()}
    costs = {0: 1.0, 1: 2.0, 2: 2.0, 3: 3.0, 4: 4.0, 5: float("nan")}
    assert pareto_front(costs, val) == {0, 1, 2, 4}  # 1 and 2 cost the same; 3 is no better than they are, only dearer
    single = {number: {0: mean} for number, mean in means.items()}
    assert pareto_front(costs, single) == {0, 2, 3, 4}  # with one seed the noise is unknown


def test_memory_of_a_process_on_a_cpu_is_no_cost(tmp_path):
    collection = collect(write_sweep(tmp_path / "x", {("deconv", "sum", 8): 0.5}, seeds=1))
    assert compared_costs(collection) == ["parameters", "gmac", "latency_ms"]
    for run in collection.runs:
        run.metrics["cost"]["device"] = "NVIDIA H100"
    assert "peak_memory_mib" in compared_costs(collection)


def test_the_page_can_be_printed(tmp_path, no_drawing):
    report.report(write_factors(tmp_path / "x", {"decoder": ["deconv"]}, lambda one: 0.5), resamples=100)
    style = (tmp_path / "x" / "report.html").read_text().partition("@media print")[2]
    assert "max-height: none" in style
    assert "break-inside: avoid" in style
