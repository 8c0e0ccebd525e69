import itertools
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import configure
from omegaconf import OmegaConf
from support.grid import grid

from segpipe.config import build
from segpipe.config.choices import files
from segpipe.config.plan import Plan
from segpipe.config.schema import CONF, options
from segpipe.errors import UserError
from segpipe.models.necks import Bottleneck, FullyConvolutional
from segpipe.models.upsample import Upsampler


def meta_encoder(name):
    """An encoder without memory for its weights; the test is skipped where its library is not installed."""
    if name == "timm":
        pytest.importorskip("timm", reason="timm is an extra")
    return build.meta_encoder(configure(f"encoder={name}"))


def layouts():
    """An encoder of each class and set of maps that there are under conf: the others differ in widths and depths."""
    found = {}
    for name in sorted(set(options("encoder")) - {"timm"}, key=lambda name: (len(name), name)):  # resnet18 first
        encoder = meta_encoder(name)
        kind = (type(encoder), *encoder.strides, *encoder.pools, encoder.classifier_kernel)
        found.setdefault(kind, name)
    return sorted(found.values())


ENCODERS = layouts()
MODELS = options("model")
OPERATORS = {name: build.kind(node, Upsampler) for name, node in files("decoder").items()}


def build_tiny(model, *, seed=0, **choices):
    """A network of width 8. A group's file is laid over the model's choice, which is what the command line does."""
    cfg = configure(f"model={model}")
    for group in ("encoder", "neck", "decoder", "fusion"):
        if group in choices:
            cfg[group] = OmegaConf.load(CONF / group / f"{choices[group]}.yaml")
    if "widths" in cfg.encoder:
        cfg.encoder.widths = [8] * len(cfg.encoder.widths)
    if cfg.neck.name != "none":
        cfg.neck.width = 8
    cfg.seed = seed
    cfg.decoder.smooth = choices.get("smooth", cfg.decoder.smooth)
    cfg.model.enlarge = choices.get("enlarge", "same")
    Plan.of(cfg)
    return build.network(cfg, 3)


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
    ("cell", "model"), grid(list(itertools.product(options("decoder"), options("fusion"))), MODELS)
)
def test_every_cell_gives_logits_and_a_gradient_for_every_parameter(model, cell):
    decoder, fusion = cell
    if (message := refusal(model, decoder=decoder)) is not None:
        with pytest.raises(UserError, match=message):
            build_tiny(model, decoder=decoder, fusion=fusion)
        return
    network = build_tiny(model, decoder=decoder, fusion=fusion)
    image = torch.randint(0, 256, (2, 3, 45, 61), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for parameter in network.parameters():  # what starts at zero would hide what hangs on it
        if parameter.requires_grad and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    logits = network(image)
    assert logits.shape == (2, 3, 45, 61)
    assert logits.isfinite().all()
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    (logits * weight).sum().backward()
    lacking = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert [name for name in lacking if not is_bias_before_norm(network, name)] == []


def is_bias_before_norm(network, name):
    """A bias that batch normalisation takes away again has a gradient of exactly zero, up to rounding."""
    parent, _, leaf = name.rpartition(".")
    block = network.get_submodule(parent.rpartition(".")[0])
    return leaf == "bias" and any(isinstance(layer, torch.nn.BatchNorm2d) for layer in block.children())


@pytest.mark.parametrize(("encoder", "neck", "model"), grid(ENCODERS, options("neck"), MODELS))
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


# where the cells of maps lie on the image


def places(cells, *, stride, side):
    """Where the centres of a map's cells lie on an image of ``side`` pixels: centred, ``stride`` apart."""
    return side / 2 + stride * (torch.arange(cells) - (cells - 1) / 2)


def ramps(cells, *, stride, size):
    """(2, 1, h, w): a map whose values are its cells' rows on the image, and one of their columns."""
    rows, columns = (places(n, stride=stride, side=side) for n, side in zip(cells, size, strict=True))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[:, None]


def offset(found, *, stride, size, margin):
    """By how many of its cells a map of ramps lies beside its place, on the mean, and at most for a cell; (2,) each."""
    apart = (found - ramps(found.shape[-2:], stride=stride, size=size))[..., margin:-margin, margin:-margin] / stride
    assert apart.numel() > 0
    return apart.mean((1, 2, 3)), apart.abs().amax((1, 2, 3))


def on_paper(name, size):
    """An encoder without memory, and the sizes of its maps."""
    encoder = meta_encoder(name).eval()
    with torch.device("meta"):
        return encoder, {stride: tuple(x.shape[-2:]) for stride, x in encoder(torch.zeros(1, 3, *size)).items()}


SIZES = [(224, 224), (256, 256), (96, 96), (96, 160)]


KEEPING_PLACE = [name for name in OPERATORS if not OPERATORS[name].needs_pooling]  # its switches say where values go


@pytest.mark.parametrize(("name", "decoder", "size"), grid(options("encoder"), KEEPING_PLACE, SIZES))
def test_what_comes_up_lies_on_the_skip(name, decoder, size):
    """Every step of 2, to the next finer map, and the enlargement of any map to the image, begin at offset 0."""
    encoder, cells = on_paper(name, size)
    factory = build.instantiate_group(configure(f"decoder={decoder}"), "decoder")
    ways = [
        *((coarse, fine) for fine, coarse in itertools.pairwise(encoder.strides)),
        *((s, 1) for s in cells if s > 1),
    ]
    for coarse, fine in ways:
        up = factory(1, 1, factor=coarse // fine, source_channels=1).eval()
        target = cells.get(fine, size)
        with torch.no_grad():
            found = up(ramps(cells[coarse], stride=coarse, size=size), torch.zeros(1, 1, *target))
        assert found.shape[-2:] == target
        mean, most = offset(found, stride=fine, size=size, margin=coarse // fine)
        assert mean.abs().max() < 1e-3, (coarse, fine, mean)
        if OPERATORS[decoder].initial == "bilinear":
            assert most.max() < 1e-3, (coarse, fine, most)


@pytest.mark.parametrize(("name", "size"), grid(options("encoder"), SIZES))
def test_pooled_maps_lie_where_their_windows_do(name, size):
    """Without padding, that is: a padded pooling of odd width (ResNet's) looks half a cell to the upper left."""
    encoder, cells = on_paper(name, size)
    for stride, pool in encoder.pools.items():
        if not pool.padding:
            fine = ramps(cells[stride // 2], stride=stride // 2, size=size)
            middle = (F.max_pool2d(fine, *pool) - F.max_pool2d(-fine, *pool)) / 2
            assert middle.shape[-2:] == cells[stride]
            torch.testing.assert_close(middle, ramps(cells[stride], stride=stride, size=size))


@pytest.mark.parametrize("kernel", [3, 4, 6, 7])
@pytest.mark.parametrize("name", ["fc", "bottleneck"])
def test_a_necks_map_stays_in_its_place(name, kernel):
    """Its kernels as means over their windows: a ramp has to stay the ramp."""
    encoder = SimpleNamespace(channels={32: 1}, coarsest=32, classifier_kernel=kernel)
    factory = {"fc": FullyConvolutional, "bottleneck": partial(Bottleneck, norm=False)}[name]
    neck = factory(encoder, width=1).eval()
    for parameter in neck.parameters():
        torch.nn.init.constant_(parameter, 1 / parameter[0].numel() if parameter.ndim > 1 else 0)
    size = (32 * 20, 32 * 25)
    with torch.no_grad():
        found = neck(ramps((20, 25), stride=32, size=size))
    mean, most = offset(found, stride=32, size=size, margin=kernel)
    assert most.max() < 1e-3, mean
    assert getattr(neck, "revision", 0) == (name == "fc" and kernel % 2 == 0)


def test_a_neck_with_an_even_kernel_carries_every_decoder():
    for decoder in options("decoder"):
        cfg = configure("neck.width=8", "neck.kernel=4", f"decoder={decoder}", "model=fcn8s")
        assert build.network(cfg, 3).eval()(torch.zeros(1, 3, 64, 96)).shape == (1, 3, 64, 96)


def count(choices, *, classes, only_weights=False):
    with torch.device("meta"):
        network = build.network(configure(*choices), classes)
    kept = [p for name, p in network.named_parameters() if not only_weights or (p.ndim > 1)]
    return sum(p.numel() for p in kept)


@pytest.mark.parametrize(
    ("choices", "classes", "only_weights", "expected"),
    [
        (["model=segnet_basic"], 11, False, 1_416_587),
        (["model=fcn_basic"], 11, True, 645_312),
        (["model=segnet_basic", "+model.refine.depthwise=true"], 11, True, 624_768),
        (
            [
                "model=unet",
                "encoder.norm=false",
                "neck.norm=false",
                "model.refine.norm=false",
                "+encoder.in_channels=1",
            ],
            2,
            False,
            31_030_658,
        ),
    ],
)
def test_published_parameter_counts(choices, classes, only_weights, expected):
    assert count(choices, classes=classes, only_weights=only_weights) == expected


def test_layers_of_one_name_and_shape_start_alike_whatever_stands_around_them():
    first = build_tiny("ladder", decoder="bilinear", fusion="none").state_dict()
    second = build_tiny("ladder", decoder="deconv", fusion="none").state_dict()
    shared = [name for name in first if name in second and first[name].shape == second[name].shape]
    assert [name for name in shared if not torch.equal(first[name], second[name])] == []
    assert any("refine" in name for name in shared)
    other = build_tiny("ladder", decoder="bilinear", fusion="none", seed=1).state_dict()
    assert not torch.equal(first["encoder.blocks.1.0.0.weight"], other["encoder.blocks.1.0.0.weight"])
    assert not torch.equal(first["decoder.steps.16.refine.0.0.weight"], other["decoder.steps.16.refine.0.0.weight"])


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_tiny("unet")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_a_finer_fcn_starts_as_the_coarser_one(fusion):
    """Zero-started laterals: exactly so for nearest (Long et al. 2015, section 4.2)."""
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    coarse = build_tiny("fcn32s", decoder="nearest").eval()
    fine = build_tiny("fcn8s", decoder="nearest", fusion=fusion).eval()
    torch.testing.assert_close(fine(image), coarse(image))


@pytest.mark.parametrize("decoder", options("decoder"))
def test_concat_starts_as_sum(decoder):
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    outputs = [build_tiny("fcn8s", decoder=decoder, fusion=f).eval()(image) for f in ("sum", "concat")]
    torch.testing.assert_close(*outputs)


def test_fcn_takes_pooled_maps_and_unet_the_last_before_pooling():
    fcn, unet = build_tiny("fcn8s"), build_tiny("unet")
    assert {stride: step.tap.source for stride, step in fcn.decoder.steps.items()} == {"16": 8, "8": 4}
    assert {stride: step.tap.source for stride, step in unet.decoder.steps.items()} == {"8": 8, "4": 4, "2": 2, "1": 1}


def test_narrowing_is_in_the_refinement_or_in_the_upsampling():
    narrow = ["encoder.widths=[8,16,32,64,64]", "encoder=small"]
    segnet = build.network(configure("model=segnet_basic", *narrow), 3)
    unet = build.network(configure("model=unet", *narrow, "neck=none"), 3)
    assert [step.refine[-1][0].out_channels for step in segnet.decoder.steps.values()] == [64, 32, 16, 8, 8]
    assert [step.upsample.out_channels for step in unet.decoder.steps.values()] == [64, 64, 32, 16, 8]


@pytest.mark.parametrize("decoder", options("decoder"))
def test_smooth_is_one_slot_for_every_upsampler_where_nothing_else_convolves(decoder):
    smoothed = build_tiny("fcn8s", decoder=decoder, smooth="conv3x3")
    bare = build_tiny("fcn8s", decoder=decoder, smooth=None)
    convolved = build_tiny("ladder", decoder=decoder, smooth="conv3x3")
    kinds = [{type(step.smooth).__name__ for step in n.decoder.steps.values()} for n in (smoothed, bare, convolved)]
    assert kinds == [{"SmoothConv"}, {"Identity"}, {"Identity"}]


def test_enlarge_is_one_jump_or_unpooling_step_by_step_or_bilinear():
    assert build_tiny("fcn8s").enlarge.upsample.kernel_size == (16, 16)
    assert list(build_tiny("fcn8s", decoder="unpool").enlarge.steps) == ["4", "2", "1"]
    fixed = build_tiny("fcn8s", decoder="unpool", enlarge="bilinear").enlarge
    assert not list(fixed.parameters())


def test_too_small_a_picture_is_refused_with_the_size_needed():
    with pytest.raises(UserError, match=r"20 x 40.*32 x 32 and more"):
        build_tiny("fcn8s")(torch.zeros(1, 3, 20, 40))


def test_deterministic_algorithms_give_the_same_unpooling():
    network = build_tiny("fcn8s", decoder="unpool").eval()
    image = torch.rand(1, 3, 45, 61, generator=torch.Generator().manual_seed(1)) * 255
    expected = network(image)
    torch.use_deterministic_algorithms(True)
    try:
        found = network(image)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(found, expected)
