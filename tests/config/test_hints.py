"""What to give instead of a key that the chosen configuration does not have."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from segpipe.config.hints import WORDS_OF_OTHERS, groups, leaves
from segpipe.config.messages import explain
from segpipe.config.schema import CONF


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["logger=none", "logger.project=x"], "there is no such key with logger=none. Give logger=wandb."),
        (["decoder=bilinear", "decoder.kernel=4"], "no such key with decoder=bilinear. Give decoder=carafe or"),
        (["optimizer.lrr=1"], "Did you mean 'optimizer.lr'?"),
        (["sed=1"], "Did you mean 'seed'?"),
        (["lr=1"], "Did you mean 'optimizer.lr'?"),
        (["learning_rate=1"], "Did you mean 'optimizer.lr'?"),
        (["batch_size=1"], "Did you mean 'data.batch_size'?"),
        (["epochs=1"], "Did you mean 'trainer.max_epochs'?"),
        (["dataset=voc"], "Did you mean 'data'?"),
        (["plugins=slurm"], "Did you mean 'hydra/launcher'?"),
        (["trainer.gpus=2"], "Did you mean 'trainer.devices'?"),
        (["trainer.lr=2"], "Did you mean 'optimizer.lr'?"),
        (["xyzzy=2"], "xyzzy: there is no such key."),
        (["hydra.launcher.n_jobs=2"], "Choose another one first, such as hydra/launcher=joblib"),
        (["+seed=1"], "Write seed=VALUE, without the +"),
        (["+decoder=deconv"], "Write decoder=NAME once, without a +"),
        (["foo=1"], "foo: there is no such key."),
        (["~foo"], "~foo: there is no such key."),
    ],
)
def test_a_hint_never_repeats_what_was_given(overrides, says):
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(HydraException) as error:
        compose("train", overrides)
    message = explain(error.value)
    assert says in message
    assert not any(f"mean '{override.partition('=')[0]}'" in message for override in overrides)


def test_each_word_of_other_programs_names_a_key_that_exists():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["data=folder", "encoder=resnet18"], return_hydra_config=True)
    known = {*leaves(cfg), *groups(), "hydra/launcher", "hydra/sweeper"}
    assert {*WORDS_OF_OTHERS.values()} <= known
    assert not {*WORDS_OF_OTHERS} & {*map(str, cfg)}
