import os
import subprocess
import sys
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
from support.configs import TINY
from support.paths import ROOT

SMALL = [word for word in TINY if word.startswith(("data.dataset.", "encoder.", "neck."))]


NARROW = [word for word in SMALL if not word.startswith("data.")]


SMP = find_spec("segmentation_models_pytorch")


CALLS = {  # of each script, as short as it goes; and what it has to print
    "loop": ([*SMALL, "--steps", "1"], ["after the first: 0 of the largest apart", "Lightning / plain: "]),
    "input": (
        [*NARROW, "data.batch_size=2", "--steps", "2", "--batch", "1", "--root", "{camvid}"],
        ["torchvision's time / ours: ", "shapes: ", "waiting for data"],
    ),
    "step": (
        ["--size", "32", "32", "--batch", "2", "--side", "64", "--models", "fcn8s"],
        ["fcn8s", "product's speed: ", "segmentation_models_pytorch is not" if SMP is None else "ours / smp: "],
    ),
    "overhead": (SMALL, ["imports  ", "data  ", "first step, ", "exit  ", "all but Python and imports  "]),
    "boundaries": (
        [*SMALL, "--steps", "1", "--batches", "1"],
        ["processor: with / without: ", "boundary F  ", "objects "],
    ),
    "report": (["--runs", "6", "--images", "1", "--resamples", "100"], ["a report on 6 runs", "report.html  "]),
    "coverage": (
        ["--seeds", "3"],
        [
            "3 seeds: these images ",
            "equal networks, ",
            "single networks, normal, ",
            "marginal, normal, 2 % missing, ",
        ],
    ),
    "resampling": (["--rounds", "1", "--resamples", "20"], ["45 networks x 5 seeds", "with all comparisons "]),
    "feature_cache": (
        [
            "encoder.backbone=test_vit",
            "encoder.pyramid_width=8",
            "trainer.max_epochs=1",
            "data.dataset.train=8",
            "data.dataset.val=2",
            "data.dataset.test=2",
            "data.dataset.side=32",
            "data.crop=[32,32]",
            "--decoders",
            "bilinear",
            "nearest",
            "--rounds",
            "1",
        ],
        ["first, writing", "without / with: ", "scores equal"],
    ),
    "contiguous": (
        [*SMALL, "--size", "32", "32", "--batch", "1", "--decoders", "deconv", "unpool"],
        ["deconv, cropped: logits equal", "unpool, enlarged: logits equal", "scores     cropped "],
    ),
    "soft_targets": (
        [
            "data.size=[36,48]",
            "data.batch_size=2",
            "--root",
            "{camvid}",
            "--epochs",
            "1",
            "--out",
            "{camvid}/soft.jsonl",
        ],
        ["seed 0, hard: mIoU ", "seed 0, soft: mIoU ", "difference "],
    ),
    "inspection": (
        ["model=segnet", "encoder=small", "encoder.widths=[8,8,8,8,8]", "--size", "32", "32"],
        ["constant image: ", "operators ", "all "],
    ),
    "operators": (
        ["--shapes", "1,4,3,4", "--operators", "bilinear", "sapa", "unpool"],
        ["assemble and other sums", "unfold, product ", "sapa ", " MiB (", "/ bilinear: "],
    ),
    "predicting": (
        ["--images", "4", "--side", "64", "encoder=small", "encoder.widths=[8,8,8,8,8]"],
        ["one by one / pipeline: ", "pipeline / batches of 16: "],
    ),
    "denormals": (
        ["--size", "32", "32", "--batch", "1", "--decoders", "carafe", "--sharpness", "100"],
        ["carafe, logits x 100: ", "of the weights are denormal", " with zeros: "],
    ),
    "matrix": (["--shape", "2", "8", "8"], ["max / argmax: ", "ours / torchmetrics: "]),
}


@pytest.fixture(scope="module")
def tiny_camvid(tmp_path_factory):
    root = tmp_path_factory.mktemp("camvid")
    for split in ("train", "val", "test"):
        for folder, image in ((split, np.zeros((48, 64, 3), np.uint8)), (f"{split}annot", np.eye(48, 64))):
            (root / folder).mkdir()
            for number in range(3):
                cv2.imwrite(str(root / folder / f"{number}.png"), image.astype(np.uint8))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("script", CALLS)
def test_it_runs_and_prints_what_it_asks_for(script, tiny_camvid):
    arguments, printed = CALLS[script]
    arguments = [argument.format(camvid=tiny_camvid) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script}", *arguments, "--threads", "1", "--rounds", "1"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in printed if line not in done.stdout] == []


def test_each_script_is_named_in_their_readme():
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    assert all(f"benchmarks.{script}" in readme for script in CALLS)
