"""Runs of the version before the modules became packages: read, resumed, and known by the same identity."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from support.configs import TINY, configure
from support.paths import ROOT, STORED

from segpipe.config import build, identity, stored
from segpipe.config.plan import Plan
from segpipe.config.schema import locate, options
from segpipe.engine.predictor import Predictor
from segpipe.runs.archive import as_folder
from segpipe.runs.renames import CLASSES, upgrade
from segpipe.runs.run import Run

DATA = STORED


OLD = DATA / "run_of_0_1"  # trained one epoch, with averaged weights, at commit 427a84a


SWEEPS = ROOT / "docs" / "sweeps"


WEIGHTS = json.loads((DATA / "first_weights.json").read_text())


TARGETS = json.loads((DATA / "targets_of_0_1.json").read_text())  # every class of ours that conf/ named at 427a84a


NO_NECK_WIDTH = ("ladder", "fcn_basic", "segnet", "segnet_basic", "unet", "deconvnet")


@pytest.mark.parametrize("target", TARGETS)
def test_a_class_of_the_first_version_is_found_and_known_by_its_first_path(target):
    locate(CLASSES.get(target, target))
    assert identity.class_key(target) == target


def test_no_class_of_the_first_version_lies_behind_a_new_one():
    assert set(CLASSES) <= set(TARGETS)


@pytest.mark.parametrize(
    ("path", "same"),
    [
        ("segpipe.models.encoders.plain.PlainEncoder", "segpipe.models.encoders.PlainEncoder"),
        ("torch.optim.adamw.AdamW", "torch.optim.AdamW"),
        ("pytorch_lightning.callbacks.early_stopping.EarlyStopping", "pytorch_lightning.callbacks.EarlyStopping"),
    ],
)
def test_a_class_has_one_identity_under_all_its_import_paths(path, same):
    assert identity.class_key(path) == identity.class_key(same) == same


def test_an_encoder_under_another_import_path_is_the_same_run():
    other = "encoder._target_=segpipe.models.encoders.plain.PlainEncoder"
    assert Plan.of(configure(other)).identity == Plan.of(configure()).identity


def test_upgrade_replaces_class_paths_in_lists_and_dicts_and_nothing_else():
    old, new = next(iter(CLASSES.items()), ("a.B", "a.B"))
    node = {"_target_": old, "name": old, "parts": [{"_target_": old}, 1, None], "sub": {"deep": {"_target_": old}}}
    assert upgrade(node) == {
        "_target_": new,
        "name": old,
        "parts": [{"_target_": new}, 1, None],
        "sub": {"deep": {"_target_": new}},
    }


def kept_runs():
    for sweep in ("sweep_shapes", "sweep_ladder"):  # the others need CamVid's files
        kept = sorted(path for path in as_folder(SWEEPS / f"{sweep}.zip").iterdir() if path.is_dir())
        for index, folder in enumerate(kept):
            yield pytest.param(folder, id=folder.name, marks=[pytest.mark.slow] if index % 25 else [])


@pytest.mark.parametrize("folder", kept_runs())
def test_the_stored_configuration_of_a_kept_run_gives_its_identity(folder):
    assert Plan.of_trained(stored.read(Run(folder))).identity == folder.name[-8:]


def test_an_old_run_predicts_as_it_did():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    logits = Predictor(OLD, device="cpu").logits(image).numpy()[:, ::8, ::8]
    np.testing.assert_allclose(logits, np.load(OLD / "expected.npz")["logits"], rtol=1e-4, atol=1e-5)


def test_an_old_run_is_resumed_to_the_weights_it_would_have_had(tmp_path):
    from segpipe.train import train

    run = tmp_path / "run"
    shutil.copytree(OLD, run)
    train(configure(f"resume={run}", "trainer.max_epochs=2"))
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["raw_state_dict"]
    expected = np.load(OLD / "expected.npz")
    for name in (name for name in expected if name != "logits"):
        np.testing.assert_allclose(weights[name.removeprefix("resumed.")], expected[name], rtol=1e-3, atol=1e-5)


def test_an_old_run_is_a_warm_start():
    from segpipe.training.pretrained import warm_start

    cfg = stored.read(Run(OLD))
    network = build.network(cfg, 6)
    warm_start(network, build.weights_file(str(OLD)))
    state = torch.load(OLD / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, state[f"network.{name}"]) for name, tensor in network.state_dict().items())


def test_an_old_run_is_recognised_by_the_command_that_made_it():
    tiny = [word for word in TINY if not word.startswith("neck")]
    small = ["encoder.widths=[4,4,4,4,8]", "data.dataset.train=8", "data.dataset.side=64", "data.crop=[64,64]"]
    cfg = configure(*tiny, *small, "callbacks=ema", "model=segnet", "fusion=none", "trainer.max_epochs=1")
    assert Plan.of(cfg).identity == Plan.of_trained(stored.read(Run(OLD))).identity == Run(OLD).record["identity"]


def first_weights(model, decoder, fusion):
    tiny = [word for word in TINY if not word.startswith("neck")]
    width = [] if model in NO_NECK_WIDTH else ["neck.width=8"]
    choice = [f"model={model}", f"decoder={decoder}", f"fusion={fusion}"]
    return configure(*tiny, *choice, "data.crop=[128,128]", "data.dataset.side=128", "run_dir=x", *width)


def grid():
    for index, (cell, digest) in enumerate(WEIGHTS["digests"].items()):
        yield pytest.param(*cell.split(), digest, id=cell, marks=[pytest.mark.slow] if index % 12 else [])


@pytest.mark.parametrize(("model", "decoder", "fusion", "digest"), grid())
def test_first_weights_are_those_of_the_first_version(model, decoder, fusion, digest):
    if torch.__version__.split("+")[0] != WEIGHTS["torch"]:
        pytest.skip(f"digests were recorded with torch {WEIGHTS['torch']}; its generators may differ in another")
    known = hashlib.blake2b(digest_size=6)
    for name, tensor in sorted(build.network(first_weights(model, decoder, fusion), 11).state_dict().items()):
        known.update(name.encode())
        known.update(tensor.contiguous().numpy().tobytes())
    assert known.hexdigest() == digest


def test_every_valid_combination_of_the_first_version_is_still_valid():
    models = {cell.split()[0] for cell in WEIGHTS["digests"]}
    assert models <= set(options("model"))
    for cell in list(WEIGHTS["digests"])[::20]:
        Plan.of(first_weights(*cell.split()))
