"""Several ranks train one network, as processes of their own: the same numbers, one run, nothing left behind."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, configure
from support import commands
from torch import nn

from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.errors import UserError
from segpipe.models.init import seed_for
from segpipe.runs.run import Run
from segpipe.runs.storage import read_history
from segpipe.training import devices, sync_batchnorm
from segpipe.training.sync_batchnorm import SyncBatchNormPlugin
from segpipe.training.task import SegmentationTask

SMALL = [choice for choice in TINY if choice not in ("trainer=cpu", "logger=none", "data.eval_batch_size=4")]
ODD = [*SMALL, "data.eval_batch_size=1"]  # 5 and 7 pictures: ranks take unequal numbers of batches
PLAIN = [*ODD, "optimizer=sgd", "optimizer.lr=0.05", "callbacks=early_stopping", "callbacks.early_stopping.mode=min",
         "callbacks.early_stopping.monitor=val/loss"]  # fmt: skip
WHOLE = [*ODD, "task.accumulate=2", "task.clip=0.1", "callbacks=ema", "logger=none"]
DRIVER = """
import sys, json
import segpipe.train  # before all that are forked from here
from segpipe.engine.processes import Child, end
from pathlib import Path
for group in json.loads(sys.argv[1]):
    children = {name: Child([*choices, f"hydra.run.dir={name}"], log=Path(f"{name}.txt")) for name, choices in group}
    for name, child in children.items():
        Path(f"{name}.pid").write_text(str(child.process.pid))
    for name, child in children.items():
        Path(f"{name}.status").write_text(str(child.wait()))
    end(children.values())
"""


def driver(folder, groups):
    """Trainings, each from a command line of its own, those of a group at once; in ``folder``/NAME."""
    words = ["-c", DRIVER, json.dumps(groups)]
    return commands.forker().start(words, cwd=folder, environment=commands.without_wandb())


def record(folder):
    return json.loads((folder / "run.json").read_text())


def matrices(folder, split):
    with np.load(folder / "confusion" / f"{split}.npz") as file:
        return file["names"].tolist(), file["matrices"]


def weights(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def status(folder):
    return int(folder.with_suffix(".status").read_text())


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


# ranks that end


def descendants(pid):
    """The processes below one, by Linux's own list."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parents = dict(zip(map(int, found[::2]), map(int, found[1::2]), strict=True))
    below = [child for child, parent in parents.items() if parent == pid]
    return [*below, *(one for child in below for one in descendants(child))]


def wait(condition, seconds):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes as Linux lists them")
def test_whatever_ends_nothing_is_left_and_the_record_says_why(tmp_path):
    """Of three trainings, one loses rank 1 to a kill -9 and one to SIGTERM; of the third, the command is killed."""
    names = ("killed", "ended", "orphaned")
    choices = [*SMALL, "trainer=ddp_cpu", "trainer.max_epochs=1000", "logger=none"]
    process = driver(tmp_path, [[(name, choices) for name in names]])
    try:
        wait(lambda: all((tmp_path / name / "checkpoints" / "last.ckpt").is_file() for name in names), 120)
        commands = {name: int((tmp_path / name).with_suffix(".pid").read_text()) for name in names}
        ranks = {name: sorted(descendants(pid)) for name, pid in commands.items()}
        assert [len(pids) for pids in ranks.values()] == [2, 2, 2]
        began = time.monotonic()
        os.kill(ranks["killed"][1], signal.SIGKILL)
        os.kill(ranks["ended"][1], signal.SIGTERM)
        os.kill(commands["orphaned"], signal.SIGKILL)
        assert process.wait(timeout=60) == 0
        wait(lambda: all(gone(pid) for pids in ranks.values() for pid in pids), 60 - (time.monotonic() - began))
        assert [status(tmp_path / name) for name in names] == [1, 1, -signal.SIGKILL]
        found = {name: record(tmp_path / name) for name in names}
        assert [found[name]["status"] for name in names] == ["failed", "failed", "running"]
        assert not Run(tmp_path / "orphaned").is_running  # and so read as interrupted
        assert "rank 1 was ended by SIGKILL" in found["killed"]["error"]
        assert "rank 1 ended with status 1: interrupted" in found["ended"]["error"]
        assert "rank 1 was ended by SIGKILL" in (tmp_path / "killed.txt").read_text()
    finally:
        process.kill()  # and, by their leashes, whatever is left
        process.wait(timeout=60)


