"""What networks are made of, and how they start."""

import pytest
import torch
from support.configs import configure
from support.grid import grid
from support.tiny_networks import build_tiny, count

from segpipe.config import build
from segpipe.config.schema import options
from segpipe.errors import UserError


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


@pytest.mark.parametrize("decoder", options("decoder"))
def test_concat_starts_as_sum(decoder):
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    outputs = [build_tiny("fcn8s", decoder=decoder, fusion=f).eval()(image) for f in ("sum", "concat")]
    torch.testing.assert_close(*outputs)


def test_fcn_takes_pooled_maps_and_unet_the_last_before_pooling():
    fcn, unet = build_tiny("fcn8s"), build_tiny("unet")
    assert {stride: step.tap.source for stride, step in fcn.decoder.steps.items()} == {"16": 8, "8": 4}
    assert {stride: step.tap.source for stride, step in unet.decoder.steps.items()} == {"8": 8, "4": 4, "2": 2, "1": 1}


@torch.no_grad()
@pytest.mark.parametrize(
    ("decoder", "fusion", "model"),
    grid(options("decoder"), options("fusion"), ["ladder", "fcn8s", "unet", "segnet"], pairs=True),
)
def test_the_strides_that_a_network_reads_are_those_whose_values_matter(model, decoder, fusion):
    network = build_tiny(model, decoder=decoder, fusion=fusion).eval()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    expected = network(image)
    changes = (lambda x: torch.full_like(x, torch.nan), lambda x: x.flip(-1))  # zero weights hide the second

    def changed(stride, change):
        network.extractor = lambda image, x: {
            s: change(one) if s == stride else one for s, one in network.encoder(x).items()
        }
        return network(image)

    matter = {
        stride
        for stride in network.encoder.strides
        if not all(torch.equal(changed(stride, change), expected) for change in changes)
    }
    assert matter == network.strides_read() & {*network.encoder.strides}


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
    with pytest.raises(UserError, match=r"20 x 40.*at least 32 x 32"):
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
