"""What to give instead of a key that the chosen configuration does not have."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from segpipe.config.messages import explain
from segpipe.config.schema import CONF


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["logger=none", "logger.project=x"], "there is no such key with logger=none. Give logger=wandb."),
        (["decoder=bilinear", "decoder.kernel=4"], "no such key with decoder=bilinear. Give decoder=carafe or"),
        (["optimizer.lrr=1"], "Did you mean 'optimizer.lr'?"),
        (["sed=1"], "Did you mean 'seed'?"),
    ],
)
def test_a_hint_never_repeats_what_was_given(overrides, says):
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(HydraException) as error:
        compose("train", overrides)
    message = explain(error.value)
    assert says in message
    assert not any(f"mean '{override.partition('=')[0]}'" in message for override in overrides)
