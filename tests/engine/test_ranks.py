"""Several ranks train one network, as processes of their own: the same numbers, one run, nothing left behind."""

import fcntl
import os
import shutil

import numpy as np
import pytest
import torch
from support.ranks import SMALL, driver, record, status

from segpipe.runs.storage import read_history

ODD = [*SMALL, "data.eval_batch_size=1"]  # 5 and 7 pictures: ranks take unequal numbers of batches


PLAIN = [*ODD, "optimizer=sgd", "optimizer.lr=0.05", "callbacks=early_stopping", "callbacks.early_stopping.mode=min",
         "callbacks.early_stopping.monitor=val/loss"]  # fmt: skip


CROPS = ["data.steps_per_epoch=2", "data.rare_share=0.5"]


WHOLE = [*ODD, *CROPS, "task.accumulate=2", "task.clip=0.1", "callbacks=ema", "logger=none"]


def matrices(folder, split):
    with np.load(folder / "confusion" / f"{split}.npz") as file:
        return file["names"].tolist(), file["matrices"]


def weights(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Each network trained by one process and by two ranks; then what each has made, gone on with by the other."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "ranks"  # pytest's workers share it
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "fewer.status").is_file():
            make_runs(folder)
    return folder


def make_runs(folder):
    offline = "logger.mode=offline"
    first = [
        ("one", [*PLAIN, "trainer=cpu", "logger=none"]),
        ("two", [*PLAIN, "trainer=ddp_cpu", offline]),
        ("one-whole", [*WHOLE, "trainer=cpu"]),
        ("two-whole", [*WHOLE, "trainer=ddp_cpu"]),
        ("uneven", [*ODD, "logger=none", "trainer=ddp_cpu", "data.batch_size=9"]),
    ]
    assert driver(folder, [[case] for case in first]).wait(timeout=300) == 0
    for name in ("one", "two"):
        shutil.copytree(folder / name, folder / f"{name}-again")
    resumed = [
        ("more", ["resume=one-again", "trainer.devices=2", "trainer.strategy=ddp", "logger=none"]),
        ("fewer", ["resume=two-again", "trainer.devices=1", "trainer.max_epochs=3", "logger=none"]),
    ]
    assert driver(folder, [[case] for case in resumed]).wait(timeout=200) == 0


def test_two_ranks_train_as_one_process_does(runs):
    """Losses of every epoch, and the weights; batch normalisation that saw half of a batch would be far off."""
    for one, two in ((runs / "one", runs / "two"), (runs / "one-whole", runs / "two-whole")):
        histories = read_history(one / "history.csv"), read_history(two / "history.csv")
        assert [len(rows) for rows in histories] == [2, 2]
        for first, second in zip(*histories, strict=True):
            assert first.keys() == second.keys()
            assert second["train/loss"] == pytest.approx(first["train/loss"], abs=2e-6)
            assert second["val/loss"] == pytest.approx(first["val/loss"], abs=2e-4)
    first, second = weights(runs / "one"), weights(runs / "two")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def test_two_ranks_are_one_run(runs):
    for name in ("two", "two-whole"):
        assert status(runs / name) == 0
        found = record(runs / name)
        assert (found["status"], found["world_size"], found["global_batch"]) == ("finished", 2, 8)
        assert found["identity"] == record(runs / name.replace("two", "one"))["identity"]
        assert sorted((runs / name).rglob("*.ckpt")) == [
            runs / name / "checkpoints" / n for n in ("best.ckpt", "last.ckpt")
        ]
        assert (runs / f"{name}.txt").read_text().count("Test mIoU") == 1
    assert len(list((runs / "two" / "wandb").glob("offline-run-*"))) == 1
    assert not (runs / "outputs").exists()


def test_other_devices_count_the_very_same_pixels(runs):
    """An odd number of pictures, the same weights: the integers of two ranks are those of one process."""
    assert status(runs / "more") == 0
    assert record(runs / "one-again")["world_size"] == 2
    for split, count in (("val", 5), ("test", 7)):
        names, counted = matrices(runs / "one", split)
        again, recounted = matrices(runs / "one-again", split)
        assert again == names
        assert len(names) == len(set(names)) == count
        assert (recounted == counted).all()
    with np.load(runs / "one" / "boundaries" / "test.npz") as a, np.load(runs / "one-again/boundaries/test.npz") as b:
        assert a["band_miou_2"].shape == (7, 3, 6)
        assert all(np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f") for name in a)


def test_a_run_of_two_ranks_goes_on_in_one_process(runs):
    assert status(runs / "fewer") == 0
    assert record(runs / "two-again")["world_size"] == 1
    rows = read_history(runs / "two-again" / "history.csv")
    assert rows[:2] == read_history(runs / "two" / "history.csv")
    assert [row["epoch"] for row in rows] == [0, 1, 2]


def test_a_batch_that_cannot_be_shared_is_refused_once_with_the_nearest(runs):
    said = (runs / "uneven.txt").read_text()
    assert status(runs / "uneven") == 1
    assert said.count("segpipe: ") == 1
    assert "data.batch_size=9" in said
    assert "set data.batch_size=8." in said
    assert not (runs / "uneven").exists()
