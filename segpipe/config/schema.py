"""Checks of each configuration value against the signature of its constructor, before any object is built.

A node with ``_target_`` may have the arguments of the constructor, with the types in its signature. Other keys have to
be in EXTRA_KEYS: other nodes or the program read them. Thus the types are written down once, in the signatures.
"""

import inspect
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import pydantic
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from segpipe.errors import NOT_PRINTABLE, UserError, nearest
from segpipe.models.part import Part
from segpipe.runs.labels import is_finite

logging.getLogger("hydra").addHandler(logging.NullHandler())  # else it prints each error beside ours
INSTALLED = Path(__file__).parents[1] / "conf"
CONF = INSTALLED if INSTALLED.is_dir() else Path(__file__).parents[2] / "conf"
HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
EXTRA_KEYS: dict[str, Any] = {
    "seed": int,
    "resume": str | None,
    "trust": str | list[str] | None,
    "warm_start": str | None,
    "stages": list[str] | None,
    "match": Literal["params", "multiply_adds"] | None,
    "budget": float | None,
    "pictures": bool | Literal["auto"],
    "sweep.name": str | int,
    "sweep.workers": int,
    "sweep.per_gpu": int,
    "sweep.cells": str | None,
    "sweep.tuning_seeds": list[int] | None,
    "sweep.keep": Literal["all", "best", "none"],
    "data.root": str | None,
    "data.channels": int | None,
    "data.crop": list[int] | None,
    "encoder.weights": str | None,
    "encoder.freeze": int,
    "encoder.cache": bool | Literal["bfloat16", "float16"],
    "augment.local_contrast": bool,
    "decoder.smooth": Literal["conv3x3"] | None,
    "decoder.residual": bool,
    "fusion.at": list[int] | None,
    "fusion.drop": float,
    "fusion.attention": Literal["scse"] | None,
    "model.deconv_kernel": int,
    "run_dir": str | None,
    "trainer.precision": Literal["auto", "32-true", "bf16-mixed"],
}
NODES = (
    "data", "augment", "encoder", "neck", "decoder", "fusion", "loss", "optimizer", "scheduler", "trainer", "logger",
    "callbacks", "model", "task", "sweep", "hydra",
)  # fmt: skip
NODES_OF_ANY_NAME = ("callbacks",)  # a node whose child nodes may have any name
STRICTER_TYPES = {  # stricter than the constructor: with null, Lightning would train or validate without epochs
    "trainer.max_epochs": int,
    "trainer.check_val_every_n_epoch": int,
}
ANY = (-math.inf, math.inf)
SMALLEST = 1e-30  # stands for "above 0"
MAX_SEED = 2**53  # that the records of runs and sweeps hold
RANGES: dict[str, tuple[float, float]] = {  # by a path or its last part: the smallest and the largest valid value
    **dict.fromkeys(
        ("batch_size", "eval_batch_size", "lr_batch", "max_epochs", "check_val_every_n_epoch", "accumulate"),
        (1, math.inf),
    ),
    **dict.fromkeys(
        ("stride", "width", "widths", "count", "kernel", "every", "patience", "train", "val", "test"), (1, math.inf)
    ),
    **dict.fromkeys(("sweep.workers", "per_gpu", "every_n_train_steps", "pyramid_width"), (1, math.inf)),
    **dict.fromkeys(("num_nodes", "log_every_n_steps"), (1, math.inf)),
    **dict.fromkeys(("warmup", "workers", "weight_decay", "power", "freeze", "gamma"), (0, math.inf)),
    **dict.fromkeys(("seed", "tuning_seeds"), (0, MAX_SEED)),
    **dict.fromkeys(("lr", "clip", "timeout", "encoder_lr"), (SMALLEST, math.inf)),
    **dict.fromkeys(("dropout", "label_smoothing", "drop"), (0, 0.999)),
    **dict.fromkeys(("decay", "momentum"), (0, 0.999999)),
    "steps_per_epoch": (1, math.inf),
    "rare_share": (0, 1),
    "share": (0.001, 1),
    "side": (32, math.inf),
    "budget": (1, 1e15),
}


