"""Where operators act: in the decoder's steps, and up to full size; and what a residual adds."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from support.configs import configure
from support.grid import grid
from support.maps import random
from support.tiny_networks import OPERATORS, build_tiny, meta_encoder

from segpipe.config import build
from segpipe.config.choices import files
from segpipe.config.plan import Plan
from segpipe.config.schema import options
from segpipe.errors import UserError
from segpipe.models.init import init_weights
from segpipe.models.network import StepwiseUpsample, acts_in_steps, reads_finer_maps
from segpipe.models.upsample import Deconv, Nearest, with_residual
from segpipe.models.upsample.additive import channel_means

GUIDED = [name for name in OPERATORS if reads_finer_maps(OPERATORS[name])]
UNGUIDED = [name for name in OPERATORS if acts_in_steps(OPERATORS[name]) and name not in GUIDED]
OTHERS = [name for name in OPERATORS if not acts_in_steps(OPERATORS[name])]


def test_operators_are_of_these_kinds():
    assert {"fade", "sapa", "local_attention", "flow"} <= set(GUIDED)
    assert {"dysample", "carafe"} <= set(UNGUIDED)
    assert {"nearest", "bilinear", "deconv", "unpool", "pixelshuffle", "additive", "eucb"} <= set(OTHERS)


# ---- the final upsampling


def plan(name, *overrides, enlarge="auto", without=(), **decoder):
    """Of a configuration with an operator and with values of its node; composed once for all operators."""
    cfg = configure(*overrides)
    OmegaConf.set_struct(cfg, False)
    cfg.decoder = files("decoder")[name].copy()
    cfg.model.enlarge = enlarge
    cfg.decoder.update(decoder)
    for key in without:
        cfg.decoder.pop(key, None)
    return Plan.of(cfg)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_auto_is_bilinear_for_operators_that_act_in_steps(name):
    expected = "same" if name in OTHERS else "bilinear"
    found = plan(name, "model=fcn8s")
    assert found.cfg.model.enlarge == expected
    assert found.identity == plan(name, "model=fcn8s", enlarge=expected).identity
    assert plan(name, "model=ladder", "model.stride=1").cfg.model.enlarge == "same"  # nothing is left to enlarge


@pytest.mark.parametrize("name", [*GUIDED, *UNGUIDED])
def test_at_full_size_the_final_upsampling_is_no_part_of_the_identity(name):
    cells = [plan(name, "model=ladder", "model.stride=1", enlarge=value) for value in ("auto", "same", "bilinear")]
    assert len({cell.identity for cell in cells}) == 1


@pytest.mark.parametrize("name", GUIDED)
def test_a_guide_in_the_final_upsampling_is_rejected(name):
    with pytest.raises(
        UserError, match=rf"model\.enlarge=same: decoder={name} is guided .* model\.stride=8: take model\.enlarge=bil"
    ):
        plan(name, "model=fcn8s", enlarge="same")


@pytest.mark.parametrize("name", [*GUIDED, *UNGUIDED])
def test_without_steps_it_is_the_bilinear_network(name):
    found = plan(name, "model=fcn32s")
    assert found.identity == plan("bilinear", "model=fcn32s").identity
    assert any(f"decoder={name} acts in the steps of the decoder" in note for note in found.notes)


ENCODERS = ["small", "alexnet", "resnet18", "timm"]
CELLS = [
    (name, encoder, value)
    for name, encoder, value in itertools.product(options("decoder"), ENCODERS, ["auto", "same"])
    if not (name in GUIDED and value == "same") and not (OPERATORS[name].needs_pooling and encoder != "small")
]
QUICK = [cell for cell in CELLS if (cell[1], cell[2]) in (("resnet18", "same"), ("small", "auto"))]


@pytest.mark.parametrize("cell", grid(CELLS, quick=QUICK), ids="-".join)
def test_raw_logits_have_the_size_of_the_padded_image(cell):
    """The fault was: behind resnet18 an operator of steps of 2 stopped at the encoder's finest map, at half size."""
    decoder, encoder, value = cell
    backbone = ["encoder.backbone=convnext_atto"] if encoder == "timm" else []  # its finest stride is 4
    meta_encoder(encoder)  # skips where timm is missing
    cfg = plan(decoder, "model=ladder", f"encoder={encoder}", *backbone, enlarge=value).cfg
    with torch.device("meta"):
        network = build.network_factory(cfg, build.meta_encoder(cfg), 2)().eval()
        x, features = network.encode(torch.zeros(2, 3, 70, 90))
        assert network.decode(x, features).shape == (2, 2, *features[1].shape[-2:])
        assert features[1].shape[-1] == 96


