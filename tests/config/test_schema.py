import pytest
import pytorch_lightning as pl
import torch
from hydra.errors import HydraException, InstantiationException
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from support import commands
from support.configs import configure

from segpipe.config import build, schema
from segpipe.config.messages import explain
from segpipe.config.plan import Plan
from segpipe.config.schema import CONF, options
from segpipe.errors import UserError

GROUPS = [
    "data", "augment", "encoder", "neck", "decoder", "fusion", "model", "loss", "optimizer", "scheduler", "trainer",
    "logger", "callbacks", "experiment", "debug",
]  # fmt: skip


def test_the_groups_are_those_that_are_documented():
    assert sorted(path.name for path in CONF.iterdir() if path.is_dir()) == sorted(GROUPS)


@pytest.mark.parametrize("choice", [f"{group}={name}" for group in GROUPS for name in options(group)])
def test_every_file_under_conf_composes_and_its_values_fit_their_constructors(choice):
    cfg = configure(choice)
    Plan.of(cfg)
    for group in ("encoder", "neck", "decoder", "fusion", "model", "loss", "optimizer", "scheduler", "task", "data"):
        with torch.device("meta"):  # without the time to initialise it
            assert build.instantiate_group(cfg, group) is not None
    assert build.augment(cfg).compose is not None


@pytest.mark.parametrize("name", options("callbacks"))
def test_every_file_of_callbacks_makes_callbacks(name, tmp_path):
    made = build.instantiate_all(configure(f"callbacks={name}", f"run_dir={tmp_path}").callbacks)
    assert made
    assert [callback for callback in made if not isinstance(callback, pl.Callback)] == []


def test_precedence_is_command_line_experiment_model_root():
    assert configure().decoder.name == "deconv"
    assert configure("model=segnet_basic").decoder.name == "unpool"
    assert configure("model=segnet_basic", "decoder=nearest").decoder.name == "nearest"
    assert configure("model=unet", "decoder=unpool", "fusion=sum").fusion.name == "sum"
    assert configure("model=unet").decoder.kernel == 2
    assert configure("model=fcn_basic").decoder.kernel == 8
    assert configure("model=fcn_basic", "decoder.kernel=4").decoder.kernel == 4
    for name in options("experiment"):
        assert configure(f"experiment={name}", "model=fcn16s").model.name == "fcn16s"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.lr=abc", ["optimizer.lr=abc", "allowed is a number"]),
        ("optimizer.lr=-1", ["optimizer.lr=-1", "above 0"]),
        ("seed=one", ["seed=one", "a whole number"]),
        ("data.batch_size=2.5", ["data.batch_size=2.5", "a whole number"]),
        (
            "decoder=local_attention decoder.neighbours=17.0",
            ["decoder.neighbours=17.0: allowed is 5 or 9", "Write decoder.neighbours=17"],
        ),
        ("encoder=resnet18 encoder.depth=18.0", ["encoder.depth=18.0: allowed is 18 or 34", "Write encoder.depth=18"]),
        ("decoder.smooth=conv3", ["decoder.smooth=conv3", "conv3x3 or null", "Did you mean 'conv3x3'?"]),
        ("model.taps=pol", ["model.taps=pol", "conv or pool", "Did you mean 'pool'?"]),
        ("trainer.precision=bf16", ["trainer.precision", "bf16-mixed"]),
        ("logger.mode=of", ["logger.mode=of", "offline"]),
        ("encoder.widths=[8,a]", ["encoder.widths", "a list of whole numbers"]),
        ("loss.weight=mean_frequency", ["loss.weight", "median_frequency"]),
        ("model=unet model.refine.count=x", ["model.refine.count=x", "a whole number or null"]),
        ("+optimizer.momentun=0.9", ["optimizer.momentun", "torch.optim.AdamW takes no"]),
        ("model.stride=3", ["stride 3", "1, 2, 4, 8, 16, 32", "model.stride=4"]),
        ("model.stride=64", ["stride 64", "model.stride=32"]),
        ("encoder=basic model=fcn32s", ["stride 32", "encoder=basic", "take model=fcn16s"]),
        ("decoder.kernel=5", ["decoder.kernel=5", "an even number"]),
        ("trainer.max_epochs=null", ["trainer.max_epochs=null", "a whole number"]),
        ("trainer.max_epochs=0", ["trainer.max_epochs=0", "1 or more"]),
        ("neck.dropout=2", ["neck.dropout=2", "from 0 to 0.999"]),
        ("seed=-1", ["seed=-1", "0 or more"]),
        ("loss=focal loss.gamma=-1", ["loss.gamma=-1", "0 or more"]),
        ("loss=ohem loss.share=0", ["loss.share=0", "from 0.001 to 1"]),
        ("loss=ohem +loss.weight=median_frequency", ["loss.weight", "takes no 'weight'"]),
        ("loss=focal loss.weight=mean_frequency", ["loss.weight", "median_frequency"]),
        ("encoder.widths=[]", ["encoder.widths has 0"]),
        ("task.clip=0", ["task.clip=0: allowed is a number above 0"]),
        ("fusion.drop=1", ["fusion.drop=1: allowed is a number from 0 to 0.999"]),
        ("encoder.widths=[0,8,8,8,8]", ["encoder.widths=[0,8,8,8,8]: allowed is a whole number of 1 or more"]),
        ("encoder=basic encoder.kernel=4", ["encoder.kernel=4", "odd number"]),
        ("+foo=1", ["foo", "nothing reads this key"]),
        ("augment=strong data.crop=null", ["augment=strong", "set data.crop"]),
        ("model=unet encoder=small data.crop=[32,32] data.batch_size=1", ["a single value", "larger batch"]),
        ("trainer.check_val_every_n_epoch=20", ["no epoch would be validated"]),
        ("~callbacks.best", ["callbacks.best is required"]),
        ("model=unet model.width=[8,8,8,-8]", ["model.width=[8,8,8,-8]", "1 or more"]),
        (
            "experiment=paper/fcn8s data=camvid",
            ["data.dataset.sbd", "takes no 'sbd'", "remove it with '~data.dataset.sbd'"],
        ),
        ("data.root=photos", ["data=shapes is generated", "data=folder"]),
        ("data.crop=[8,8]", ["data.crop=[8, 8]", "at least 32"]),
        ("+trainer.gradient_clip_val=1", ["set task.clip"]),
    ],
)
def test_values_that_mean_nothing_are_refused_with_what_is_allowed(override, says):
    with pytest.raises(UserError) as error:
        Plan.of(configure(*override.split()))
    assert [word for word in says if word not in str(error.value)] == []


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "decoder=unpol",
            ["decoder=unpol", ", ".join(options("decoder")), "Did you mean 'unpool'?"],
        ),
        (
            "experiment=paper/fcn8",
            ["experiment=paper/fcn8:", "paper/fcn16s", "camvid_cpu", "Did you mean 'paper/fcn8s'?"],
        ),
        ("decodr=unpool", ["decodr", "Did you mean 'decoder'?"]),
        ("optimizer.lrr=1", ["optimizer.lrr", "Did you mean 'optimizer.lr'?"]),
        ("data.batchsize=1", ["Did you mean 'data.batch_size'?"]),
    ],
)
def test_names_that_are_not_there_are_explained_with_the_nearest(override, says):
    with pytest.raises(HydraException) as error:
        configure(override)
    message = explain(error.value)
    assert [word for word in says if word not in message] == []
    assert len(message.splitlines()) <= 4


