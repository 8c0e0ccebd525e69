import csv
import itertools
import json
import re
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import yaml
from fake_runs import write_run, write_sweep
from support.grid import grid

from segpipe import report
from segpipe.analysis import formatting, ordering, verdict
from segpipe.analysis.collect import collect
from segpipe.analysis.factors import DECODER, STRIDE
from segpipe.analysis.findings import about_factor
from segpipe.analysis.page import figures
from segpipe.analysis.page.markdown import safe
from segpipe.analysis.standings import network_results
from segpipe.analysis.statistics import effects
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.contrasts import Contrast
from segpipe.analysis.statistics.intervals import Estimate, Interval
from segpipe.data.examples import file_names, save_examples
from segpipe.errors import UserError

ROOT = Path(__file__).parent.parent
FACTORIAL = {
    (decoder, fusion, stride): 0.3 + 0.1 * (decoder == "deconv") + 0.2 * (fusion == "sum") + 0.05 * (stride == 4)
    for decoder in ("nearest", "deconv")
    for fusion in ("none", "sum")
    for stride in (8, 4)
}


def written(folder, **given):
    """The page's text, and the rows of both tables."""
    report.report(folder, resamples=200, **given)
    out = given.get("out") or folder
    rows = [list(csv.DictReader((out / name).read_text().splitlines())) for name in ("results.csv", "comparisons.csv")]
    return (out / "report.html").read_text(), *rows


