"""The verdict of a report: which differences are significant, in words and numbers."""

import re

import pytest
from support.fake_runs import write_run, write_sweep
from support.reports import FACTORIAL, verdict_texts, written


def test_differences_are_those_computed_by_hand(tmp_path):
    for seed, (a, b) in enumerate([(0.60, 0.50), (0.63, 0.51), (0.66, 0.52)]):  # 0.10, 0.12, 0.14
        write_run(tmp_path / f"a{seed}", decoder="deconv", seed=seed, miou=a)
        write_run(tmp_path / f"b{seed}", decoder="nearest", seed=seed, miou=b)
    _, results, comparisons = written(tmp_path)
    assert [(row["decoder"], row["seed"], row["run"]) for row in results] == [
        *(("deconv", str(seed), f"a{seed}") for seed in range(3)),
        *(("nearest", str(seed), f"b{seed}") for seed in range(3)),
    ]
    assert float(results[0]["test_miou"]) == pytest.approx(0.60)
    assert float(results[0]["test_iou/road"]) == pytest.approx(0.60)
    assert float(results[0]["test_dice"]) == pytest.approx(0.75)  # 2 J / (1 + J); these runs did not record it
    assert float(results[0]["test_dice/road"]) == pytest.approx(0.75)
    assert (results[0]["parameters"], results[0]["latency_ms"]) == ("1008", "2")
    row = next(row for row in comparisons if row["family"] == "marginal")
    half = 4.302653 * 0.02 / 3**0.5  # Student's t for 2 degrees of freedom, times the standard error
    assert (row["factor"], row["a"], row["b"]) == ("decoder", "deconv", "nearest")
    assert float(row["a_minus_b"]) == pytest.approx(0.12, abs=1e-6)
    assert float(row["new_trainings_low"]) == pytest.approx(0.12 - half, abs=1e-5)
    assert float(row["new_trainings_high"]) == pytest.approx(0.12 + half, abs=1e-5)
    assert float(row["new_trainings_p"]) == pytest.approx(0.00915, abs=1e-4)  # of t = 10.3923
    assert float(row["new_trainings_df"]) == 2
    assert (row["real"], row["seeds"], row["pairs"]) == ("True", "0 1 2", "1")


def test_a_clear_difference_is_called_significant(tmp_path):
    scores = {("deconv", "sum", 8): 0.60, ("nearest", "sum", 8): 0.50, ("bilinear", "sum", 8): 0.55}
    found = verdict_texts(write_sweep(tmp_path / "clear", scores, seeds=5, noise=0.001))
    assert found["Decoder"].startswith("deconv > bilinear > nearest. All 3 differences are significant.")
    assert re.search(r"deconv is 5\.\d \(4\.\d to 5\.\d\) above bilinear", found["Decoder"])
    assert "For new images, the same differences are significant." in found["Decoder"]
    assert re.match(
        r"deconv\. It is significantly better than 2 other networks\. Test mIoU minus that of the best "
        r"other network, in points, with simultaneous intervals: "
        r"deconv \(\+(4\.9|5\.\d), 0\.0 to \d\.\d\)\.",
        found["Best network"],
    )
    assert "The best network on validation is deconv. Its test score is " in found["Best network"]


def test_who_may_be_the_best_is_named(tmp_path):
    scores = {("deconv", "sum", 8): 0.60, ("carafe", "sum", 8): 0.60, ("nearest", "sum", 8): 0.50}
    folder = write_sweep(tmp_path / "two", scores, seeds=6, noise=0.002)
    found = verdict_texts(folder)["Best network"]
    assert found.startswith("2 of 3 networks may be the best. ")
    assert "The other network is significantly worse than the best. This also holds for new images." in found
    page, _, comparisons = written(folder)
    real = {row["a"]: (row["b"], row["real"]) for row in comparisons if row["family"] == "cell"}
    others = "the best of the others"
    assert real == {"deconv": (others, "False"), "carafe": (others, "False"), "nearest": (others, "True")}
    bounds = {row["a"]: row for row in comparisons if row["family"] == "cell"}
    assert float(bounds["nearest"]["new_trainings_high"]) == 0
    assert float(bounds["nearest"]["new_trainings_low"]) < -0.1
    text = re.sub(r"<[^>]*>", " ", page)
    for words in ("may be the best?", "significantly worse than the best", "Hsu", "ten seeds are recommended"):
        assert words in text, words
    _, _, comparisons = written(folder, reference="nearest")
    assert {row["real"] for row in comparisons if row["family"] == "cell"} == {"True"}