def test_an_error_of_ours_keeps_its_traceback():
    assert explain(KeyError("x")) is None
    around = RuntimeError("around")
    around.__cause__ = UserError("fix it")
    assert explain(around) == "fix it"
    failed = InstantiationException("Error in call to target")
    assert explain(failed) is None
    failed.__cause__ = MisconfigurationException("no such accelerator")
    assert explain(failed) == "no such accelerator"


def test_refusals_reach_the_terminal_in_a_few_lines(tmp_path):
    done = commands.python(["-m", "segpipe.train", "optimizer.lr=abc"], cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "segpipe: optimizer.lr=abc: allowed is a number.\n"
    assert list(tmp_path.rglob("*.yaml")) == []


def identity_of(*overrides):
    return Plan.of(configure(*overrides)).identity


def test_identity_is_of_what_can_change_the_result():
    same = [
        [],
        ["trainer=cpu"],
        ["logger=none"],
        ["data.workers=2"],
        ["data.cache=off"],
        ["run_dir=x"],
        ["sweep.name=y"],
        ["task.compile=true"],
    ]
    assert len({identity_of(*overrides) for overrides in same}) == 1
    others = [["seed=1"], ["decoder=nearest"], ["optimizer.lr=1e-4"], ["data.batch_size=4"], ["data.dataset.seed=1"]]
    assert len({identity_of(*overrides) for overrides in [*others, []]}) == len(others) + 1


CALLBACKS = [  # each with whether it may change what is trained or tested
    ("support.own_parts.Says", "", False),
    ("pytorch_lightning.callbacks.LearningRateMonitor", "", False),
    ("pytorch_lightning.callbacks.DeviceStatsMonitor", "", False),
    ("pytorch_lightning.callbacks.Timer", "", False),
    ("segpipe.training.callbacks.LogPredictions", "", False),
    ("pytorch_lightning.callbacks.Timer", "duration: '00:00:10:00'", True),
    ("pytorch_lightning.callbacks.EarlyStopping", "monitor: val/loss", True),
    ("pytorch_lightning.callbacks.ModelCheckpoint", "monitor: val/loss", True),
    ("segpipe.training.ema.MovingAverage", "", True),
    ("support.own_parts.Unknown", "", True),
    ("support.own_parts.Logger", "", True),
]


@pytest.mark.parametrize(("target", "arguments", "changes"), CALLBACKS)
def test_a_callback_that_only_logs_changes_no_identity(target, arguments, changes):
    cfg = configure()
    OmegaConf.update(cfg, "callbacks.more", OmegaConf.create(f"{{_target_: {target}, {arguments}}}"), force_add=True)
    assert (Plan.of(cfg).identity != identity_of()) == changes


def test_the_checkpoint_that_is_tested_is_part_of_the_identity():
    other = ["callbacks.best.monitor=val/loss", "callbacks.best.mode=min"]
    assert len({identity_of(), identity_of(other[0]), identity_of(*other)}) == 3


@pytest.mark.parametrize(
    "override",
    [
        "+model.foo._target_=torch.nn.ReLU",
        "+model.refine.foo._target_=torch.nn.ReLU",
        "+decoder.foo._target_=torch.nn.ReLU",
        "+encoder.foo._target_=torch.nn.ReLU",
        "+data.foo._target_=torch.nn.ReLU",
        "+data.dataset.foo._target_=torch.nn.ReLU",
        "+augment.foo._target_=torch.nn.ReLU",
        "+optimizer.foo._target_=torch.nn.ReLU",
        "+task.foo._target_=torch.nn.ReLU",
        "+trainer.foo._target_=torch.nn.ReLU",
        "+sweep.foo._target_=torch.nn.ReLU",
        "+callbacks.best.foo._target_=torch.nn.ReLU",
        "+foo._target_=torch.nn.ReLU",
        "+foo.bar._target_=torch.nn.ReLU",
        "+model.foo={}",
        "+model.foo=[{_target_:torch.nn.ReLU}]",
        "+model.stages=[]",
        "optimizer.lr={_target_:torch.nn.ReLU}",
        "model.taps={_target_:torch.nn.ReLU}",
        "data.size={_target_:torch.nn.ReLU}",
        "+decoder.in_channels=3",
        "+model._args_=[1]",
        "+callbacks.foo={}",
        "+callbacks.foo._target_=pytorch_lightning.callbacks.EarlyStopping",
        "decoder._partial_=false",
    ],
)
def test_what_cannot_be_built_is_rejected_by_the_check(override):
    with pytest.raises(UserError, match=r"(takes no|nothing reads|allowed is|multiple values|missing|by name)"):
        Plan.of(configure("decoder=bilinear", override))


@pytest.mark.parametrize("key", ["resume", "warm_start", "encoder.weights", "sweep.cells", "budget"])
def test_an_empty_value_is_rejected(key):
    """A variable of the shell that is not set: resume=$RUN would train from scratch."""
    with pytest.raises(UserError, match=rf"{key}=.*(the value is empty|allowed is)"):
        Plan.of(configure(f"{key}="))


@pytest.mark.parametrize("letter", ["\u202e", "\x1b", "\x07"])
def test_characters_with_which_a_configuration_could_not_be_read_again_are_rejected(letter):
    cfg = configure("run_dir=run")
    cfg.run_dir = f"runs/a{letter}b"
    with pytest.raises(UserError, match=r"run_dir=runs/a.+b: the text has control characters"):
        Plan.of(cfg)


def test_bytes_that_are_no_utf_8_are_rejected():
    cfg = configure("data=folder")
    cfg.data.root = "photos\udcff"
    with pytest.raises(UserError, match="has bytes that are not UTF-8"):
        Plan.of(cfg)


@pytest.mark.parametrize(
    "override",
    [
        "debug=profile",
        "+callbacks.x._target_=pytorch_lightning.callbacks.LearningRateMonitor",
        "loss=cross_entropy_dice",
    ],
)
def test_what_is_taken_may_be_built(override):
    Plan.of(configure(override))


def test_notes_say_what_has_no_effect():
    assert any("no skip connection" in note for note in Plan.of(configure("model=fcn32s", "fusion=sum")).notes)
    notes = Plan.of(configure("model=unet", "decoder.smooth=conv3x3")).notes
    assert any("has no effect here" in note for note in notes)
    assert Plan.of(configure()).notes == []


def test_conf_travels_with_an_installed_package():
    assert schema.CONF.is_dir()
    assert (schema.CONF / "train.yaml").is_file()


def test_a_class_that_does_not_exist_is_one_line_and_hydra_prints_nothing(capfd):
    with pytest.raises(UserError, match="cannot be imported") as error:
        schema.locate("albumentations.NoSuchTransform")
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("given", ["resume=true", "resume=3", "trust=3", "stages=x", "run_dir=[a]"])
def test_keys_that_are_read_first_are_checked_first(given):
    with pytest.raises(UserError, match=f"{given.partition('=')[0]}=.*: allowed is"):
        schema.check_keys(configure(given), ("resume", "run_dir", "stages", "trust"))
