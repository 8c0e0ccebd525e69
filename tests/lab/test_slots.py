"""Maps of the decoder's slots by hooks: nothing is computed in another way, and nothing stays behind."""

import itertools

import pytest
import torch
from support.tiny_networks import build_tiny

from segpipe.config.choices import files
from segpipe.errors import UserError
from segpipe.lab.slots import places, recording, replaced_skip

MODELS = ["fcn32s", "fcn8s", "segnet", "deconvnet", "unet", "ladder"]
IMAGE = torch.arange(3 * 70 * 75).reshape(1, 3, 70, 75).float() % 251


def tiny(model, **choices):
    try:
        return build_tiny(model, encoder="small", **choices).eval()
    except UserError as refused:
        pytest.skip(str(refused))


@pytest.mark.parametrize("model", MODELS)
def test_the_maps_are_those_of_the_forward_pass(model):
    network = tiny(model)
    with torch.inference_mode():
        expected = network(IMAGE)
        with recording(network) as record:
            recorded = network(IMAGE)
        steps = record.steps()
        scores = network.head(steps[-1].refined) if steps[-1].place.section == "decoder" else steps[-1].refined
    assert torch.equal(recorded, expected)
    assert torch.equal(scores[..., :70, :75], expected)  # the last map is what becomes the logits
    strides = [step.place.stride for step in steps]
    assert strides == sorted(strides, reverse=True)
    assert strides[-1] == 1
    for before, step in itertools.pairwise(steps):
        if before.place.section == step.place.section:
            assert step.before is before.refined
        assert step.upsampled.shape[-2:] == step.source.shape[-2:]
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("decoder", sorted(files("decoder")))
def test_every_operator_is_seen_at_every_step(decoder):
    network = tiny("ladder", decoder=decoder, fusion="sum")
    with torch.inference_mode(), recording(network) as record:
        network(IMAGE)
    steps = record.steps()
    factor = 1
    for step in steps:
        factor *= step.place.factor
        assert step.place.upsample is not None
        assert step.refined.isfinite().all()
    assert factor == network.encoder.coarsest


@pytest.mark.parametrize("fusion", sorted(set(files("fusion")) - {"none"}))
def test_a_skip_can_be_replaced(fusion):
    network = tiny("unet", fusion=fusion)
    with torch.inference_mode():
        expected = network(IMAGE)
        with replaced_skip(network, 4, lambda skip: skip):
            assert torch.equal(network(IMAGE), expected)
        with replaced_skip(network, 4, torch.zeros_like), recording(network) as record:
            network(IMAGE)
        skips = {step.place.stride: step.skip for step in record.steps()}
        assert not skips[4].any()
        assert skips[2].any()
        assert torch.equal(network(IMAGE), expected)
    with pytest.raises(KeyError), replaced_skip(network, 64, torch.zeros_like):
        pass


def test_places_are_named():
    labels = [place.label for place in places(tiny("fcn8s"))]
    assert labels == ["stride 16", "stride 8", "stride 1 (final)"]
