"""Encoders: stages that are frozen, rates, identity, normalisation, timm's."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from support.configs import TINY, configure
from support.grid import slow
from support.published import normalised, picture
from support.tiny_networks import OF_TIMM
from torch import nn

from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.config.schema import options
from segpipe.errors import UserError
from segpipe.models.encoders import IMAGENET_MEAN, IMAGENET_STD, AlexNet, PlainEncoder, ResNet
from segpipe.models.network import Network
from segpipe.models.upsample import Nearest
from segpipe.train import train
from segpipe.training import pretrained
from segpipe.training.task import parameter_groups


def test_frozen_stages_keep_weights_and_statistics(tmp_path):
    train(configure(*TINY, "encoder.freeze=2", f"run_dir={tmp_path / 'run'}"))
    after = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    before = build.network(configure(*TINY, "encoder.freeze=2"), 6).encoder.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[f"network.encoder.{name}"])}
    assert moved
    assert not [name for name in moved if name.split(".")[1] in ("1", "2")]
    assert any(name.split(".")[1] == "4" for name in moved)


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18"])
def test_freezing_counts_stages_from_the_finest(name):
    encoder = build.network(configure(f"encoder={name}", "encoder.freeze=1", "neck=none", "model=fcn16s"), 3).encoder
    encoder.train()
    frozen = [any(not p.requires_grad for p in stage.parameters()) for stage in encoder.stages]
    assert frozen == [True] + [False] * (len(encoder.stages) - 1)
    modes = [{m.training for m in stage.modules() if isinstance(m, nn.BatchNorm2d)} for stage in encoder.stages]
    assert modes == [{False}] + [{True}] * (len(encoder.stages) - 1)


def test_freezing_more_than_there_is_is_refused_and_freezing_chance_is_noted():
    with pytest.raises(UserError, match="allowed is 0 to 5, the number of stages of encoder=vgg16"):
        Plan.of(configure("encoder=vgg16", "encoder.freeze=6"))
    assert any("freezes random weights" in note for note in Plan.of(configure("encoder.freeze=1")).notes)


def test_the_encoder_may_have_a_rate_of_its_own():
    network = build.network(configure(), 3)
    groups = parameter_groups(nn.ModuleDict({"network": network}), encoder_lr=0.1)
    own = {id(p) for p in network.encoder.parameters()}
    for group in groups:
        assert {id(p) in own for p in group["params"]} == {group["factor"] == 0.1}
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_identity_is_of_the_weights_content_not_of_their_place(tmp_path):
    for name, value in (("a", 0.0), ("c", 1.0)):
        torch.save({"x": torch.full((3,), value)}, tmp_path / f"{name}.pth")
    shutil.copy(tmp_path / "a.pth", tmp_path / "b.pth")
    same, other = (tmp_path / "b.pth"), (tmp_path / "c.pth")
    identities = [
        Plan.of(configure("encoder=vgg11", f"encoder.weights={path}")).identity
        for path in (tmp_path / "a.pth", same, other)
    ]
    assert identities[0] == identities[1] != identities[2]


def test_alexnets_maps_are_centred_on_the_picture():
    """Cell i of its last map looks at the pixels around 31.5 + 32 i; so does what nearest makes of it."""
    encoder = AlexNet()
    maps = encoder(torch.zeros(1, 3, 224, 224))
    assert [x.shape[-1] for x in maps.values()] == [55, 27, 13, 6]
    up = Nearest(1, 1, factor=32, source_channels=3)
    found = up(torch.arange(6.0).view(1, 1, 1, 6).expand(1, 1, 6, 6), torch.zeros(1, 3, 224, 224))[0, 0, 100]
    assert [int(found[31 + 32 * i]) for i in range(6)] == list(range(6))
    assert [int((found == i).sum()) for i in (1, 2, 3, 4)] == [32] * 4


@pytest.mark.parametrize("name", [name for name in options("encoder") if name not in OF_TIMM])
def test_images_are_normalised_as_the_encoder_says(name):
    with torch.device("meta"):
        encoder = build.instantiate_group(configure(f"encoder={name}"), "encoder")
    none = nn.Identity()
    network = Network(encoder=encoder, neck=none, decoder=none, head=none, enlarge=none)
    torch.testing.assert_close(network.normalise(picture()), normalised(picture(), encoder.mean, encoder.std))
    if type(encoder) in (AlexNet, PlainEncoder, ResNet):  # torchvision's, and our own
        assert (encoder.mean, encoder.std) == (IMAGENET_MEAN, IMAGENET_STD)
        assert encoder.revision == (name == "alexnet")


@pytest.mark.parametrize(
    ("backbone", "revision"), [("resnet10t", 0), ("tf_mobilenetv3_small_minimal_100", 1), slow(("dpn68", 1))]
)
def test_timm_backbones_see_images_as_they_were_published_for(backbone, revision):
    timm = pytest.importorskip("timm", reason="timm is an extra")
    torch.manual_seed(3)
    published = timm.create_model(backbone, pretrained=False, features_only=True).eval()
    network = build.network(configure("encoder=timm", f"encoder.backbone={backbone}", "model=fcn32s"), 3).eval()
    network.encoder.body.load_state_dict(published.state_dict())
    assert network.encoder.revision == revision
    given = timm.data.resolve_model_data_config(published)
    mean, std = (torch.tensor(given[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = published((picture() / 255 - mean) / std)[-1]
        torch.testing.assert_close(network.encode(picture())[1][32], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("key", "values"), [("mean", (0.5,)), ("std", (0.5,)), ("std", (0.5, 0.0, 0.5)), ("mean", (0.5,) * 4)]
)
def test_timm_backbones_for_other_than_rgb_images_are_rejected(key, values, monkeypatch):
    timm = pytest.importorskip("timm", reason="timm is an extra")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: create(*a, **k, pretrained_cfg_overlay={key: values}))
    with (
        torch.device("meta"),
        pytest.raises(UserError, match=rf"gives \[0.5.* as the {key}.*Choose a backbone for RGB"),
    ):
        build.instantiate_group(configure("encoder=timm", "encoder.backbone=resnet10t"), "encoder")


def test_timm_backbones_carry_every_model(monkeypatch):
    timm = pytest.importorskip("timm", reason="timm is an extra")
    cfg = configure("encoder=timm", "encoder.backbone=resnet10t", "model=unet", "neck=none", "model.width=16")
    assert Plan.of(cfg).notes
    network = build.network(cfg, 3).eval()
    assert network(torch.zeros(1, 3, 70, 65)).shape == (1, 3, 70, 65)
    published = timm.create_model("resnet10t", pretrained=False)
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: published)
    cfg.encoder.weights = "DEFAULT"
    pretrained.load_encoder(network, cfg)
    assert torch.equal(network.encoder.body.conv1[0].weight, published.conv1[0].weight)
    monkeypatch.undo()
    unknown = configure("encoder=timm", "encoder.backbone=no_such_net")
    with pytest.raises(UserError, match="timm has no backbone of that name"):
        build.instantiate_group(unknown, "encoder")
    cfg.encoder.weights = "defualt"
    with pytest.raises(UserError, match="give DEFAULT or the path"):
        pretrained.load_encoder(network, cfg)
    for backbone in ("vit_tiny_patch16_224", "inception_v4"):  # of one size; with maps that shrink
        with torch.device("meta"), pytest.raises(UserError, match="Choose a backbone that accepts images of any size"):
            build.instantiate_group(configure("encoder=timm", f"encoder.backbone={backbone}"), "encoder")


def test_vgg_is_five_blocks_of_the_plain_encoder():
    """By hand, from torch's functions: what a block is."""
    encoder = build.instantiate_group(configure("encoder=vgg13"), "encoder").eval()
    assert isinstance(encoder, PlainEncoder)
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = x
        for conv in (encoder.blocks["1"][0][0], encoder.blocks["1"][1][0]):
            expected = F.relu(F.conv2d(expected, conv.weight, conv.bias, padding=1))
        torch.testing.assert_close(encoder(x)[1], expected)
