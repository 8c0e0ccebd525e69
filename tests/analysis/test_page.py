"""The report's page and files."""

import json
import re
import sys

import pytest
from support.fake_runs import write_run, write_sweep
from support.grid import grid
from support.reports import FACTORIAL, written

from segpipe import report
from segpipe.analysis.page.markdown import escape
from segpipe.errors import UserError


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
    page = (tmp_path / "report.html").read_text()
    assert "--reference" in page
    assert "0 of 7 other networks are significantly worse." in page
    with pytest.raises(UserError, match="no network has this name"):
        report.report(factorial, out=tmp_path, reference="segnet")


def test_the_same_runs_give_the_same_page(factorial, tmp_path):
    pages = []
    for _ in range(2):
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
    assert escape("a|b\n*c*") == r"a\|b \*c\*"


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
    for kind in (
        "Failed runs: 1",
        "Interrupted runs: 2",
        "Damaged runs",
        "no runs of this sweep",
        "tested on other data",
    ):
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
    count, word = len(scores), "" if len(scores) == 1 else "s"
    assert f"{count} cell{word} ({count} distinct network{word}), {seeds} seed" in page
    if len(scores) == 1:
        assert "the only network in the folder" in page


def test_runs_without_cost_or_history_have_a_page(tmp_path):
    folder = write_sweep(tmp_path / "bare", FACTORIAL, seeds=3, noise=0.001, cost=False, history=False)
    page, results, _ = written(folder)
    assert "metrics.json has no cost" in page
    assert "have no history.csv" in page
    assert "have no boundary scores" in page
    assert "have no example images" in page
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
    assert "Lowest for ladder8 deconv sum: sky." in classes
    assert re.search(r"<td class=\"number\">\u2013</td>", classes[: classes.index("</section>")])


def test_views_stand_side_by_side(tmp_path):
    for decoder, miou in (("deconv", 0.6), ("nearest", 0.5)):
        for smooth, more in (("null", 0.0), ("conv3x3", 0.1)):
            overrides = ["seed=0", "model=ladder", f"decoder={decoder}", "fusion=sum", f"decoder.smooth={smooth}"]
            write_run(tmp_path / f"{decoder}-{smooth}", decoder=decoder, miou=miou + more, overrides=overrides)
    page, results, _ = written(tmp_path)
    assert {row["view"] for row in results} == {"unmodified operators", "every operator smoothed"}
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    assert "mIoU, unmodified operators mIoU, every operator smoothed" in text
    assert re.search(r"ladder deconv 60\.0 70\.0", text)


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
    assert "Decoder: deconv > nearest (ladder, unmodified operators)" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.md", "results.csv", "comparisons.csv"}
    summary = (tmp_path / "report.md").read_text()
    assert "**deconv \\> nearest**" in summary
    assert re.search(r"\| deconv \u2212 nearest \| decoder \| yes \| \+(9|10)\.\d\d \| ", summary)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        report.main()
    assert end.value.code == 1
    assert "segpipe: " in capsys.readouterr().err
