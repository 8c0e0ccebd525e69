"""A stored configuration is data: no class of a stranger is imported, nothing of another machine is used."""

import sys

import pytest
import yaml
from omegaconf import OmegaConf
from support.configs import TINY, configure

import segpipe
from segpipe.config import stored
from segpipe.config.build import resolve
from segpipe.config.plan import Plan
from segpipe.config.schema import CONF
from segpipe.errors import UserError
from segpipe.runs.run import Run
from segpipe.runs.storage import write_text

NAME = "sweep.name=x"  # otherwise the time
OPTIMIZERS = ["torch.optim.SGD", "torch.optim.RMSprop", "torch.optim.NAdam"]
PLACES = ["encoder", "data.dataset", "loss", "optimizer", "trainer", "callbacks.best", "logger", "model.refine", "neck"]
HOSTILE = ["os.system", "builtins.open", "hydra.utils.call", "torch.load", "stranger.Encoder", "torch.nn.ReLU", "", "."]


@pytest.fixture
def run(tmp_path):
    """A run with only a configuration."""
    return Run(store(tmp_path, {}))


def store(folder, changes):
    """Write a configuration with some values changed, by dotted path."""
    cfg = configure(*TINY, NAME, f"run_dir={folder}")
    content = OmegaConf.to_container(cfg, resolve=True)
    for path, value in changes.items():
        *groups, last = path.split(".")
        node = content
        for group in groups:
            node = node[group]
        node[last] = value
    write_text(folder / "config.yaml", yaml.safe_dump(content))
    return folder


def test_what_was_written_is_read(run):
    assert stored.read(run) == resolve(configure(*TINY, NAME, f"run_dir={run.folder}"))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("target", HOSTILE)
def test_a_class_that_conf_does_not_offer_is_not_imported(tmp_path, place, target):
    run = Run(store(tmp_path, {f"{place}._target_": target}))
    with pytest.raises(UserError, match="not a class of segpipe's configuration"):
        stored.read(run)


@pytest.mark.parametrize(
    "place", ["seed", "model.stride", "trainer.devices", "encoder.widths", "augment.crop", "task.x"]
)
def test_a_class_is_refused_where_conf_has_none(tmp_path, place):
    run = Run(store(tmp_path, {place: {"_target_": "segpipe.training.losses.Dice"}}))
    with pytest.raises(UserError, match="No class is allowed there"):
        stored.read(run)


@pytest.mark.parametrize("key", ["_args_", "_recursive_", "_convert_"])
def test_other_keys_of_hydra_are_refused(tmp_path, key):
    with pytest.raises(UserError, match=f"has the key {key}"):
        stored.read(Run(store(tmp_path, {f"encoder.{key}": []})))


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_class_under_conf_is_offered(path):
    content = OmegaConf.to_container(OmegaConf.load(path))
    for _, target, _ in stored.nodes(content):
        assert any(target in targets for targets in stored.offered().values())


@pytest.mark.parametrize("name", ["GaussNoise", "OneOf", "CoarseDropout"])
def test_transforms_of_the_library_are_allowed(tmp_path, name):
    inner = {"transforms": [{"_target_": "albumentations.VerticalFlip"}]} if name == "OneOf" else {}
    stored.read(Run(store(tmp_path, {"augment.after_crop": [{"_target_": f"albumentations.{name}", **inner}]})))


@pytest.mark.parametrize("name", ["Lambda", "FDA", "TextImage", "HistogramMatching", "core.serialization.load"])
def test_transforms_that_read_files_or_call_functions_are_refused(tmp_path, name):
    run = Run(store(tmp_path, {"augment.after_crop": [{"_target_": f"albumentations.{name}"}]}))
    with pytest.raises(UserError, match="not a class"):
        stored.read(run)


@pytest.mark.parametrize("target", OPTIMIZERS)
def test_optimizers_of_torch_are_allowed(tmp_path, target):
    assert stored.read(Run(store(tmp_path, {"optimizer._target_": target}))).optimizer._target_ == target


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data.root": "${oc.env:HOME}"}, "is an interpolation"),
        ({"seed": "???"}, "is an interpolation"),
        ({"encoder.depths": [10_000_000]}, "encoder.depths"),
        ({"encoder.widths": [1] * 600}, "entries"),
        ({"model.width": 10**9}, "model.width"),
        ({"data.size": [10**6, 10**6]}, "data.size"),
        ({"data.size": "x"}, "data.size"),
        ({"encoder.backbone": "hf-hub:someone/something"}, "encoder.backbone"),
        ({"encoder.backbone": "local-dir:/tmp"}, "encoder.backbone"),
        ({"model": None}, "damaged"),
        ({"encoder": []}, "damaged"),
        ({"logger": None}, "damaged"),
        ({"data.dataset": "x"}, "damaged"),
    ],
)
def test_values_that_do_harm_are_refused(tmp_path, changes, reason):
    with pytest.raises(UserError, match=reason):
        stored.read(Run(store(tmp_path, changes)))


