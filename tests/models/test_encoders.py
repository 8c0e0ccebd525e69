"""Published encoders: their layers against torchvision's, their weights read, their stages frozen."""

import argparse
import urllib.error

import pytest
import torch
import torchvision
from support.configs import SHARED, configure
from support.grid import grid, slow
from support.published import normalised, picture
from torch import nn

from segpipe.config import build
from segpipe.errors import UserError
from segpipe.models.encoders import IMAGENET_MEAN, IMAGENET_STD
from segpipe.models.network import Normalise
from segpipe.training import pretrained, weights_file

VGG = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]


def features_of(name):
    """torchvision's convolutions, made without the classifier, which would be most of the time; ResNets whole."""
    torch.manual_seed(3)
    if name.startswith("vgg"):
        letter = {"11": "A", "13": "B", "16": "D", "19": "E"}[name.removesuffix("_bn")[3:]]
        return nn.ModuleDict(
            {"features": torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs[letter], name.endswith("_bn"))}
        )
    return torchvision.models.get_model(name, weights=None)


def randomise_norms(module):
    """Statistics of their own, so that a swapped pair would show."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
            nn.init.uniform_(layer.weight, 0.5, 2.0)


PUBLISHED = [*VGG, "alexnet", "resnet18", "resnet50"]


@pytest.mark.parametrize("name", grid(PUBLISHED, quick=["vgg11_bn", "vgg13", "alexnet", "resnet18"]))
def test_encoders_are_torchvisions_with_its_weights(name, capsys, tmp_path):
    published = features_of(name).eval()
    randomise_norms(published)
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    cfg = configure(f"encoder={name}", f"encoder.weights={tmp_path / 'weights.pth'}", "neck=none", "model=fcn32s")
    network = build.network(cfg, 3).eval()
    pretrained.load_encoder(network, cfg)
    x = normalised(picture())
    with torch.no_grad():
        maps = network.encoder(x)
        if name.startswith("resnet"):
            x = published.maxpool(published.relu(published.bn1(published.conv1(x))))
            expected = published.layer4(published.layer3(published.layer2(published.layer1(x))))
        else:
            expected = published["features"](x) if name != "alexnet" else published.features(x)
    torch.testing.assert_close(maps[32], expected)
    total = len([t for t in network.encoder.state_dict().values() if t.ndim])
    assert f"{total} of the encoder's {total} tensors" in capsys.readouterr().out


def unfilled(make):
    """A large module without the time to initialise it."""
    with torch.device("meta"):
        module = make()
    return module.to_empty(device="cpu").eval()


@pytest.mark.parametrize(("name", "places"), [slow(("vgg16", (0, 3, 6))), ("alexnet", (1, 4, 6))])
def test_the_neck_is_the_convolutionalised_classifier(name, places, monkeypatch):
    """Long et al. 2015, section 3.1: at 224 x 224 the one pixel that sees the whole map has the classifier's logits."""
    classifier = unfilled(lambda: torchvision.models.get_model(name, weights=None))
    torch.manual_seed(3)
    for parameter in classifier.parameters():
        bound = (6 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
        nn.init.uniform_(parameter, -bound, bound)
    published = classifier.state_dict()
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *args, **kwargs: published)
    cfg = configure("model=fcn32s", f"encoder={name}", "neck.width=4096", "encoder.weights=DEFAULT")
    network = unfilled(lambda: build.network(cfg, 1000))
    network.normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
    pretrained.load_encoder(network, cfg)
    last = classifier.classifier[places[2]]
    with torch.no_grad():
        network.decoder.project.weight.copy_(last.weight[:, :, None, None])
        network.decoder.project.bias.copy_(last.bias)
        image = picture(224)
        maps = network.encoder(network.normalise(image))
        scores = network.decoder(network.neck(maps[32]), maps)
        expected = classifier(normalised(image))[0]
    middle = network.encoder.classifier_kernel // 2
    torch.testing.assert_close(scores[0, :, middle, middle], expected, atol=1e-3, rtol=1e-3)
    assert expected.std() > 0.1  # there is something to compare