def test_the_noisy_that_may_be_the_best_are_told(tmp_path):
    scores = {(name, "sum", 8): 0.60 - 0.02 * number for number, name in enumerate(("a", "b", "c", "d"))}
    folder = write_sweep(tmp_path / "noisy", scores, seeds=4, noise=0.001)
    for seed, miou in enumerate((0.3, 0.6, 0.45, 0.2)):
        write_run(folder / f"x{seed}", decoder="x", seed=seed, miou=miou)
    assert re.search(
        r"far above the median \(0\.\d points\): x \(1\d\.\d\)\. .* whether this network may",
        verdict_texts(folder)["Best network"],
    )


def test_a_level_that_cannot_be_ordered_is_listed_apart(tmp_path):
    scores = {("deconv", "sum", 8): 0.60, ("nearest", "sum", 8): 0.50}
    folder = write_sweep(tmp_path / "apart", scores, seeds=4, noise=0.001)
    write_run(folder / "pixelshuffle", decoder="pixelshuffle", seed=7, miou=0.9)
    found = verdict_texts(folder)
    assert found["Decoder"].startswith("deconv > nearest (not ordered: pixelshuffle). ")
    assert "Not ordered: pixelshuffle, because too few runs are finished" in found["Decoder"]
    assert "Not compared, with too few seeds in common: pixelshuffle." in found["Best network"]
    page, _, comparisons = written(folder, as_markdown=True)
    unknown = [row for row in comparisons if row["family"] == "marginal" and row["a_minus_b"] == ""]
    assert [(row["pairs"], row["left_out"], row["real"]) for row in unknown] == [("0", "the only context", "")] * 2
    assert "nan" not in (folder / "report.md").read_text().lower().split()
    assert 'data-sort="nan"' not in page


def test_equal_levels_are_not_significantly_different(tmp_path):
    scores = {("deconv", "sum", 8): 0.60, ("deconv", "concat", 8): 0.60}
    found = verdict_texts(write_sweep(tmp_path / "same", scores, seeds=4, noise=0.01, model="fcn"))
    assert re.match(
        r"(sum ≈ concat|concat ≈ sum)\. \w+ and \w+ are not significantly different: \+\d\.\d \(\u2212", found["Fusion"]
    )
    assert "Seeds needed to detect a difference of this size" in found["Fusion"]
    assert "can represent the same functions" in found["Fusion"]
    assert "differences are significant" not in found["Fusion"]
    assert "Also significant" not in found["Fusion"]


def test_where_an_activation_follows_concat_can_do_more(tmp_path):
    scores = {("deconv", "sum", 8): 0.60, ("deconv", "concat", 8): 0.60}
    found = verdict_texts(write_sweep(tmp_path / "same", scores, seeds=1))
    assert "concat can represent functions that sum cannot" in found["Fusion"]
    assert "the same functions" not in found["Fusion"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_with_too_few_seeds_nothing_is_called_significant(tmp_path, seeds):
    folder = write_sweep(tmp_path / "few", FACTORIAL, seeds=seeds, noise=0.001)
    found = verdict_texts(folder)
    assert f"With {seeds} seed" in found["Best network"]
    assert "there are no intervals (at least 3 seeds are needed" in found["Best network"]
    assert re.search(
        r"^deconv, nearest\. Observed with \d seeds?, without intervals, in points of mIoU: deconv is (9|10)\.\d",
        found["Decoder"],
    )
    assert ">" not in "".join(found.values())
    _, _, comparisons = written(folder)
    assert {row["real"] for row in comparisons} == {""}
    assert {row["new_trainings_low"] for row in comparisons} == {""}


def test_interactions_are_told(tmp_path):
    scores = dict(FACTORIAL)
    scores["deconv", "sum", 4] += 0.1  # and so deconv brings more there
    scores["deconv", "sum", 8] += 0.1
    found = verdict_texts(write_sweep(tmp_path / "more", scores, seeds=5, noise=0.001))
    assert "1 of 3 interactions is significant" in found["Interactions"]
    assert re.search(
        r"the difference deconv \N{MINUS SIGN} nearest is 10\.\d points \(9\.\d to 10\.\d\) larger at fusion sum "
        r"than at none",
        found["Interactions"],
    )
