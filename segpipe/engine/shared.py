"""A finished run in one file for other people: an archive, or its weights alone as safetensors; and back to a folder.

Both hold the weights as safetensors, the configuration, and ``Facts``. Nothing of the machine is in them: no paths, no
accounts, no names of hosts. Such a file may come from a stranger. It is unpacked to a temporary folder of a run, and
the checks of run folders hold for it.
"""

import atexit
import json
import re
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any

import torch
import yaml

from segpipe.config.stored import NO_LOGGER
from segpipe.engine.exported import KEY, Facts, naming, require
from segpipe.engine.model_card import model_card
from segpipe.errors import UserError
from segpipe.runs import archive, checkpoints
from segpipe.runs.environment import installed_version
from segpipe.runs.records import Metrics, RunRecord, read_record
from segpipe.runs.run import LOCAL_KEYS, OF_A_START, SHARED, Run, display_path
from segpipe.runs.storage import (
    MAX_BYTES,
    MAX_YAML_BYTES,
    as_path,
    atomic_write,
    check_plain,
    inside,
    open_regular,
    read_bytes,
    read_yaml,
    write_bytes,
    write_json,
)

WEIGHTS, MANIFEST, CARD = "model.safetensors", "model.json", "README.md"
MEMBERS = (MANIFEST, WEIGHTS, CARD, *archive.OF_A_RUN)
CONFIG = "config"  # key of the configuration among the metadata of a safetensors file
PREFIX = "network."  # of the network's tensors in a checkpoint
MAX_HEADER = 2**24  # bytes of the header of a safetensors file
KEPT = (  # entries of run.json; all others are left out
    "version", "status", "name", "seed", "identity", "extended_from", "max_epochs", "revisions", "match",
    "data_fingerprint", "images", "classes", "palette", "bands", "wall_time_s", "versions", "python", "git",
)  # fmt: skip
PLACES = (*archive.MACHINE_KEYS, "stages")  # keys of config.yaml whose values are not shared
UNCHANGED = ("_target_", "classes", "merge", "palette", "bands")  # names that are no paths, whatever they look like
LOCAL_PATH = re.compile(r"(/|~|\.{1,2}/|[A-Za-z]:[\\/]|\\\\|file:)")  # the beginning of a path of this machine
PATH_INSIDE = re.compile(r"(?<![\w.:/-])(?:/|~/|[A-Za-z]:\\)[^\s,'\"\]\)}]*")  # a path within a text
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32,
}  # fmt: skip


def facts_of(predictor: Any) -> Facts:
    """Return what a file says of the model of a ``Predictor``, apart from what only a program has."""
    record = predictor.run.record
    checkpoint = checkpoints.read(predictor.run.best_checkpoint())
    return Facts(
        segpipe=installed_version(),
        name=record.get("name"),
        identity=record.get("identity"),
        classes=list(predictor.classes),
        palette=[list(colour) for colour in predictor.palette],
        size=list(predictor.size) if predictor.size else None,
        channels=3 if predictor.bands is None else predictor.bands.channels,
        bands=record.get("bands"),
        epoch=int(checkpoint.get("epoch", 0)),
        global_step=int(checkpoint.get("global_step", 0)),
    )


# Writing


def write_safetensors(predictor: Any, facts: Facts, path: Path) -> None:
    """Write the weights of a ``Predictor`` as safetensors; facts and configuration are among the metadata."""
    (library,) = require("safetensors.torch")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in predictor.network.state_dict().items()}
    state = {name: tensor.clone() for name, tensor in state.items()}  # the format refuses shared memory
    metadata = {"format": "pt", KEY: facts.text(), CONFIG: config_text(predictor.run)}
    path.write_bytes(with_sorted_header(library.save(state, metadata)))


