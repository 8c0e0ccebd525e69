"""Networks for images of any number of bands: every encoder, and published weights whose first layer is for RGB."""

import inspect

import pytest
import torch
from omegaconf import OmegaConf
from support.configs import configure
from support.tiny_networks import OPERATORS

from segpipe.config import build
from segpipe.config.schema import locate, options
from segpipe.data.bands import Bands
from segpipe.data.dataset import ImageForm
from segpipe.errors import UserError
from segpipe.models import cost
from segpipe.models.network import LocalContrast
from segpipe.training import pretrained


def bands_of(channels):
    given = (0.25,) * channels
    return Bands(
        channels, (0.0,) * channels, (9.0,) * channels, (0.5,) * channels, given, ImageForm(channels, "uint16")
    )


def first_kernels(encoder):
    return next(one for one in encoder.state_dict().values() if one.ndim == 4)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("encoder", options("encoder"))
def test_every_encoder_takes_any_number_of_bands(encoder, channels):
    if encoder == "timm":
        pytest.importorskip("timm", reason="timm is an extra")
    cfg = configure(f"encoder={encoder}", "model=fcn32s", "neck=none")
    if "in_channels" not in inspect.signature(locate(cfg.encoder._target_)).parameters:
        with pytest.raises(UserError, match="takes images of 3 bands"):
            build.meta_encoder(cfg, channels)
        return
    meta, plain = build.meta_encoder(cfg, channels), build.meta_encoder(cfg)
    assert (meta.in_channels, plain.in_channels) == (channels, 3)
    assert first_kernels(meta).shape[1] == channels
    assert (meta.channels, meta.strides) == (plain.channels, plain.strides)
    maps = meta.eval()(torch.zeros(1, channels, 64, 64, device="meta"))
    assert {stride: one.shape[1] for stride, one in maps.items()} == meta.channels


GUIDED = [name for name, operator in OPERATORS.items() if operator.guided]


@pytest.mark.parametrize("operator", GUIDED)
def test_guided_operators_read_the_image_where_the_encoder_has_no_map(operator):
    narrow = ["encoder=resnet18", "neck=none", "model=ladder", "model.stride=1", "model.width=8"]
    cfg = configure(*narrow, f"decoder={operator}")
    if OPERATORS[operator].needs_pooling:
        return  # they read positions, which ResNet does not have
    with torch.device("meta"):
        network = build.network_factory(cfg, build.meta_encoder(cfg, 5), 3)().eval()
        assert network(torch.rand(1, 5, 64, 64) * 255).shape == (1, 3, 64, 64)


def test_the_bands_normalise_the_image_and_three_bands_keep_the_first_weights():
    cfg = configure("encoder.widths=[8,8]", "encoder.depths=[1,1]", "model=unet", "neck=none")
    plain, three, five = (build.network(cfg, 3, one) for one in (None, bands_of(3), bands_of(5)))
    states = plain.state_dict(), three.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert three.normalise(torch.full((1, 3, 2, 2), 127.5)).abs().max() < 1e-6
    assert five.normalise(torch.full((1, 5, 2, 2), 255.0)).unique().tolist() == [2.0]
    assert (
        cost.measure(five, (32, 32), batch=2, repeats=1)["gmac"]
        > cost.measure(plain, (32, 32), batch=2, repeats=1)["gmac"]
    )


def test_local_contrast_of_any_bands():
    image = torch.rand(1, 1, 40, 40) * 255
    one, six = LocalContrast(1)(image), LocalContrast(6)(image.expand(1, 6, 40, 40))
    torch.testing.assert_close(six, one.expand(1, 6, 40, 40), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("encoder", ["vgg11", "resnet18", "alexnet"])
def test_first_layers_of_published_weights_keep_the_response_to_equal_bands(tmp_path, capsys, encoder, channels):
    cfg = configure(f"encoder={encoder}", f"encoder.weights={tmp_path / 'w.pth'}", "model=fcn32s", "neck=none")
    rgb = build.network(cfg, 2)
    torch.save({f"encoder.{name}": one for name, one in rgb.encoder.state_dict().items()}, tmp_path / "w.pth")
    network = build.network(cfg, 2, bands_of(channels))
    pretrained.load_encoder(network, cfg)
    before, after = first_kernels(rgb.encoder), first_kernels(network.encoder)
    torch.testing.assert_close(after.sum(1), before.sum(1))
    if channels > 3:
        torch.testing.assert_close(after[:, :3], before * 3 / channels)
    rest = zip(
        list(rgb.encoder.state_dict().values())[1:], list(network.encoder.state_dict().values())[1:], strict=True
    )
    assert all(torch.equal(one, other) for one, other in rest)
    said = capsys.readouterr().out
    assert f"adapted to {channels} band" in said
    number = len(pretrained.tensors(network.encoder))
    assert f"{number} of the encoder's {number} tensors" in said


def test_a_warm_start_from_rgb_adapts_its_first_layer():
    cfg = configure("encoder.widths=[8,8]", "encoder.depths=[1,1]", "model=unet", "neck=none")
    rgb, five = build.network(cfg, 3), build.network(cfg, 3, bands_of(5))
    adapted = pretrained.for_bands(rgb.encoder.state_dict(), five.encoder)
    assert {name: one.shape for name, one in adapted.items()} == {
        name: one.shape for name, one in five.encoder.state_dict().items()
    }


class OfRgb:
    """Stands for an encoder of the user's own, without ``in_channels``."""

    def __init__(self, *, depth: int = 1) -> None:
        self.depth = depth


def test_an_own_encoder_of_rgb_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(build, "locate", lambda target: OfRgb)
    cfg = OmegaConf.create({"encoder": {"_target_": "my.OfRgb"}})
    with pytest.raises(UserError, match=r"takes images of 3 bands, but these have 5.*argument in_channels"):
        build.make_encoder(cfg, 5)
