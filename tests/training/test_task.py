"""What the task does to a network beside training it: precision and compilation."""

import shutil

import pytest
import torch
from support.configs import TINY, configure

from segpipe.config import build
from segpipe.metrics.boundaries import concatenate
from segpipe.models import cost, windows
from segpipe.train import train

LOSSES = ["cross_entropy", "dice", "focal", "ohem", "lovasz", "cross_entropy_dice", "cross_entropy_lovasz"]


def made(*overrides):
    cfg = configure(*TINY, *overrides)
    return build.task(cfg, build.data(cfg))


def batch(size=64):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, size, size), generator=generator, dtype=torch.uint8)
    return image, torch.randint(0, 6, (2, size, size), generator=generator)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [64, 50])
def test_losses_are_computed_in_single_precision_whatever_the_network_computes_in(name, size):
    """The same logits give the same loss, bit for bit, inside autocast and outside; of another size, too."""
    task = made(f"loss={name}").eval()
    image, mask = batch()[0], batch(size)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert task(image).dtype == torch.bfloat16  # what makes this a test
        logits, sums = task.step(image, mask)
    assert logits.dtype == sums.dtype == torch.float32
    assert torch.equal(sums, task.loss(logits, mask))
    sums.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in task.parameters() if parameter.grad is not None)


def test_a_training_in_half_precision_keeps_its_weights_in_single(tmp_path):
    cfg = configure(*TINY, "trainer.precision=bf16-mixed", "loss=cross_entropy_lovasz", f"run_dir={tmp_path / 'run'}")
    cfg.trainer.max_epochs = 1
    train(cfg)
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.int64}


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is no g++ here")
def test_a_compiled_network_keeps_its_names_and_its_function():
    """Forward, without gradients: most of the time goes into the compiler."""
    plain, compiled = (made("model=fcn32s", f"task.compile={on}").eval() for on in ("false", "true"))
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    image, _ = batch()
    with torch.no_grad():
        logits = compiled(image)
        torch.testing.assert_close(logits, plain(image), atol=1e-4, rtol=1e-4)
    assert compiled.network._compiled_call_impl is not None
    assert cost.multiply_adds(compiled.network, (64, 64)) == cost.multiply_adds(plain.network, (64, 64)) > 0


@pytest.mark.parametrize("size", [64, 50, 90])
def test_an_evaluation_in_parts_has_the_counts_and_the_loss_of_the_whole(monkeypatch, size):
    monkeypatch.setattr(windows, "AT_ONCE", 5000)  # masks of 50 x 50 in parts of 16 rows
    task = made().eval()
    image, mask = batch()[0], batch(size)[1].byte()
    mask[0, :9] = 255
    found = []
    for limit in (10**6, size**2 - 1):
        task.windows.limit = limit
        with torch.no_grad():
            task.evaluation_step({"image": image, "mask": mask, "index": torch.arange(2)}, at_boundaries=True)
        indices, matrices, sums, counts = (torch.cat(parts) for parts in zip(*task.eval_buffer, strict=True))
        found.append((indices, matrices, task.loss.combine(sums.sum(), counts.sum()), task.at_boundaries))
        task.eval_buffer, task.at_boundaries = [], []
    (indices, matrices, loss, boundaries), (indices2, matrices2, loss2, boundaries2) = found
    assert torch.equal(indices, indices2)
    assert torch.equal(matrices, matrices2)
    assert loss2 == pytest.approx(float(loss), rel=1e-5)
    assert (len(boundaries), len(boundaries2)) == (1, 2)
    assert (concatenate(boundaries2).counts == concatenate(boundaries).counts).all()
