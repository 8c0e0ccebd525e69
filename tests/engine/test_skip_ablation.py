"""Skips replaced at test time: by zeros, or by those of another image."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.configs import TINY, configure

from segpipe import evaluate as command
from segpipe.config import build
from segpipe.engine.evaluation import evaluate
from segpipe.engine.predictor import Predictor
from segpipe.engine.skip_ablation import partners, skip_ablation
from segpipe.errors import UserError
from segpipe.lab.slots import recording


class Pictures:
    """Images of different sizes, as ``Samples`` gives them."""

    def __init__(self, *sizes):
        random = np.random.default_rng(0)
        self.images = [random.integers(0, 256, (*size, 3), np.uint8) for size in sizes]

    def __len__(self):
        return len(self.images)

    def sample(self, epoch, index):
        return SimpleNamespace(image=self.images[index])

    def batch(self, *indices):
        stacked = np.stack([self.images[index] for index in indices])
        return {"image": torch.from_numpy(stacked).permute(0, 3, 1, 2), "index": torch.tensor(indices)}


def skips_of(network, batch, ablation):
    with torch.inference_mode(), ablation(batch), recording(network) as record:
        network(batch["image"])
    return {step.place.stride: step.skip for step in record.steps() if step.skip is not None}


@pytest.fixture(scope="module")
def network():
    return build.network(configure(*TINY), 6).eval()


@pytest.mark.parametrize("number", [2, 3, 7, 100])
def test_each_image_has_another_one_as_its_partner(number):
    found = partners(number)
    assert sorted(found) == list(range(number))
    assert all(partner != image for image, partner in enumerate(found))
    assert found == partners(number)


def test_zeros_replace_every_skip(network):
    pictures = Pictures((64, 64), (64, 64))
    found = skips_of(network, pictures.batch(0, 1), skip_ablation(network, "zero", pictures))
    assert list(found) == [16, 8]
    assert not any(skip.any() for skip in found.values())


def test_the_skips_are_those_of_the_partner_whatever_the_batch(network):
    pictures = Pictures(*[(64, 64)] * 5)
    unchanged = skip_ablation(network, None, pictures)
    whole = skips_of(network, pictures.batch(*range(5)), unchanged)
    expected = {stride: skip[partners(5)] for stride, skip in whole.items()}
    ablation = skip_ablation(network, "shuffle", pictures)
    for indices in ((0, 1, 2, 3, 4), (3,), (4, 0)):
        found = skips_of(network, pictures.batch(*indices), ablation)
        for stride, skip in found.items():
            torch.testing.assert_close(skip, expected[stride][list(indices)])
    again = skips_of(network, pictures.batch(0, 1), unchanged)  # nothing stays behind
    torch.testing.assert_close(again, {stride: skip[:2] for stride, skip in whole.items()})


def test_a_partner_of_another_size_is_resized(network):
    pictures = Pictures((64, 96), (80, 64))
    ablation = skip_ablation(network, "shuffle", pictures)
    for index, sides in ((0, (64, 96)), (1, (96, 64))):  # of the padded image
        found = skips_of(network, pictures.batch(index), ablation)
        assert [skip.shape[-2:] for skip in found.values()] == [(sides[0] // s, sides[1] // s) for s in (16, 8)]


@pytest.mark.parametrize("overrides", [["model=fcn32s"], ["fusion=none"], ["fusion.at=[]"]])
@pytest.mark.parametrize("change", ["zero", "shuffle"])
def test_a_network_without_skips_is_rejected(overrides, change):
    without = build.network(configure(*TINY, *overrides), 6)
    with pytest.raises(UserError, match=rf"--skips {change}: this network has no skips.*without --skips"):
        skip_ablation(without, change, Pictures((64, 64), (64, 64)))


def test_only_the_steps_with_a_skip_are_changed():
    network = build.network(configure(*TINY, "fusion.at=[16]"), 6).eval()
    pictures = Pictures((64, 64), (64, 64))
    assert list(skips_of(network, pictures.batch(0, 1), skip_ablation(network, "zero", pictures))) == [16]


def test_one_image_alone_has_no_partner(network):
    with pytest.raises(UserError, match="the data have one image"):
        skip_ablation(network, "shuffle", Pictures((64, 64)))


def test_evaluation_writes_what_the_network_does_with_other_skips(finished_run, tmp_path):
    plain = evaluate(finished_run, overrides=[], split="test", out=tmp_path / "plain", device="cpu")
    assert "skips" not in plain
    network = Predictor(finished_run, device="cpu").network
    for change in ("zero", "shuffle"):
        changed = evaluate(finished_run, overrides=[], split="test", device="cpu", skips=change)
        folder = finished_run / "evaluations" / f"shapes-test-skips-{change}"
        assert changed["folder"] == str(folder)
        assert json.loads((folder / "metrics.json").read_text())["skips"] == change
        with np.load(folder / "confusion.npz") as one, np.load(tmp_path / "plain" / "confusion.npz") as other:
            assert (one["matrices"].sum((1, 2)) == other["matrices"].sum((1, 2))).all()
            assert (one["matrices"] != other["matrices"]).any()
    assert not any(module._forward_hooks for module in network.modules())


def test_the_command_takes_the_option(finished_run, tmp_path, monkeypatch, capsys):
    words = ["evaluate", str(finished_run), "--skips", "zero", "--out", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", words)
    command.main()
    assert "test, skips: zero mIoU" in capsys.readouterr().out
    assert json.loads((tmp_path / "metrics.json").read_text())["skips"] == "zero"
