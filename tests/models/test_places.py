"""Where the cells of maps lie on the image."""

import itertools
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from support.configs import configure
from support.grid import grid
from support.tiny_networks import OPERATORS, meta_encoder

from segpipe.config import build
from segpipe.config.schema import options
from segpipe.models.necks import Bottleneck, FullyConvolutional


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


@pytest.mark.parametrize(("name", "decoder", "size"), grid(options("encoder"), KEEPING_PLACE, SIZES, pairs=True))
def test_what_comes_up_lies_on_the_skip(name, decoder, size):
    """Every step of 2, to the next finer map, and the enlargement of any map to the image, begin at offset 0."""
    encoder, cells = on_paper(name, size)
    factory = build.instantiate_group(configure(f"decoder={decoder}"), "decoder")
    ways = [
        *((coarse, fine) for fine, coarse in itertools.pairwise(encoder.strides)),
        *((s, 1) for s in cells if s > 1),
    ]
    for coarse, fine in ways:
        target = cells.get(fine, size)
        if coarse > 2 * fine and not OPERATORS[decoder].one_step:
            continue  # it goes there in steps of 2
        up = factory(1, 1, factor=coarse // fine, source_channels=1).eval()
        with torch.no_grad():
            found = up(ramps(cells[coarse], stride=coarse, size=size), torch.zeros(2, 1, *target))
        assert found.shape[-2:] == target
        mean, most = offset(found, stride=fine, size=size, margin=coarse // fine)
        assert mean.abs().max() < 1e-3, (coarse, fine, mean)
        if OPERATORS[decoder].initial == "bilinear":
            assert most.max() < (0.05 if OPERATORS[decoder].content_aware else 1e-3), (coarse, fine, most)


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