@pytest.fixture(scope="module")
def weights():
    folder = SHARED / "weights"
    if not folder.is_dir():
        pytest.skip("ImageNet's weights are not here: they are looked for in shared/weights beside the checkout")
    return folder


def test_vgg16s_features_in_half_precision_fill_the_encoder(weights, capsys):
    path = weights / "vgg16_imagenet_features.pth"
    cfg = configure("encoder=vgg16", f"encoder.weights={path}")
    network = build.network(cfg, 3)
    pretrained.load_encoder(network, cfg)
    published = torch.load(path, weights_only=True)
    last = network.encoder.blocks["16"][2][0].weight
    assert torch.equal(last, published["features.28.weight"].float())
    assert last.dtype == torch.float32
    assert "26 of the encoder's 26 tensors" in capsys.readouterr().out


def test_weights_of_another_network_are_refused(weights):
    cfg = configure("encoder=vgg16", f"encoder.weights={weights / 'squeezenet1_1_imagenet.pth'}")
    with pytest.raises(UserError, match=r"2 of the 26 tensors of encoder=vgg16 .* belongs to another network"):
        pretrained.load_encoder(build.network(cfg, 3), cfg)


def test_a_runs_checkpoint_is_no_encoders_weights(finished_run):
    cfg = configure(f"encoder.weights={finished_run / 'checkpoints' / 'best.ckpt'}")
    with pytest.raises(UserError, match=r"a checkpoint of a run\. Use warm_start="):
        pretrained.load_encoder(build.network(cfg, 3), cfg)


def test_what_does_not_match_is_named(tmp_path, capsys):
    published = features_of("vgg11").state_dict()
    published["features.0.weight"] = torch.zeros(64, 1, 3, 3)  # of gray pictures
    torch.save({"state_dict": published}, tmp_path / "gray.pth")
    cfg = configure("encoder=vgg11", f"encoder.weights={tmp_path / 'gray.pth'}", "neck=none")
    pretrained.load_encoder(build.network(cfg, 3), cfg)
    said = capsys.readouterr().out
    assert (
        "15 of the encoder's 16 tensors; not loaded: encoder.blocks.1.0.0; 1 of the tensors in the file not used"
        in said
    )


@pytest.mark.parametrize(
    ("encoder", "given", "says"),
    [
        ("vgg11", "nowhere.pth", "there is no such file"),
        ("vgg11", "IMAGENET1K_V9", "torchvision has IMAGENET1K_V1"),
        ("small", "IMAGENET1K_V1", "there are no published weights for encoder=small"),
    ],
)
def test_weights_that_cannot_be_had_are_said(encoder, given, says):
    cfg = configure(f"encoder={encoder}", f"encoder.weights={given}", "neck=none")
    with pytest.raises(UserError, match=says):
        pretrained.load_encoder(build.network(cfg, 3), cfg)


PREFIXES = ["module.", "_orig_mod.", "model.", "backbone.", "encoder.", "module.model.backbone.", "net.0.body.", "s."]


@pytest.mark.parametrize(
    ("prefix", "wrapper"),
    [
        *((prefix, None) for prefix in PREFIXES),
        *(("module.", wrapper) for wrapper in [*weights_file.WRAPPERS, "student", "ema"]),
    ],
)
def test_weights_that_other_programs_saved_are_understood(prefix, wrapper, tmp_path, capsys):
    """Behind DataParallel, torch.compile or in a larger model, and below a key of the file."""
    published = {f"{prefix}{name}": tensor for name, tensor in features_of("vgg11").state_dict().items()}
    published["head.weight"] = torch.zeros(2)
    beside = {"epoch": 3, "args": argparse.Namespace(lr=1), "optimizer": {"state": {0: {"step": torch.zeros(())}}}}
    torch.save({wrapper: published} | beside if wrapper else published, tmp_path / "x.pth")
    cfg = configure("encoder=vgg11", f"encoder.weights={tmp_path / 'x.pth'}", "neck=none")
    pretrained.load_encoder(build.network(cfg, 3), cfg)
    assert "16 of the encoder's 16 tensors" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["keys", "prefixes"])