def with_sorted_header(content: bytes) -> bytes:
    """Return a safetensors file with the keys of its header sorted: the library has those of metadata in no order."""
    (length,) = struct.unpack("<Q", content[:8])
    text = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors are aligned
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def share(predictor: Any, out: Path, *, licence: str | None = None) -> list[str]:
    """Write the run of a ``Predictor`` as one archive. Returns the names of its members.

    licence: of the model and its use, for the model card.
    """
    run: Run = predictor.run
    facts = facts_of(predictor)
    with tempfile.TemporaryDirectory(prefix="segpipe-share-") as temporary:
        weights = Path(temporary) / WEIGHTS
        write_safetensors(predictor, facts, weights)
        content = {MANIFEST: archive.json_bytes(facts.model_dump()), WEIGHTS: weights.read_bytes()}
    record = record_of(run)
    metrics = read_record(run.metrics, Metrics)
    content |= {"config.yaml": config_text(run).encode(), "run.json": archive.json_bytes(record)}
    for name in archive.OF_A_RUN:
        file = inside(run.folder, name)
        if name not in content and file.is_file():
            content[name] = read_bytes(file, limit=archive.LIMITS.get(file.suffix, MAX_BYTES))
    card = model_card(facts, record, metrics, yaml.safe_load(content["config.yaml"]), file=out.name, licence=licence)
    content[CARD] = without_paths(card).encode(errors="backslashreplace")

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w") as file:
            for name in sorted(content, key=MEMBERS.index):
                archive.add(file, name, content[name])

    atomic_write(out, write)
    return sorted(content)


def config_text(run: Run) -> str:
    """Return a run's configuration without what belongs to a machine, as YAML."""
    content = read_yaml(run.config)
    content["logger"] = {"_target_": NO_LOGGER, "_partial_": True, "name": "none"}
    content["run_dir"] = "run"
    trainer = content.get("trainer")
    for key in ("default_root_dir", "profiler"):
        if isinstance(trainer, dict) and trainer.get(key) is not None:
            trainer[key] = None
    return yaml.safe_dump(without_machine(content), sort_keys=False, allow_unicode=True, width=110)


def without_machine(content: Any, key: str = "") -> Any:
    """Copy a configuration without paths: of a path the last part stays, and of the keys in PLACES nothing."""
    if key in UNCHANGED:
        return content
    if isinstance(content, dict):
        return {name: without_machine(value, name) for name, value in content.items()}
    if isinstance(content, list):
        return None if key in PLACES else [without_machine(value, key) for value in content]
    if not isinstance(content, str):
        return content
    if key == "dirpath":
        return "checkpoints"
    if key in PLACES and key != "run_dir":
        return None
    return without_paths(last_part(content))


def last_part(text: str) -> str:
    """Return the last part of a text that is a path, and any other text unchanged."""
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1] or "path" if LOCAL_PATH.match(text) else text


def without_paths(text: str) -> str:
    """Return a text in which each absolute path has only its last part."""
    return PATH_INSIDE.sub(lambda found: last_part(found[0]) if len(found[0]) > 1 else found[0], text)


def record_of(run: Run) -> dict[str, Any]:
    """Return a run's record without what belongs to a machine."""
    record = {key: without_machine(run.record[key], key) for key in KEPT if key in run.record}
    given = run.cell_overrides
    local = (*LOCAL_KEYS, *OF_A_START, "warm_start", "stages", "trainer.default_root_dir", "callbacks")
    kept = [one for one in given if not one.lstrip("+~").startswith(local)]
    record["overrides"] = [f"{key}{sign}{of_override(value)}" for key, sign, value in (o.partition("=") for o in kept)]
    return record


