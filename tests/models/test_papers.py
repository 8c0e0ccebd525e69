"""The papers' networks: sizes as published, and forward passes written a second time."""

import pytest
import torch
import torch.nn.functional as F
from support.configs import configure
from support.tiny_networks import count

from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.config.schema import options
from segpipe.errors import UserError
from segpipe.models.encoders import IMAGENET_MEAN, IMAGENET_STD
from segpipe.models.network import LocalContrast

NARROW = ["encoder=vgg16", "encoder.widths=[4,6,8,10,12]", "neck.width=16"]


def fill(network, seed=1):
    """Random weights everywhere, also where a network starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / max(tensor[0].numel(), 1)) ** 0.5)
    return network.eval()


def test_fcn8s_is_the_papers():
    """Long et al. 2015, figure 3, in torch's functions, on our weights: pool3, pool4 and conv7 scored and summed."""
    network = fill(build.network(configure("model=fcn8s", *NARROW), 5))
    w = network.state_dict()

    def conv(x, name, **options):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **options)

    def up(x, name, factor):
        return F.conv_transpose2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=factor, padding=factor // 2)

    image = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(2)).float()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    x = (image / 255 - mean) / std
    pools = []
    for stride, depth in ((1, 2), (2, 2), (4, 3), (8, 3), (16, 3)):
        for number in range(depth):
            x = F.relu(conv(x, f"encoder.blocks.{stride}.{number}.0", padding=1))
        x = F.max_pool2d(x, 2, 2)
        pools.append(x)
    fc6 = F.relu(conv(pools[4], "neck.fc6", padding=3))
    fc7 = F.relu(conv(fc6, "neck.fc7"))
    score = conv(fc7, "decoder.project")
    score = up(score, "decoder.steps.16.upsample", 2) + conv(pools[3], "decoder.steps.16.fuse.lateral")
    score = up(score, "decoder.steps.8.upsample", 2) + conv(pools[2], "decoder.steps.8.fuse.lateral")
    expected = up(score, "enlarge.upsample", 8)
    found = network(image)
    assert found.shape == (2, 5, 64, 96)
    torch.testing.assert_close(found, expected)
    assert expected.std() > 1e-2


def test_deconvnet_is_the_papers_backwards():
    """Noh et al. 2015, figure 2: unpool with the switches, as many transposed convolutions, narrowing last."""
    cfg = configure("model=deconvnet", "encoder=vgg16", "encoder.widths=[4,6,8,10,12]", "neck.width=16")
    network = fill(build.network(cfg, 5))
    image = torch.randint(0, 256, (1, 3, 224, 224), generator=torch.Generator().manual_seed(2)).float()
    features = network.encoder(network.normalise(image))
    x = features[32]
    for name, layer in (("fc6", F.conv2d), ("fc7", F.conv2d), ("deconv", F.conv_transpose2d)):
        block = getattr(network.neck, name)
        x = layer(x, block[0].weight, block[0].bias)
        assert name == "deconv" or x.shape[-2:] == (1, 1)  # one vector
        x = F.relu(block[1](x))
    for stride, depth in ((16, 3), (8, 3), (4, 3), (2, 2), (1, 2)):
        _, switches = F.max_pool2d(features[stride], 2, return_indices=True)
        x = F.max_unpool2d(x, switches, 2)
        blocks = network.decoder.steps[str(stride)].refine
        assert len(blocks) == depth
        for block in blocks:
            x = F.relu(block[1](F.conv_transpose2d(x, block[0].weight, block[0].bias, padding=1)))
    expected = F.conv2d(x, network.head.weight, network.head.bias)
    torch.testing.assert_close(network(image), expected)


def test_a_small_picture_passes_deconvnets_bottleneck():
    network = fill(build.network(configure("model=deconvnet", *NARROW), 5))
    assert network(torch.zeros(1, 3, 40, 70)).shape == (1, 5, 40, 70)


@pytest.mark.parametrize(
    ("choices", "classes", "expected", "published"),
    [
        (["model=deconvnet"], 21, 251_805_653, 252e6),
        (["model=segnet"], 11, 29_480_779, 29.5e6),
        (["model=fcn8s", "encoder=vgg16", "neck.width=4096"], 21, 134_489_822, 134e6),
    ],
)
def test_sizes_of_the_large_networks(choices, classes, expected, published):
    assert count(choices, classes=classes) == expected
    assert expected == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(
    ("name", "published", "weights"),
    [
        ("segnet_basic_bilinear", 0.625, 624_768),
        ("segnet_basic", 1.425, 1_415_040),
        ("segnet_basic_encoder_addition", 1.425, 1_415_040),
        ("segnet_basic_single_channel_decoder", 0.625, 624_768),
        ("fcn_basic", 0.65, 645_312),
        ("fcn_basic_no_addition", 0.65, 643_200),
        ("fcn_basic_no_dim_reduction", 1.625, 1_660_800),
        ("fcn_basic_no_addition_no_dim_reduction", 1.625, 1_660_800),
    ],
)
def test_segnets_eight_decoders(name, published, weights):
    """Badrinarayanan et al. 2017, Table 1; where the geometry is not published, within 3 % of its size."""
    found = count([f"experiment=paper/{name}"], classes=11, only_weights=True)
    assert found == weights
    assert found / 1e6 == pytest.approx(published, rel=0.03)


