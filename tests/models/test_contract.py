"""Every encoder, neck, decoder, fusion and model together: sizes, gradients, memory layout."""

import pytest
import torch
import torch.nn.functional as F
from support.configs import configure
from support.grid import grid
from support.tiny_networks import OF_TIMM, OPERATORS, build_tiny, meta_encoder

from segpipe.config import build
from segpipe.config.schema import options
from segpipe.errors import UserError


def layouts():
    """An encoder of each class and set of maps that there are under conf: the others differ in widths and depths."""
    found = {}
    for name in sorted(set(options("encoder")) - {*OF_TIMM}, key=lambda name: (len(name), name)):  # resnet18 first
        encoder = meta_encoder(name)
        kind = (type(encoder), *encoder.strides, *encoder.pools, encoder.classifier_kernel)
        found.setdefault(kind, name)
    return sorted(found.values())


ENCODERS = layouts()


MODELS = options("model")


def refusal(model, *, encoder=None, decoder=None):
    """What a combination is refused with; None for one that works. encoder, decoder: None takes the model's own."""
    cfg = configure(f"model={model}")
    made = meta_encoder(encoder or cfg.encoder.name)
    if cfg.model.stride > made.strides[0] and cfg.model.stride not in made.strides:
        return "or another encoder"
    unpools = OPERATORS[decoder or cfg.decoder.name].needs_pooling
    pooled = made.strides[0] == 1 and all(made.pools.get(s, (0, 0))[:2] == (2, 2) for s in made.strides[1:])
    return "ake decoder=" if unpools and not pooled else None


@pytest.mark.parametrize(
    ("decoder", "fusion", "model"), grid(options("decoder"), options("fusion"), MODELS, pairs=True)
)
def test_every_cell_gives_logits_and_a_gradient_for_every_parameter(model, decoder, fusion):
    if (message := refusal(model, decoder=decoder)) is not None:
        with pytest.raises(UserError, match=message):
            build_tiny(model, decoder=decoder, fusion=fusion)
        return
    lacking = [unreached_parameters(build_tiny(model, decoder=decoder, fusion=fusion), seed) for seed in range(3)]
    assert set.intersection(*lacking) == set()


def unreached_parameters(network, seed):
    """The parameters that get no gradient in one step. With few channels, all units of a ReLU may be at rest."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (2, 3, 45, 61), dtype=torch.uint8, generator=generator)
    for parameter in network.parameters():  # what starts at zero would hide what hangs on it
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    logits = network(image)
    assert logits.shape == (2, 3, 45, 61)
    assert logits.isfinite().all()
    (logits * torch.randn(logits.shape, generator=generator)).sum().backward()
    lacking = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    return {name for name in lacking if not is_bias_before_norm(network, name)}


def is_bias_before_norm(network, name):
    """A bias that batch normalisation takes away again has a gradient of exactly zero, up to rounding."""
    parent, _, leaf = name.rpartition(".")
    block = network.get_submodule(parent.rpartition(".")[0])
    return leaf == "bias" and any(isinstance(layer, torch.nn.BatchNorm2d) for layer in block.children())


@pytest.mark.parametrize(("encoder", "neck", "model"), grid(ENCODERS, options("neck"), MODELS, pairs=True))
def test_every_encoder_and_neck_carries_every_model(encoder, neck, model):
    if (message := refusal(model, encoder=encoder)) is not None:
        with pytest.raises(UserError, match=message):
            build_tiny(model, encoder=encoder, neck=neck)
        return
    logits = build_tiny(model, encoder=encoder, neck=neck).eval()(torch.zeros(1, 3, 33, 40))
    assert logits.shape == (1, 3, 33, 40)


@pytest.mark.parametrize(("decoder", "model"), grid(options("decoder"), MODELS))
def test_channels_last_changes_nothing(decoder, model):
    if refusal(model, decoder=decoder) is not None:
        pytest.skip(f"the encoder of model={model} does not go with decoder={decoder}: see the test above")
    network = build_tiny(model, decoder=decoder).eval()
    image = torch.rand(2, 3, 45, 61, generator=torch.Generator().manual_seed(1)) * 255
    expected = network(image)
    network = network.to(memory_format=torch.channels_last)
    found = network(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert found.is_contiguous()
    for size in ((45, 61), (32, 64)):  # with and without padding
        assert network(torch.zeros(1, 3, *size).to(memory_format=torch.channels_last)).is_contiguous()


@pytest.mark.parametrize("encoder", options("encoder"))
def test_encoder_contract(encoder):
    meta = meta_encoder(encoder)
    cfg = configure(f"encoder={encoder}")
    if "widths" in cfg.encoder:
        cfg.encoder.widths = [8] * len(cfg.encoder.widths)
    if encoder == "vit":
        cfg.encoder.backbone = "test_vit"
    module = build.instantiate_group(cfg, "encoder").eval()
    assert (module.strides, module.pools, module.revision) == (meta.strides, meta.pools, meta.revision)
    features = module(torch.rand(2, 3, 96, 64))
    assert list(features) == module.strides == sorted(module.channels)
    for stride, x in features.items():
        assert x.shape[:2] == (2, module.channels[stride])
        if encoder != "alexnet":  # which does not pad everywhere
            assert x.shape[2:] == (96 // stride, 64 // stride)
    for stride, pool in module.pools.items():
        if stride == module.coarsest and not module.depths[stride]:  # it is only pooled
            pooled = F.max_pool2d(features[stride // 2], *pool)
            assert torch.equal(pooled, features[stride])
    smallest = module(torch.rand(1, 3, *[-(-module.min_size // module.coarsest) * module.coarsest] * 2))
    assert smallest[module.coarsest].numel() > 0
    assert sorted(module.depths) == module.strides
    module.train()
    module.freeze(len(module.stages))
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(layer.training for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d))
