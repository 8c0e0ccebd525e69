"""What a part says of itself is so, and it is all that others know of it: operators, fusions, refinements."""

import ast
import re

import pytest
import torch
import torch.nn.functional as F
from support.configs import configure
from support.paths import ROOT
from torch import nn

from segpipe.config import build
from segpipe.config.choices import files
from segpipe.config.plan import Plan
from segpipe.config.schema import options
from segpipe.models.fusion import Fusion
from segpipe.models.init import init_weights
from segpipe.models.refine import Refinement
from segpipe.models.upsample import Upsampler

OPERATORS, FUSIONS, MODELS = options("decoder"), options("fusion"), options("model")


CHANNELS = 3


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def started(module):
    """In double precision, with the start that a network of seed 0 would give it."""
    init_weights(module, seed=0, prefix="decoder")
    return module.double().eval()


def trained(module):
    """As training may leave it: nothing is zero. What starts at zero would hide what hangs on it."""
    for number, parameter in enumerate(module.parameters()):
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(number))
    return module


def made(group, name, *given, **more):
    """What a file makes, with its own arguments."""
    return started(build.instantiate_group(configure(f"{group}={name}"), group)(*given, **more))


def operator(name, before=CHANNELS, after=CHANNELS, *, factor=2, source=CHANNELS):
    return made("decoder", name, before, after, factor=factor, source_channels=source)


