"""Fusions: each equals its formula, has the published number of weights, and works with any width, size and format."""

import copy
import shutil

import pytest
import torch
import torch.nn.functional as F
from support.configs import configure
from support.grid import grid
from support.tiny_networks import build_tiny
from torch import nn

from segpipe.config import build
from segpipe.config.choices import files
from segpipe.config.schema import EXTRA_KEYS, literals, options
from segpipe.errors import UserError
from segpipe.models.attention import ATTENTIONS, ScSE
from segpipe.models.cost import count, multiply_adds
from segpipe.models.fusion import Fusion, NoFusion
from segpipe.models.init import init_weights

NAMES = options("fusion")
JOINING = [name for name in NAMES if build.kind(files("fusion")[name], Fusion).uses_skip]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fusion(name, skip_channels, width, *overrides):
    """As a network of seed 0 starts it."""
    module = build.instantiate_group(configure(f"fusion={name}", *overrides), "fusion")(skip_channels, width)
    init_weights(module, seed=0, prefix="decoder")
    return module


def trained(module):
    """No parameter is zero, or it would hide what hangs on it."""
    for number, parameter in enumerate(module.parameters()):
        nn.init.normal_(parameter, mean=0.1, std=0.3, generator=torch.Generator().manual_seed(number))
    return module


# ---- formulas, written a second time from the papers
def conv(module, name, x):
    state = module.state_dict()
    return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def attention_gate(f, x, y, skip):
    q = F.relu(conv(f, "theta", skip) + conv(f, "phi", x))
    alpha = torch.sigmoid(conv(f, "psi", q))
    return torch.cat([x, conv(f, "lateral", alpha * skip)], 1)


def aff(f, x, y, skip):
    z = x + y
    hidden = conv(f, "local.0", z)
    mean, variance = hidden.mean((1, 2, 3), keepdim=True), hidden.var((1, 2, 3), keepdim=True, unbiased=False)
    scale, shift = (f.local[1].state_dict()[key].view(1, -1, 1, 1) for key in ("weight", "bias"))
    local = conv(f, "local.3", F.relu((hidden - mean) / (variance + 1e-5).sqrt() * scale + shift))
    context = conv(f, "context.2", F.relu(conv(f, "context.0", F.adaptive_avg_pool2d(z, 1))))
    m = torch.sigmoid(local + context)
    return f.total * (m * x + (1 - m) * y)


def gated_sum(f, x, y, skip):
    gamma = torch.sigmoid(conv(f, "gate", x))
    return f.total * (gamma * y + (1 - gamma) * x)


def normalised_sum(f, x, y, skip):
    first, second = f.weights.clamp(min=0)
    return f.total * (first * x + second * y) / (1e-4 + first + second)


FORMULAS = {
    "sum": lambda f, x, y, skip: x + y,
    "concat": lambda f, x, y, skip: torch.cat([x, y], 1),
    "max": lambda f, x, y, skip: torch.where(x > y, x, y),
    "product": lambda f, x, y, skip: x + x * y,
    "attention_gate": attention_gate,
    "aff": aff,
    "gated_sum": gated_sum,
    "normalised_sum": normalised_sum,
}


def entry(table, name):
    """What is written here of a fusion. Of one that somebody adds, only its author can write it."""
    if name not in table:
        pytest.skip(f"no formula or number of fusion={name} stands here: add an entry")
    return table[name]


def test_the_tables_are_of_fusions_that_there_are():
    assert set(FORMULAS) <= set(JOINING)
    assert set(PUBLISHED) == set(PRODUCTS) == {"none", *FORMULAS} <= set(NAMES)


WITH_TOTAL = [(name, ["fusion.total=1"]) for name in JOINING if "total" in files("fusion")[name]]


@pytest.mark.parametrize(("name", "overrides"), [*((name, []) for name in JOINING), *WITH_TOTAL])
def test_a_fusion_equals_its_formula(name, overrides):
    formula = entry(FORMULAS, name)
    f = trained(fusion(name, 5, 8, *overrides)).double()
    x, skip = random(2, 8, 6, 7).double(), random(2, 5, 6, 7, seed=1).double()
    torch.testing.assert_close(f(x, skip), formula(f, x, conv(f, "lateral", skip), skip))


@pytest.mark.parametrize("weights", [(1.0, 3.0), (2.0, -1.0), (0.5, 0.0)])
def test_the_weights_of_the_normalised_sum_are_shares(weights):
    f = fusion("normalised_sum", 3, 3, "fusion.total=1")
    f.weights.data = torch.tensor(weights)
    first, second = (max(weight, 0) for weight in weights)
    x, skip = random(1, 3, 2, 2), random(1, 3, 2, 2, seed=1)
    torch.testing.assert_close(f(x, skip), (first * x + second * skip) / (first + second), atol=1e-3, rtol=1e-3)


