"""docs/figures/draw_trained_operators.py: the number that it shows of an operator's result."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from support.configs import configure
from support.maps import random
from support.paths import ROOT

from segpipe.config import build
from segpipe.models.init import init_weights


@pytest.fixture(scope="module")
def script():
    path = ROOT / "docs" / "figures" / "draw_trained_operators.py"
    spec = importlib.util.spec_from_file_location("draw_trained_operators", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(script, name, channels=4):
    factory = build.instantiate_group(configure(f"decoder={name}"), "decoder")
    up = factory(channels, channels, factor=2, source_channels=channels)
    init_weights(up, seed=0, prefix="up")
    low, high = random(channels, 1, 1), random(channels, 1, 1, seed=1)
    means = script.Means(low.float(), high.float())
    return script.Shown(up.eval(), means, means)


@pytest.mark.parametrize(("name", "mode"), [("nearest", "nearest"), ("bilinear", "bilinear"), ("flow", "bilinear")])
def test_the_response_of_interpolation_is_the_interpolated_pattern(script, name, mode):
    for x, source in ((script.EDGE, script.FINE_EDGE), (script.LINE, script.FINE_LINE)):
        expected = F.interpolate(x[None, None], scale_factor=2, mode=mode)[0, 0]
        torch.testing.assert_close(shown(script, name).respond(x, source), expected, atol=1e-5, rtol=0)


def test_the_response_does_not_depend_on_an_affine_function_behind_the_operator(script):
    one = shown(script, "deconv")
    expected = one.respond(script.EDGE, script.FINE_EDGE)

    class Turned(torch.nn.Module):
        """Channels in another order, scaled and shifted."""

        def forward(self, x, source):
            return 3 * one.upsample(x, source).flip(1) + 5

    torch.testing.assert_close(
        one._replace(upsample=Turned()).respond(script.EDGE, script.FINE_EDGE), expected, atol=1e-5, rtol=0
    )


def test_the_mean_over_the_positions_of_a_cell_is_0_and_1(script):
    """Checkerboards are therefore seen: a single position may have any value."""
    one = shown(script, "unpool")
    for value in (0.0, 1.0):
        found = one.respond(torch.full((8, 8), value), torch.full((16, 16), value))
        assert found[4:12, 4:12].mean() == pytest.approx(value, abs=1e-5)
        assert found[4:12, 4:12].std() > 0.05
