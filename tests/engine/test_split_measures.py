"""The lab on a split: the same data as an evaluation, results that are kept, runs without weights."""

import copy
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from segpipe.data.dataset import Subset, evenly
from segpipe.data.datasets.shapes import Shapes
from segpipe.engine import split_measures
from segpipe.engine.evaluation import evaluate
from segpipe.engine.predictor import Predictor
from segpipe.engine.split_measures import Task, difference, measure_split, prepare, run_tasks
from segpipe.errors import UserError
from segpipe.lab.split import Reason, RunMeasures


@pytest.fixture(scope="module")
def predictor(finished_run):
    return Predictor(finished_run, device="cpu")


def measured(predictors, folder, *, split="test", limit=4, overrides=()):
    return measure_split(predictors, overrides=list(overrides), split=split, limit=limit, folder=folder)


def unusable(*given, **named):
    raise AssertionError("measured again")


def test_a_run_is_measured_once(predictor, tmp_path, monkeypatch, capsys):
    reason = Reason("other", "no checkpoints/best.ckpt")
    found = measured([predictor, reason], tmp_path)
    run, other = found.runs
    assert (run.name, run.images, run.total, run.split, run.fit_split) == ("tiny", 4, 7, "test", "val")
    assert (run.data, run.resampled, run.groups, len(run.classes)) == ("shapes", "groups", 4, 6)  # one for each image
    assert len(run.skips.skips) == 2  # fcn8s
    assert len(run.fields) == 3
    assert run.probes.fitted_on == 5  # all of val
    assert (other.name, other.reason, other.skips, other.probes) == ("other", reason.text, None, None)
    (pair,) = found.failures
    assert (pair.names, pair.counts) == (("tiny", "other"), None)
    assert reason.text in pair.reason
    assert capsys.readouterr().out == ""  # no terminal, no progress
    monkeypatch.setattr(split_measures, "measure", unusable)
    assert measured([predictor, reason], tmp_path) == found  # from the cache, to the last digit


def test_all_images_have_the_miou_of_an_evaluation(predictor, finished_run, tmp_path):
    found = measured([predictor], tmp_path, limit=99).runs[0]
    expected = evaluate(finished_run, overrides=[], split="test", out=tmp_path / "evaluation", device="cpu")
    assert found.images == found.total == 7
    assert found.skips.miou.value == pytest.approx(expected["miou"], abs=1e-12)
    assert found.skips.boundary_f.value == pytest.approx(expected["boundaries"]["boundary_f"], abs=1e-12)


@pytest.mark.slow
def test_what_changes_a_result_is_measured_again(predictor, finished_run, tmp_path, monkeypatch):
    """The weights, the split, the limit, the data, the version; a damaged file; not the name of the folder."""

    def key(predictor=predictor, *, split="test", limit=3, overrides=()):
        return prepare(predictor, overrides=list(overrides), split=split, limit=limit, trust=()).key

    first = key()
    assert key() == first
    moved = tmp_path / "moved"
    shutil.copytree(finished_run, moved)
    assert key(Predictor(moved, device="cpu")) == first
    trained = Predictor(moved, device="cpu")
    with torch.no_grad():
        next(trained.network.parameters()).add_(1e-3)
    others = [
        key(trained),
        key(split="val"),
        key(limit=2),
        key(overrides=["data.dataset.seed=1", "data.dataset.test=7", "data.dataset.val=5"]),
    ]
    monkeypatch.setattr(split_measures, "VERSION", 99)
    assert len({first, key(), *others}) == 6


@pytest.mark.parametrize("content", ["", "{}", '{"version": 2, "result": {"name": 3}}', '{"version": 2, "result": []}'])
def test_a_damaged_result_is_measured_again(tmp_path, content):
    result = RunMeasures("a", images=1, palette=[(1, 2, 3)])
    task = Task("key", RunMeasures, 1, lambda advance: result)
    assert run_tasks([task], tmp_path, "Measuring") == [result]
    kept = tmp_path / "key.json"
    whole = kept.read_text()
    unused = task._replace(run=unusable)
    assert run_tasks([unused], tmp_path, "Measuring") == [result]
    kept.write_text(content)
    assert run_tasks([task], tmp_path, "Measuring") == [result]
    assert kept.read_text() == whole


def test_without_a_terminal_lines_say_the_time_that_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(split_measures, "EVERY", 0.0)
    result = RunMeasures("a", images=1, palette=[(1, 2, 3)])

    def run(advance):
        for _ in range(4):
            advance(1)
        return result

    assert run_tasks([Task("a", RunMeasures, 4, run)], tmp_path, "Measuring") == [result]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["Measuring: 25%", "Measuring: 50%", "Measuring: 75%"]
    assert all("left" in line for line in lines)


def test_a_run_and_its_copy_do_not_differ(predictor, tmp_path, monkeypatch):
    job = prepare(predictor, overrides=[], split="test", limit=4, trust=())
    monkeypatch.setattr(split_measures, "prepare", lambda given, **settings: replace(job, predictor=given))
    monkeypatch.setattr(split_measures, "measure", lambda job, advance: RunMeasures(job.name))
    other = copy.copy(predictor)
    other.run = copy.copy(predictor.run)
    other.run.folder = tmp_path / "copy"
    for _ in range(2):  # measured, then kept
        (pair,) = measured([predictor, other], tmp_path).failures
        assert pair.names == ("tiny", "copy")
        assert pair.counts[0] == pair.counts[1]
        assert sum(pair.true_pixels) == 4 * 96 * 96
        assert pair.images == []
        monkeypatch.setattr(split_measures.failures, "compare", unusable)


def test_runs_of_other_classes_or_images_are_not_compared(predictor):
    job = prepare(predictor, overrides=[], split="test", limit=2, trust=())
    fewer = replace(job, measured=Subset(job.measured.whole, [0]))
    assert "different test images" in difference(job, fewer)
    other = copy.copy(predictor)
    other.classes = [*predictor.classes[1:], "other"]
    assert "different classes" in difference(job, replace(job, predictor=other))
    assert difference(job, Reason("b", "no weights")) == "b: no weights"
    assert difference(job, job) == ""


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_is_a_number_of_images(predictor, tmp_path, limit):
    with pytest.raises(UserError, match=f"--limit {limit}: allowed"):
        measured([predictor], tmp_path, limit=limit)


@pytest.mark.parametrize(("empty", "use"), [("test", "measured"), ("val", "used to fit the probes")])
def test_an_empty_split_is_rejected(predictor, monkeypatch, empty, use):
    whole = Shapes(split="train", train=2)
    data = SimpleNamespace(split=lambda name: Subset(whole, [] if name == empty else [0]), size=None)
    monkeypatch.setattr(split_measures, "load_data", lambda *given, **settings: (None, data))
    with pytest.raises(UserError, match=f"The {empty} split has no image; its images are {use}"):
        prepare(predictor, overrides=[], split="test", limit=2, trust=())


def test_without_a_run_with_weights_there_are_reasons_only(tmp_path):
    found = measured([Reason("a", "no weights"), Reason("b", "no weights")], tmp_path)
    assert [run.reason for run in found.runs] == ["no weights"] * 2
    assert [pair.reason for pair in found.failures] == ["a: no weights"]
    assert not (tmp_path / "cache").exists()


def test_images_are_taken_evenly():
    assert evenly(7, 3) == [0, 2, 4]
    assert evenly(3, 7) == evenly(3, 3) == [0, 1, 2]
    assert evenly(200, 40) == list(range(0, 200, 5))
