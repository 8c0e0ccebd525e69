"""Files of a user's own, which may leave a key or a group out."""

import re

import pytest
from omegaconf import OmegaConf
from support.configs import configure

from segpipe.config import build, choices
from segpipe.config.plan import Plan, make_cell, run_name
from segpipe.errors import UserError


def groups():
    """A file of each group, and a group in it where that holds one."""
    cfg = configure("model=ladder", "decoder=deconv")
    for group in choices.REQUIRED:
        for key in OmegaConf.select(cfg, group):
            yield group, str(key)
    yield from (("callbacks.best", key) for key in ("_target_", "monitor", "mode"))


def without(cfg, path):
    """A configuration that leaves a key out."""
    parent, _, key = path.rpartition(".")
    OmegaConf.set_struct(cfg, False)
    del (OmegaConf.select(cfg, parent) if parent else cfg)[key]
    return cfg


@pytest.mark.parametrize(("group", "key"), groups())
def test_what_a_file_leaves_out_has_a_default_or_is_asked_for(group, key):
    """Whatever key it is: the network is the same as with a default, or the error names what is missing."""
    cfg = without(configure("model=ladder", "decoder=deconv", "encoder.widths=[8,8,8,8,8]"), f"{group}.{key}")
    try:
        plan = Plan.of(cfg)
    except UserError as error:
        message = str(error)
    else:
        assert re.fullmatch("[0-9a-f]{8}", plan.identity)
        assert plan.name().endswith(plan.identity)
        build.task(cfg, build.data(cfg))
        return
    assert re.search(f"{re.escape(group)}.*{key}", message), message


@pytest.mark.parametrize("group", choices.REQUIRED)
def test_a_group_that_is_left_out_is_asked_for(group):
    with pytest.raises(UserError, match=rf"{group} is missing"):
        Plan.of(without(configure("model=ladder"), group))


@pytest.mark.parametrize("path", ["decoder.smooth", "encoder.weights", "encoder.freeze", "model.width", "data.crop"])
def test_what_is_left_out_means_what_null_means(path):
    cfg, null = (
        configure("model=fcn8s"),
        configure("model=fcn8s", f"{path}={0 if path == 'encoder.freeze' else 'null'}"),
    )
    if path == "model.width":
        cfg, null = configure("model=ladder"), configure("model=ladder")
    cfg = without(cfg, path)
    assert build.network(cfg, 3).state_dict().keys() == build.network(null, 3).state_dict().keys()
    if path in ("decoder.smooth", "model.width"):
        assert Plan.of(cfg).identity == Plan.of(null).identity


def test_a_configuration_without_names_gets_a_folder_all_the_same():
    cfg = without(configure(), "decoder.name")
    assert run_name(cfg) == "refused"
    assert make_cell(cfg, []).error.startswith("decoder.name is missing")


def test_an_argument_that_a_class_must_be_given_is_asked_for():
    cfg = configure()
    cfg.decoder = {"_target_": "support.own_parts.AnyArguments", "_partial_": True, "name": "x", "kernel": 3}
    with pytest.raises(UserError, match=r"decoder: support.own_parts.AnyArguments: missing a required .*'gamma'"):
        Plan.of(cfg)
    cfg.decoder = {"_target_": "support.own_parts.Smallest", "_partial_": True, "name": "x"}
    with pytest.raises(
        UserError, match=r"decoder: support.own_parts.Smallest: got an unexpected keyword argument 'factor'"
    ):
        Plan.of(cfg)