def test_steps_go_past_the_finest_map_of_the_encoder():
    """There the image is the source: reduced by averaging, or as it is."""
    cfg = configure("model=ladder", "encoder=resnet18", "decoder=carafe", "model.enlarge=same")
    network = build.network(Plan.of(cfg).cfg, 2)
    assert isinstance(network.enlarge, StepwiseUpsample)
    assert list(network.enlarge.steps) == ["4", "2", "1"]
    seen = []
    for step in network.enlarge.steps.values():
        step.upsample.register_forward_hook(lambda module, given, result: seen.append(given[1].shape))
    network.eval()(torch.zeros(1, 3, 64, 96))
    assert [tuple(shape) for shape in seen] == [(1, 64, 16, 24), (1, 64, 32, 48), (1, 3, 64, 96)]


@pytest.mark.parametrize("factor", [4, 8])
def test_dysample_enlarges_in_one_jump(factor):
    network = build_tiny("fcn8s" if factor == 8 else "fcn4s", decoder="dysample", enlarge="same")
    assert network.enlarge.upsample.factor == factor


# ---- any size, any number of channels, any type, any start


def operator(name, before, after, source, **arguments):
    node = files("decoder")[name]
    factory = build.instantiate_group(configure(f"decoder={name}"), "decoder")
    given = {key: value for key, value in arguments.items() if key in node}
    up = factory(before, after, factor=2, source_channels=source, **given)
    init_weights(up, seed=0, prefix="up")
    return up


VARIANTS = [
    *((name, {}) for name in sorted(OPERATORS)),
    *((name, {"guide": "raw"}) for name in GUIDED),
    ("sapa", {"kind": "inner"}),
    ("sapa", {"kind": "gated"}),
    ("dysample", {"plus": True}),
    ("local_attention", {"neighbours": 25}),
    ("carafe", {"kernel": 3}),
    ("resize_conv", {"separable": True}),
    ("deconv", {"depthwise": True}),
    ("deconv", {"kernel": 3}),
]
EACH = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda part: str(part).strip("{}").replace("'", ""))
STARTS_OF_EACH = pytest.mark.parametrize("init", ["interpolation", "published"])


def test_options_of_variants_are_those_of_the_files():
    assert [name for name, given in VARIANTS if not given.keys() <= files("decoder")[name].keys()] == []


@EACH
@STARTS_OF_EACH
def test_an_operator_takes_any_size_and_any_number_of_classes(name, options, init):
    for (before, after, source), size in zip(
        [(2, 2, 3), (11, 11, 64), (21, 21, 8), (7, 2, 5)], [(6, 8), (5, 7), (7, 9), (6, 7)], strict=True
    ):
        up = operator(name, before, after, source, init=init, **options)
        x, fine = random(2, before, 3, 4).float().requires_grad_(), random(2, source, *size, seed=1).float()
        y = up(x, fine)
        assert y.shape == (2, after, *size)
        assert y.isfinite().all()
        y.square().sum().backward()
        assert x.grad.isfinite().all()
        assert x.grad.abs().max() > 0


@EACH
@STARTS_OF_EACH
def test_an_operator_takes_one_image_of_one_cell_and_one_channel(name, options, init):
    """The fault was: SAPA's group normalisation raised torch's error for a group of a single value."""
    up = operator(name, 1, 1, 1, init=init, **options)
    for module in (up, up.eval()):
        y = module(torch.ones(1, 1, 1, 1, requires_grad=True), torch.ones(1, 1, 2, 2))
        assert y.shape == (1, 1, 2, 2)
        assert y.isfinite().all()
        y.sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in up.parameters() if parameter.grad is not None)


@EACH
@STARTS_OF_EACH
def test_memory_format_autocast_and_deterministic_algorithms(name, options, init):
    up = operator(name, 11, 11, 8, init=init, **options)
    x, fine = random(2, 11, 6, 8).float(), random(2, 8, 13, 15, seed=1).float()
    up(x, fine)  # in training mode, as what follows
    expected = up(x, fine)
    last = up(*(each.to(memory_format=torch.channels_last) for each in (x, fine)))
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4)
    torch.use_deterministic_algorithms(True)
    try:
        given = x.clone().requires_grad_()
        found = up(given, fine)
        found.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        given = x.clone().requires_grad_()
        found = up(given, fine)
        found.float().sum().backward()
    assert (found.float() - expected).abs().max() < 0.1 * expected.abs().max() + 0.02
    assert given.grad.isfinite().all()


@pytest.mark.slow
@EACH
@STARTS_OF_EACH
def test_an_operator_is_compiled(name, options, init):
    up = operator(name, 11, 11, 8, init=init, **options).eval()
    size = (12, 16) if init == "interpolation" else (13, 15)
    x, fine = random(2, 11, 6, 8).float(), random(2, 8, *size, seed=1).float()
    torch._dynamo.reset()
    compiled = torch.compile(up, backend="aot_eager", fullgraph=True)
    given, again = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = compiled(given, fine), up(again, fine)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(given.grad, again.grad, rtol=1e-3, atol=1e-5)


# ---- starts


STARTS = [name for name, node in files("decoder").items() if "init" in node]


