"""What docs/results.md says of the operators' sweep is computed from its archive; and what keep.py makes of a sweep."""

import json
import runpy
from types import SimpleNamespace

import pytest
from support.fake_runs import write_sweep
from support.paths import ROOT
from support.sweep_scripts import SWEEPS, script

from segpipe.runs import archive

DECODERS = {"bilinear": 0.70, "deconv": 0.75, "nearest": 0.60, "pixelshuffle": 0.701}


def sweep(folder, fusions=("sum", "concat"), *, seeds=4, decoders=DECODERS, **given):
    """A finished sweep with a list of cells. given: overrides of all cells."""
    scores = {(name, fusion, 4): value for name, value in decoders.items() for fusion in fusions}
    write_sweep(folder, scores, seeds=seeds, noise=0.003)
    cells = []
    for decoder, fusion, stride in scores:
        for seed in range(seeds):
            words = {"seed": seed, "decoder": decoder, "fusion": fusion, "experiment": "sweep_operators"} | given
            choices = {"model": "ladder", "stride": stride, "decoder": decoder, "fusion": fusion, "seed": seed}
            overrides = [f"{key}={value}" for key, value in words.items()]
            cells.append({"overrides": overrides, "choices": choices, "run": f"{decoder}-{fusion}-{stride}-s{seed}"})
    (folder / "sweep.json").write_text(json.dumps({"name": folder.name, "cells": cells}))
    return folder