def test_of_a_teacher_and_its_student_the_teacher_is_taken(form, tmp_path, capsys):
    """As in checkpoints of DINO (two keys) and DINOv2 (two prefixes)."""
    teacher = features_of("vgg11").state_dict()
    parts = {"student": {name: tensor + 1 for name, tensor in teacher.items()}, "teacher": teacher}
    joined = {f"{key}.backbone.{name}": tensor for key, part in parts.items() for name, tensor in part.items()}
    torch.save(parts if form == "keys" else {"model": joined}, tmp_path / "x.pth")
    cfg = configure("encoder=vgg11", f"encoder.weights={tmp_path / 'x.pth'}", "neck=none")
    network = build.network(cfg, 3)
    pretrained.load_encoder(network, cfg)
    pairs = zip(network.encoder.state_dict().values(), teacher.values(), strict=True)
    assert all(torch.equal(own, given) for own, given in pairs)
    assert ("(teacher, student). teacher is read" in capsys.readouterr().out) == (form == "keys")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    torch.save({"w": torch.tensor([value])}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="not finite"):
        weights_file.read_state_dict(tmp_path / "x.pth", "encoder.weights=x.pth")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no weights", "a text, not weights. It begins with .no weights."),
        (b"", "the file is empty. Remove it and download it again"),
        (b"  \n", "the file is empty"),
        (b"\n <!DOCTYPE html><html></html>", "a page of the web, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS"),
        (b'{"error": "not found"}', "a JSON file"),
        (b"\x1f\x8b\x08\x00", "compressed by gzip"),
        (b"PK\x03\x04 cut", "the file is cut after 8 bytes"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00" + b'{"w":{}}', "the file is cut or damaged"),
        (b'{"abcd":{"a": 1}}', "a JSON file"),
    ],
)
def test_a_file_that_is_no_state_dict_is_said(content, says, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=says):
        weights_file.read_state_dict(tmp_path / "x.pth", "encoder.weights=x.pth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_file_that_is_cut_is_said(zipped, share, tmp_path):
    torch.save({"w": torch.zeros(5000)}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"the file is cut.*download it again"):
        weights_file.read_state_dict(tmp_path / "x.pth", "encoder.weights=x.pth")


@pytest.mark.parametrize(("made", "says"), [("folder", "a folder. Give a file"), ("model", "objects of classes")])
def test_what_is_no_file_of_weights_is_said(made, says, tmp_path):
    if made == "folder":
        (tmp_path / "x.pth").mkdir()
    else:
        torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "x.pth")
    with pytest.raises(UserError, match=says):
        weights_file.read_state_dict(tmp_path / "x.pth", "encoder.weights=x.pth")


@pytest.mark.parametrize("content", [b"", b"<html>", b"flipped"])
def test_a_damaged_download_in_the_cache_is_named(content, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    url = torchvision.models.get_model_weights("vgg11").IMAGENET1K_V1.url
    path = tmp_path / "checkpoints" / url.rpartition("/")[2]
    path.parent.mkdir()
    path.write_bytes(content)
    cfg = configure("encoder=vgg11", "encoder.weights=IMAGENET1K_V1", "neck=none")
    with pytest.raises(UserError, match=rf"the downloaded file {path}.*download it again|{path}.*web"):
        pretrained.load_encoder(build.network(cfg, 3), cfg)


def test_without_a_network_the_way_out_is_said(monkeypatch):
    def refused(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refused)
    cfg = configure("encoder=vgg11", "encoder.weights=IMAGENET1K_V1", "neck=none")
    with pytest.raises(UserError, match=r"cannot be downloaded .*Name or service.*encoder.weights=FILE"):
        pretrained.load_encoder(build.network(cfg, 3), cfg)


def test_weights_that_are_named_are_torchvisions(monkeypatch, capsys):
    published = features_of("vgg11").state_dict()
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *args, **kwargs: published)
    cfg = configure("encoder=vgg11", "encoder.weights=VGG11_Weights.IMAGENET1K_V1", "neck=none")
    network = build.network(cfg, 3)
    pretrained.load_encoder(network, cfg)
    assert torch.equal(network.encoder.blocks["1"][0][0].weight, published["features.0.weight"])