# batch normalisation over ranks


class Threads:
    """Stands for ranks: what ``total`` sums over."""

    def __init__(self, number):
        self.parts, self.barrier = [None] * number, threading.Barrier(number)
        self.own = threading.local()

    def total(self, part):
        self.parts[self.own.rank] = part
        self.barrier.wait(30)
        found = sum(self.parts)
        self.barrier.wait(30)
        return found

    def run(self, function, shares):
        results = [None] * len(shares)

        def one(rank):
            self.own.rank = rank
            results[rank] = function(shares[rank])

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(shares))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return results


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_unequal_shares_are_normalised_as_the_whole_batch(affine, momentum, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(5, 3, 4, 6, generator=generator) * 2 + 100  # far from 0, where sums of squares lose digits
    later = torch.randn(images.shape, generator=generator)

    def layer():
        made = nn.BatchNorm2d(3, affine=affine, momentum=momentum)
        if affine:
            with torch.no_grad():
                made.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        return made

    def trained(normalise, image, gradient):
        for _ in range(2):
            image = image.detach().requires_grad_()
            normalised = normalise(image)
            normalised.backward(gradient)
        return normalised.detach(), image.grad, normalise

    ranks = Threads(2)
    monkeypatch.setattr(sync_batchnorm, "total", ranks.total)
    whole = trained(layer(), images, later)
    shares = list(zip(images.split([1, 4]), later.split([1, 4]), strict=True))
    found = ranks.run(lambda share: trained(SyncBatchNormPlugin(gpu=False).apply(layer()), *share), shares)
    for place in (0, 1):
        torch.testing.assert_close(torch.cat([one[place] for one in found]), whole[place], atol=2e-5, rtol=1e-5)
    for one in found:
        assert one[2].state_dict().keys() == whole[2].state_dict().keys()
        for name, value in whole[2].state_dict().items():
            torch.testing.assert_close(one[2].state_dict()[name], value, atol=1e-5, rtol=1e-5)
    for name, parameter in whole[2].named_parameters():  # DDP adds up what ranks have
        parts = sum(dict(one[2].named_parameters())[name].grad for one in found)
        torch.testing.assert_close(parts, parameter.grad, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("gpu", "expected"), [(False, sync_batchnorm.CpuSyncBatchNorm), (True, sync_batchnorm.GpuSyncBatchNorm)]
)
def test_layers_are_turned_back_into_what_they_were(gpu, expected):
    class WithActivation(nn.BatchNorm2d):
        def __init__(self, channels):
            super().__init__(channels)
            self.drop, self.act = nn.Identity(), nn.ReLU()

        def forward(self, image):
            return self.act(self.drop(super().forward(image)))

    network = nn.Sequential(nn.BatchNorm2d(2), WithActivation(2), nn.Conv2d(2, 2, 1)).eval()
    image = torch.randn(1, 2, 3, 3)
    before, names = network(image), list(network.state_dict())
    layers = SyncBatchNormPlugin(gpu=gpu)
    assert layers.apply(network) is network
    assert [type(module) for module in network] == [expected, expected, nn.Conv2d]
    assert list(network.state_dict()) == names
    assert torch.equal(network(image), before)
    layers.revert(network)
    assert [type(module) for module in network] == [nn.BatchNorm2d, WithActivation, nn.Conv2d]
    assert torch.equal(network(image), before)
    assert "original_class" not in vars(network[0])


# which devices, which place


def test_devices_change_no_identity():
    others = [[], ["trainer=ddp_cpu"], ["trainer=ddp_cpu", "trainer.devices=4", "trainer.num_nodes=2"]]
    assert len({Plan.of(configure(*TINY, *choices)).identity for choices in others}) == 1
    unsynchronised = configure(*TINY, "trainer=ddp_cpu", "trainer.sync_batchnorm=false")
    assert Plan.of(unsynchronised).identity != Plan.of(configure(*TINY)).identity


@pytest.mark.parametrize(
    ("choices", "ranks", "says"),
    [
        (["data.batch_size=9"], 2, "data.batch_size=9 .* 2 devices: set data.batch_size=8"),
        (["data.batch_size=11"], 3, "set data.batch_size=12"),
        (["data.batch_size=15", "data.dataset.val=6"], 6, "set data.batch_size=12"),  # 18 would be more than there are
        (["data.batch_size=6", "task.accumulate=2"], 4, "4 devices in 2 parts each: set data.batch_size=8"),
        (["data.dataset.val=1"], 2, "val split has 1 picture for 2 devices.*trainer.devices=1"),
        (["data.dataset.test=3"], 4, "test split has 3 pictures for 4 devices.*trainer.devices=3"),
    ],
)
def test_what_ranks_cannot_share_is_refused(choices, ranks, says):
    cfg = configure(*TINY, *choices)
    with pytest.raises(UserError, match=says):
        build.data(cfg).check(ranks=ranks, parts=cfg.task.accumulate)
    build.data(cfg).check()  # as one process it can be trained


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1, 1, False)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, (3, 4, 2, True)),
        ({"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "0"}, (0, 1, 1, False)),  # a batch script
        ({"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "3", "SLURM_STEP_ID": "0"}, (3, 4, 2, True)),
        ({"SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}, (0, 1, 1, False)),
    ],
)
def test_the_place_is_what_the_environment_says(variables, expected, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert devices.detect_rank()[:4] == expected


@pytest.mark.parametrize(
    ("choices", "gpus", "expected"),
    [
        (["trainer=auto"], 4, 1),
        (["trainer=ddp"], 4, 4),
        (["trainer=ddp", "trainer.devices=[0,2]"], 4, 2),
        (["trainer=ddp", "trainer.devices=-1"], 1, 1),
        (["trainer=ddp_cpu", "trainer.devices=3"], 4, 3),
        (["trainer=cpu", "trainer.devices=auto"], 0, 1),
        (["trainer=ddp"], 0, "finds no GPU here. Take trainer=ddp_cpu"),
        (["trainer=ddp", "trainer.devices=8"], 4, r"trainer.devices=8: allowed is 1 to 4, auto, or a list of 0 to 3"),
        (["trainer=ddp", "trainer.devices=[1,4]"], 4, r"trainer.devices=\[1,4\]: allowed is 1 to 4"),
        (["trainer=cpu", "trainer.devices=[0,1]"], 0, "a number of processes"),
        (["trainer=cpu", "trainer.devices=0"], 0, "a number of processes"),
    ],
)
def test_devices_are_counted_or_refused(choices, gpus, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    cfg = configure(*TINY, *choices)
    if isinstance(expected, int):
        assert devices.requested_devices(cfg) == expected
    else:
        with pytest.raises(UserError, match=expected):
            devices.requested_devices(cfg)


@pytest.mark.parametrize(
    ("choices", "place", "says"),
    [
        (["trainer=cpu"], devices.RankInfo(0, 2, 2, True), "trainer.devices=1, but 2 processes were started"),
        (["trainer=ddp_cpu", "trainer.num_nodes=2"], devices.SINGLE_PROCESS, "docs/devices.md"),
        (
            ["trainer=ddp_cpu", "trainer.strategy=fsdp"],
            devices.SINGLE_PROCESS,
            "trainer.strategy=fsdp: allowed is auto or ddp",
        ),
    ],
)
def test_what_was_not_started_for_the_devices_is_refused(choices, place, says):
    with pytest.raises(UserError, match=says):
        devices.check(configure(*TINY, *choices), place)


def test_a_sweep_is_no_work_for_ranks(monkeypatch):
    devices.refuse_launched("a sweep")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="a sweep under torchrun or srun"):
        devices.refuse_launched("a sweep")


def test_ranks_drop_out_by_draws_of_their_own(monkeypatch):
    """Rank 0's are those of a single process."""
    draws = []
    for rank in (0, 1):
        task = build.task(configure(*TINY), build.data(configure(*TINY)))
        monkeypatch.setattr(SegmentationTask, "global_rank", rank)
        task.on_train_epoch_start()
        draws.append(torch.rand(8))
    torch.manual_seed(seed_for(0, "epoch 0"))
    assert torch.equal(draws[0], torch.rand(8))
    assert not torch.equal(draws[0], draws[1])