# ---- how they start
@pytest.mark.parametrize("name", grid(NAMES, quick=["max", "aff"]))
def test_a_fusion_starts_as_the_coarser_network_where_it_says_so(name):
    """Zero-started laterals: exactly so for nearest (Long et al. 2015, section 4.2)."""
    image = random(1, 3, 64, 64).abs() * 80
    coarse = build_tiny("fcn32s", decoder="nearest").eval()(image)
    fine = build_tiny("fcn8s", decoder="nearest", fusion=name).eval()(image)
    said = build.kind(files("fusion")[name], Fusion).starts_as_coarser
    assert said == torch.allclose(fine, coarse, rtol=2e-4, atol=1e-6)


def test_only_the_maximum_does_not_start_as_the_coarser_network():
    without = {name for name in PUBLISHED if not build.kind(files("fusion")[name], Fusion).starts_as_coarser}
    assert without == {"max"}


@pytest.mark.parametrize("channels", [2, 21, 64])
def test_attention_starts_as_the_identity(channels):
    x, module = random(2, channels, 5, 4), ScSE(channels)
    assert torch.equal(module(x), x)
    trained(module)
    means = x.mean((2, 3), keepdim=True)
    channel = conv(module, "channel", F.relu(conv(module, "squeeze", means))).sigmoid()
    expected = x * channel + x * conv(module, "spatial", x).sigmoid()
    torch.testing.assert_close(module(x), expected)


# ---- parameters and costs
def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


PUBLISHED = {  # beside the lateral, at C = 256
    "none": 0,
    "sum": 0,
    "concat": 0,
    "max": 0,
    "product": 0,
    "attention_gate": (256 + 256 + 1) * 128 + 128 + 1,
    "aff": 256**2 + 3 * 256,  # the authors' code has C^2 + 7.5 C: a norm behind every convolution
    "gated_sum": 256 + 1,
    "normalised_sum": 2,
}


@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts_are_the_published_ones(name):
    with torch.device("meta"):
        same, other = fusion(name, 256, 256), fusion(name, 128, 256)
    lateral = 128 * 256 + 256 if same.uses_skip else 0
    gate = 128 * 128 if name == "attention_gate" else 0  # its theta reads the skip as it is
    published = entry(PUBLISHED, name)
    assert (parameters(same), parameters(other)) == (published, published + lateral - gate)


def test_the_attention_has_as_many_parameters_as_published():
    assert parameters(ScSE(512)) == (512 * 32 + 32) + (32 * 512 + 512) + (512 + 1)


PRODUCTS = {  # multiply-adds for each pixel at C = C_s = 16
    "none": 0,
    "sum": 0,
    "concat": 0,
    "max": 0,
    "product": 16,
    "attention_gate": 2 * 16 * 8 + 8 + 16,
    "aff": 2 * 16 * 4 + 2 * 16,  # and the 1x1 map: 2 * 16 * 4
    "gated_sum": 16 + 2 * 16,
    "normalised_sum": 2 * 16,
}


@pytest.mark.parametrize("name", NAMES)
def test_multiply_adds_are_those_of_convolutions_and_products(name):
    x = torch.zeros(1, 16, 6, 5, device="meta")
    with torch.device("meta"):
        module = fusion(name, 16, 16)
    once = 2 * 16 * 4 if name == "aff" else 0
    assert count(lambda: module(x, x)) == 30 * entry(PRODUCTS, name) + once


def test_the_products_of_an_attention_are_counted():
    x = torch.zeros(1, 16, 6, 5, device="meta")
    with torch.device("meta"):
        module = ScSE(16)
    assert count(lambda: module(x)) == 2 * 16 * 4 + 30 * (16 + 16)


# ---- any width, size, format
@pytest.mark.parametrize("width", [1, 2, 11, 21])
@pytest.mark.parametrize("name", NAMES)
def test_any_width_gives_a_finite_map_and_a_gradient_for_every_parameter(name, width):
    module = fusion(name, 5, width).train()
    assert module(random(1, width, 1, 1), random(1, 5, 1, 1)).isfinite().all()  # one image, one pixel
    trained(module)
    x, skip = random(2, width, 5, 7).requires_grad_(), random(2, 5, 5, 7, seed=1).requires_grad_()
    found = module(x, skip)
    assert found.shape == (2, module.out_channels, 5, 7)
    (found * random(*found.shape, seed=2)).sum().backward()
    for tensor in (*module.parameters(), x, *([skip] if module.uses_skip else [])):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0