@pytest.mark.parametrize("name", STARTS)
def test_the_start_is_part_of_the_identity_where_it_is_the_published(name):
    cells = [plan(name, "model=ladder", **given) for given in ({}, {"without": ["init"]}, {"init": "published"})]
    assert cells[0].identity == cells[1].identity != cells[2].identity


@pytest.mark.parametrize("name", STARTS)
def test_the_published_start_is_another(name):
    one, other = (operator(name, 8, 8, 8, init=init) for init in ("interpolation", "published"))
    x, fine = random(1, 8, 5, 5).float(), random(1, 8, 10, 10, seed=1).float()
    assert not torch.allclose(one(x, fine), other(x, fine), atol=1e-4)
    assert [p.shape for p in one.parameters()] == [p.shape for p in other.parameters()]


@pytest.mark.parametrize("name", ["deconv", "pixelshuffle"])
def test_the_literatures_operators_are_torchs_layers(name):
    """ConvTranspose2d(3, stride 2, padding 1, output_padding 1), and a 3x3 convolution without ICNR: torch's starts."""
    up = operator(name, 8, 8, 8, init="published", kernel=3)
    x = random(2, 8, 3, 4).float()
    if name == "deconv":
        twin = torch.nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1)
        layer = up
        assert (up.padding, up.output_padding, up.kernel_size) == (twin.padding, twin.output_padding, (3, 3))
    else:
        twin = torch.nn.Conv2d(8, 32, 3, padding=1)
        layer = up.conv
    for one in (layer, twin):
        torch.manual_seed(1)
        one.reset_parameters()
    assert all(torch.equal(*pair) for pair in zip(layer.parameters(), twin.parameters(), strict=True))
    expected = twin(x) if name == "deconv" else F.pixel_shuffle(twin(x), 2)
    torch.testing.assert_close(up(x, torch.zeros(2, 8, 6, 8)), expected)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_kernel_of_three_keeps_the_size_and_interpolates(factor):
    up = Deconv(2, 2, factor=factor, source_channels=2, kernel=3)
    ones = up(torch.ones(1, 2, 6, 6), torch.zeros(1, 2, 6 * factor, 6 * factor))
    assert torch.nn.ConvTranspose2d.forward(up, torch.ones(1, 2, 6, 6)).shape == ones.shape  # nothing is cropped
    inside = ones[..., 2 * factor : -2 * factor, 2 * factor : -2 * factor]
    torch.testing.assert_close(inside, torch.ones_like(inside))


# ---- the residual


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_a_residual_is_added_to_any_operator_and_changes_no_start(name):
    factory = build.instantiate_group(configure(f"decoder={name}"), "decoder")
    x, fine = random(2, 8, 3, 4).float(), random(2, 6, 6, 8, seed=1).float()
    for after in (8, 4, 3, 12):
        plain = factory(8, after, factor=2, source_channels=6)
        summed = with_residual(factory.func)(8, after, factor=2, source_channels=6, **factory.keywords)
        for module in (plain, summed):
            init_weights(module, seed=0, prefix="up")
        assert list(plain.state_dict()) == list(summed.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), summed.parameters(), strict=True))
        means = channel_means(x, after)
        expected = plain(x, fine) + F.interpolate(means, scale_factor=2, mode="bilinear")
        torch.testing.assert_close(summed(x, fine), expected)
        explained = summed.explain(x, fine)
        assert (explained is None) == (not plain.content_aware)


def test_means_are_of_consecutive_channels():
    x = torch.arange(8.0).view(1, 8, 1, 1)
    assert channel_means(x, 4).flatten().tolist() == [0.5, 2.5, 4.5, 6.5]
    assert channel_means(x, 3).flatten().tolist() == [1.0, 3.5, 6.0]
    assert channel_means(x, 16).flatten().tolist() == [i // 2 for i in range(16)]
    assert channel_means(x, 8) is x


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_a_residual_is_part_of_the_identity_where_it_is_added(name):
    cells = [plan(name, "model=ladder", **given) for given in ({}, {"without": ["residual"]}, {"residual": True})]
    assert cells[0].identity == cells[1].identity != cells[2].identity


def test_steps_with_a_residual_are_not_one_repetition():
    cells = [plan("nearest", f"model=fcn{stride}s", "fusion=none", residual=True) for stride in (16, 8)]
    assert cells[0].identity != cells[1].identity
    made = build.operator(cells[0].cfg.decoder)
    assert issubclass(made, Nearest)
    assert (made.linear, made.initial) == (False, "other")


def test_a_network_with_residuals_is_built_from_the_configuration():
    cfg = configure("model=ladder", "decoder=deconv", "decoder.residual=true")
    network = build.network(Plan.of(cfg).cfg, 3)
    assert {type(step.upsample).__name__ for step in network.decoder.steps.values()} == {"DeconvWithResidual"}
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 64, 64)