def said(folder):
    """The verdict, one text for each thing it is about; without the time that figures take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "panel", lambda title, draw, **size: figures.Panel("", title))
        found = report.report(folder, resamples=200)
    return {finding.about: f"{finding.headline}. {finding.text}" for part in found for finding in part.findings}


@pytest.fixture(scope="module")
def factorial(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("runs") / "factorial", FACTORIAL, seeds=3, noise=0.002)


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
    assert (row["real"], row["seeds"], row["pairs"]) == ("True", "0 1 2", "1")


def test_a_clear_difference_is_called_real(tmp_path):
    scores = {("deconv", "sum", 8): 0.60, ("nearest", "sum", 8): 0.50, ("bilinear", "sum", 8): 0.55}
    found = said(write_sweep(tmp_path / "clear", scores, seeds=5, noise=0.001))
    assert found["Decoder"].startswith("deconv > bilinear > nearest. All 3 differences are real.")
    assert re.search(r"deconv is, in points of mIoU, 5\.\d \(4\.\d to 5\.\d\) above bilinear", found["Decoder"])
    assert "This holds for new pictures too." in found["Decoder"]
    assert re.match(
        r"ladder8 deconv sum\. It is really better than 2 other networks\. In points of test mIoU less the best of the "
        r"others, with intervals that all hold at once: ladder8 deconv sum \(\+(4\.9|5\.\d), 0\.0 to \d\.\d\)\.",
        found["Best network"],
    )
    assert "The best on validation is ladder8 deconv sum" in found["Best network"]


def test_who_may_be_the_best_is_named(tmp_path):
    scores = {("deconv", "sum", 8): 0.60, ("carafe", "sum", 8): 0.60, ("nearest", "sum", 8): 0.50}
    folder = write_sweep(tmp_path / "two", scores, seeds=6, noise=0.002)
    found = said(folder)["Best network"]
    assert found.startswith("2 of 3 networks may be the best. ")
    assert "The other one is really worse than the best. The same holds for new pictures too." in found
    page, _, comparisons = written(folder)
    real = {row["a"].split()[1]: (row["b"], row["real"]) for row in comparisons if row["family"] == "cell"}
    others = "the best of the others"
    assert real == {"deconv": (others, "False"), "carafe": (others, "False"), "nearest": (others, "True")}
    bounds = {row["a"].split()[1]: row for row in comparisons if row["family"] == "cell"}
    assert float(bounds["nearest"]["new_trainings_high"]) == 0
    assert float(bounds["nearest"]["new_trainings_low"]) < -0.1
    text = re.sub(r"<[^>]*>", " ", page)
    for words in ("may be best?", "really worse than the best", "Hsu", "ten are recommended"):
        assert words in text, words
    _, _, comparisons = written(folder, reference="ladder8 nearest sum")
    assert {row["real"] for row in comparisons if row["family"] == "cell"} == {"True"}


def test_the_noisy_that_may_be_the_best_are_told(tmp_path):
    scores = {(name, "sum", 8): 0.60 - 0.02 * number for number, name in enumerate(("a", "b", "c", "d"))}
    folder = write_sweep(tmp_path / "noisy", scores, seeds=4, noise=0.001)
    for seed, miou in enumerate((0.3, 0.6, 0.45, 0.2)):
        write_run(folder / f"x{seed}", decoder="x", seed=seed, miou=miou)
    assert re.search(
        r"the median\) scatters from seed to seed: ladder8 x sum \(1\d\.\d\)", said(folder)["Best network"]
    )


def test_a_level_that_cannot_be_ordered_is_listed_apart(tmp_path):
    scores = {("deconv", "sum", 8): 0.60, ("nearest", "sum", 8): 0.50}
    folder = write_sweep(tmp_path / "apart", scores, seeds=4, noise=0.001)
    write_run(folder / "pixelshuffle", decoder="pixelshuffle", seed=7, miou=0.9)
    found = said(folder)
    assert found["Decoder"].startswith("deconv > nearest (not ordered: pixelshuffle). ")
    assert "Not ordered: pixelshuffle. Too few runs are finished" in found["Decoder"]
    assert "Nothing is said of ladder8 pixelshuffle sum, which has too few seeds in common." in found["Best network"]
    page, _, comparisons = written(folder, as_markdown=True)
    unknown = [row for row in comparisons if row["family"] == "marginal" and row["a_minus_b"] == ""]
    assert [(row["pairs"], row["left_out"], row["real"]) for row in unknown] == [("0", "sum 8", "")] * 2
    assert "nan" not in (folder / "report.md").read_text().lower().split()
    assert 'data-sort="nan"' not in page


def test_no_difference_cannot_be_told_apart(tmp_path):
    scores = {("deconv", "sum", 8): 0.60, ("deconv", "concat", 8): 0.60}
    found = said(write_sweep(tmp_path / "same", scores, seeds=4, noise=0.01, model="fcn"))
    assert re.match(
        r"(sum ≈ concat|concat ≈ sum)\. \w+ and \w+ cannot be told apart: \+\d\.\d \(\u2212", found["Fusion"]
    )
    assert "To show a difference as small as this one would take" in found["Fusion"]
    assert "same class of functions" in found["Fusion"]
    assert "real" not in found["Fusion"].replace("Real all the same", "")


def test_where_an_activation_follows_concat_can_do_more(tmp_path):
    scores = {("deconv", "sum", 8): 0.60, ("deconv", "concat", 8): 0.60}
    found = said(write_sweep(tmp_path / "same", scores, seeds=1))
    assert "concat can do here what sum cannot" in found["Fusion"]
    assert "same class of functions" not in found["Fusion"]


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_say_nothing_about_what_is_real(tmp_path, seeds):
    folder = write_sweep(tmp_path / "few", FACTORIAL, seeds=seeds, noise=0.001)
    found = said(folder)
    assert f"With {seeds} seed" in found["Best network"]
    assert "there is no interval (3 are the least" in found["Best network"]
    assert re.search(
        r"^deconv, nearest\. As found with \d seeds?, without an interval: deconv is (9|10)\.\d", found["Decoder"]
    )
    assert ">" not in "".join(found.values())
    _, _, comparisons = written(folder)
    assert {row["real"] for row in comparisons} == {""}
    assert {row["new_trainings_low"] for row in comparisons} == {""}


def test_interactions_are_told(tmp_path):
    scores = dict(FACTORIAL)
    scores["deconv", "sum", 4] += 0.1  # and so deconv brings more there
    scores["deconv", "sum", 8] += 0.1
    found = said(write_sweep(tmp_path / "more", scores, seeds=5, noise=0.001))
    assert "1 of 3 interactions is real" in found["Interactions"]
    assert re.search(
        r"deconv over nearest is 10\.\d points \(9\.\d to 10\.\d\) more at fusion sum than at none",
        found["Interactions"],
    )


def made(a, b, difference, *, half=0.01, real=True, general=True, seeds=(0, 1, 2), factor="decoder"):
    """A comparison with chosen numbers."""
    low, high = difference - half, difference + half
    narrow = Interval(low, high, half / 3, 2, 0.01, 0.01 if real else 0.5)
    wide = Interval(low, high, half / 3, 2, 0.01, 0.01 if general else 0.5)
    known = len(seeds) > 2
    estimate = Estimate(difference, seeds, narrow if known else None, wide if known else None, {})
    return Comparison(Contrast(factor, a, b, ("", "", "fcn"), np.zeros((3, 2))), estimate, 3)


def test_levels_are_ordered_by_effect_and_ties_joined():
    compared = [made("a", "b", -0.02, real=False), made("b", "c", 0.1), made("a", "c", 0.08)]
    assert ordering.order(compared).label == "b ≈ a > c"
    assert ordering.between(compared, "a", "b").contrast.a == "b"
    assert ordering.between(compared, "a", "d") is None


def unknown(a, b, factor="decoder"):
    """A comparison without a run."""
    one = made(a, b, float("nan"), seeds=(), factor=factor)
    return replace(one, contrast=replace(one.contrast, weights=np.zeros((0, 2)), dropped=("sum 8",)))


def test_what_is_not_known_is_no_difference_of_0():
    compared = [unknown("deconv", "pixelshuffle"), unknown("nearest", "pixelshuffle"), made("deconv", "nearest", -0.1)]
    ordered = ordering.order(compared)
    assert (ordered.levels, ordered.apart) == (["nearest", "deconv"], ["pixelshuffle"])
    found = about_factor(DECODER, compared)
    assert found.headline == "nearest > deconv (not ordered: pixelshuffle)"
    assert "Not ordered: pixelshuffle. Too few runs" in found.text


def test_only_what_is_connected_is_ordered():
    compared = [made("a", "b", 0.1), unknown("a", "c"), unknown("a", "d"), unknown("a", "e"), made("b", "e", 0.1)]
    compared += [made("c", "d", 0.3), unknown("b", "c"), unknown("b", "d")]
    found = about_factor(DECODER, compared)
    assert found.headline == "a > b > e (not ordered: c, d)"
    assert "Real all the same: c 30.0 (29.0 to 31.0) above d." in found.text
    nothing = about_factor(STRIDE, [unknown("8", "16", factor="stride")])
    assert nothing.headline == "not ordered: 8, 16"
    assert "Not ordered: stride 8 and stride 16." in nothing.text


def test_what_the_order_hides_is_said():
    compared = [made("a", "b", 0.02, real=False), made("b", "c", 0.02, real=False), made("a", "c", 0.05)]
    found = about_factor(DECODER, compared)
    assert found.headline == "a ≈ b ≈ c"
    assert "1 of 3 differences is real. a is, in points of mIoU, 5.0 (4.0 to 6.0) above c." in found.text
    assert found.text.count("cannot be told apart") == 2
    steps = [made("a", "b", 0.01, real=False), made("b", "c", 0.01, real=False), made("c", "d", 0.01, real=False)]
    found = about_factor(
        DECODER, [*steps, made("a", "c", 0.02, real=False), made("b", "d", 0.02), made("a", "d", 0.03)]
    )
    assert found.headline == "a ≈ b ≈ c ≈ d"
    assert "Real all the same: b 2.0 (1.0 to 3.0) above d." in found.text


def test_what_does_not_hold_for_new_pictures_is_said():
    compared = [made("a", "b", 0.02, general=False), made("b", "c", 0.02), made("a", "c", 0.05)]
    assert "For new pictures all but this is sure: a above b." in about_factor(DECODER, compared).text
    alone = [made("a", "b", 0.02, general=False)]
    assert "None of it is sure for new pictures." in about_factor(DECODER, alone).text


def test_a_declared_difference_goes_before_the_fit():
    contradiction = [made("a", "b", 0.01), made("a", "c", -0.5), made("b", "c", 0.1)]
    assert [one.significant for one in contradiction] == [True] * 3
    ordered = ordering.order(contradiction)
    neighbours = list(zip(ordered.levels, ordered.levels[1:], strict=False))
    for (a, b), sign in zip(neighbours, ordered.signs, strict=True):
        assert sign == ">"
        assert ordering.between(contradiction, a, b).contrast.a == a


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1234, "12.3"),
        (-0.0004, "0.0"),
        (-0.1, "\N{MINUS SIGN}10.0"),
        (float("nan"), "\N{EN DASH}"),
        (None, "\N{EN DASH}"),
    ],
)
def test_points(value, text):
    assert formatting.points(value) == text


def test_the_page_holds_everything_and_asks_for_nothing(factorial, tmp_path):
    page, results, comparisons = written(factorial, out=tmp_path)
    assert "<title>factorial</title>" in page
    assert "deconv &gt; nearest" in page
    assert page.count("<svg") > 10
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert "@import" not in page
    assert set(re.findall(r"""(?:src|href)=["']?([^"'>#][^"':>]*)""", page)) <= {"data"}
    assert not re.search(r"url\((?!#|data:)", page)
    assert len(results) == 24
    assert {row["family"] for row in comparisons} == {"marginal", "interaction", "cell"}
    for target in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{target}"' in page
    assert not re.search(r"#0[0-9a-f]0[0-9a-f]{3}\b", page), "a colour that the theme should have taken"


def test_references_within_figures_are_there(factorial, tmp_path):
    page, _, _ = written(factorial, out=tmp_path)
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'<use [^>]*href="#([^"]+)"', page)) <= set(names)


def test_the_reference_can_be_given(factorial, tmp_path):
    _, _, comparisons = written(factorial, out=tmp_path, reference="ladder8 nearest none")
    assert {row["b"] for row in comparisons if row["family"] == "cell"} == {"ladder8 nearest none"}
    assert "--reference" in (tmp_path / "report.html").read_text()
    with pytest.raises(UserError, match="no network here is called so"):
        report.report(factorial, out=tmp_path, reference="segnet")


def test_the_same_runs_give_the_same_page(factorial, tmp_path, monkeypatch):
    pages = []
    for _ in range(2):
        monkeypatch.setattr(figures, "NUMBERS", itertools.count())  # as in a process of its own
        pages.append(written(factorial, out=tmp_path)[0])
    assert pages[0] == pages[1]


def test_names_from_folders_are_text(tmp_path):
    bad = "<script>alert(1)</script>"
    for seed in range(3):
        for decoder in ("deconv", "<img src=x onerror=alert(2)>$x$"):
            write_run(
                tmp_path / f"{len(decoder)}-{seed}", decoder=decoder, seed=seed, classes=[bad, "b$\\frac$"], git="<b>"
            )
    page, _, _ = written(tmp_path, as_markdown=True)
    assert bad not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in (tmp_path / "report.md").read_text()
    assert safe("a|b\n*c*") == r"a\|b \*c\*"


def test_what_is_not_in_the_numbers_is_named(tmp_path):
    folder = write_sweep(tmp_path / "rough", FACTORIAL, seeds=3, noise=0.001)
    record = {"overrides": [], "error": "out of memory\nsecond line"}
    for status in ("failed", "running", "interrupted"):
        write_run(folder / f"x-{status}", seed=7, status=status, **record)
    (folder / "notes").mkdir()
    cut = write_run(folder / "x-npz", seed=8) / "confusion" / "test.npz"
    cut.write_bytes(cut.read_bytes()[:200])
    cut = write_run(folder / "x-json", seed=9) / "metrics.json"
    cut.write_text(cut.read_text()[:60])
    (write_run(folder / "x-config", seed=10) / "config.yaml").write_text("")
    write_run(folder / "x-data", seed=11, data_fingerprint={"test": "other"})
    write_run(folder / "x-version", seed=12, versions={"torch": "2.9"})
    (write_run(folder / "x-history", seed=13) / "history.csv").write_text("epoch,val/miou\nfour,\x00")
    page, results, _ = written(folder)
    text = re.sub(r"<[^>]*>", " ", page)
    for name in ("notes", "x-npz", "x-json", "x-config", "x-data"):
        assert name in text, name
        assert name not in {row["run"] for row in results}
    assert "out of memory" in text
    assert "second line" not in text
    assert re.search(r"version of torch: 2\.10 \(\d+ runs\) and 2\.9 \(1 run\)", text)
    assert {"x-version", "x-history"} <= {row["run"] for row in results}
    for kind in ("failed", "interrupted", "damaged", "no part of it", "tested on other data"):
        assert kind in text, kind


SMALL = {
    "one cell": {("deconv", "sum", 8): 0.5},
    "one factor": {("deconv", "sum", 8): 0.5, ("nearest", "sum", 8): 0.4},
    "strides without skips": {("deconv", "none", 8): 0.5, ("deconv", "none", 4): 0.6},
    "no pair": {("deconv", "sum", 8): 0.5, ("nearest", "none", 4): 0.4},
}


@pytest.mark.parametrize(("name", "seeds"), grid(SMALL, [1, 3]))
def test_small_sweeps_have_a_page(tmp_path, name, seeds):
    scores = SMALL[name]
    folder = write_sweep(tmp_path / "small", scores, seeds=seeds, noise=0.001)
    page, results, _ = written(folder, as_markdown=True)
    assert len(results) == len(scores) * seeds
    assert "Verdict" in page
    if len(scores) == 1:
        assert "the only network here" in page


def test_runs_without_cost_or_history_have_a_page(tmp_path):
    folder = write_sweep(tmp_path / "bare", FACTORIAL, seeds=3, noise=0.001, cost=False, history=False)
    page, results, _ = written(folder)
    assert "metrics.json has no cost" in page
    assert "have left no history.csv" in page
    assert "have not counted boundaries" in page
    assert "have left no example pictures" in page
    assert results[0]["parameters"] == ""


def test_a_class_that_is_not_in_the_test_is_a_dash(tmp_path):
    for seed in range(3):
        folder = write_run(tmp_path / f"s{seed}", seed=seed)
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics["test"]["per_class_iou"]["road"] = None
        metrics["cost"]["latency_ms"] = "fast"
        (folder / "metrics.json").write_text(json.dumps(metrics))
    page, results, _ = written(tmp_path)
    assert results[0]["test_iou/road"] == ""
    assert results[0]["latency_ms"] == ""
    classes = page[page.index('id="classes"') :]
    assert "is weakest in sky." in classes
    assert re.search(r"<td class=\"number\">\u2013</td>", classes[: classes.index("</section>")])


def test_views_stand_side_by_side(tmp_path):
    for decoder, miou in (("deconv", 0.6), ("nearest", 0.5)):
        for smooth, more in (("null", 0.0), ("conv3x3", 0.1)):
            overrides = ["seed=0", "model=ladder", f"decoder={decoder}", "fusion=sum", f"decoder.smooth={smooth}"]
            write_run(tmp_path / f"{decoder}-{smooth}", decoder=decoder, miou=miou + more, overrides=overrides)
    page, results, _ = written(tmp_path)
    assert {row["view"] for row in results} == {"operators as they are", "every operator smoothed"}
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    assert "mIoU, operators as they are mIoU, every operator smoothed" in text
    assert re.search(r"ladder deconv sum 8 60\.0 70\.0", text)


def test_no_finished_run_is_an_error(tmp_path):
    write_run(tmp_path / "a", status="failed")
    with pytest.raises(UserError, match="no finished run"):
        report.report(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        report.report(tmp_path / "nowhere")
    with pytest.raises(UserError, match="at least 100"):
        report.report(tmp_path, resamples=3)


def test_an_interruption_leaves_the_old_page(factorial, tmp_path, monkeypatch):
    report.report(factorial, out=tmp_path, resamples=200)
    before = (tmp_path / "report.html").read_bytes()

    def stop(page):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "render", stop)
    with pytest.raises(KeyboardInterrupt):
        report.report(factorial, out=tmp_path, resamples=200)
    assert (tmp_path / "report.html").read_bytes() == before


def test_the_command(factorial, tmp_path, monkeypatch, capsys):
    given = ["report", str(factorial), "--out", str(tmp_path), "--format", "md", "--resamples", "200"]
    monkeypatch.setattr(sys, "argv", given)
    report.main()
    printed = capsys.readouterr().out
    assert "Decoder: deconv > nearest (ladder, operators as they are)" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.md", "results.csv", "comparisons.csv"}
    summary = (tmp_path / "report.md").read_text()
    assert "**deconv \\> nearest**" in summary
    assert re.search(r"\| deconv \u2212 nearest \| decoder \| yes \| \+(9|10)\.\d\d \| ", summary)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        report.main()
    assert end.value.code == 1
    assert "segpipe: " in capsys.readouterr().err


PALETTE = [(255, 0, 0), (0, 255, 0)]


def examples(folder, names, *, side=(20, 400), prediction=1):
    """Example pictures of a run."""
    count = len(names)
    masks = [np.zeros(side, np.uint8) for _ in range(count)]
    for mask in masks:
        mask[:5] = 255
    save_examples(
        folder,
        names=names,
        images=[np.full((*side, 3), 120, np.uint8)] * count,
        truths=masks,
        predictions=[np.full(side, prediction, np.uint8)] * count,
        palette=PALETTE,
    )


def test_example_pictures_keep_classes_and_are_small(tmp_path):
    examples(tmp_path, ["a/b.png", "a-b-png", "ü"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}.{ending}" for name in ("a-b-png", "a-b-png-2", "picture") for ending in ("jpg", "png", "truth.png")
    )
    with PIL.Image.open(tmp_path / "a-b-png.truth.png") as truth, PIL.Image.open(tmp_path / "a-b-png.jpg") as photo:
        assert (truth.mode, truth.size, photo.size) == ("P", (320, 16), (320, 16))
        assert set(np.asarray(truth).flat) == {0, 255}
        assert np.asarray(truth.convert("RGB"))[-1, 0].tolist() == [255, 0, 0]
    assert file_names(["..", "a.truth"]) == ["picture", "a-truth"]


def test_a_training_leaves_example_pictures(finished_run):
    found = {path.name for path in (finished_run / "pictures" / "examples").iterdir()}
    assert len(found) == 12
    assert "val-0000.truth.png" in found


def test_pictures_stand_under_every_network_of_the_lowest_seed(tmp_path):
    for seed in range(2):
        for number, decoder in enumerate(("deconv", "nearest")):
            run = write_run(tmp_path / f"{decoder}{seed}", decoder=decoder, seed=seed, miou=0.5 - 0.1 * number)
            examples(run / "pictures" / "examples", ["first", "second"], prediction=number)
    broken = tmp_path / "deconv0" / "pictures" / "examples"
    (broken / "second.png").write_bytes(b"no picture")
    page, _, _ = written(tmp_path)
    shown = re.findall(r'<img src="data:image/(\w+);base64,[^"]+" alt="([^"]*)"', page)
    assert shown == [
        ("jpeg", "photo: first"), ("png", "truth: first"), ("png", "ladder8 deconv sum: first"),
        ("png", "ladder8 nearest sum: first"), ("jpeg", "photo: second"), ("png", "truth: second"),
        ("png", "ladder8 nearest sum: second"),
    ]  # fmt: skip
    assert "trained with seed 0" in page


def test_pictures_that_do_not_fit_are_left_out_and_said(tmp_path, monkeypatch):
    examples(write_run(tmp_path / "a") / "pictures" / "examples", ["first", "second"])
    monkeypatch.setattr("segpipe.analysis.page.examples.LARGEST", 6000)
    page, _, _ = written(tmp_path)
    assert page.count("alt=") in (3, 0)
    assert "1 validation picture of 2 (the others would make the page too large)" in page


def test_standings_name_the_pareto_front(tmp_path):
    for name, miou, stride in (("cheap", 0.4, 4), ("dear", 0.6, 32), ("worse", 0.5, 64)):
        write_run(tmp_path / name, decoder=name, miou=miou, stride=stride)
    collection = collect(tmp_path)
    found = network_results(collection, effects.analyse(collection, resamples=100))
    assert {one.place.level("decoder") for one in found if "parameters" in one.front} == {"cheap", "dear"}
    assert {one.place.level("decoder") for one in found if "gmac" in one.front} == {"dear"}
    assert [one.mark for one in found] == ["", "", ""]
    assert verdict.view_of(verdict.grids(found)[0]).endswith("(0.00 to 0.00 M parameters).")
    assert replace(found[0], mark="x").mark == "x"


def test_boundaries_are_shown_and_compared(tmp_path):
    scores = {("deconv", "sum", 8): 0.6, ("nearest", "sum", 8): 0.5, ("nearest", "none", 8): 0.4}
    folder = write_sweep(tmp_path / "edges", scores, seeds=3, boundaries=True)
    kept = folder / "nearest-none-8-s2"
    (kept / "boundaries" / "test.npz").write_bytes(b"PK")  # damaged: its tallies are left out, its scores are not
    page, results, comparisons = written(folder)
    section = page[page.index('id="boundaries"') :]
    section = section[: section.index("</section>")]
    assert "boundary_f" in section
    assert "<svg" in section
    assert "exploratory" in section
    assert re.search(r"boundary_f, decoder \(ladder, operators as they are\): deconv (&gt;|≈) nearest", section)
    found = next(row for row in results if row["run"] == "deconv-sum-8-s1")
    stored = json.loads((folder / "deconv-sum-8-s1" / "metrics.json").read_text())["test"]["boundaries"]
    assert float(found["test_boundary_f"]) == pytest.approx(stored["boundary_f"])
    explored = {row["score"] for row in comparisons if row["family"] == "marginal, exploratory"}
    assert explored == {"boundary_f", "band_miou_2"}
    values = {
        seed: [
            json.loads((folder / f"{name}-sum-8-s{seed}" / "metrics.json").read_text())["test"]["boundaries"][
                "band_miou_2"
            ]
            for name in ("deconv", "nearest")
        ]
        for seed in range(3)
    }
    row = next(row for row in comparisons if row["score"] == "band_miou_2" and row["factor"] == "decoder")
    mean = np.mean([a - b for a, b in values.values()])
    assert (row["a"], float(row["a_minus_b"])) == ("deconv", pytest.approx(mean))
    assert row["seeds"] == "0 1 2"


def test_a_bound_of_the_same_pictures_is_drawn(factorial, tmp_path, monkeypatch):
    ways = {"nearest": {"miou": 0.9}, "area+bilinear": {"miou": 0.95}}
    content = {"fingerprint": "c", "strides": {"4": ways, "8": ways, "2": ways}}
    (tmp_path / "outputs" / "bounds").mkdir(parents=True)
    file = tmp_path / "outputs" / "bounds" / "fake-test.json"
    monkeypatch.chdir(tmp_path)
    file.write_text(json.dumps(content | {"fingerprint": "another"}))
    assert "perfect map" not in written(factorial, out=tmp_path)[0]
    with pytest.raises(UserError, match="of other test pictures"):
        report.report(factorial, out=tmp_path, bound=file, resamples=200)
    file.write_text(json.dumps(content))
    page, _, _ = written(factorial, out=tmp_path)
    assert "perfect map, area+bilinear" in page
    assert "--bound outputs/bounds/fake-test.json" in page
    file.write_text('{"fingerprint": "c", "strides": {"4": [1]}}')
    assert "perfect map" not in written(factorial, out=tmp_path)[0]
    with pytest.raises(UserError, match="no bound in it"):
        report.report(factorial, out=tmp_path, bound=file, resamples=200)


@pytest.mark.parametrize("data", ["shapes", "folder"])
def test_what_is_kept_of_a_sweep_makes_the_same_report(tmp_path, monkeypatch, capsys, data):
    """Photos and truths are kept of drawn scenes alone: others' images are not to be passed on."""
    keep = runpy.run_path(str(ROOT / "docs" / "sweeps" / "keep.py"))
    source = tmp_path / "outputs" / "kept"
    scores = {("deconv", "sum", 8): 0.6, ("nearest", "sum", 8): 0.5}
    write_sweep(source, scores, seeds=2, boundaries=True)
    cells = []
    for (decoder, fusion, stride), seed in itertools.product(scores, range(2)):
        run = source / f"{decoder}-{fusion}-{stride}-s{seed}"
        examples(run / "pictures" / "examples", ["one"])
        shutil.copyfile(run / "confusion" / "test.npz", run / "confusion" / "val.npz")
        config = yaml.safe_load((run / "config.yaml").read_text())
        config |= {"run_dir": "/somewhere", "resume": None, "callbacks": {"best": {}, "last": {}}}
        config["data"] = {"name": data}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        choices = {"model": "ladder", "stride": stride, "decoder": decoder, "fusion": fusion, "seed": seed}
        cells.append({"overrides": [f"decoder={decoder}", f"seed={seed}"], "choices": choices, "run": run.name})
    (source / "sweep.json").write_text(json.dumps({"name": "kept", "cells": cells}))
    monkeypatch.setitem(keep["main"].__globals__, "__file__", str(tmp_path / "docs" / "keep.py"))
    keep["main"](source)
    kept = tmp_path / "docs" / "kept"
    found = {str(path.relative_to(kept)) for path in kept.rglob("*.*") if "examples" in path.parts}
    photos = {f"deconv-sum-8-s0/pictures/examples/one.{ending}" for ending in ("jpg", "truth.png")}
    predictions = {f"{decoder}-sum-8-s0/pictures/examples/one.png" for decoder in ("deconv", "nearest")}
    assert found == predictions | (photos if data == "shapes" else set())
    assert len(list(kept.glob("*/boundaries/test.npz"))) == 4
    if data == "shapes":
        pages = [written(folder, out=tmp_path / "out")[0] for folder in (source, kept)]
        assert pages[0].count("data:image/png") == pages[1].count("data:image/png") == 4


