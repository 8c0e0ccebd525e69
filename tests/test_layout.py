"""The architecture, guarded: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "segpipe"
LAYERS = {  # a module may import from segpipe only what stands before it
    "segpipe.errors": 0, "segpipe.runs.identity_keys": 0, "segpipe.engine.shutdown": 0, "segpipe.runs.environment": 0, "segpipe.runs.storage": 0,
    "segpipe.training.sync_batchnorm": 1, "segpipe.training.devices": 1,
    "segpipe.metrics.confusion": 1, "segpipe.training.losses": 1, "segpipe.training.lovasz": 1, "segpipe.models": 1,
    "segpipe.training.schedules": 1, "segpipe.training.ema": 1, "segpipe.runs.run": 1, "segpipe.models.cost": 1, "segpipe.data": 2,
    "segpipe.metrics.contours": 2, "segpipe.metrics.components": 2, "segpipe.metrics.boundaries": 2,
    "segpipe.data.visualise": 3, "segpipe.data.examples": 3, "segpipe.training.task": 3,
    "segpipe.config.schema": 3, "segpipe.config.messages": 4, "segpipe.training.tracking": 3, "segpipe.training.callbacks": 4, "segpipe.config.build": 5,
    "segpipe.training.pretrained": 5, "segpipe.config.width_search": 6, "segpipe.config.budget": 6, "segpipe.config.identity": 6, "segpipe.config.compatibility": 6,
    "segpipe.engine.predictor": 7, "segpipe.runs.summary": 7,
    "segpipe.engine.processes": 1, "segpipe.runs.checkpoints": 2, "segpipe.runs.cells": 2, "segpipe.engine.progress": 8,
    "segpipe.analysis": 9,
    "segpipe.engine.startup": 7, "segpipe.engine.resume": 8, "segpipe.engine.stages": 8, "segpipe.engine.ranks": 9, "segpipe.engine.sweep": 8,
    "segpipe.engine.tuning": 8, "segpipe.engine.scheduler": 9,
    "segpipe.models.__main__": 10, "segpipe.train": 10, "segpipe.evaluate": 10, "segpipe.predict": 10,
    "segpipe.check_data": 10, "segpipe.bound": 10, "segpipe.report": 10, "segpipe.tune": 10,
    "segpipe": 10,
}  # fmt: skip
HYDRA = {
    "config", "explain", "build", "combinations", "processes", "stages", "asked", "sweep", "train", "evaluate",
    "check_data", "bound", "__main__",
}  # fmt: skip
ONLY_IN = {
    "hydra": HYDRA,
    "albumentations": {"augment"},
    "wandb": {"tracking"},
    "matplotlib": {"figures", "plots", "curves"},
    "jinja2": {"page"},
}


def modules():
    return sorted(ROOT.rglob("*.py"))


def dotted(path):
    return ".".join(("segpipe", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def layer(name):
    while name not in LAYERS:
        name = name.rpartition(".")[0]
    return LAYERS[name]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "segpipe":
            yield from (f"segpipe.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_run_one_way(path):
    own = layer(dotted(path))
    above = [name for name in imports(path) if name.startswith("segpipe") and layer(name) > own]
    assert above == []


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_libraries_stay_where_they_belong(path):
    found = {name.partition(".")[0] for name in imports(path)}
    strays = [library for library, allowed in ONLY_IN.items() if library in found and path.stem not in allowed]
    assert strays == []
    if "models" in path.parts and path.stem != "__main__":
        found -= {"timm"} if path.stem == "timm" else set()
        foreign = found - {"torch", "torchvision", "segpipe"} - set(__import__("sys").stdlib_module_names)
        assert foreign == set()


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_files_stay_short_enough_to_be_read(path):
    assert len(path.read_text().splitlines()) <= 250