def of_override(value: str) -> str:
    """Return the value of an override without paths; it may be quoted, and may be a list."""
    quote = value[:1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else ""
    return quote + without_paths(last_part(value.strip(quote) if quote else value)) + quote


# Reading


def is_shared(path: str | Path) -> bool:
    """Return whether a path is that of a file that this module writes, by its name."""
    return Path(path).suffix.lower() in SHARED and not Path(path).is_dir()


def unpacked(method: Callable[..., None]) -> Callable[..., None]:
    """Decorate a constructor so that it takes a shared file as well as a run's folder, by ``opened``."""

    @wraps(method)
    def constructor(self: Any, run: str | Path, **options: Any) -> None:
        run = as_path(run, "run")
        if not is_shared(run):
            method(self, run, **options)
            return
        with opened(run) as folder:
            method(self, folder, **options)

    return constructor


@contextmanager
def opened(path: Path, *, name: str | None = None) -> Iterator[Path]:
    """Context manager that gives the folder of a run that a file holds; errors name the file, not the folder.

    name: the suffix by which the file is read; None: its own. The folder stays until the process ends.
    """
    with naming(path):
        status = open_and_stat(path)
        folder = as_folder(path.resolve(), name or path.suffix.lower(), *status)
    try:
        yield folder
    except UserError as error:
        text = str(error).partition(" To repair it,")[0].replace(str(folder), display_path(path))
        raise UserError(text.replace(display_path(folder), display_path(path))) from error


def open_and_stat(path: Path) -> tuple[int, int]:
    """Return the time of change and the size of a regular file. Raises UserError and OSError for others."""
    open_regular(path, limit=archive.MAX_ARCHIVE).close()
    return path.stat().st_mtime_ns, path.stat().st_size


@cache
def as_folder(path: Path, suffix: str, changed: int, size: int) -> Path:
    """See ``opened``. changed, size: of the file, so that another file is read again."""
    temporary = Path(tempfile.mkdtemp(prefix="segpipe-shared-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    try:
        folder = temporary / "run"
        folder.mkdir()
        (from_archive if suffix == archive.SUFFIX else from_safetensors)(path, folder)
        return folder
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def restore(path: Path, folder: Path) -> Run:
    """Write the folder of the run that a shared file holds, which may not exist or has to be empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: there is something at this place. Give a new folder.")
    if not is_shared(path):
        raise UserError(f"{path}: allowed is a file of python -m segpipe.archive --share (.zip), or .safetensors.")
    with opened(path) as source:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    return Run.open(folder)


def from_archive(path: Path, folder: Path) -> None:
    """Unpack a shared archive to the folder of a run. All members are checked before."""
    size = path.stat().st_size
    with archive.open_archive(path) as file, zipfile.ZipFile(file) as content:
        names = set(content.namelist())
        if archive.MANIFEST in names:
            raise UserError("this is the archive of a sweep. To read it: python -m segpipe.report FILE.zip")
        entries = archive.checked_members(content, size=size, known=MEMBERS.__contains__, what="a shared run")
        if not {MANIFEST, WEIGHTS, "config.yaml", "run.json"} <= names:
            raise ValueError("model.json, model.safetensors, config.yaml or run.json is missing")
        if content.getinfo(WEIGHTS).compress_type != zipfile.ZIP_STORED:
            raise ValueError("its weights are compressed, which segpipe does not do")
        facts = Facts.from_text(content.read(MANIFEST))
        archive.extract(content, entries, folder)
    if not read_record(inside(folder, "run.json"), RunRecord):
        raise ValueError("its run.json is damaged")
    write_checkpoint(folder, facts, read_weights(inside(folder, WEIGHTS))[0])
    inside(folder, WEIGHTS).unlink()


def from_safetensors(path: Path, folder: Path) -> None:
    """Write the folder of a run from the weights and the metadata of a safetensors file."""
    state, metadata = read_weights(path)
    facts = Facts.from_text(metadata.get(KEY))
    config = metadata.get(CONFIG, "")
    if not config or len(config.encode(errors="replace")) > MAX_YAML_BYTES:
        raise ValueError("its metadata have no configuration, or too large a one")
    write_bytes(inside(folder, "config.yaml"), config.encode(errors="replace"))
    entries = facts.model_dump(include={"name", "identity", "classes", "palette", "bands"}, exclude_none=True)
    record = RunRecord.model_validate({"status": "finished", **entries})
    write_json(inside(folder, "run.json"), record.model_dump(exclude_unset=True))
    write_checkpoint(folder, facts, state)


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file. Raises ValueError where it is damaged."""
    (library,) = require("safetensors.torch")
    content = read_bytes(path, limit=archive.MAX_ARCHIVE)
    (length,) = struct.unpack("<Q", content[:8])
    if length > min(MAX_HEADER, len(content) - 8):
        raise ValueError(f"its header has {length:,} bytes; at most {MAX_HEADER:,} are read")
    header = json.loads(content[8 : 8 + length])
    check_plain({key: value for key, value in header.items() if key != "__metadata__"})
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not texts")
    unknown = {str(value.get("dtype")) for key, value in header.items() if key != "__metadata__"} - DTYPES.keys()
    if unknown:
        raise ValueError(f"it holds numbers of the type {', '.join(sorted(unknown))[:100]}")
    return library.load(content), metadata


def write_checkpoint(folder: Path, facts: Facts, state: dict[str, torch.Tensor]) -> None:
    """Write the best checkpoint of a run from the tensors of its network. Raises ValueError for numbers not finite."""
    for name, tensor in state.items():
        if problem := checkpoints.problem_of(name, tensor):
            raise ValueError(problem)
    content = {
        "epoch": facts.epoch,
        "global_step": facts.global_step,
        "state_dict": {PREFIX + name: tensor for name, tensor in state.items()},
    }
    checkpoints.write(inside(folder, "checkpoints/best.ckpt"), content)