def arguments(node: DictConfig, path: str) -> list[str]:
    """Return the keys of a node that are arguments of its ``_target_``: not its name, nor keys that others read."""
    return [
        key for key in map(str, node) if key not in HYDRA_KEYS and key != "name" and f"{path}.{key}" not in EXTRA_KEYS
    ]


def check(cfg: DictConfig) -> None:
    """Raise UserError for the first value of a wrong type, range or name. The message says what is allowed."""
    for path, value, allowed, (low, high) in iter_values(cfg, ""):
        if not is_valid(value, allowed):
            raise UserError(
                f"{path}={format_value(value)}: allowed is {describe(allowed)}.{value_hint(path, value, allowed)}"
            )
        check_text(path, value)
        for number in value if isinstance(value, ListConfig) else [value]:
            if isinstance(number, int | float) and not is_within(number, low, high):
                kind = float if is_valid(0.5, allowed) or is_valid([0.5], allowed) else type(number)
                kinds = describe(kind) if is_finite(number) else describe(kind).replace("a ", "a finite ", 1)
                limits = f"{kinds} {between(low, high)}".strip()
                raise UserError(f"{path}={format_value(value)}: allowed is {limits}.")


def allows(cfg: DictConfig, key: str, value: Any) -> bool:
    """Return whether a key may have a value, by its type and range. cfg: has the classes that take the keys."""
    found = None
    with suppress(UserError):  # a class that is not installed here
        found = next(((kind, limits) for path, _, kind, limits in iter_values(cfg, "") if path == key), None)
    allowed, limits = found or (EXTRA_KEYS.get(key, Any), limits_of(key))
    return is_valid(value, allowed) and (not isinstance(value, int | float) or is_within(value, *limits))


def value_hint(path: str, value: Any, allowed: Any) -> str:
    """Return what is probably meant by a value of a wrong type: a word, several values, a variable of the shell."""
    text = str(value)
    if between := re.fullmatch(r"(\d+)(?:-|:|\.\.)(\d+)", text):
        return f" For a sweep over several: -m '{path}=range({between[1]},{int(between[2]) + 1})'"
    numbers = re.findall(r"\d+", text)
    if is_valid([1], allowed) and len(numbers) > 1:
        return f" Write '{path}=[{','.join(numbers)}]'"
    if isinstance(value, float) and value.is_integer() and is_valid(int(value), allowed):
        return f" Write {path}={value:.0f}"
    if re.match(r"\$\w", text):
        return f" The shell has not replaced {text}: write it without quotes of the kind '...'."
    if isinstance(value, bool | int | float) and str in (allowed, *get_args(allowed)):
        return f" If it is a text, quote it twice: \"{path}='{text.lower()}'\""
    return nearest(value, literals(allowed))


def check_keys(cfg: DictConfig, names: Iterable[str]) -> None:
    """Raise UserError as ``check`` for some keys at the top, which are read before a whole configuration is checked."""
    check(OmegaConf.create({name: cfg[name] for name in names if name in cfg}))


def check_text(path: str, value: Any) -> None:
    """Raise UserError for a text that is empty, as of a variable of the shell that is not set, or is not UTF-8."""
    if value == "":
        raise UserError(f"{path}=: the value is empty. Give a value, or leave the option out; null is none.")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise UserError(f"{path}={value}: the name has bytes that are not UTF-8. Rename the file or folder.")
    if isinstance(value, str) and NOT_PRINTABLE.search(value):
        raise UserError(
            f"{path}={value}: the text has control characters, or characters that reverse the direction of writing. "
            f"Remove them, or rename the file or folder."
        )


def is_within(number: float, low: float, high: float) -> bool:
    """Return whether a number is in a range. Infinity is in none but ANY."""
    return low <= number <= high and (is_finite(number) or (low, high) == ANY)


def between(low: float, high: float) -> str:
    """Return a range in words; an empty text for ANY."""
    if high == MAX_SEED:
        return f"of {low:g} or more, at most {high:.0f}"
    if high < math.inf:
        return f"from {low:g} to {high:g}"
    if low == -math.inf:
        return ""
    return "above 0, not infinite" if low == SMALLEST else f"of {low:g} or more, not infinite"


