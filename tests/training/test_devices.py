"""Which devices, and which place among ranks."""

import time

import pytest
import torch
from support.configs import TINY, configure

from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.engine.fit import train
from segpipe.errors import UserError
from segpipe.models.init import seed_for
from segpipe.training import devices
from segpipe.training.task import SegmentationTask

# which devices, which place


def test_denormals_are_zero_in_a_training_and_only_there(tmp_path):
    torch.set_flush_denormal(False)
    seen = []
    train(configure(*TINY, f"run_dir={tmp_path}/run"), on_validation=lambda *given: seen.append(small_is_zero()))
    assert len(seen) > 0
    assert all(seen)
    assert not small_is_zero()


def test_denormals_are_what_they_were_after_a_block():
    torch.set_flush_denormal(False)
    with devices.flushed_denormals():
        with devices.flushed_denormals():
            assert small_is_zero()
        assert small_is_zero()
    assert not small_is_zero()


def small_is_zero():
    """Whether half of the smallest normal number is zero; its bits say so, since a comparison would flush it, too."""
    return int((torch.tensor([torch.finfo(torch.float32).tiny]) * 0.5).view(torch.int32)) == 0


def test_a_rank_that_waits_for_the_others_says_so(monkeypatch, capsys):
    """They may be started by hand, so that it waits for half an hour."""
    monkeypatch.setattr(devices, "PATIENCE", 0.05)
    monkeypatch.setattr(devices, "rendezvous", lambda *given, **named: iter([(time.sleep(0.5), None, None)]))
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "there", "MASTER_PORT": "7"}.items():
        monkeypatch.setenv(name, value)
    devices.connect_ranks()
    said = capsys.readouterr().err
    assert said.startswith("Rank 0 of 2 waits for the others at there:7, for at most 30 min. Start them, or check")
    assert said.count("\n") == 1
    monkeypatch.setattr(devices, "PATIENCE", 60)
    devices.connect_ranks()
    assert capsys.readouterr().err == ""


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
        (["data.dataset.val=1"], 2, "val split has 1 image for 2 devices.*trainer.devices=1"),
        (["data.dataset.test=3"], 4, "test split has 3 images for 4 devices.*trainer.devices=3"),
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


@pytest.mark.parametrize(("rank", "size"), [("x", "2"), ("2", "2"), ("-1", "2"), ("0", ""), ("0", "0")])
def test_ranks_that_cannot_be_are_refused(rank, size, monkeypatch):
    """Other ranks would be waited for, for half an hour."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UserError, match=f"RANK={rank}, WORLD_SIZE={size}: RANK is allowed from 0"):
        devices.detect_rank()


@pytest.mark.parametrize(
    ("choices", "gpus", "expected"),
    [
        (["trainer=auto"], 4, 1),
        (["trainer=ddp"], 4, 4),
        (["trainer=ddp", "trainer.devices=[0,2]"], 4, 2),
        (["trainer=ddp", "trainer.devices=-1"], 1, 1),
        (["trainer=ddp_cpu", "trainer.devices=3"], 4, 3),
        (["trainer=cpu", "trainer.devices=auto"], 0, 1),
        (["trainer=ddp"], 0, "finds no GPU here. Use trainer=ddp_cpu"),
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
    devices.check_not_launched("a sweep")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="a sweep under torchrun or srun"):
        devices.check_not_launched("a sweep")


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
