"""Large images by windows: equal to the whole image, without its logits in memory."""

import pytest
import torch
from support.configs import configure
from torch import nn

from segpipe.config import build
from segpipe.models import windows
from segpipe.models.network import resize_logits
from segpipe.models.windows import Windows, reach, spans


class Stack(nn.Module):
    """Convolutions and a maximum over 2 x 2 pixels: a logit depends on pixels at most 4 to 6 pixels away."""

    def __init__(self, channels=3):
        super().__init__()
        self.first, self.last = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, image):
        height, width = image.shape[-2:]
        padded = nn.functional.pad(image.float() / 255, (0, -width % 2, 0, -height % 2), mode="replicate")
        x = self.last(nn.functional.max_pool2d(self.first(padded).relu(), 2))
        return nn.functional.interpolate(x, scale_factor=2, mode="bilinear")[..., :height, :width]


def picture(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def assembled(tiles, shape):
    logits = torch.full(shape, torch.nan)
    for tile in tiles:
        assert logits[:, tile.rows, tile.columns].isnan().all()  # each pixel once
        logits[:, tile.rows, tile.columns] = tile.logits
    return logits


@pytest.fixture(scope="module")
def stack():
    torch.manual_seed(0)
    return Stack().eval()


@pytest.mark.parametrize("size", [(97, 131), (64, 200), (33, 300), (129, 64), (200, 31), (65, 65), (112, 160)], ids=str)
def test_windows_give_the_logits_of_the_whole_image(stack, size):
    image = picture(1, 3, *size)
    with torch.inference_mode():
        whole = stack(image)[0]
    by_windows = Windows(stack, stride=2, limit=1000, side=32, overlap=16)
    assert by_windows.is_large(size)
    assert (assembled(by_windows.tiles(image, size), whole.shape) - whole).abs().max() < 1e-5
    assert (by_windows.masks(image, size)[0] == whole.argmax(0)).all()


@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_any_number_of_channels(channels):
    network = Stack(channels).eval()
    image = picture(1, channels, 70, 90).float()
    with torch.inference_mode():
        whole = network(image)[0]
    by_windows = Windows(network, stride=2, limit=1000, side=32, overlap=16)
    assert (assembled(by_windows.tiles(image, (70, 90)), whole.shape) - whole).abs().max() < 1e-5


@pytest.mark.parametrize("decoder", ["bilinear", "unpool", "deconv"])
@pytest.mark.parametrize("fusion", ["concat", "none"])
def test_networks_of_the_project_by_windows(decoder, fusion):
    cfg = configure(
        "encoder=small",
        "encoder.widths=[4,6,8]",
        "encoder.depths=[1,1,1]",
        "model=unet",
        f"decoder={decoder}",
        f"fusion={fusion}",
    )
    network = build.network(cfg, 3).eval()
    image = picture(1, 3, 211, 330)
    with torch.inference_mode():
        whole = network(image)[0]
    by_windows = Windows(network, stride=network.encoder.coarsest, limit=1000, side=192, overlap=96)
    difference = (assembled(by_windows.tiles(image, (211, 330)), whole.shape) - whole).abs().max()
    assert by_windows.layout(image)[1] > 0
    assert difference < 1e-5 * max(1, float(whole.abs().max()))


def test_the_reach_of_a_network_is_measured(stack):
    assert 3 <= reach(stack, channels=3, stride=2, most=16) <= 6
    assert reach(stack, channels=3, stride=2, most=2) is None

    def everywhere(image):
        return image + image.mean((2, 3), keepdim=True)

    assert reach(everywhere, channels=3, stride=2, most=16) is None
    assert reach(nn.Conv2d(3, 2, 9, padding=4), channels=3, stride=1, most=16) == 4

    def bytes_only(image):
        raise TypeError(image.dtype)

    assert reach(bytes_only, channels=3, stride=2, most=16) is None


def test_a_network_that_reads_the_whole_image_is_blended_without_seams():
    def shifted(image):  # each window has another offset
        return image.float() + image.float().mean((2, 3), keepdim=True)

    image = torch.linspace(0, 255, 300).repeat(1, 1, 64, 1)
    by_windows = Windows(shifted, stride=4, limit=100, side=64, overlap=32)
    assert by_windows.layout(image[:1]) == (32, 0)
    logits = assembled(by_windows.tiles(image, (64, 300)), (1, 64, 300))
    assert (logits[..., 1:] - logits[..., :-1]).abs().max() < 6  # the offsets of two windows differ by 27


@pytest.mark.parametrize(
    ("source", "size"),
    [((30, 40), (211, 170)), ((30, 40), (20, 300)), ((90, 40), (60, 20)), ((64, 64), (64, 300)), ((30, 40), (300, 7))],
    ids=str,
)
@pytest.mark.parametrize("parts", [1, 4])
def test_resizing_in_parts_equals_resizing_the_whole(monkeypatch, source, size, parts):
    monkeypatch.setattr(windows, "AT_ONCE", 5000)
    logits = torch.randn(5, *source, generator=torch.Generator().manual_seed(0))
    tiles = [
        windows.Tile(slice(top, top + len(rows[0])), slice(0, source[1]), rows)
        for top, rows in zip(range(0, 999, -(-source[0] // parts)), logits.chunk(parts, 1), strict=False)
    ]
    resized = list(windows.resize_tiles(tiles, source, size))
    assert len(resized) > 1 or size[0] * size[1] <= 1000
    assert (assembled(resized, (5, *size)) - resize_logits(logits[None], size)[0]).abs().max() < 1e-5


def test_windows_and_resizing_together(stack, monkeypatch):
    monkeypatch.setattr(windows, "AT_ONCE", 5000)
    image = picture(1, 3, 70, 90)
    by_windows = Windows(stack, stride=2, limit=1000, side=32, overlap=16)
    with torch.inference_mode():
        whole = stack(image)
    for size in ((150, 200), (50, 300), (20, 30)):
        logits = assembled(by_windows.tiles(image, size), (3, *size))
        assert (logits - resize_logits(whole, size)[0]).abs().max() < 1e-5


def test_a_small_image_is_computed_as_before(stack):
    image = picture(1, 3, 61, 75)
    (tile,) = Windows(stack, stride=2).tiles(image, (40, 80))
    with torch.inference_mode():
        assert (tile.logits == resize_logits(stack(image).float(), (40, 80))[0]).all()


@pytest.mark.parametrize("length", [1, 16, 17, 32, 33, 48, 49, 100, 1000])
def test_the_weights_of_a_pixel_sum_to_one(length):
    found = spans(length, side=32, overlap=16, margin=6)
    total, count = torch.zeros(length), torch.zeros(length)
    for span in found:
        total[span.start : span.stop] += span.weights
        count[span.start : span.stop] += 1
    assert found[-1].stop == length
    assert count.max() <= 2
    assert torch.allclose(total, torch.ones(length))
