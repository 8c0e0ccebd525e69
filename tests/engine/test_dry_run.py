"""``--dry-run``: the cells, their cost, time and disk space, and nothing else."""

import re

import pytest
import torch
from support.commands import run
from support.configs import TINY, configure

from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.engine import dry_run
from segpipe.models import cost

CHOICES = [*TINY, "trainer.max_epochs=1"]


def test_a_sweep_is_listed_and_nothing_is_written(tmp_path):
    """Four cells: two are rejected, two are one network."""
    swept = ["model=fcn32s", "decoder.kernel=4,5", "fusion=none,sum", "seed=0,1", "sweep.name=x"]
    said = run("segpipe.train", "-m", "--dry-run", *CHOICES, *swept, cwd=tmp_path)
    flat = re.sub(r"[\s│]+", " ", said)
    assert list(tmp_path.iterdir()) == []
    rejected = "fcn32s deconv none seed=0; fcn32s deconv none seed=1; fcn32s deconv sum seed=0 and 1 more: "
    assert f"Rejected: {rejected}" in flat
    assert "8 cells, 2 runs to train, 4 rejected." in said
    assert re.search(r"About [\d.]+ (s|min) on this CPU", said)
    assert re.search(r"Measured here, now: the median of [1-5] warm training steps? on \d+ threads?: [\d.]+ s", said)
    assert "seed=None" not in said
    assert re.search(r"│ fcn32s deconv sum +│ +2 │", said)
    assert re.search(r"About \d+ MB on the disk \(sweep.keep=all\)", said)
    assert max(map(len, said.splitlines())) <= 80 or "Rejected" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("sweep.workers=0", "sweep.workers=0: allowed is a whole number of 1 or more"),
        ("sweep.workers=999", "sweep.workers=999: allowed is 1 to "),
        ("sweep.per_gpu=2", "sweep.per_gpu=2: these jobs train on the CPU"),
        ("sweep.name=../x", "sweep.name=../x: allowed is the name of a folder"),
        ("run_dir=x", "run_dir cannot be given to a sweep"),
    ],
)
def test_what_the_sweep_would_refuse_is_refused(tmp_path, given, said):
    """With the same words, and nothing is written by either."""
    command = ["segpipe.train", "-m", *CHOICES, "model=fcn32s", "seed=0,1", given]
    answer = run(*command, "--dry-run", cwd=tmp_path, status=1)
    assert f"segpipe: {said}" in answer
    assert "About" not in answer
    assert list(tmp_path.iterdir()) == []
    assert answer in run(*command, cwd=tmp_path, status=1)
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.slow
def test_a_single_training_and_a_sweep_of_which_a_part_is_done(tmp_path):
    said = run("segpipe.train", "--dry-run", *CHOICES, cwd=tmp_path)
    assert "1 cell, 1 run to train." in said
    assert not list(tmp_path.rglob("*.*"))
    run("segpipe.train", "-m", *CHOICES, "seed=0", "sweep.name=x", cwd=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    said = run("segpipe.train", "-m", *CHOICES, "seed=0,1", "sweep.name=x", "--dry-run", cwd=tmp_path)
    assert "2 cells, 1 run to train, 1 finished." in said
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    said = run("segpipe.train", "-m", *CHOICES, "decoder.kernel=5,7", "--dry-run", cwd=tmp_path, status=1)
    assert "None of the 2 cells can be trained" in said


def test_the_size_of_a_cell_is_that_of_its_training():
    cfg = Plan.of(configure(*TINY, "data.batch_size=4", "data.crop=[32,64]", "sweep.keep=best")).cfg
    size = dry_run.size_of(cfg)
    network = build.network(cfg, 6)
    assert size.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert size.per_image == cost.multiply_adds(network, (96, 96))
    assert size.training == cost.multiply_adds(network, (32, 64)) * 16 * 2
    assert size.evaluation == size.per_image * (2 * 5 + 7)
    speed = dry_run.measure_speed(cfg)
    assert 0 < speed.rate < 1
    assert speed.encoding == 0
    assert size.encoding[1] == 0
    limits = [dry_run.limited(10, limit) for limit in (None, 3, 0.5, 100)]
    assert limits == [10, 3, 5, 10]


def test_averaged_weights_are_stored_in_both_checkpoints():
    plain, averaged = (dry_run.size_of(Plan.of(configure(*TINY, *more)).cfg) for more in ([], ["callbacks=ema"]))
    assert averaged.stored - plain.stored == 2 * 4 * plain.parameters


def test_kept_features_are_computed_once_and_read_by_each_step():
    """The encoder counts for each image and flipped image, not for each step; its cost is shared by the decoders."""
    options = [*TINY, "data.batch_size=4", "data.crop=null", "augment=light", "encoder.freeze=5", "encoder.cache=true"]
    sizes = [dry_run.size_of(Plan.of(configure(*options, f"decoder={name}")).cfg) for name in ("bilinear", "deconv")]
    cfg = Plan.of(configure(*options)).cfg
    network = build.network(cfg, 6).eval()
    encoder = cost.count(lambda: network.encoder.extract(torch.zeros(1, 3, 96, 96)))
    decoder = cost.count(lambda: network.decode(*network.encode(torch.zeros(1, 3, 96, 96)))) - encoder
    assert dry_run.size_of(cfg).training == decoder * 16 * 2
    assert sizes[0].encoding == sizes[1].encoding
    assert sizes[0].encoding[1] == encoder * (2 * 16 + 5 + 7)
    assert sizes[0].per_image > encoder > sizes[0].training / (16 * 2)


def test_a_timed_step_reads_kept_features(monkeypatch):
    options = [*TINY, "data.crop=null", "encoder.freeze=5", "encoder.cache=true"]
    cfg = Plan.of(configure(*options)).cfg
    calls = []
    extract = dry_run.KeptFeatures.__call__

    def counted(self, image, x):
        calls.append(not self.maps)
        return extract(self, image, x)

    monkeypatch.setattr(dry_run.KeptFeatures, "__call__", counted)
    assert 0 < dry_run.measure_speed(cfg).encoding < 1
    assert calls == [True, *[False] * (dry_run.WARM_UP + dry_run.STEPS - 1)]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "3 s"), (100, "1.7 min"), (4000, "66.7 min"), (7200, "2.0 h"), (2e5, "2.3 days")]
)
def test_a_duration_is_rounded(seconds, text):
    assert dry_run.duration(seconds) == text