def test_what_a_training_accepts_can_be_read_again(tmp_path):
    """The fault was: a number such as task.clip=1e6 was accepted in a training, and its run called damaged."""
    assert stored.read(Run(store(tmp_path, {"task.clip": 1e6}))).task.clip == 1e6
    Plan.of(configure("task.clip=1e6"))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model=ladder", "model.width=4611686018427387904"], r"model\.width=4\.61169e\+18: at most 65,536"),
        (["decoder=deconv", "decoder.kernel=100000000000000000"], r"decoder\.kernel=1e\+17: at most 512"),
        (["data.crop=[100000,100000]"], r"data\.crop=.*at most 250,000,000 pixels"),
        (["encoder=small", "encoder.widths=[8,16,32,64,70000]"], r"encoder\.widths\[\]=70000: at most 65,536"),
    ],
)
def test_a_size_beyond_any_network_is_refused_before_one_is_built(overrides, says):
    with pytest.raises(UserError, match=says):
        Plan.of(configure(*overrides))


@pytest.mark.parametrize(
    "text",
    ["a: &x [1]\nb: [*x, *x]", "[" * 10_000, "a: !!python/object/apply:os.system [ls]", "a: 2020-01-01", "1", "", "\0"],
)
def test_files_that_are_not_plain_data_are_refused(run, text):
    run.config.write_text(text)
    with pytest.raises(UserError, match=r"config.yaml is damaged"):
        stored.read(run)


OWN = """
from segpipe.models.encoders import PlainEncoder

open({marker!r}, "w").close()


class Mine(PlainEncoder):
    pass
"""


def own_class(folder, monkeypatch):
    """A module of the user's own; importing it writes a file, which is returned."""
    folder.mkdir(exist_ok=True)
    marker = folder / "imported"
    (folder / "my_parts.py").write_text(OWN.format(marker=str(marker)))
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("my_parts", None)
    return marker


def test_a_class_of_ones_own_needs_trust(tmp_path, monkeypatch):
    marker = own_class(tmp_path / "lib", monkeypatch)
    run = Run(store(tmp_path / "run", {"encoder._target_": "my_parts.Mine"}))
    with pytest.raises(UserError, match=r"--trust my_parts .*segpipe.load\(RUN, trust=\['my_parts'\]\)"):
        segpipe.load(run.folder)
    assert not marker.exists()
    assert stored.read(run, trust=["my_parts"]).encoder._target_ == "my_parts.Mine"


def test_a_class_that_the_command_line_has_is_trusted(tmp_path, monkeypatch):
    own_class(tmp_path / "lib", monkeypatch)
    run = Run(store(tmp_path, {"encoder._target_": "my_parts.Mine"}))
    cfg = configure(*TINY)
    cfg.encoder._target_ = "my_parts.Mine"
    assert stored.read(run, composed=cfg)
    cfg.encoder._target_, cfg.neck._target_ = "segpipe.models.encoders.PlainEncoder", "my_parts.Mine"
    with pytest.raises(UserError, match="not a class"):  # trusted elsewhere, not here
        stored.read(run, composed=cfg)


def test_a_trusted_package_does_not_come_from_the_run(tmp_path, monkeypatch):
    marker = own_class(tmp_path / "inside", monkeypatch)
    run = Run(store(tmp_path, {"encoder._target_": "my_parts.Mine"}))
    with pytest.raises(UserError, match="from the run's folder"):
        stored.read(run, trust=["my_parts"])
    assert not marker.exists()


@pytest.mark.parametrize("target", ["os.system", "builtins.open", "subprocess.run"])
def test_the_standard_library_cannot_be_trusted(tmp_path, target):
    """And nobody is advised to."""
    run = Run(store(tmp_path, {"encoder._target_": target}))
    with pytest.raises(UserError, match="not a class") as caught:
        stored.read(run, trust=[target.partition(".")[0], target])
    assert "trust" not in str(caught.value)


LOCAL = {
    "data.root": "/somewhere",
    "data.workers": 99,
    "data.dataset.root": "/somewhere",
    "logger": {"_target_": "segpipe.training.tracking.wandb_logger", "_partial_": True, "entity": "stranger"},
    "warm_start": "/somewhere",
    "stages": ["seed=1"],
    "run_dir": "/somewhere",
    "callbacks.best.dirpath": "/somewhere",
    "trainer.default_root_dir": "/somewhere",
    "trainer.profiler": {"_target_": "pytorch_lightning.profilers.SimpleProfiler", "dirpath": "/somewhere"},
}


def test_what_belongs_to_a_machine_is_not_taken_from_a_stored_configuration(tmp_path):
    run = Run(store(tmp_path, LOCAL))
    cfg = configure(*TINY)
    local = stored.with_local_keys(stored.read(run), cfg, run)
    text = OmegaConf.to_yaml(local)
    assert "/somewhere" not in text
    assert "stranger" not in text
    assert "99" not in text
    assert local.callbacks.best.dirpath == str(tmp_path / "checkpoints")


def test_a_run_without_a_logger_stays_without(tmp_path):
    run = Run(store(tmp_path, {}))
    cfg = configure("logger=wandb", *[word for word in TINY if not word.startswith("logger")])
    assert stored.with_local_keys(stored.read(run), cfg, run).logger == stored.read(run).logger


def test_a_checkpoint_is_written_into_the_run_only(tmp_path):
    run = Run(store(tmp_path, {"callbacks.last.filename": "../../outside"}))
    with pytest.raises(UserError, match=r"callbacks.last.filename"):
        stored.with_local_keys(stored.read(run), configure(*TINY), run)