# runs that were trained otherwise are never pooled as seeds, and no finished run is dropped without a word


def trained(folder, *, keys=None, told=(), **given):
    """A finished run whose configuration has further keys, dotted; told: overrides beside those of its cell."""
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
    """What a sweep's list says of a run."""
    record, config = (yaml.safe_load((folder / name).read_text()) for name in ("run.json", "config.yaml"))
    choices = {"model": config["model"]["name"], "stride": config["model"]["stride"]}
    choices |= {group: config[group]["name"] for group in ("decoder", "fusion")} | {"seed": config["seed"]}
    overrides = [one for one in record["overrides"] if not one.startswith(("sweep.", "resume"))]
    return {"overrides": overrides, "choices": choices, "run": folder.name}


def listed_in_order(folder, names):
    """A sweep's list as starts leave it: of the same overrides, the last one's run."""
    entries = {tuple(cell["overrides"]): cell for cell in (cell_of_run(folder / name) for name in names)}
    (folder / "sweep.json").write_text(json.dumps({"name": folder.name, "cells": list(entries.values())}))


def held(collection):
    """Networks as sets of run folders, by name."""
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
        trained(tmp_path / f"b-deconv-{seed}", decoder="deconv", seed=seed, miou=0.8, keys=keys, told=told)
    if with_list:
        listed_in_order(tmp_path, sorted(path.name for path in tmp_path.iterdir()))
    collection = collect(tmp_path)
    assert held(collection) == {
        "ladder8 deconv sum trainer.max_epochs=5": {f"a-deconv-{seed}" for seed in range(3)},
        "ladder8 nearest sum trainer.max_epochs=5": {f"a-nearest-{seed}" for seed in range(3)},
        "ladder8 deconv sum trainer.max_epochs=10": {f"b-deconv-{seed}" for seed in seeds},
    }
    assert collection.problems == []
    page, _, comparisons = written(tmp_path)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    assert f"trainer.max_epochs: 5 (6 runs) and 10 ({len(seeds)} runs)" in text
    assert ("Nothing is missing" in text) == with_list
    assert {row["setting"] for row in comparisons if row["family"] == "marginal"} == {"trainer.max_epochs=5"}


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
    assert (problem.kind, problem.what) == ("duplicate", "b1")
    assert "as a1, which comes first and is used" in problem.why
    assert "Unequal: the code's commit" in problem.why
    page, results, _ = written(tmp_path)
    assert "Nothing is missing" not in page
    assert "are second runs of one training" in page
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
    assert held(collection) == {"fcn32s deconv none": {"s0", "s1"}}
    assert (len(collection.networks[0].places), collection.problems, collection.apart) == (2, [], {})