def test_the_eight_decoders_differ_in_what_they_are_named_for():
    def network(name):
        with torch.device("meta"):
            return build.network(configure(f"experiment=paper/{name}"), 11)

    def slots(name):
        step = network(name).decoder.steps["4"]
        return type(step.upsample).__name__, type(step.fuse).__name__

    assert slots("segnet_basic") == ("Unpool", "NoFusion")
    assert slots("segnet_basic_encoder_addition") == ("Unpool", "Sum")
    assert slots("segnet_basic_bilinear") == ("Bilinear", "NoFusion")
    assert slots("fcn_basic") == ("Deconv", "Sum")
    assert slots("fcn_basic_no_addition") == ("Deconv", "NoFusion")
    assert network("fcn_basic_no_dim_reduction").decoder.out_channels == 64
    assert type(network("segnet_basic").normalise).__name__ == "LocalContrast"


@pytest.mark.parametrize("name", [name for name in options("experiment") if name.startswith("paper/")])
def test_every_paper_can_be_asked_for(name):
    cfg = configure(f"experiment={name}")
    Plan.of(cfg)
    with torch.device("meta"):
        network = build.network(cfg, 21)
        logits = network.eval()(torch.zeros(1, 3, 256, 320))
    assert logits.shape == (1, 21, 256, 320)


def test_published_recipes():
    fcn = configure("experiment=paper/fcn8s")
    assert (fcn.neck.width, fcn.optimizer.momentum, fcn.model.enlarge, fcn.data.batch_size) == (
        4096,
        0.99,
        "bilinear",
        1,
    )
    segnet = configure("experiment=paper/segnet_basic")
    assert (segnet.optimizer.lr, segnet.optimizer.weight_decay, segnet.data.batch_size) == (0.1, 5e-4, 12)
    assert segnet.loss.weight == "median_frequency"
    network = build.network(configure("experiment=paper/fcn8s", *NARROW), 5).eval()
    assert not network(torch.rand(1, 3, 64, 64) * 255).any()  # scores that start at zero
    assert not list(network.enlarge.parameters())  # the last way up is fixed


def test_skips_are_scaled_where_fcn8s_is_trained_at_once():
    plain = fill(build.network(configure("model=fcn8s", *NARROW), 5))
    scaled = build.network(configure("model=fcn8s", "model.skip_scales=[0.01,0.0001]", *NARROW), 5).eval()
    state = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    for stride, factor in ((16, 100), (8, 10_000)):  # a lateral so much larger takes the scale back
        state[f"decoder.steps.{stride}.fuse.lateral.weight"] *= factor
    scaled.load_state_dict(state)
    image = torch.rand(1, 3, 64, 64) * 255
    torch.testing.assert_close(scaled(image), plain(image), atol=1e-4, rtol=1e-4)


def test_a_list_of_another_length_is_said():
    with pytest.raises(
        UserError,
        match=r"model.skip_scales=\[0.5\] has 1 entries: give one for each of the 2 upsampling steps, to strides 16, 8",
    ):
        build.network(configure("model=fcn8s", "model.skip_scales=[0.5]"), 3)


def test_widths_may_be_given_for_each_step():
    network = build.network(configure("model=unet", "encoder=small", "model.width=[64,32,16,8,8]"), 3)
    assert [step.refine[-1][0].out_channels for step in network.decoder.steps.values()] == [64, 32, 16, 8, 8]


def test_local_contrast_is_jarretts():
    layer = LocalContrast()
    assert layer(torch.full((1, 3, 20, 20), 77.0)).abs().max() < 1e-3  # nothing to see
    image = torch.rand(2, 3, 24, 30, generator=torch.Generator().manual_seed(1)) * 255
    found = layer(image)
    torch.testing.assert_close(layer(image * 0.5), found, atol=1e-3, rtol=1e-3)  # contrast has no scale
    line = [2.718281828 ** (-(k**2) / (2 * 1.6**2)) for k in range(-4, 5)]

    def mean_around(x, i, j):
        total = sum(
            line[p] * line[q] * x[0, c, i + p - 4, j + q - 4] for c in range(3) for p in range(9) for q in range(9)
        )
        return total / (3 * sum(line) ** 2)

    one = torch.tensor(float(mean_around(image, 12, 15)))
    torch.testing.assert_close(layer.mean_around(image)[0, 0, 12, 15], one, atol=1e-2, rtol=1e-4)


def test_a_linear_decoder_of_sums_and_nearest_is_the_top_down_path_of_fpn():
    """Lin et al. 2017 (feature pyramid networks), section 3: laterals of 1x1, x2 by nearest, sums. docs/fusions.md."""
    options = ["neck=none", "model.width=16", "model.taps=conv", "decoder=nearest", "fusion=sum"]
    network = fill(build.network(configure("model=fcn4s", "encoder=resnet18", *options), 3))
    w = network.decoder.state_dict()
    maps = network.encoder(torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(2)))
    top = F.conv2d(maps[32], w["project.weight"], w["project.bias"])
    for stride in (16, 8, 4):
        lateral = f"steps.{stride}.fuse.lateral"
        up = F.interpolate(top, scale_factor=2, mode="nearest")
        top = up + F.conv2d(maps[stride], w[f"{lateral}.weight"], w[f"{lateral}.bias"])
    torch.testing.assert_close(network.decoder(maps[32], maps), top)
