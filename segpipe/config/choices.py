"""The options of the config groups, and the keys that their files must have. A user's own file may lack some."""

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf

from segpipe.config.schema import CONF, arguments, format_value, locate, options
from segpipe.errors import UserError, printable
from segpipe.runs.storage import is_component

# Keys without a default that other nodes or the program read. The arguments of a class are in its signature.
REQUIRED = {
    "data": ("_target_", "_partial_", "name", "dataset", "batch_size"),
    "data.dataset": ("_target_", "_partial_"),
    "augment": ("_target_", "name", "before_crop", "after_crop", "crop"),
    "encoder": ("_target_", "name"),
    "neck": ("_target_", "_partial_", "name"),
    "decoder": ("_target_", "_partial_", "name"),
    "fusion": ("_target_", "_partial_", "name"),
    "model": ("_target_", "_partial_", "name", "stride", "refine"),
    "model.refine": ("_target_", "_partial_"),
    "loss": ("_target_",),
    "optimizer": ("_target_", "_partial_"),
    "scheduler": ("_target_", "_partial_"),
    "task": ("_target_", "_partial_", "accumulate"),
    "trainer": (
        "_target_", "accelerator", "devices", "precision", "max_epochs", "check_val_every_n_epoch", "sync_batchnorm",
    ),
    "logger": ("_target_", "_partial_"),
    "callbacks": (),
}  # fmt: skip

IN_RUN_NAMES = ("model", "decoder", "fusion")  # groups whose names are part of the name of a run's folder
MAX_NAME = 60  # characters

# The arguments that the program adds to those of a node: the number of positional ones, the names of the others.
GIVEN: dict[str, tuple[int, tuple[str, ...]]] = {
    "data": (0, ("augment", "seed")),
    "data.dataset": (0, ("split",)),
    "neck": (1, ()),
    "decoder": (2, ("factor", "source_channels")),
    "fusion": (2, ()),
    "model": (0, ("encoder", "neck", "upsample", "smooth", "fusion", "num_classes", "local_contrast", "skips")),
    "model.refine": (4, ()),
    "optimizer": (1, ()),
    "scheduler": (2, ()),
    "task": (0, ("network", "loss", "optimizer", "scheduler", "classes", "seed")),
    "logger": (0, ("folder", "config", "name", "group", "tags", "run_id")),
}


@cache
def files(group: str) -> dict[str, DictConfig]:
    """Return the content of each file of a config group, by name: the default choice first, then alphabetically.

    The result is cached: do not change it. Not for groups whose files inherit from other files.
    """
    root: Any = OmegaConf.load(CONF / "train.yaml")
    default = next(entry[group] for entry in root.defaults if group in entry)
    names = sorted(options(group), key=lambda name: (name != default, name))
    return {name: cast(DictConfig, OmegaConf.load(CONF / group / f"{name}.yaml")) for name in names}


def check_present(cfg: DictConfig) -> None:
    """Raise UserError where a group lacks a required key."""
    if "seed" not in cfg:
        raise UserError("seed is missing. Add it as in conf/train.yaml.")
    for path, keys in REQUIRED.items():
        node = OmegaConf.select(cfg, path)
        group = path.partition(".")[0]
        source = f"the files in conf/{group}" if (CONF / group).is_dir() else "conf/train.yaml"
        if not isinstance(node, DictConfig):
            raise UserError(f"{path} is missing. Add it as in {source}.")
        for key in keys:
            if key not in node:
                raise UserError(f"{path}.{key} is missing. Add it as in {source}.")
        if path in IN_RUN_NAMES and not (is_component(node.name) and len(node.name) <= MAX_NAME):
            raise UserError(
                f"{path}.name={printable(format_value(node.name))[:200]}: allowed is a text that can be part of the "
                f"name of a folder: no slash, no control characters, at most {MAX_NAME} characters."
            )
        if "_partial_" in keys and node._partial_ is not True:
            raise UserError(f"{path}._partial_={node._partial_}: allowed is true. The program adds further arguments.")
    for name, node in cfg.callbacks.items():
        if isinstance(node, DictConfig) and "_target_" not in node:
            raise UserError(f"callbacks.{name}._target_ is missing. Add it as in the files in conf/callbacks.")


def nodes(node: DictConfig, path: str) -> Iterator[tuple[str, DictConfig]]:
    """Yield every node that has a ``_target_``, with its path."""
    if "_target_" in node:
        yield path, node
    for key in map(str, node):
        value, full = node[key], f"{path}.{key}" if path else key
        if isinstance(value, DictConfig):
            yield from nodes(value, full)
        elif isinstance(value, ListConfig):
            for position, item in enumerate(value):
                if isinstance(item, DictConfig):
                    yield from nodes(item, f"{full}[{position}]")


def check_arguments(cfg: DictConfig) -> None:
    """Raise UserError where the arguments of a node and those that the program adds do not fit the signature."""
    for path, node in nodes(cfg, ""):
        if path in GIVEN or not node.get("_partial_"):
            bind(path, node)


def bind(path: str, node: DictConfig) -> None:
    """See ``check_arguments``."""
    count, names = GIVEN.get(path, (0, ()))
    try:
        inspect.signature(locate(node._target_)).bind(
            *[None] * count, **dict.fromkeys([*arguments(node, path), *names])
        )
    except TypeError as error:
        given = ", ".join([*["a value"] * count, *names])
        by_program = f" ({'the program also passes ' + given if given else 'the program passes no other arguments'})"
        raise UserError(f"{path}: {node._target_}: {error}{by_program}.") from error