# ---- operators keep what they say


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_what_it_says(name):
    said = build.kind(files("decoder")[name], Upsampler)
    x, y, source = random(2, CHANNELS, 6, 5), random(2, CHANNELS, 6, 5, seed=1), random(2, CHANNELS, 12, 10, seed=2)
    up = operator(name)
    assert up(x, source).shape == source.shape
    assert said.parameter_free == (not list(up.parameters()))
    if said.initial in ("nearest", "bilinear"):
        inside = (..., slice(2, -2), slice(2, -2))
        expected = F.interpolate(x, scale_factor=2, mode=said.initial)
        near = 0.03 * 2 * float(x.abs().max()) if said.content_aware else 1e-6
        torch.testing.assert_close(up(x, source)[inside], expected[inside], rtol=0, atol=near)
    up = trained(up)
    assert said.guided == (not torch.equal(up(x, source), up(x, -source)))
    if said.linear:
        nothing = up(torch.zeros_like(x), source)
        torch.testing.assert_close(up(x + 2 * y, source), up(x, source) + 2 * up(y, source) - 2 * nothing)
    if said.linear and said.parameter_free:  # nothing that a 1x1 could become part of: it passes through
        mix = started(nn.Conv2d(CHANNELS, CHANNELS, 1))
        torch.testing.assert_close(up(mix(x), source), mix(up(x, source)))
    if said.one_step:
        assert operator(name, factor=8)(x, random(2, CHANNELS, 48, 40)).shape == (2, CHANNELS, 48, 40)
    assert (up.explain(x, source) is not None) == said.content_aware


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("before", "after", "source"), [(4, 4, 4), (4, 3, 5), (5, 5, 3)])
def test_an_operator_takes_any_widths_and_keeps_its_start(name, before, after, source):
    up, again = (operator(name, before, after, source=source) for _ in range(2))
    assert up(random(1, before, 3, 4), random(1, source, 6, 8)).shape == (1, after, 6, 8)
    assert all(torch.equal(one, other) for one, other in zip(up.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_is_what_it_says(name):
    said = build.kind(files("fusion")[name], Fusion)
    x, skip = random(2, CHANNELS, 6, 5), random(2, CHANNELS, 6, 5, seed=1)
    fuse = made("fusion", name, CHANNELS, CHANNELS)
    if said.initial != "other":
        joined = {"sum": x + skip, "concat": torch.cat([x, skip], 1), "max": torch.maximum(x, skip)}
        expected = {"none": x, "product": x * (1 + skip)} | joined
        torch.testing.assert_close(fuse(x, skip), expected[said.initial], rtol=1e-4, atol=1e-6)
    wider = made("fusion", name, CHANNELS + 1, CHANNELS)(x, random(2, CHANNELS + 1, 6, 5))  # behind a lateral
    beside = torch.zeros(2, wider.shape[1] - CHANNELS, 6, 5, dtype=torch.float64)
    unchanged = torch.allclose(wider, torch.cat([x, beside], 1), rtol=1e-4, atol=1e-6)
    assert said.starts_as_coarser == unchanged
    fuse = trained(fuse)
    found = fuse(x, skip)
    assert found.shape == (2, fuse.out_channels, 6, 5)
    assert said.uses_skip == (not torch.equal(found, fuse(x, -skip)))
    if not said.uses_skip:
        assert torch.equal(found, x)
        assert not list(made("fusion", name, 2 * CHANNELS, CHANNELS).parameters())
    if said.linear:
        nothing = fuse(torch.zeros_like(x), torch.zeros_like(x))
        torch.testing.assert_close(fuse(x + 2 * skip, skip - x), found + fuse(2 * skip, -x) - nothing)


@pytest.mark.parametrize("model", MODELS)
def test_a_refinement_is_what_it_says(model):
    cfg = configure(f"model={model}")
    said = build.kind(cfg.model.refine, Refinement)
    factory = build.instantiate_group(cfg, "model").keywords["refine"]
    refine, wider = (started(factory(width, 4, 4, 2)) for width in (4, 8))
    x, other = random(2, 4, 7, 6), random(2, 4, 7, 6)
    other[:, :, 3, 3] += 1
    assert said.empty == (not list(refine.parameters()))
    elsewhere = torch.ones(7, 6, dtype=torch.bool)
    elsewhere[3, 3] = False
    assert said.convolves == (not torch.equal(refine(x)[..., elsewhere], refine(other)[..., elsewhere]))
    if said.linear:
        y = random(2, 8, 7, 6)
        torch.testing.assert_close(wider(3 * y), 3 * wider(y))
        assert not said.convolves


# ---- nothing else knows their names
NAMES = {*options("decoder"), *options("fusion"), *options("encoder")}


def strings(node):
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def compared(path):
    """Comparisons of something with the name of a part, and questions after the end of a class's path."""
    for node in ast.walk(ast.parse(path.read_text())):
        text = ast.unparse(node) if isinstance(node, ast.Compare | ast.Call) else ""
        if isinstance(node, ast.Compare) and strings(node) & NAMES and re.search("decoder|fusion|encoder|name", text):
            yield text
        if isinstance(node, ast.Call) and re.search(
            r"(target\w*|_target_)\.(endswith|startswith)$", ast.unparse(node.func)
        ):
            yield text


@pytest.mark.parametrize("folder", ["analysis", "config", "data", "engine", "metrics", "runs", "training", "."])
def test_no_parts_name_is_compared_outside_models(folder):
    paths = (ROOT / "segpipe" / folder).glob("*.py" if folder == "." else "**/*.py")
    assert [(path.name, text) for path in paths for text in compared(path)] == []


def test_a_comparison_with_a_name_would_be_found(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        'a = cfg.decoder.name == "unpool"\nb = fusion in {"sum", "none"}\nc = refine._target_.endswith("Merge1x1")'
    )
    assert len([*compared(path)]) == 3


# ---- identities of networks that were trained when names were compared


KEPT = {  # model, encoder, decoder, fusion, decoder.smooth, model.enlarge: the run's name
    "fcn8s small nearest none null same": "fcn32s-nearest-none-s0-22aa6f84",
    "fcn8s small nearest sum conv3x3 same": "fcn8s-nearest-sum-s0-0c5c4395",
    "fcn8s small nearest none null bilinear": "fcn8s-nearest-none-s0-5043a116",
    "fcn8s small bilinear none null same": "fcn8s-bilinear-none-s0-a1ee00c1",
    "fcn8s small bilinear sum conv3x3 same": "fcn8s-bilinear-sum-s0-f375dcbd",
    "fcn8s small bilinear none null bilinear": "fcn8s-bilinear-none-s0-a1ee00c1",
    "fcn8s small deconv none null same": "fcn8s-deconv-none-s0-af8c189e",
    "fcn8s small deconv sum conv3x3 same": "fcn8s-deconv-sum-s0-8c2d0a78",
    "fcn8s small deconv none null bilinear": "fcn8s-deconv-none-s0-ebf15cda",
    "fcn8s small unpool none null same": "fcn32s-unpool-none-s0-31996bbb",
    "fcn8s small unpool sum conv3x3 same": "fcn8s-unpool-sum-s0-a311bdb5",
    "fcn8s small unpool none null bilinear": "fcn8s-unpool-none-s0-ab6a8734",
    "fcn8s small pixelshuffle none null same": "fcn8s-pixelshuffle-none-s0-2b8e9c4e",
    "fcn8s small pixelshuffle sum conv3x3 same": "fcn8s-pixelshuffle-sum-s0-43085faf",
    "fcn8s small pixelshuffle none null bilinear": "fcn8s-pixelshuffle-none-s0-9878d7b3",
    "ladder alexnet nearest none null same": "ladder8-nearest-none-s0-de56bad1",
    "ladder alexnet nearest sum conv3x3 same": "ladder8-nearest-sum-s0-05a754b1",
    "ladder alexnet nearest none null bilinear": "ladder8-nearest-none-s0-0f27d5f3",
    "ladder alexnet bilinear none null same": "ladder8-bilinear-none-s0-52b63ca8",
    "ladder alexnet bilinear sum conv3x3 same": "ladder8-bilinear-sum-s0-f797274d",
    "ladder alexnet bilinear none null bilinear": "ladder8-bilinear-none-s0-52b63ca8",
    "ladder alexnet deconv none null same": "ladder8-deconv-none-s0-f75fe64e",
    "ladder alexnet deconv sum conv3x3 same": "ladder8-deconv-sum-s0-eef2605b",
    "ladder alexnet deconv none null bilinear": "ladder8-deconv-none-s0-11440727",
    "ladder alexnet pixelshuffle none null same": "ladder8-pixelshuffle-none-s0-65268d44",
    "ladder alexnet pixelshuffle sum conv3x3 same": "ladder8-pixelshuffle-sum-s0-69997f65",
    "ladder alexnet pixelshuffle none null bilinear": "ladder8-pixelshuffle-none-s0-97d8a0ac",
}


@pytest.mark.parametrize("network", sorted({cell.partition(" ")[0] for cell in KEPT}))
def test_a_network_keeps_its_name_and_identity(network):
    found = {}
    for cell in KEPT:
        model, encoder, decoder, fusion, smooth, enlarge = cell.split()
        if model == network:
            cfg = configure(f"model={model}", f"encoder={encoder}")
            cfg.decoder, cfg.fusion = files("decoder")[decoder].copy(), files("fusion")[fusion].copy()
            cfg.decoder.smooth, cfg.model.enlarge = None if smooth == "null" else smooth, enlarge
            found[cell] = Plan.of(cfg).name()
    assert found == {cell: name for cell, name in KEPT.items() if cell in found}