def test_runs_from_before_and_after_a_fix_of_results_are_no_seeds_of_one_another(tmp_path):
    for seed in range(4):
        trained(tmp_path / f"a{seed}", seed=seed, **({"revisions": {"data": 1}} if seed > 1 else {}))
    assert held(collect(tmp_path)) == {
        "ladder8 deconv sum": {"a0", "a1"}, "ladder8 deconv sum data.revision=1": {"a2", "a3"}
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
    assert "are of seeds that chose a level" in written(tmp_path)[0]


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
        "ladder8 deconv sum trainer.max_epochs=5": {"a0", "a1"},
        "ladder8 deconv sum extended_from=5_epochs trainer.max_epochs=10": {"a2"},
        "ladder8 deconv sum trainer.max_epochs=10": {"fresh"},
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
            trained(tmp_path / name, keys=change | {"trainer.devices": start}, told=overrides, **given)
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
    said = {problem.what: problem for problem in collection.problems if problem.kind == "duplicate"}
    assert used | said.keys() == truth.keys()
    assert not used & said.keys()
    for name, problem in said.items():
        first = re.search(r"seed as (\S+), which", problem.why)[1]
        assert first in used
        assert (truth[first], first[-1]) == (truth[name], name[-1])
    strata = {}
    for network in collection.networks:
        lengths = {run.config.get("trainer", {}).get("max_epochs") for run in network.runs.values()}
        strata.setdefault(network.places[0].stratum, set()).update(lengths)
    assert all(len(lengths) < 2 for lengths in strata.values())
    assert with_list == collection.asked
