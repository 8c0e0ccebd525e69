"""Class weights are counted once, and pictures decoded once."""

import json

import numpy as np
import pytest
from support.configs import configure

from segpipe.config import build
from segpipe.data import cache, class_counts
from segpipe.data.datasets.shapes import Shapes
from segpipe.data.samples import Samples

DATA = ["data.dataset.train=12", "data.dataset.val=5", "data.dataset.test=3"]


@pytest.fixture
def reads(monkeypatch):
    """The indices that Shapes was asked for."""
    asked = []
    read = Shapes.read
    monkeypatch.setattr(Shapes, "read", lambda self, index: asked.append(index) or read(self, index))
    return asked


def weights(*overrides):
    return build.data(configure(*DATA, *overrides)).median_frequency().numpy()


def test_weights_are_counted_once_for_the_same_data(cache_folder, reads):
    first = weights()
    assert len(reads) == 12
    np.testing.assert_array_equal(weights("seed=3"), first)
    assert len(reads) == 12
    assert (weights("data.dataset.seed=1") != first).any()
    assert len(reads) == 24


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"pixels": [1]}', '{"pixels": "a", "around": null}', "\x00"])
def test_a_cache_that_is_damaged_is_counted_again(cache_folder, damage):
    first = weights()
    (path,) = cache_folder.glob("*.json")
    whole = json.loads(path.read_text())
    path.write_text(damage)
    np.testing.assert_array_equal(weights(), first)
    assert json.loads(path.read_text()) == whole


def test_counts_of_another_number_of_classes_are_not_taken():
    kept = {"pixels": [1, 2], "around": [1, 2]}
    assert class_counts.is_whole(kept, 2)
    assert not class_counts.is_whole(kept, 3)
    assert not class_counts.is_whole({"pixels": [1, -2], "around": [1, 2]}, 2)


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path, monkeypatch, reads):
    (tmp_path / "file").write_text("a file where a folder should be")
    monkeypatch.setenv("SEGPIPE_CACHE", str(tmp_path / "file" / "cache"))
    np.testing.assert_array_equal(weights(), weights())
    assert len(reads) == 24


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGPIPE_CACHE", str(tmp_path))
    assert cache.folder() == tmp_path
    monkeypatch.delenv("SEGPIPE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / "segpipe"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "segpipe"


@pytest.mark.parametrize(("choice", "times"), [("auto", 1), ("ram", 1), ("off", 3)])
def test_pictures_are_decoded_once_in_all_epochs(reads, choice, times):
    data = build.data(configure(*DATA, f"data.cache={choice}", "data.batch_size=4", "data.workers=0"))
    for epoch in range(3):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        assert sum(len(batch["index"]) for batch in loader) == 12
    assert sorted(reads) == sorted([*range(12)] * times)


def test_auto_keeps_what_fits_and_no_more(monkeypatch, reads):
    def kept(limit):
        monkeypatch.setattr("segpipe.data.samples.RAM_LIMIT", limit)
        whole = Shapes(split="val", val=3)
        return Samples(whole, size=None, train=False, augment=None, seed=0, cache="auto").kept is not None

    assert kept(3 * 96 * 96 * 4)
    assert not kept(3 * 96 * 96 * 4 - 1)
    assert len(reads) == 3
