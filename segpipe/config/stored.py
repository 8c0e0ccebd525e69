"""Reading of a run's stored configuration, which may come from a stranger. It is data: it cannot run code.

A class is allowed only where a file under ``conf/`` has a ``_target_``, and only a class that ``conf/`` offers there.
For augmentation and optimizer, those of their libraries are allowed. What the user types on the command line, and the
user's own ``--config-dir``, are trusted; so are the packages that the user names with ``trust``.
"""

import importlib.util
import inspect
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from segpipe.config import data_folders
from segpipe.config.choices import files
from segpipe.config.schema import CONF, HYDRA_KEYS
from segpipe.config.sizes import check_sizes
from segpipe.data.augment import library_transforms
from segpipe.errors import UserError
from segpipe.runs.renames import current, upgrade
from segpipe.runs.run import Run, repair_hint
from segpipe.runs.storage import inside, is_component, read_yaml

Target = tuple[str, str]  # place of a node and its class: ("data.dataset", "segpipe.data.datasets.voc.VOC")
PARTIAL = {"_target_", "_partial_"}  # the keys of Hydra that a stored configuration may have
ELSEWHERE = re.compile(r"[a-z-]+:|/|\\", re.IGNORECASE)  # hf-hub:, local-dir:, a path
GROUPS = ("data", "augment", "encoder", "decoder", "model", "task", "trainer", "callbacks", "logger")  # in every run
NO_LOGGER = "segpipe.training.tracking.no_logger"


def read(run: Run, *, trust: Iterable[str] = (), composed: DictConfig | None = None) -> DictConfig:
    """Read the configuration that a run was started with.

    trust: packages whose classes may be imported, beside those of ``conf/``. composed: the configuration of the present
    command line; a class that it has at the same place is trusted. Raises UserError where the file is damaged, and for
    a class that is not trusted. No class is imported before all are checked.
    """
    try:
        content = checked(read_yaml(run.config))
    except PermissionError as error:
        raise UserError(f"{run.config}: cannot be read ({error.strerror}). Change its permissions.") from error
    except (OSError, ValueError, UserError) as error:
        reason = str(error).rstrip(".")
        raise UserError(f"{run.folder}: its config.yaml is damaged: {reason}. {repair_hint(run.folder)}") from error
    typed = {(place, target) for place, target, _ in nodes(OmegaConf.to_container(composed))} if composed else set()
    for place, target, node in nodes(content):
        check_class(run, place, target, node, trust=trust, typed=typed)
    return OmegaConf.create(content)


