"""Reports of fake sweeps, and comparisons with chosen numbers."""

import csv
import html
import re
from dataclasses import replace

import numpy as np
import pytest

from segpipe import report
from segpipe.analysis.page import figures
from segpipe.analysis.statistics.comparison import Comparison
from segpipe.analysis.statistics.contrasts import Contrast
from segpipe.analysis.statistics.intervals import Estimate, Interval
from support.fake_runs import write_sweep

FACTORIAL = {
    (decoder, fusion, stride): 0.3 + 0.1 * (decoder == "deconv") + 0.2 * (fusion == "sum") + 0.05 * (stride == 4)
    for decoder in ("nearest", "deconv")
    for fusion in ("none", "sum")
    for stride in (8, 4)
}


def written(folder, **given):
    """Write a report; return the HTML text and the rows of results.csv and comparisons.csv."""
    report.report(folder, resamples=200, **given)
    out = given.get("out") or folder
    rows = [list(csv.DictReader((out / name).read_text().splitlines())) for name in ("results.csv", "comparisons.csv")]
    return (out / "report.html").read_text(), *rows


def verdict_texts(folder):
    """Return the verdict as one text for each topic; figures are not drawn, which saves time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "panel", lambda title, draw, **size: figures.Panel("", title))
        found = report.report(folder, resamples=200)
    return {finding.topic: f"{finding.headline}. {finding.text}" for part in found for finding in part.findings}


@pytest.fixture(scope="module")
def factorial(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("runs") / "factorial", FACTORIAL, seeds=3, noise=0.002)


def comparison(a, b, difference, *, half=0.01, significant=True, on_new_images=True, seeds=(0, 1, 2), factor="decoder"):
    """Return a comparison with this difference, half width of its intervals, and significance."""
    low, high = difference - half, difference + half
    narrow = Interval(low, high, half / 3, 2, 0.01, 0.01 if significant else 0.5)
    wide = Interval(low, high, half / 3, 2, 0.01, 0.01 if on_new_images else 0.5)
    known = len(seeds) > 2
    estimate = Estimate(difference, seeds, narrow if known else None, wide if known else None, {})
    return Comparison(Contrast(factor, a, b, ("", "", "fcn"), np.zeros((3, 2))), estimate, 3)


def comparison_without_runs(a, b, factor="decoder"):
    """Return a comparison for which no run is finished."""
    one = comparison(a, b, float("nan"), seeds=(), factor=factor)
    return replace(one, contrast=replace(one.contrast, weights=np.zeros((0, 2)), dropped=("sum 8",)))


@pytest.fixture
def no_drawing(monkeypatch):
    """Leave out the figures, which take most of the time."""
    monkeypatch.setattr(figures, "panel", lambda title, draw, **size: figures.Panel("", title))


def text_of(folder, out=None, **given):
    """Write a report; return its text, and the rows of comparisons.csv."""
    report.report(folder, out=out, resamples=100, **given)
    page = ((out or folder) / "report.html").read_text()
    body = page[page.index("<body>") : page.index("<script>")]
    text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)))
    return text, list(csv.DictReader(((out or folder) / "comparisons.csv").read_text().splitlines()))
