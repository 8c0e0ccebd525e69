"""callbacks=inspect: what it writes, and that it does not change the training."""

import csv

import PIL.Image
import pytest
import torch
from support.configs import TINY, configure

from segpipe.config.plan import Plan
from segpipe.train import train


@pytest.mark.parametrize("every", [1, 2])
def test_the_history_has_the_lab_and_the_training_is_the_same(tmp_path, every):
    options = [*TINY, "trainer.max_epochs=3"]
    cells = {
        "plain": configure(*options, f"run_dir={tmp_path}/plain"),
        "seen": configure(
            *options, "callbacks=inspect", f"callbacks.inspect.every={every}", f"run_dir={tmp_path}/seen"
        ),
    }
    assert len({Plan.of(cfg).identity for cfg in cells.values()}) == 1
    for cfg in cells.values():
        train(cfg)
    weights = [torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for name in cells]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    rows = {name: list(csv.DictReader((tmp_path / name / "history.csv").read_text().splitlines())) for name in cells}
    for plain, seen in zip(rows["plain"], rows["seen"], strict=True):
        assert plain == {key: seen[key] for key in plain}
    measured = [bool(row["lab/checkerboard/logits"]) for row in rows["seen"]]
    assert measured == [(epoch + 1) % every == 0 for epoch in range(3)]
    last = next(row for row in reversed(rows["seen"]) if row["lab/bilinear/16"])
    assert 0 < float(last["lab/bilinear/16"]) < 1
    assert {key.split("/")[1] for key in last if key.startswith("lab/")} == {
        "bilinear",
        "nearest",
        "unpooling",
        "checkerboard",
    }
    with PIL.Image.open(tmp_path / "seen/pictures/climb.png") as image:
        assert image.width > 300
    assert not (tmp_path / "plain/pictures/climb.png").exists()