def checked(content: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with every class under its present path. Raises ValueError where it is damaged."""
    check_no_interpolation(content)
    wrong = [group for group in GROUPS if not isinstance(content.get(group), dict)]
    if wrong or "run_dir" not in content or not isinstance(content["data"].get("dataset"), dict):
        raise ValueError(f"{', '.join(wrong) or 'run_dir or data.dataset'} missing")
    content = upgrade(content)
    check_backbone(content["encoder"])
    check_sizes(content)
    return content


def check_no_interpolation(content: Any) -> None:
    """Raise ValueError for a text that OmegaConf would resolve, for example to an environment variable."""
    if isinstance(content, dict):
        for key, value in content.items():
            check_no_interpolation(key)
            check_no_interpolation(value)
    elif isinstance(content, list):
        for value in content:
            check_no_interpolation(value)
    elif isinstance(content, str) and ("${" in content or content == "???"):
        raise ValueError(f"'{content[:60]}' is an interpolation")


def nodes(content: Any, place: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each node with a key of Hydra: its place, its class as a text ("" without one), and the node.

    A place is a dotted path. An index of a list is written ``[]``, and the name of a callback ``*``.
    """
    if isinstance(content, dict):
        if any(key in HYDRA_KEYS for key in content):
            yield place, str(content.get("_target_", "")), content
        for key, value in content.items():
            yield from nodes(value, "callbacks.*" if place == "callbacks" else f"{place}.{key}" if place else key)
    elif isinstance(content, list):
        for value in content:
            yield from nodes(value, f"{place}[]")


def check_class(
    run: Run, place: str, target: str, node: dict[str, Any], *, trust: Iterable[str], typed: Collection[Target]
) -> None:
    """Raise UserError for a node whose class is not allowed at its place, or that has other keys of Hydra."""
    if not node.keys() & HYDRA_KEYS <= PARTIAL or not isinstance(node.get("_partial_", False), bool):
        wrong = ", ".join(sorted(node.keys() & HYDRA_KEYS - PARTIAL)) or "_partial_"
        raise UserError(f"{run.folder}: config.yaml: {place} has the key {wrong}, which a run cannot have.")
    if target in offered().get(place, ()) or target in from_libraries(place) or (place, target) in typed:
        return
    package = target.partition(".")[0]
    own = package not in sys.stdlib_module_names  # trust=os would let a run do anything
    if own and any(lies_in(target, name) for name in trust):
        check_origin(run, package)
        return
    there = sorted(offered().get(place, ()))
    allowed = f"Allowed there: {', '.join(there)}" if there else "No class is allowed there"
    name = package if re.fullmatch(r"\w+", package) else "PACKAGE"
    advice = (
        f" If this is your own class, and you trust the run, give trust={name} (train), --trust {name} (predict, "
        f"evaluate), or segpipe.load(RUN, trust=['{name}'])."
    )
    raise UserError(
        f"{run.folder}: config.yaml: {place}._target_={target[:200]!r} is not a class of segpipe's configuration at "
        f"this place, so it is not imported: a run from a stranger could execute code. {allowed}."
        f"{advice if own else ''}"
    )


def own_packages(cfg: DictConfig) -> list[str]:
    """Return the packages of the classes of a configuration that a stored one may not have without ``trust``."""
    found = {
        target.partition(".")[0]
        for place, target, _ in nodes(OmegaConf.to_container(cfg))
        if target and target not in offered().get(place, ()) and target not in from_libraries(place)
    }
    return sorted(found - {"segpipe"})


def lies_in(target: str, package: str) -> bool:
    """Return whether an import path leads into a package or module."""
    parts = package.split(".")
    return target.split(".")[: len(parts)] == parts


def check_origin(run: Run, package: str) -> None:
    """Raise UserError where a trusted package would be imported from the run's folder, or from a folder inside it."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise UserError(f"trust: there is no package {package}. Install it, or set PYTHONPATH.")
    origins = [Path(place).resolve() for place in (spec.origin, *(spec.submodule_search_locations or ())) if place]
    if any(place.is_relative_to(run.folder.resolve()) for place in origins):
        raise UserError(
            f"trust: {package} would be imported from the run's folder {run.folder}, which may come from a stranger. "
            f"Move the package out of the folder, or change to another working folder."
        )


@cache
def offered() -> dict[str, frozenset[str]]:
    """Return the classes that the files under ``conf/`` have at each place."""
    table: dict[str, set[str]] = {}
    for path in CONF.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        group = path.relative_to(CONF).parts[0] if path.parent != CONF else ""
        for place, target, _ in nodes(read_yaml(path), "" if "@package _global_" in text else group):
            table.setdefault(place, set()).add(current(target))
    return {place: frozenset(targets) for place, targets in table.items()}


@cache
def from_libraries(place: str) -> frozenset[str]:
    """Return the classes of torch and albumentations that are allowed at a place beside those of ``conf/``."""
    if place == "optimizer":
        return frozenset(
            f"torch.optim.{name}"
            for name, kind in vars(torch.optim).items()
            if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)
        )
    if re.fullmatch(r"augment\.(before_crop|after_crop)\[\](\.transforms\[\])*", place):
        return frozenset(f"albumentations.{name}" for name in library_transforms())
    return frozenset()


def check_backbone(encoder: dict[str, Any]) -> None:
    """Raise ValueError for weights that lie somewhere else."""
    backbone = encoder.get("backbone")
    if isinstance(backbone, str) and ELSEWHERE.search(backbone):
        raise ValueError(f"encoder.backbone={backbone[:60]!r}: the name of a backbone is needed, not a place")


def with_local_keys(stored: DictConfig, cfg: DictConfig, run: Run) -> DictConfig:
    """Return a stored configuration in which all that belongs to a machine is replaced.

    The folders of the data are those that this user's training noted for the same data, else the defaults of
    ``conf/data``; the logger and the profiler are those of ``cfg``, the
    configuration of the command line; checkpoints are in the run's folder. A run without a logger stays without one.
    """
    local = stored.copy()
    local.update(warm_start=None, stages=None, run_dir=str(run.folder.absolute()), sweep=cfg.sweep)
    default = default_data(stored)
    for key, value in {"root": default.get("root"), "workers": None, "cache": "auto"}.items():
        if key in local.data:
            local.data[key] = value
    for key, value in {
        "root": default.get("root"),
        "images": None,
        "masks": None,
        "lists": None,
        "download": False,
    }.items():
        if key in local.data.dataset:
            local.data.dataset[key] = value
    data_folders.use(local, run.record)
    if local.logger.get("_target_") != NO_LOGGER:
        local.logger = cfg.logger
    local.trainer.pop("default_root_dir", None)
    if "profiler" in local.trainer:
        local.trainer.profiler = cfg.trainer.get("profiler")
    for name, node in local.callbacks.items():
        if isinstance(node, DictConfig):
            relocate(node, str(name), run)
    return local


def default_data(stored: DictConfig) -> dict[str, Any]:
    """Return the ``data`` group of ``conf/`` with the same data set, resolved; an empty dict where there is none."""
    for node in files("data").values():
        if node.dataset._target_ == stored.data.dataset.get("_target_"):
            whole = OmegaConf.to_container(OmegaConf.create({"data": node}), resolve=True)
            return cast(dict[str, Any], whole)["data"]  # type: ignore[no-any-return]
    return {}


def check_data_given(run: Run, stored: DictConfig, cfg: DictConfig) -> None:
    """Raise UserError where the data of a run lie in a folder that was not given again.

    stored: the configuration of the run. cfg: the one to be used.
    """
    dataset = cfg.data.dataset
    needed = stored.data.get("root") or "images" in dataset  # else the data are drawn
    if not needed or cfg.data.get("root") or any(dataset.get(key) for key in ("images", "masks", "lists")):
        return
    before = stored.data.get("root") or stored.data.dataset.get("images")
    unused = (
        f" The one in a stored configuration ({str(before)[:200]}) is not used, because" if before else " It has none:"
    )
    raise UserError(
        f"{run.folder}: give the folder of the data again: data.root=FOLDER for train, --data data={cfg.data.name} "
        f"data.root=FOLDER for evaluate. {unused} a run may come from a stranger, and no training of yours has noted "
        f"where these data lie."
    )


def relocate(node: DictConfig, name: str, run: Run) -> None:
    """Let a callback of a stored configuration write to the run's folder. Raises UserError for other file names."""
    if "dirpath" in node:
        node.dirpath = str(inside(run.folder, "checkpoints").absolute())
    filename = node.get("filename")
    if filename is not None and not is_component(filename):
        raise UserError(f"{run.folder}: config.yaml: callbacks.{name}.filename={filename!r}: allowed is a file name.")