@pytest.mark.parametrize("width", [11, 16])
@pytest.mark.parametrize("name", NAMES)
def test_format_precision_and_determinism(name, width):
    module = trained(fusion(name, 5, width))
    x, skip = random(2, width, 9, 7), random(2, 5, 9, 7, seed=1)
    expected = module(x, skip)
    formats = [tensor.to(memory_format=torch.channels_last) for tensor in (x, skip)]
    torch.testing.assert_close(copy.deepcopy(module).to(memory_format=torch.channels_last)(*formats), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for given in ((x, skip), (x.bfloat16(), skip), (x, skip.bfloat16()), (x.bfloat16(), skip.bfloat16())):
            torch.testing.assert_close(module(*given).float(), expected, atol=0.1, rtol=0.1)
    torch.use_deterministic_algorithms(True)
    try:
        gradients = []
        for _ in range(2):
            module.zero_grad()
            module(x.requires_grad_(), skip).square().sum().backward()
            gradients.append([parameter.grad.clone() for parameter in module.parameters()])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", JOINING)
@pytest.mark.parametrize("attention", [None, "scse"])
def test_images_do_not_depend_on_one_another(name, attention):
    """No norm over the batch: a batch of one, and any number of devices, give the same."""
    module = trained(fusion(name, 5, 8)).train()
    after = trained(ScSE(module.out_channels)) if attention else nn.Identity()
    x, skip = random(3, 8, 4, 5), random(3, 5, 4, 5, seed=1)
    alone = torch.cat([after(module(x[i : i + 1], skip[i : i + 1])) for i in range(3)])
    torch.testing.assert_close(after(module(x, skip)), alone)


def network_of(name, attention, *, decoder="bilinear"):
    cfg = configure(
        "model=ladder",
        f"fusion={name}",
        f"fusion.attention={attention or 'null'}",
        f"decoder={decoder}",
        "encoder.widths=[8,8,8,8,8]",
        "model.width=4",
        "fusion.drop=0.2",
    )
    return build.network(cfg, 3).eval()


@pytest.mark.parametrize(("name", "attention"), grid(JOINING, [None, "scse"], quick=[("aff", "scse")]))
def test_a_network_is_exported(name, attention):
    network, image = network_of(name, attention), random(1, 3, 64, 64).abs() * 80
    exported = torch.export.export(network, (image,)).module()
    torch.testing.assert_close(exported(image), network(image), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is no g++ here")
@pytest.mark.parametrize("name", JOINING)
def test_a_network_is_compiled_and_trains(name):
    plain, image = network_of(name, "scse").train(), random(2, 3, 64, 64).abs() * 80
    compiled = copy.deepcopy(plain)
    compiled.compile()
    for network in (plain, compiled):
        for step in network.decoder.steps.values():
            step.tap.kept = torch.tensor([True, False])
        network(image).square().mean().backward()
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-3, rtol=1e-3)


# ---- attention behind a fusion
def test_the_configuration_offers_the_attentions_that_there_are():
    assert literals(EXTRA_KEYS["fusion.attention"]) == list(ATTENTIONS)


@pytest.mark.parametrize("name", grid(NAMES, quick=["none", "aff"]))
def test_attention_stands_behind_every_skip_and_nowhere_else(name):
    overrides = [f"fusion={name}", "fusion.at=[16]", "fusion.attention=scse"]
    network = build.network(configure(*overrides, "neck.width=8", "encoder.widths=[8,8,8,8,8]"), 3)
    kinds = {stride: type(step.attention) for stride, step in network.decoder.steps.items()}
    assert kinds == {"16": ScSE if name in JOINING else nn.Identity, "8": nn.Identity}
    plain = build.network(configure(f"fusion={name}", "neck.width=8", "encoder.widths=[8,8,8,8,8]"), 3)
    image = random(1, 3, 64, 64).abs() * 80
    if build.kind(files("fusion")[name], Fusion).starts_as_coarser:  # then the network begins as without attention
        torch.testing.assert_close(network.eval()(image), plain.eval()(image), rtol=2e-4, atol=1e-5)
    with torch.device("meta"):
        costs = [
            multiply_adds(build.network(configure(*overrides[:2], *more), 3), (64, 64))
            for more in ([], ["fusion.attention=scse"])
        ]
    assert (costs[0] < costs[1]) == (name in JOINING)


# ---- which steps have a skip
def test_the_chosen_steps_have_skips_and_the_others_none():
    network = build.network(configure("fusion.at=[16]", "neck.width=8", "encoder.widths=[8,8,8,8,8]"), 3)
    assert [type(step.fuse).__name__ for step in network.decoder.steps.values()] == ["Sum", "NoFusion"]
    assert not list(network.decoder.steps["8"].fuse.parameters())
    everywhere = build.network(configure("fusion.at=[8,16]", "neck.width=8", "encoder.widths=[8,8,8,8,8]"), 3)
    default = build.network(configure("neck.width=8", "encoder.widths=[8,8,8,8,8]"), 3)
    assert everywhere.state_dict().keys() == default.state_dict().keys()
    none = build.network(configure("fusion.at=[]", "neck.width=8", "encoder.widths=[8,8,8,8,8]"), 3)
    assert {type(step.fuse) for step in none.decoder.steps.values()} == {NoFusion}


@pytest.mark.parametrize("total", ["0", "-1", "inf", "nan"])
@pytest.mark.parametrize("name", ["aff", "gated_sum", "normalised_sum"])
def test_a_total_that_is_no_positive_number_is_rejected(name, total):
    with pytest.raises(UserError, match=r"total=.*allowed is a number above 0"):
        build.check_parts(configure(f"fusion={name}", f"fusion.total={total}"))
