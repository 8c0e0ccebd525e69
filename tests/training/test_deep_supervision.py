"""Deep supervision: a loss at every step of the decoder in training, and nothing else changes."""

import json

import pytest
import torch
from support.cells import identity_of
from support.configs import TINY, configure
from support.grid import grid

from segpipe.config import build
from segpipe.config.plan import Plan
from segpipe.config.schema import options
from segpipe.engine.predictor import Predictor
from segpipe.errors import UserError
from segpipe.models.cost import used_parameters
from segpipe.models.decoder import decoder_strides
from segpipe.models.network import resize_logits
from segpipe.train import train

SMALL = [*TINY, "neck=fc"]
DEEP = "model.deep_supervision=true"
IMAGE = 255 * torch.rand(2, 3, 70, 75, generator=torch.Generator().manual_seed(0))


def made(*overrides):
    cfg = configure(*SMALL, *overrides)
    Plan.of(cfg)
    return build.network(cfg, 6)


@pytest.mark.parametrize(
    ("model", "decoder"), grid(options("model"), options("decoder"), quick=[("fcn8s", "deconv"), ("unet", "unpool")])
)
def test_training_has_logits_for_every_step_and_evaluation_those_of_the_network(model, decoder):
    cell = [f"model={model}", "encoder=small", f"decoder={decoder}"]
    try:
        network, plain = made(*cell, DEEP), made(*cell)
    except UserError as refused:
        pytest.skip(str(refused))
    steps = len(decoder_strides(network.encoder, start=network.encoder.coarsest, stop=configure(*cell).model.stride))
    assert torch.equal(network.eval()(IMAGE), plain.eval()(IMAGE))
    stacked = network.train()(IMAGE)
    heads = max(steps, 1)
    assert stacked.shape == ((heads, 2, 6, 70, 75) if heads > 1 else (2, 6, 70, 75))
    assert stacked.isfinite().all()
    shared = dict(plain.named_parameters())
    assert all(torch.equal(tensor, network.get_parameter(name)) for name, tensor in shared.items())
    assert sum(p.numel() for p in used_parameters(network)) == sum(p.numel() for p in plain.parameters())
    strides = [int(stride) for stride in network.auxiliary]
    assert strides == sorted(strides, reverse=True)


@pytest.mark.parametrize("encoder", ["alexnet", "resnet18"])
def test_heads_have_the_size_of_the_image_behind_any_encoder(encoder):
    cfg = configure(f"encoder={encoder}", "model=ladder", "model.width=8", DEEP)
    assert build.network(cfg, 3).train()(IMAGE).shape[1:] == (2, 3, 70, 75)


def test_the_losses_have_the_weights_1_a_half_a_quarter():
    cfg = configure(*SMALL, "model=ladder", "model.stride=4", DEEP)
    task = build.task(cfg, build.data(cfg)).train()
    mask = torch.randint(0, 6, (2, 70, 75), generator=torch.Generator().manual_seed(1))
    counts = task.loss.counts(mask).float()
    logits = task.network(IMAGE)
    each = [task.loss.combine(task.loss(resize_logits(one, mask.shape[-2:]), mask), counts) for one in logits]
    assert len(each) == 3
    torch.testing.assert_close(task.training_loss(IMAGE, mask, counts), each[0] + each[1] / 2 + each[2] / 4)


@pytest.mark.parametrize("model", ["fcn8s", "ladder"])
def test_every_parameter_has_a_gradient(model):
    network = made(f"model={model}", DEEP).train()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    weight = torch.randn(2, 2, 6, 70, 75, generator=torch.Generator().manual_seed(2))
    (network(IMAGE) * weight).sum().backward()
    assert [n for n, p in network.named_parameters() if n.startswith("auxiliary") and not p.grad.any()] == []


def test_it_is_part_of_the_identity_where_it_changes_the_training():
    assert identity_of(DEEP) != identity_of()
    assert identity_of("model=fcn16s", DEEP) == identity_of("model=fcn16s")
    assert identity_of("model.deep_supervision=false") == identity_of()
    nearest = ["decoder=nearest", "fusion=none"]
    assert identity_of(*nearest, DEEP) != identity_of("model=fcn32s", *nearest)
    assert any("has no effect here" in note for note in Plan.of(configure("model=fcn16s", DEEP)).notes)


def test_a_budget_does_not_count_the_heads():
    cell = ["model=ladder", "encoder.widths=[8,16,32,64,64]", "match=params", "decoder=deconv"]
    widths = [Plan.of(configure(*cell, *more), num_classes=6).cfg.model.width for more in ([], [DEEP])]
    assert widths[0] == widths[1]


def test_a_run_is_trained_and_predicts(tmp_path):
    cfg = configure(*SMALL, "model=ladder", DEEP, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}")
    train(cfg)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    network = Predictor(tmp_path / "run", device="cpu").network
    assert list(network.auxiliary) == ["16"]
    assert metrics["cost"]["parameters"] == sum(parameter.numel() for parameter in used_parameters(network))
