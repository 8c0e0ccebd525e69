"""Plain vision transformers with a feature pyramid: sizes, tokens, patches, weights from files, what is rejected."""

import pytest
import torch
import torch.nn.functional as F
from support.configs import configure
from support.grid import grid, slow
from torch import nn

from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.config.schema import options
from segpipe.errors import UserError
from segpipe.models.encoders import FeaturePyramid
from segpipe.models.encoders.pyramid import ChannelNorm
from segpipe.training import pretrained

timm = pytest.importorskip("timm", reason="timm is an extra")
VIT = [
    "encoder=vit",
    "encoder.backbone=test_vit",
    "encoder.pyramid_width=8",
    "neck=none",
    "model=ladder",
    "model.stride=4",
]


def pyramid(backbone="test_vit", **options):
    torch.manual_seed(0)
    return FeaturePyramid(backbone=backbone, pyramid_width=8, **options).eval()


def image(height, width, channels=3, batch=1):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def patches(monkeypatch):
    """Let timm build the tiny transformer with patches of another size, and with registers."""

    def of(size, **changes):
        create = timm.create_model
        monkeypatch.setattr(
            timm, "create_model", lambda name, **given: create(name, **given, patch_size=size, img_size=160, **changes)
        )

    return of


@pytest.mark.parametrize(
    ("patch", "stride", "strides"),
    [
        (4, 4, [4, 8, 16, 32]),
        (8, 8, [4, 8, 16, 32]),
        (14, 16, [4, 8, 16, 32]),
        (16, 16, [4, 8, 16, 32]),
        (32, 32, [4, 8, 16, 32]),
        (40, 64, [4, 8, 16, 32, 64]),
    ],
)
def test_strides_are_exact_whatever_the_patch(patch, stride, strides, patches):
    patches(patch)
    encoder = pyramid()
    assert (encoder.patch, encoder.stride, encoder.strides) == (patch, stride, strides)
    assert encoder.min_size == encoder.coarsest
    for height, width in ((encoder.coarsest,) * 2, (3 * encoder.coarsest, 5 * encoder.coarsest)):
        assert encoder.extract(image(height, width))[stride].shape[2:] == (height // stride, width // stride)
        maps = encoder(image(height, width))
        assert {s: tuple(x.shape[1:]) for s, x in maps.items()} == {s: (8, height // s, width // s) for s in strides}


@pytest.mark.parametrize(("patch", "registers"), [(16, 0), (14, 0), (16, 4), (14, 4)])
def test_the_map_is_that_of_the_last_block_without_class_and_registers(patch, registers, patches):
    """Against timm's own forward_features, at the size for which the position embeddings were made."""
    patches(patch, **({"reg_tokens": registers, "no_embed_class": True} if registers else {}))
    encoder = pyramid()
    side = 160 // patch * patch  # 160 pixels, or 154 for patches of 14
    x = image(side // patch * 16, side // patch * 16)
    seen = x if patch == 16 else F.interpolate(x, (side, side), mode="bilinear", antialias=True)
    with torch.no_grad():
        tokens = encoder.body.forward_features(seen)[:, 1 + registers :]
        expected = tokens.transpose(1, 2).unflatten(2, (side // patch, side // patch))
        torch.testing.assert_close(encoder.extract(x)[16], expected)


def test_levels_are_those_of_the_paper():
    """Li et al. 2022, appendix A.2, by hand: x4 is two transposed convolutions, a norm and GELU between them."""
    encoder = pyramid()
    x = image(3, 5, channels=64)

    def norm(y, layer):
        mean, variance = y.mean(1, keepdim=True), y.var(1, keepdim=True, unbiased=False)
        return (y - mean) / (variance + 1e-6).sqrt() * layer.weight[:, None, None] + layer.bias[:, None, None]

    def ended(y, layers):
        y = norm(F.conv2d(y, layers[0].weight), layers[1])
        return norm(F.conv2d(y, layers[2].weight, padding=1), layers[3])

    for layer in encoder.levels.modules():
        if isinstance(layer, ChannelNorm):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -1, 1)
    up = {s: encoder.levels[str(s)] for s in (4, 8)}
    with torch.no_grad():
        maps = encoder.project({16: x})
        x4 = F.conv_transpose2d(x, up[4][0].weight, up[4][0].bias, stride=2)
        x4 = F.conv_transpose2d(F.gelu(norm(x4, up[4][1])), up[4][3].weight, up[4][3].bias, stride=2)
        x8 = F.conv_transpose2d(x, up[8][0].weight, up[8][0].bias, stride=2)
        expected = {
            4: ended(x4, up[4][4:]),
            8: ended(x8, up[8][1:]),
            16: ended(x, encoder.levels["16"]),
            32: ended(F.max_pool2d(x, 2), encoder.levels["32"][1:]),
        }
    assert maps.keys() == expected.keys()
    for stride, y in expected.items():
        torch.testing.assert_close(maps[stride], y, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model", grid(options("model"), quick=["fcn8s", "ladder", "segnet"]))
def test_every_model_runs_on_it_at_odd_sizes(model):
    cfg = configure(
        f"model={model}", "encoder=vit", "encoder.backbone=test_vit", "encoder.pyramid_width=8", "neck=none"
    )
    if cfg.decoder.name == "unpool":  # the encoder does not pool
        cfg.decoder = configure("decoder=bilinear").decoder
    network = build.network(Plan.of(cfg).cfg, 3).train()
    logits = network(torch.randint(0, 256, (2, 3, 45, 61), dtype=torch.uint8))
    assert logits.shape == (2, 3, 45, 61)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    (network(image(45, 61, batch=2)) * torch.randn(2, 3, 45, 61)).sum().backward()
    assert [name for name, p in network.encoder.body.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("model", ["ladder", "fcn32s"])
def test_a_frozen_backbone_has_no_gradient_and_the_pyramid_has(model):
    network = build.network(configure(*VIT, f"model={model}", "encoder.freeze=1"), 3).train()
    network(image(32, 32)).sum().backward()
    assert not any(p.requires_grad for p in network.encoder.body.parameters())
    assert not network.encoder.body.training
    assert all(p.requires_grad for p in network.encoder.levels.parameters())


def test_bands_other_than_three():
    assert pyramid(in_channels=5).extract(image(32, 32, channels=5))[16].shape == (1, 64, 2, 2)


PREFIXES = ["", "module.", "backbone.", "module.model.backbone."]


@pytest.mark.parametrize(
    ("prefix", "backbone"),
    grid(PREFIXES, ["test_vit", "test_vit4"], quick=[("", "test_vit"), (PREFIXES[-1], "test_vit4")]),
)
def test_weights_of_a_file_fill_the_backbone(backbone, prefix, tmp_path, capsys):
    torch.manual_seed(3)
    published = timm.create_model(backbone, pretrained=False, num_classes=10).eval()
    state = {f"{prefix}{name}": tensor for name, tensor in published.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    cfg = configure(*VIT, f"encoder.backbone={backbone}", f"encoder.weights={tmp_path / 'x.pth'}", "encoder.freeze=1")
    network = build.network(cfg, 3).eval()
    pretrained.load_encoder(network, cfg)
    said = capsys.readouterr().out
    number = len(network.encoder.body.state_dict())
    assert f"{number} of the encoder's {number} tensors" in said
    assert "not loaded" not in said
    x = image(160, 160)
    with torch.no_grad():
        expected = published.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[0]
        torch.testing.assert_close(network.encoder.extract(x)[16], expected)


def test_position_embeddings_of_another_image_size_are_interpolated(tmp_path, capsys):
    published = timm.create_model("test_vit", pretrained=False, img_size=64).state_dict()
    torch.save(published, tmp_path / "x.pth")
    cfg = configure(*VIT, f"encoder.weights={tmp_path / 'x.pth'}")
    network = build.network(cfg, 3)
    pretrained.load_encoder(network, cfg)
    assert "not loaded" not in capsys.readouterr().out
    found, given = network.encoder.body.pos_embed[:, 1:], published["pos_embed"][:, 1:]
    torch.testing.assert_close(found.mean(1), given.mean(1), atol=0.02, rtol=0)
    assert (found.shape[1], given.shape[1]) == (100, 16)


def test_weights_by_name_are_timms(monkeypatch):
    published = timm.create_model("test_vit", pretrained=False)
    cfg = configure(*VIT)
    network = build.network(cfg, 3)
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: published)
    cfg.encoder.weights = "DEFAULT"
    pretrained.load_encoder(network, cfg)
    assert torch.equal(network.encoder.body.blocks[0].attn.qkv.weight, published.blocks[0].attn.qkv.weight)
    cfg.encoder.weights = "defualt"
    with pytest.raises(UserError, match="for encoder=vit, give DEFAULT or the path of a state dict"):
        pretrained.load_encoder(network, cfg)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("other", r"of the \d+ tensors of encoder=vit have a name and shape .* belongs to another network"),
        ("cut", "the file is cut"),
        ("empty", "the file is empty"),
        ("missing", "there is no such file"),
        ("wider", r"0 of the|\d+ of the \d+ tensors .* belongs to another network"),
    ],
)
def test_wrong_files_are_rejected(content, says, tmp_path):
    path = tmp_path / "x.pth"
    if content == "other":
        torch.save(timm.create_model("test_convnext", pretrained=False).state_dict(), path)
    elif content == "wider":
        torch.save(timm.create_model("test_vit4", pretrained=False).state_dict(), path)
    elif content != "missing":
        torch.save(timm.create_model("test_vit", pretrained=False).state_dict(), path)
        path.write_bytes(path.read_bytes()[: -1000 if content == "cut" else 0])
    cfg = configure(*VIT, f"encoder.weights={path}")
    with pytest.raises(UserError, match=says):
        pretrained.load_encoder(build.network(cfg, 3), cfg)


@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        ("resnet18", "not a plain vision transformer .*Take encoder=timm"),
        ("swin_tiny_patch4_window7_224", "not a plain vision transformer .*Take encoder=timm"),
        ("test_vit_relpos", "not a plain vision transformer .*Take encoder=timm"),
    ],
)
def test_other_backbones_are_rejected(backbone, says):
    with torch.device("meta"), pytest.raises(UserError, match=says):
        build.instantiate_group(configure("encoder=vit", f"encoder.backbone={backbone}"), "encoder")


@pytest.mark.parametrize("encoder", ["vit", "timm"])
@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        ("no_such_net", "timm has no backbone of that name. List of names"),
        ("ViT-small-patch14-dinov22", "timm has no backbone of that name. Did you mean 'vit_small_patch14_dinov2'"),
        ("test_vit.nope", "Allowed is test_vit without a tag, or with one of these: r160_in1k"),
        ("facebook/dinov2-small", "a place, not a name of timm"),
        ("hf-hub:timm/test_vit", r"Give the name of the architecture \(encoder.backbone=test_vit\)"),
        ("local-dir:/tmp", "a place, not a name of timm"),
    ],
)
def test_names_that_timm_does_not_have_are_rejected(encoder, backbone, says):
    """Nothing is looked for on the Hub."""
    with torch.device("meta"), pytest.raises(UserError, match=says):
        build.instantiate_group(configure(f"encoder={encoder}", f"encoder.backbone='{backbone}'"), "encoder")


@pytest.mark.parametrize(
    "backbone",
    [
        "vit_small_patch14_reg4_dinov2",
        "vit_small_patch16_dinov3",
        slow("vit_small_patch14_dinov2", several=False),
        slow("deit3_small_patch16_224", several=False),
        slow("vit_base_patch16_siglip_256", several=False),
        slow("vit_small_patch8_224", several=False),
    ],
)
def test_published_transformers_are_accepted(backbone):
    """On the meta device, where ``try_out`` checks the size of the map."""
    with torch.device("meta"):
        encoder = build.instantiate_group(configure("encoder=vit", f"encoder.backbone={backbone}"), "encoder")
    assert encoder.strides == [4, 8, 16, 32]
    assert encoder.mean == tuple(encoder.body.pretrained_cfg["mean"])


def test_a_convnext_is_frozen_as_one_stage():
    cfg = configure("encoder=timm", "encoder.backbone=test_convnext", "encoder.freeze=1", "neck=none", "model=fcn8s")
    network = build.network(Plan.of(cfg).cfg, 3).train()
    network(image(64, 64)).sum().backward()
    assert not any(p.requires_grad for p in network.encoder.parameters())
    assert any(p.grad is not None for p in network.decoder.parameters())
