"""The command line of train: options and overrides in any order, and one sentence for what does not exist."""

import pytest
from support.commands import run

from segpipe.engine.command_line import arranged
from segpipe.errors import UserError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("seed=0 -m decoder=deconv", "-m seed=0 decoder=deconv"),
        ("seed=0 --config-dir mine decoder=deconv --multirun", "--config-dir mine --multirun seed=0 decoder=deconv"),
        ("a=1 -cd=mine b=2", "-cd=mine a=1 b=2"),
        ("--cfg job seed=0 --resolve", "--cfg job --resolve seed=0"),
        ("--info seed=0", "--info=all seed=0"),
        ("-i seed=0", "--info=all seed=0"),
        ("--info defaults seed=0", "--info defaults seed=0"),
        ("~optimizer.lr +x=1", "~optimizer.lr +x=1"),
        ("", ""),
    ],
)
def test_options_come_first(given, expected):
    assert arranged(given.split()) == expected.split()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("-x", "Settings are given as KEY=VALUE"),
        ("--decoder=deconv", "write decoder=deconv"),
        ("--decoder deconv", "write decoder=deconv"),
        ("--optimizer.lr 1e-3", "write optimizer.lr=1e-3"),
        ("--learning-rate=1e-3", "write optimizer.lr=1e-3"),
        ("--batch_size", "Settings are given as KEY=VALUE"),
        ("--epochs 3", "write trainer.max_epochs=3"),
        ("--resume seed=3", "write resume=VALUE"),
        ("--dryrun", "Did you mean '--dry-run'?"),
        ("--mulitrun", "Did you mean '--multirun'?"),
        ("--config", "ambiguous option: --config could match"),
        ("--cfg", "expected one argument"),
        ("--cfg=x", "invalid choice: 'x'"),
        ("--resolve", "only together with --cfg"),
        ("--experimental-rerun=x", "give resume=RUN"),
        ("=3", "the key is missing"),
        ("hydra.run.dir=", "the value is empty"),
    ],
)
def test_what_does_not_exist_is_one_sentence(given, says):
    with pytest.raises(UserError) as error:
        arranged(given.split())
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_prints_it_without_usage(tmp_path):
    said = run("segpipe.train", "seed=0", "--decoder=deconv", cwd=tmp_path, status=1)
    assert said == "segpipe: --decoder=deconv: there is no such option. Settings have no dashes: write decoder=deconv\n"
