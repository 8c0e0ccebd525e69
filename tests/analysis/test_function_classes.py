"""The sentence on the functions that networks can represent: it follows from class attributes, not from names."""

import json

import pytest
import yaml
from support.fake_runs import write_sweep

from segpipe import report
from segpipe.analysis import verdict
from segpipe.analysis.collect import collect
from segpipe.analysis.network_results import grids, network_results
from segpipe.analysis.statistics import effects
from segpipe.config.schema import CONF, locate, options

LINEAR, UNPOOLING = {"linear": True}, {"needs_pooling": True}


CLASSES = {
    path: type(path.rpartition(".")[2], (), attributes)
    for path, attributes in {
        "my.Plus": {"uses_skip": True, "linear": True, "initial": "sum"},
        "my.Beside": {"uses_skip": True, "linear": True, "initial": "concat"},
        "my.Gate": {"uses_skip": True, "linear": False, "initial": "other"},
        "my.Nothing": {"uses_skip": False, "linear": True, "initial": "none"},
        "my.Repeat": LINEAR,
        "my.Switches": UNPOOLING,
        "my.Aware": {"linear": False, "guided": True},
        "my.OneByOne": {"convolves": False, "linear": True},
        "my.Blocks": {"convolves": True},
    }.items()
}


EXCEPTION = "Exceptions are unpooling, whose switches differ between channels, and depthwise operators."


NOT_FOR = "This does not hold for"


SAME = (
    "In this linear decoder, plus and beside can represent the same functions, and the convolution after beside is "
    "initialised as the sum: only the optimisation can make a difference."
)


def function_text(folder, decoders, fusions, *, refine="my.OneByOne", options=None, attention=None):
    """Return the sentence on functions for these classes by name. options: of decoders, by name.

    attention: of one fusion, by name.
    """
    write_sweep(folder, {(decoder, fusion, 8): 0.5 for decoder in decoders for fusion in fusions}, seeds=1)
    for path in folder.iterdir():
        config = yaml.safe_load((path / "config.yaml").read_text())
        decoder, fusion = config["decoder"]["name"], config["fusion"]["name"]
        config["decoder"] |= {"_target_": decoders[decoder], **(options or {}).get(decoder, {})}
        config["fusion"]["_target_"] = fusions[fusion]
        config["fusion"]["attention"] = (attention or {}).get(fusion)
        config["model"]["refine"] = {"_target_": refine}
        (path / "config.yaml").write_text(yaml.safe_dump(config))
    collection = collect(folder)
    found = network_results(collection, effects.analyse(collection, resamples=100))
    return verdict.function_sentence(grids(found)[0], CLASSES)


BOTH = {"beside": "my.Beside", "plus": "my.Plus"}


REPEAT = {"repeat": "my.Repeat"}


@pytest.mark.parametrize(
    ("decoders", "text"),
    [
        (REPEAT, SAME),
        (REPEAT | {"switches": "my.Switches"}, f"{SAME} {EXCEPTION}"),
        (REPEAT | {"aware": "my.Aware"}, f"{SAME} {NOT_FOR} aware, which is not known to be linear."),
        (
            REPEAT | {"aware": "my.Aware", "strange": "theirs.Strange", "switches": "my.Switches"},
            f"{SAME} {EXCEPTION} {NOT_FOR} aware and strange, which are not known to be linear.",
        ),
        ({"aware": "my.Aware"}, ""),
        ({"strange": "theirs.Strange", "bilinear": "theirs.Bilinear"}, ""),  # a known name says nothing
    ],
)  # fmt: skip
def test_functions_are_the_same_behind_linear_operators_alone(tmp_path, decoders, text):
    assert function_text(tmp_path / "runs", decoders, BOTH) == text


@pytest.mark.parametrize(
    ("fusions", "refine", "text"),
    [
        ({"plus": "my.Plus"}, "my.OneByOne", ""),
        ({"plus": "my.Plus", "nothing": "my.Nothing"}, "my.OneByOne", ""),
        ({"plus": "my.Plus", "gate": "my.Gate"}, "my.OneByOne", ""),
        ({"plus": "my.Plus", "gate": "my.Gate"}, "my.Blocks", ""),
        (BOTH | {"gate": "my.Gate"}, "my.OneByOne", SAME),
        (BOTH, "theirs.Refinement", ""),
        (
            BOTH,
            "my.Blocks",
            "A convolution with an activation follows each fusion, so beside can represent functions that plus cannot.",
        ),
    ],
)
def test_functions_depend_on_fusions_and_refinement(tmp_path, fusions, refine, text):
    assert function_text(tmp_path / "runs", REPEAT, fusions, refine=refine) == text


@pytest.mark.parametrize("option", ["depthwise", "residual"])
def test_an_operator_that_does_not_mix_channels_does_not_commute(tmp_path, option):
    decoders = REPEAT | {"deconv": "my.Repeat"}
    text = function_text(tmp_path / "runs", decoders, BOTH, options={"deconv": {option: True}})
    assert text == f"{SAME} {NOT_FOR} deconv, which is not known to be linear."


def test_a_fusion_with_attention_is_not_linear(tmp_path):
    none = function_text(tmp_path / "one", REPEAT, BOTH, attention={"plus": "scse", "beside": "scse"})
    some = function_text(tmp_path / "other", REPEAT, BOTH | {"third": "my.Plus"}, attention={"third": "scse"})
    assert (none, some) == ("", SAME)


def test_the_report_asks_the_classes_that_the_configuration_offers(tmp_path):
    found = report.offered_classes()
    for group in ("decoder", "fusion"):
        for name in options(group):
            path = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())["_target_"]
            assert found[path] is locate(path)
    assert all(path.startswith("segpipe.models.") for path in found)


def test_a_class_that_only_a_run_names_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = write_sweep(tmp_path / "runs", {("deconv", "sum", 8): 0.5, ("deconv", "concat", 8): 0.5}, seeds=1)
    for path in folder.iterdir():
        config = yaml.safe_load((path / "config.yaml").read_text())
        for node in (config["decoder"], config["fusion"], config["model"]["refine"]):
            node["_target_"] = "stranger.Class"
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        assert json.loads((path / "run.json").read_text())["status"] == "finished"
    report.report(folder, resamples=100)