def iter_values(node: DictConfig, path: str) -> Iterator[tuple[str, Any, Any, tuple[float, float]]]:
    """Yield every value below a node whose type a constructor or EXTRA_KEYS gives: (path, value, type, range).

    RANGES does not apply to the arguments of a ``Part``: the part checks them itself.
    """
    target = node.get("_target_")
    takes = parameters(target) if target else {}
    is_part = bool(target) and inspect.isclass(made := locate(target)) and issubclass(made, Part)
    for key in map(str, node):
        full = f"{path}.{key}" if path else key
        value = node[key]
        if key == "_args_":
            raise UserError(f"{full}: positional arguments are not allowed. Give each argument by name.")
        if key in HYDRA_KEYS or key == "name":
            continue
        if isinstance(value, DictConfig) and "_target_" not in value and takes_mapping(takes.get(key)):
            yield full, value, takes[key], ANY
        elif isinstance(value, DictConfig):
            if full not in NODES and path not in NODES_OF_ANY_NAME:
                check_key(full, key, takes, target, value)
            yield from iter_values(value, full)
        elif isinstance(value, ListConfig) and any(isinstance(item, DictConfig) for item in value):
            check_key(full, key, takes, target)
            for position, item in enumerate(value):
                yield from iter_values(item, f"{full}[{position}]")
        elif full in EXTRA_KEYS:
            yield full, value, EXTRA_KEYS[full], limits_of(full)
        else:
            if target or value is not None:
                check_key(full, key, takes, target)
            if key in takes:
                yield full, value, STRICTER_TYPES.get(full, takes[key]), ANY if is_part else limits_of(full)


def limits_of(path: str) -> tuple[float, float]:
    """Return the smallest and the largest valid number at a dotted path; see RANGES."""
    return RANGES.get(path, RANGES.get(path.rpartition(".")[2], ANY))


def takes_mapping(allowed: Any) -> bool:
    """Return whether a type is a dict, or may be one."""
    return get_origin(allowed) is dict or any(get_origin(part) is dict for part in get_args(allowed))


def check_key(full: str, key: str, takes: dict[str, Any], target: str | None, node: DictConfig | None = None) -> None:
    """Raise UserError for a key that nothing reads, or for a node whose object has a type that is not allowed.

    full: the dotted path. takes: see ``parameters``. target: the node's ``_target_``. node: the value, if it is a node.
    """
    if not target:
        raise UserError(f"{full}: nothing reads this key.{nearest(full, [*EXTRA_KEYS, *NODES])}")
    if key not in takes and "**" not in takes:
        hint = nearest(key, takes) or f" If an experiment sets it, remove it with '~{full}'."
        raise UserError(f"{full}: {target} takes no '{key}'.{hint}")
    if node is not None and "_target_" in node and not may_make(node, takes.get(key, Any)):
        raise UserError(f"{full}._target_={node._target_}: allowed is {describe(takes[key])}.")


def may_make(node: DictConfig, allowed: Any) -> bool:
    """Return whether the object of a node may have a type. Only classes are checked; a function may return any type."""
    if is_union(allowed):
        return any(may_make(node, part) for part in get_args(allowed))
    if allowed in (int, float, str, bool, type(None)) or get_origin(allowed) in (Literal, list, tuple, dict):
        return False
    made = locate(node._target_)
    try:
        return not inspect.isclass(made) or bool(node.get("_partial_")) or issubclass(made, allowed)
    except TypeError:  # a type that issubclass does not accept
        return True


@cache
def parameters(target: str) -> dict[str, Any]:
    """Return the type of each parameter of a constructor or function, by name; ``**`` is a key if it takes any name."""
    called = locate(target)
    if not callable(called):
        raise UserError(f"_target_={target}: this is no class and no function. Give the dotted path of one.")
    function: Callable[..., Any] = called.__init__ if inspect.isclass(called) else called  # type: ignore[misc]
    try:
        hints = get_type_hints(function)
    except NameError:  # a hint whose name is imported for type checkers only
        hints = {}
    try:
        named = inspect.signature(called).parameters
    except ValueError as error:
        raise UserError(
            f"_target_={target}: the arguments of this built-in are not known. Give a class or function that is "
            f"written in Python."
        ) from error
    takes = {name: hints.get(name, Any) for name in named}
    kinds = {parameter.kind for parameter in named.values()}
    return takes | ({"**": Any} if inspect.Parameter.VAR_KEYWORD in kinds else {})


