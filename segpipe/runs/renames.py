"""Classes that have moved: the import paths in stored configurations, and the present paths.

A configuration names each class by its import path (``_target_``), and a run keeps its configuration. When a class
moves, one line is added here. Reading a stored configuration goes from old to present, an identity from present to
oldest, so that runs of earlier versions can be read and resumed, and the same network keeps the same identity.

The state of a Lightning callback is stored under its class name, not its path. ``ema.MovingAverage`` writes into the
checkpoint itself; no class of segpipe with a state has been renamed.
"""

from collections.abc import Callable
from typing import Any

CLASSES: dict[str, str] = {  # path in the first version that had the class: path today
    "segpipe.callbacks.Overlays": "segpipe.training.callbacks.LogPredictions",
    "segpipe.data.camvid.CamVid": "segpipe.data.datasets.camvid.CamVid",
    "segpipe.data.cityscapes.Cityscapes": "segpipe.data.datasets.cityscapes.Cityscapes",
    "segpipe.data.pets.Pets": "segpipe.data.datasets.pets.Pets",
    "segpipe.data.shapes.Shapes": "segpipe.data.datasets.shapes.Shapes",
    "segpipe.data.voc.VOC": "segpipe.data.datasets.voc.VOC",
    "segpipe.ema.MovingAverage": "segpipe.training.ema.MovingAverage",
    "segpipe.losses.CrossEntropy": "segpipe.training.losses.CrossEntropy",
    "segpipe.losses.Dice": "segpipe.training.losses.Dice",
    "segpipe.losses.Focal": "segpipe.training.losses.Focal",
    "segpipe.losses.HardCrossEntropy": "segpipe.training.losses.HardCrossEntropy",
    "segpipe.losses.WeightedSum": "segpipe.training.losses.WeightedSum",
    "segpipe.lovasz.Lovasz": "segpipe.training.lovasz.Lovasz",
    "segpipe.models.fusion.NoSkip": "segpipe.models.fusion.NoFusion",
    "segpipe.models.refine.Convolutions": "segpipe.models.refine.ConvStack",
    "segpipe.models.refine.Mix": "segpipe.models.refine.Merge1x1",
    "segpipe.schedules.constant": "segpipe.training.schedules.constant",
    "segpipe.schedules.cosine": "segpipe.training.schedules.cosine",
    "segpipe.schedules.poly": "segpipe.training.schedules.poly",
    "segpipe.task.SegmentationTask": "segpipe.training.task.SegmentationTask",
    "segpipe.tracking.no_logger": "segpipe.training.tracking.no_logger",
    "segpipe.tracking.wandb_logger": "segpipe.training.tracking.wandb_logger",
}


def current(target: str) -> str:
    """Return the present path of the class that a configuration of any version calls ``target``."""
    return CLASSES.get(target, target)


def oldest(target: str) -> str:
    """Return the path of a class in the first version that had it. target: its present path."""
    return FIRST.get(target, target)


def map_targets(node: Any, change: Callable[[str], str]) -> Any:
    """Copy nested dicts and lists of a configuration, with ``change`` applied to every ``_target_``."""
    if isinstance(node, dict):
        return {
            key: change(value) if key == "_target_" and isinstance(value, str) else map_targets(value, change)
            for key, value in node.items()
        }
    return [map_targets(item, change) for item in node] if isinstance(node, list) else node


def upgrade(node: Any) -> Any:
    """Copy nested dicts and lists of a configuration, with every ``_target_`` replaced by its present path."""
    return map_targets(node, current)


FIRST = {present: first for first, present in CLASSES.items()}
