"""Overrides that Hydra cannot read, or would misunderstand: one line with what to type, which Hydra can read."""

import re
import shlex

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from segpipe.config.messages import explain
from segpipe.config.overrides import parses, repetitions
from segpipe.config.schema import CONF, check
from segpipe.engine.command_line import arranged
from segpipe.errors import UserError


def refusal(*words):
    """What the command prints for words that are refused."""
    try:
        given = arranged(list(words))
        with initialize_config_dir(str(CONF), version_base="1.3"):
            check(compose("train", [word for word in given if word != "-m"]))
    except (UserError, HydraException) as error:
        return explain(error)
    pytest.fail("not refused")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data.root='photos"], """' is not closed. Write "data.root='photos'\""""),
        (['data.root="photos'], """" is not closed. Write 'data.root="photos"'"""),
        (["data.crop=[32,32"], "[ is not closed. Write 'data.crop=[32,32]'"),
        (["data.crop=[32,"], "A shell ends a word at a space"),
        (["data.crop=32,32]"], "] without [. Write 'data.crop=[32,32]'"),
        (["data.crop=[32,32]]"], "] without [. Write 'data.crop=[32,32]'"),
        (["optimizer={lr:0.1"], "{ is not closed. Write 'optimizer={lr:0.1}'"),
        (["seed=range(0,4"], "( is not closed. Write 'seed=range(0,4)'"),
        (["seed=${"], "{ is not closed"),
        (["data.crop=[32,,32]"], "a value beside a comma is missing. Write 'data.crop=[32,32]'"),
        (["data.crop=[32,32,]"], "Write 'data.crop=[32,32]'"),
        (["seed=0,1,"], "Write seed=0,1"),
        (["seed=,0,1"], "Write seed=0,1"),
        (["decoder=deconv,,unpool"], "Write decoder=deconv,unpool"),
        (["data.crop=[32x32]"], "Write 'data.crop=[32,32]'"),
        (["data.crop=32x32"], "Write 'data.crop=[32,32]'"),
        (["encoder.widths=(8,8)"], "Write 'encoder.widths=[8,8]'"),
        (["encoder.widths={8,8}"], "a list has square brackets: 'encoder.widths=[8,8]'"),
        (["decoder={deconv,unpool}"], "A sweep has no brackets: -m decoder=deconv,unpool".lower()),
        (["seed=1=2"], "two equals signs"),
        (["decoder=deconv=2"], "two equals signs. Write decoder=deconv"),
        (["seed==1"], "Write seed=1"),
        (["decoder", "=", "deconv"], "decoder = deconv: spaces around the equals sign. Write decoder=deconv"),
        (["decoder=", "deconv"], "Write decoder=deconv"),
        (["decoder", "=deconv"], "Write decoder=deconv"),
        (["decoder = deconv"], "Write decoder=deconv"),
        (["decoder =deconv"], "Write decoder=deconv"),
        ([" seed=1"], "Write seed=1"),
        (["lr", "0.1"], "Write optimizer.lr=0.1"),
        (["lr:0.1"], "Write optimizer.lr=0.1"),
        (["lr: 0.1"], "Write optimizer.lr=0.1"),
        (["lr:", "0.1"], "Write optimizer.lr=0.1"),
        (["-lr=0.1"], "write optimizer.lr=0.1"),
        (["—lr", "0.1"], "Settings are given as KEY=VALUE"),
        (["resize-conv"], "Write decoder=resize_conv"),
        (["data.root=my", "photos"], """write "data.root='my photos'\""""),
        (["data.root=my", "holiday", "photos", "seed=1"], """write "data.root='my holiday photos'\""""),
        (["stages=[model=fcn32s,model=fcn16s]"], """Write "stages=['model=fcn32s','model=fcn16s']\""""),
        (["stages=model=fcn32s"], """Write "stages=['model=fcn32s']\""""),
        (["optimizer.lr=inf"], "allowed is a finite number above 0"),
        (["optimizer.lr=1e400"], "allowed is a finite number above 0"),
        (["trainer.max_epochs=1e3"], "Write trainer.max_epochs=1000"),
        (["data.crop=[32,", "32]"], "write 'data.crop=[32,32]'"),
        (["seed=0,", "1"], "write seed=0,1"),
        (["seed:=1"], "the key is not a name. Write seed=1"),
        (["seed+=1"], "Write seed=1"),
        (["/decoder=deconv"], "Write decoder=deconv"),
        (["decoder.=deconv"], "Write decoder=deconv"),
        (["seed=\u20131"], "of a word processor. Write seed=-1"),
        (["\u201cseed=1\u201d"], "of a word processor. Write seed=1"),
        (["data.root=\u201cphotos\u201d"], """Write 'data.root="photos"'"""),
        (["seed="], "the value is empty, as of a variable of the shell"),
        (["decoder="], "the value is empty, as of a variable of the shell"),
        (["decoder=null"], "decoder=null: allowed is one of additive"),
        (["logger=false"], "Write logger=none"),
        (["decoder=3"], "decoder=3: allowed is one of additive"),
        (["decoder=[]"], "takes one choice, not a list"),
        (["decoder=[deconv,unpool]"], "or for a sweep over them: -m decoder=deconv,unpool"),
        (["seed=range(a)"], "An example: 'seed=range(0,5)'"),
        (["seed=choice()"], "empty choice is not legal. An example"),
        (["decoder=glob()"], "An example: 'decoder=glob(*)'"),
        (["seed=rang(4)"], "Did you mean 'range'?"),
        (["seed=0-4"], "-m 'seed=range(0,5)'"),
        (["seed=0:4"], "-m 'seed=range(0,5)'"),
        (["seed=0..4"], "-m 'seed=range(0,5)'"),
        (["resume=true"], """quote it twice: "resume='true'\""""),
        (["data=folder", "data.root=2026"], """quote it twice: "data.root='2026'\""""),
        (["seed=$SEED"], "The shell has not replaced $SEED"),
        (["optimizer.lr=0,1"], "for a decimal number, optimizer.lr=0.1"),
        (["~seed"], "the program reads it. Give another value: seed=VALUE"),
        (["~decoder"], "Choose another one: decoder=NAME"),
        (["~logger"], "Write logger=none"),
        (["~sweep.name"], "Give another value"),
        (["~data.batch_size"], "Give another value"),
        (["~encoder.weights"], "it is null, or this choice does not have it"),
        (["+seed=1"], "without the +"),
        (["-"], "given as KEY=VALUE"),
        (["Decoder=bilinear"], "Did you mean 'decoder'?"),
        (["DECODERS=bilinear"], "Did you mean 'decoder'?"),
        (["encoder.freez=1"], "Did you mean 'encoder.freeze'?"),
        (["optimizer.LR=1"], "Did you mean 'optimizer.lr'?"),
        (["data.batch-size=4"], "Did you mean 'data.batch_size'?"),
    ],
)
def test_a_refused_override_is_one_line_with_what_to_type(words, says):
    text = refusal(*words)
    assert says in text
    assert "\n" not in text
    if written := re.search(r"[Ww]rite ((?:'[^']*'|\"[^\"]*\"|[\w.]+=\S+))$", text):
        (word,) = shlex.split(written[1])
        assert parses(word)


@pytest.mark.parametrize(
    "words",
    [
        ["~optimizer.lr"],
        ["experiment=null"],
        ["callbacks=[default,ema]"],
        ["decoder=deconv", "seed=1", "decoder=unpool"],  # appended to an earlier command
        ["", "seed=1"],  # an empty variable of the shell
        ["data.root='a b'"],
        ["seed=1", "seed=1"],
    ],
)
def test_others_are_left_to_hydra(words):
    assert arranged(words) == [word for word in words if word]


def test_a_key_that_is_given_several_times_is_noted():
    (note,) = repetitions(["decoder=deconv", "seed=1", "-m", "seed=1", "+x=1", "+x=2", "decoder=unpool"])
    assert note == (
        "Note: decoder is given 2 times; the last value counts, decoder=unpool. For a sweep over all: "
        "-m decoder=deconv,unpool"
    )