def locate(target: str) -> Any:
    """Return the object that a ``_target_`` names. Raises UserError where it cannot be imported."""
    try:
        return get_object(target)
    except Exception as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise UserError(
            f"_target_={target}: cannot be imported ({reason}). Check its spelling, and that its package is installed."
        ) from error


def is_valid(value: Any, allowed: Any) -> bool:
    """Return whether a value has a type. An int is valid for a float."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    if isinstance(value, list) and takes_tuple(allowed):  # YAML has no tuples
        value = tuple(value)
    if is_union(allowed):
        return any(is_valid(value, part) for part in get_args(allowed))
    if get_origin(allowed) is Literal:  # pydantic takes 18.0 for 18, and true for 1
        return any(value == word and type(value) is type(word) for word in get_args(allowed))
    try:
        adapter(allowed).validate_python(value, strict=True)
    except pydantic.ValidationError:
        return False
    except pydantic.errors.PydanticUserError:  # a type that pydantic does not support
        return True
    return True


def takes_tuple(allowed: Any) -> bool:
    """Return whether a type is a tuple, or may be one and no list."""
    kinds = {get_origin(part) or part for part in (get_args(allowed) if is_union(allowed) else [allowed])}
    return tuple in kinds and list not in kinds


def is_union(allowed: Any) -> bool:
    """Return whether a type is a union of others."""
    return get_origin(allowed) in (Union, UnionType)


def adapter(allowed: Any) -> pydantic.TypeAdapter[Any]:
    """Return pydantic's validator for a type. Other classes are checked by isinstance."""
    return pydantic.TypeAdapter(allowed, config=pydantic.ConfigDict(arbitrary_types_allowed=True))


def literals(allowed: Any) -> list[Any]:
    """Return the literal values of a type."""
    if get_origin(allowed) is Literal:
        return list(get_args(allowed))
    return [word for part in get_args(allowed) for word in literals(part)]


def describe(allowed: Any) -> str:
    """Return a type in words: ``none or sum``, ``a number``, ``null``."""
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    if allowed in words:
        return words[allowed]
    if get_origin(allowed) is Literal:
        return " or ".join(str(word) for word in get_args(allowed))
    if get_origin(allowed) is dict:
        return f"a mapping from {' to '.join(map(describe, get_args(allowed)))}"
    if get_origin(allowed) is Sequence or (get_origin(allowed) is list and is_union(get_args(allowed)[0])):
        return "a list of objects, each given by its _target_"
    if get_origin(allowed) is tuple and Ellipsis not in get_args(allowed):
        return f"a list of {len(get_args(allowed))}: {', '.join(map(describe, get_args(allowed)))}"
    if get_origin(allowed) is tuple:
        return f"a list, each {describe(get_args(allowed)[0])}"
    if get_origin(allowed) is list:
        return f"a list of {describe(get_args(allowed)[0]).removeprefix('a ')}s"
    if parts := [part for part in get_args(allowed) if part in words or get_args(part)]:  # those a user can type
        return " or ".join(dict.fromkeys(describe(part) for part in parts))
    return getattr(allowed, "__name__", str(allowed))


def format_value(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if OmegaConf.is_config(value):
        return str(OmegaConf.to_container(value)).replace(" ", "")
    return "null" if value is None else str(value)


def options(group: str) -> list[str]:
    """Return the names of the choices of a config group, sorted."""
    folder = CONF / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def key_of(override: str) -> str:
    """Return the key that an override of the command line sets: ``data.root`` for ``+data.root=photos``."""
    return override.partition("=")[0].lstrip("+~")


def keys() -> list[str]:
    """Return every key of the default configuration as a dotted path."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train")

    def walk(node: dict[Any, Any], path: str) -> Iterator[str]:
        for key, value in node.items():
            yield f"{path}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{path}{key}.")

    return list(walk(cast(dict[Any, Any], OmegaConf.to_container(cfg)), ""))