def test_the_page_is_that_of_the_archives():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert script("operators.py")["written"](page) == page, "run: python docs/sweeps/operators.py"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The archives of all three sweeps."""
    folder = tmp_path_factory.mktemp("kept")
    few = {name: DECODERS[name] for name in ("bilinear", "deconv")}
    archive.write(sweep(folder / "a" / "sweep_operators"), folder / "sweep_operators.zip")
    archive.write(
        sweep(folder / "a" / "operators_fusions", ["aff", "product"], decoders=few), folder / "operators_fusions.zip"
    )
    archive.write(sweep(folder / "a" / "operators_matched", decoders=few), folder / "operators_matched.zip")
    return folder


def test_the_section_says_what_the_runs_say(kept):
    text = script("operators.py")["section"](kept)
    assert (
        "Of 3 operators, significantly above `bilinear`: `deconv`; significantly below `bilinear`: `nearest`; "
        "not resolved: `pixelshuffle`." in text
    )
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    first, fusions, matched = rows[:4], rows[4:6], rows[6:]
    assert (first[0][0], first[3][0]) == ("| `deconv`", "| `nearest`")
    reference = next(row for row in first if row[0] == "| `bilinear`")
    assert 74 < float(first[0][3].split()[0]) < 76
    assert first[0][5].startswith("**")
    assert reference[5:] == ["\N{EN DASH}", "\N{EN DASH} |"]
    assert [len(row) for row in fusions] == [6, 6]  # sum and concat of the first sweep, aff, product
    assert [row[0] for row in matched] == ["| `bilinear`", "| `deconv`"]
    assert "32 runs of 8 networks, 4 seeds." in text
    assert text.count("Holm's p over the 2 differences of this sweep.") == 2  # of two operators and of two fusions
    assert "Open" not in text


def test_what_significant_interactions_have_in_common():
    in_common = script("operators.py")["in_common"]
    squares = [("a", "b", "sum", "product"), ("c", "b", "product", "aff"), ("b", "d", "product", "max")]
    found = [SimpleNamespace(contrast=SimpleNamespace(square=square)) for square in squares]
    other = SimpleNamespace(contrast=SimpleNamespace(square=("x", "y", "max", "sum")))
    assert in_common(found) == "; each of them involves `b` and `product`"
    assert in_common([*found, other]) == in_common(found[:1]) == in_common([]) == ""


def test_what_is_not_kept_is_open(kept, tmp_path):
    section = script("operators.py")["section"]
    assert section(tmp_path).startswith("Open")
    (tmp_path / "sweep_operators.zip").write_bytes((kept / "sweep_operators.zip").read_bytes())
    assert "Open: `operators_fusions` is not finished." in section(tmp_path)


def test_missing_runs_are_said(tmp_path):
    folder = sweep(tmp_path / "sweep_operators")
    record = folder / "deconv-sum-4-s3" / "run.json"
    record.write_text(record.read_text().replace("finished", "failed"))
    archive.write(folder, tmp_path / "sweep_operators.zip")
    assert "31 of 32 runs; the others are not finished. They are of 8 networks, 4 seeds." in script("operators.py")[
        "section"
    ](tmp_path)


def test_two_seeds_give_no_verdict(tmp_path):
    archive.write(sweep(tmp_path / "sweep_operators", seeds=2), tmp_path / "sweep_operators.zip")
    text = script("operators.py")["section"](tmp_path)
    assert "Fewer than three seeds" in text
    assert "Verdict" not in text


def test_the_best_are_those_of_validation_of_a_finished_sweep(tmp_path):
    folder = sweep(tmp_path / "x")
    best = script("operators.py")["best"]
    assert best(folder, 2) == ["deconv", "pixelshuffle"]
    record = folder / "deconv-sum-4-s3" / "run.json"
    record.write_text(record.read_text().replace("finished", "failed"))
    with pytest.raises(SystemExit, match="1 of 32 cells are not finished"):
        best(folder, 2)


def test_keep_makes_an_archive_and_a_table_with_all_fusions(tmp_path, monkeypatch):
    keep = runpy.run_path(str(SWEEPS / "keep.py"))
    monkeypatch.setitem(keep["main"].__globals__, "__file__", str(tmp_path / "docs" / "keep.py"))
    for name, fusions in (("sweep_operators", ["sum", "concat"]), ("fusions", ["aff", "product"])):
        folder = sweep(tmp_path / name, fusions, seeds=2, match="params")
        if name == "fusions":
            comment = "# Chosen by `python -m segpipe.tune outputs/sweeps/fusions optimizer.lr loss` on 2026-11-26:"
            (folder / "tuned.cells").write_text(f"{comment}\nfusion=aff\n")
        for run in folder.glob("*/run.json"):
            confusion = run.parent / "confusion"
            (confusion / "val.npz").write_bytes((confusion / "test.npz").read_bytes())
            with (run.parent / "config.yaml").open("a") as config:
                config.write("data: {name: folder}\nrun_dir: x\nresume: null\ncallbacks: {best: {}, last: {}}\n")
        keep["main"](folder)
        keep["pack"](tmp_path / "docs" / name)
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {
        "sweep_operators.zip", "sweep_operators.md", "fusions.zip", "fusions.md",
    }  # fmt: skip
    pages = [(tmp_path / "docs" / f"{name}.md").read_text() for name in ("sweep_operators", "fusions")]
    assert "| stride | decoder | none | sum | concat |\n|---|---|---|---|---|\n" in pages[0]
    decoders = "decoder=bilinear,deconv,nearest,pixelshuffle"
    assert f"`python -m segpipe.train experiment=sweep_operators {decoders}`, whose" in pages[0]
    assert "| stride | decoder | aff | product |\n|---|---|---|---|\n| 4 | `bilinear` | 7" in pages[1]
    command = (
        "python -m segpipe.train experiment=sweep_operators seed=0,1 decoder=bilinear,deconv,nearest,pixelshuffle "
        "fusion=aff,product match=params sweep.name=fusions"
    )
    assert f"`{command}`" in pages[1]
    assert "python -m segpipe.report docs/sweeps/fusions.zip --tuned optimizer.lr --tuned loss` tests" in pages[1]
    assert "`python -m segpipe.report docs/sweeps/sweep_operators.zip` tests" in pages[0]
