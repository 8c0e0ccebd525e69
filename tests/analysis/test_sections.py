"""Sections of the report: example images, costs, boundaries, bounds, kept sweeps."""

import itertools
import json
import os
import re
import runpy
import shutil
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import yaml
from support.fake_runs import write_run, write_sweep
from support.paths import ROOT
from support.reports import written

from segpipe import report
from segpipe.analysis import verdict
from segpipe.analysis.collect import collect
from segpipe.analysis.network_results import network_results
from segpipe.analysis.page.examples import LARGEST_FILE, read_image
from segpipe.analysis.statistics import effects
from segpipe.data.examples import file_names, save_examples
from segpipe.errors import UserError

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


def test_example_images_of_every_network_are_of_the_lowest_seed(tmp_path):
    for seed in range(2):
        for number, decoder in enumerate(("deconv", "nearest")):
            run = write_run(tmp_path / f"{decoder}{seed}", decoder=decoder, seed=seed, miou=0.5 - 0.1 * number)
            examples(run / "pictures" / "examples", ["first", "second"], prediction=number)
    broken = tmp_path / "deconv0" / "pictures" / "examples"
    (broken / "second.png").write_bytes(b"no picture")
    page, _, _ = written(tmp_path)
    shown = re.findall(r'<img src="data:image/(\w+);base64,[^"]+" alt="([^"]*)"', page)
    assert shown == [
        ("jpeg", "photo: first"), ("png", "ground truth: first"), ("png", "deconv: first"),
        ("png", "nearest: first"), ("jpeg", "photo: second"), ("png", "ground truth: second"),
        ("png", "nearest: second"),
    ]  # fmt: skip
    assert "trained with seed 0" in page


def test_images_that_do_not_fit_are_left_out_and_counted(tmp_path, monkeypatch):
    examples(write_run(tmp_path / "a") / "pictures" / "examples", ["first", "second"])
    monkeypatch.setattr("segpipe.analysis.page.examples.LARGEST", 6000)
    page, _, _ = written(tmp_path)
    assert page.count("alt=") in (3, 0)
    assert "1 validation image of 2 (the others would make the page too large)" in page


def test_network_results_have_the_pareto_front(tmp_path):
    for name, miou, stride in (("cheap", 0.4, 4), ("dear", 0.6, 32), ("worse", 0.5, 64)):
        write_run(tmp_path / name, decoder=name, miou=miou, stride=stride)
    collection = collect(tmp_path)
    found = network_results(collection, effects.analyse(collection, resamples=100))
    assert {one.point.level("decoder") for one in found if "parameters" in one.pareto} == {"cheap", "dear"}
    assert {one.point.level("decoder") for one in found if "gmac" in one.pareto} == {"dear"}
    assert [one.letter for one in found] == ["", "", ""]
    assert verdict.view_text(verdict.grids(found)[0]).endswith("(0.00 to 0.00 M parameters).")
    assert replace(found[0], letter="x").letter == "x"


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
    assert re.search(r"boundary_f, decoder \(ladder, unmodified operators\): deconv (&gt;|≈) nearest", section)
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


def test_a_bound_of_the_same_images_is_drawn(factorial, tmp_path, monkeypatch):
    ways = {"nearest": {"miou": 0.9}, "area+bilinear": {"miou": 0.95}}
    content = {"fingerprint": "c", "strides": {"4": ways, "8": ways, "2": ways}}
    (tmp_path / "outputs" / "bounds").mkdir(parents=True)
    file = tmp_path / "outputs" / "bounds" / "fake-test.json"
    monkeypatch.chdir(tmp_path)
    file.write_text(json.dumps(content | {"fingerprint": "another"}))
    assert "perfect map" not in written(factorial, out=tmp_path)[0]
    with pytest.raises(UserError, match="for other test images"):
        report.report(factorial, out=tmp_path, bound=file, resamples=200)
    file.write_text(json.dumps(content))
    page, _, _ = written(factorial, out=tmp_path)
    assert "perfect map, area+bilinear" in page
    assert "--bound outputs/bounds/fake-test.json" in page
    file.write_text('{"fingerprint": "c", "strides": {"4": [1]}}')
    assert "perfect map" not in written(factorial, out=tmp_path)[0]
    with pytest.raises(UserError, match="no scores in it"):
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


@pytest.mark.parametrize("kind", ["a link to a device", "a link to an image", "a pipe", "too large"])
def test_an_example_that_is_no_file_of_the_run_is_not_read(tmp_path, kind):
    path = tmp_path / "a.jpg"
    image = tmp_path / "other.jpg"
    PIL.Image.new("RGB", (8, 8)).save(image)
    if kind == "a link to a device":
        path.symlink_to("/dev/zero")  # it has the size 0, and does not end
    elif kind == "a link to an image":
        path.symlink_to(image)
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(image.read_bytes() + bytes(LARGEST_FILE))
    assert read_image(path, "photo") is None
    assert read_image(image, "photo") is not None
